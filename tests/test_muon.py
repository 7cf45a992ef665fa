"""distrib.muon: what is orthogonal, and one step against the formula."""

import pytest
import torch
from torch import nn

from distrib.muon import OrthogonalSGD, flat, orthogonal


@pytest.mark.parametrize("shape", [(3, 4, 9), (2, 16, 5), (1, 7, 7)])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape: tuple[int, int, int]):
    """Of matrices whose singular values lie within a factor of ten; the quintic leaves them between 0.7 and 1.2."""
    draw = torch.Generator().manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape, generator=draw), full_matrices=False)
    values = torch.linspace(0.3, 3.0, u.shape[2])
    matrices = u @ torch.diag(values) @ vh
    found = orthogonal(matrices, 5).float()
    inner = u.mT @ found @ vh.mT
    near = torch.diagonal(inner, dim1=1, dim2=2)
    assert near.min() > 0.6 and near.max() < 1.3
    assert (inner - torch.diag_embed(near)).abs().max() < 0.05
    torch.testing.assert_close(orthogonal(100 * matrices, 5).float(), found, rtol=0, atol=0.05)


def test_nothing_is_orthogonal_to_nothing():
    assert torch.equal(orthogonal(torch.zeros(2, 3, 4), 3), torch.zeros(2, 3, 4, dtype=torch.bfloat16))


def test_a_kernel_as_a_matrix_keeps_its_rows_whatever_its_layout():
    kernel = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    last = kernel.to(memory_format=torch.channels_last)
    assert torch.equal(flat(kernel), flat(last)) and flat(last).data_ptr() == last.data_ptr()
    assert torch.equal(flat(kernel)[1].sort().values, kernel[1].flatten().sort().values)


def kernels(layout: torch.memory_format) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(1)
    shapes = [(8, 4, 3, 3), (4, 8, 3, 3), (8, 4, 3, 3)]
    return [nn.Parameter(torch.randn(shape, generator=draw).to(memory_format=layout)) for shape in shapes]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_is_the_formula(layout: torch.memory_format):
    """Two steps, so that the momentum counts; equal shapes together give what each gives alone."""
    parameters, draw = kernels(layout), torch.Generator().manual_seed(2)
    weights, momenta = [one.detach().clone() for one in parameters], [torch.zeros_like(one) for one in parameters]
    optimiser = OrthogonalSGD([{"params": parameters, "inertia": 0.5, "steps": 3, "weight_decay": 0.0}], lr=0.1)
    for _ in range(2):
        for number, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape, generator=draw)
            parameter.grad = gradient.to(memory_format=layout)
            momenta[number] = 0.5 * momenta[number] + gradient
            ahead = (gradient + 0.5 * momenta[number]).flatten(1)
            weight = weights[number] * len(parameter) ** 0.5 / weights[number].norm()
            weights[number] = weight - 0.1 * orthogonal(ahead[None], 3)[0].float().view(parameter.shape)
        optimiser.step()
    for parameter, weight in zip(parameters, weights, strict=True):
        torch.testing.assert_close(parameter.detach(), weight, rtol=0, atol=5e-3)
        assert parameter.detach().norm() == pytest.approx(len(parameter) ** 0.5, rel=0.1)


def test_a_kernel_without_a_gradient_stays_as_it_is():
    first, second, _ = kernels(torch.contiguous_format)
    before = second.detach().clone()
    first.grad = torch.randn_like(first)
    OrthogonalSGD([{"params": [first, second], "inertia": 0.5, "steps": 3}], lr=0.1).step()
    assert torch.equal(second.detach(), before)
