"""distrib.state: one step is the optimiser's own, on all ranks alike, and nothing moves before it may."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from gpu import GPU, Late
from states import OPTIMISERS, contents, descend, new, small_cnn, train, with_norms
from torch import Tensor, nn

from distrib.config.file import read
from distrib.errors import NonFiniteLoss
from distrib.optim import SGD, Cosine, Optimiser
from distrib.state import FiniteCheck, State
from distrib.world import World


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("optim", OPTIMISERS.values(), ids=OPTIMISERS)
def test_a_loss_that_is_not_finite_moves_nothing(optim: Optimiser, wrong: float):
    state = train(new(optim), 2)
    before = contents(state)
    with pytest.raises(NonFiniteLoss) as raised:
        descend(state, state.ddp(torch.ones(8, 1, 8, 8)).square().mean() * wrong)
    assert "step 2 " in str(raised.value)
    assert f"learning rate {optim.lr_at(2, 5):.3g}" in str(raised.value)
    after = contents(state)
    assert {name for name in before if before[name] != after[name]} <= {"groups"}  # which hold the learning rate
    assert contents(train(state, 1)) != before  # it can go on


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_gpu_is_asked_one_step_later_and_waited_for(wrong: float):
    """The copy is made only when it is waited for: what it holds before is finite."""
    late, loss = Late(), torch.tensor(0.5)
    check = FiniteCheck(GPU, late.start_one)
    found = [check(torch.tensor(length), step, loss) for step, length in enumerate([1.0, wrong, 0.0, 2.0])]
    assert found == [None, None, (1, loss), None]
    assert len(late.waiting) == 1, "only the newest has not been waited for"


def test_on_a_gpu_that_loss_ends_the_run_one_step_later():
    """A GPU is not made to wait for the answer; what is left is not finite, so that no checkpoint is written of it."""
    state = train(new(), 2)
    state.check = FiniteCheck(GPU, Late().start_one)
    descend(state, state.ddp(torch.ones(8, 1, 8, 8)).square().mean() * math.nan)
    assert state.step == 3
    assert not state.finite()
    lr = f"learning rate {state.optim.lr_at(2, 5):.3g}"
    with pytest.raises(NonFiniteLoss, match=rf"step 2 \(epoch 0\.40, {lr}, this rank's loss nan"):
        train(state, 1)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_the_loss_itself_counts_even_where_its_gradient_is_finite(wrong: float):
    """Cross-entropy on a logit of -inf is inf, and its gradient is -1."""
    state = train(new(), 2)
    before = contents(state)
    with pytest.raises(NonFiniteLoss, match="step 2 "):
        descend(state, state.ddp(torch.ones(8, 1, 8, 8)).square().mean() + wrong)
    after = contents(state)
    assert {name for name in before if before[name] != after[name]} <= {"groups"}


@pytest.mark.parametrize("optim", OPTIMISERS.values(), ids=OPTIMISERS)
def test_a_step_is_the_optimisers_own(optim: Optimiser):
    """Five steps are those of the plain loop that everyone writes, momentum and all."""
    state = train(new(optim), 5)
    torch.manual_seed(0)
    model = small_cnn().train()
    plain = optim.build(model)
    for step in range(5):
        for group in plain.param_groups:
            group["lr"] = optim.lr_at(step, 5) * group.get("share", 1.0)
        draw = torch.Generator().manual_seed(step)
        x, y = torch.rand(8, 1, 8, 8, generator=draw), torch.randint(10, (8,), generator=draw)
        plain.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if optim.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
        plain.step()
    for own, other in zip(state.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_the_learning_rate_is_that_of_the_step():
    state = new(SGD(name="sgd", lr=0.1, momentum=0.0, epochs=2, schedule=Cosine(shape="cosine"), warmup_epochs=0.5))
    for step in range(10):
        before = [p.detach().clone() for p in state.model.parameters()]
        descend(state, sum(p.sum() for p in state.model.parameters()))  # a gradient of one everywhere
        warm = min(1.0, (step + 0.5) / 5 / 0.5)
        expected = 0.1 * warm * (1 + math.cos(math.pi * (step + 0.5) / 10)) / 2
        for old, now in zip(before, state.model.parameters(), strict=True):
            torch.testing.assert_close(old - now.detach(), torch.full_like(old, expected), rtol=1e-4, atol=1e-7)


def test_weight_decay_spares_biases_and_normalisation():
    optim = SGD(name="sgd", lr=0.1, momentum=0.0, weight_decay=0.5, epochs=1)
    state = new(optim, with_norms)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.add_(0.3)
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    descend(state, sum(p.sum() * 0 for p in state.model.parameters()))
    for name, now in state.model.named_parameters():
        kernel = name in ("0.weight", "5.weight")
        torch.testing.assert_close(now.detach(), before[name] * (1 - 0.1 * 0.5 if kernel else 1), msg=name)


def test_the_gradient_is_cut_to_clip_norm_and_weighted_by_the_loss_weight():
    def step(weight: float, clip: float | None) -> Tensor:
        state = new(SGD(name="sgd", lr=1.0, momentum=0.0, epochs=1, clip_norm=clip))
        before = [p.detach().clone() for p in state.model.parameters()]
        descend(state, state.ddp(torch.ones(1, 1, 8, 8)).square().sum(), weight)
        pairs = zip(state.model.parameters(), before, strict=True)
        return torch.cat([(now.detach() - old).flatten() for now, old in pairs])

    free = step(1.0, None)
    assert free.norm() > 0.02
    torch.testing.assert_close(step(0.5, None), free / 2)
    torch.testing.assert_close(step(1.0, 0.01), free * (0.01 / free.norm()), rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(step(1.0, 1e6), free)


def test_nothing_moves_between_the_gradient_and_the_step_but_what_an_objective_moves():
    """As AWP does (arXiv 2004.05884): the gradient is taken at perturbed weights, the step from where they were."""
    optim = SGD(name="sgd", lr=0.5, momentum=0.0, epochs=1, clip_norm=0.1)
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    state, other = new(optim), new(optim)
    perturbation = [0.1 * torch.randn_like(p) for p in state.model.parameters()]

    def move(state: State, sign: int) -> None:
        with torch.no_grad():
            for p, v in zip(state.model.parameters(), perturbation, strict=True):
                p.add_(sign * v)

    move(state, 1)
    before = contents(state)
    with state.part():
        state.backward(F.cross_entropy(state.ddp(1 - x), y))  # dropped: another gradient takes its place
    with state.part():
        state.backward(F.cross_entropy(state.ddp(x), y))
    assert contents(state) == before
    gradient = [p.grad.clone() for p in state.model.parameters() if p.grad is not None]
    move(state, -1)
    start = [p.detach().clone() for p in state.model.parameters()]
    state.advance()
    length = torch.cat([g.flatten() for g in gradient]).norm()
    for p, old, g in zip(state.model.parameters(), start, gradient, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.5 * g * min(1.0, 0.1 / length.item()), rtol=1e-4, atol=1e-6)
    assert state.step == 1
    descend(other, F.cross_entropy(other.ddp(x), y))
    assert contents(other) != contents(state)


@pytest.mark.parametrize(("parts", "size"), [((128,), 128), ((64, 64), 128), ((42, 43, 43), 128), ((1, 2), 3)])
def test_weighted_means_of_the_ranks_average_to_the_mean_of_the_global_batch(parts: tuple[int, ...], size: int):
    state = new(SGD(name="sgd", lr=0.1, epochs=1, batch_size=size))
    state.world = World(0, len(parts))
    losses = [0.5 + rank for rank in range(len(parts))]
    weighted = [state.loss_weight(count) * loss for count, loss in zip(parts, losses, strict=True)]
    whole = sum(count * loss for count, loss in zip(parts, losses, strict=True)) / size
    assert sum(weighted) / len(parts) == pytest.approx(whole)


def test_the_average_of_the_weights_follows_its_formula():
    """On the ramp: all weights so far, those of step t in proportion to t. Then d mean + (1 - d) weights.

    So do the running statistics; counts are the model's own.
    """
    optim = SGD(name="sgd", lr=0.5, epochs=2, ema=0.6)  # reached at step 4
    state = new(optim, with_norms)
    assert state.average is not None
    expected: dict[str, Tensor] = {}
    for step in range(1, 8):
        train(state, 1)
        share = 2 / (step + 1) if step <= 4 else 0.4
        for name, now in state.model.state_dict().items():
            if now.is_floating_point():
                now = now.double()
                expected[name] = share * now + (1 - share) * expected[name] if name in expected else now.clone()
            else:
                expected[name] = now.clone()
    assert {name.rpartition(".")[2] for name in expected} > {"weight", "running_var", "num_batches_tracked"}
    for name, mean in state.average.state_dict().items():
        torch.testing.assert_close(mean.to(expected[name].dtype), expected[name], rtol=1e-5, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in state.average.parameters())
    assert not any(module.training for module in state.average.modules())


def decay_at(optim: Optimiser, step: int) -> float:
    """The decay by which step ``step`` (from 1) averages, as it is seen."""
    state = State(nn.Linear(1, 1), optim, steps_per_epoch=100)
    assert state.average is not None
    with torch.no_grad():
        for mean, now in zip(state.average.parameters(), state.model.parameters(), strict=True):
            mean.zero_()
            now.fill_(1.0)
    state.step = step - 1
    descend(state, state.ddp(torch.zeros(1, 1)).sum() * 0)
    (mean, _), (now, _) = state.average.parameters(), state.model.parameters()
    return 1 - (mean / now).item()


JOBS = sorted((Path(__file__).parent.parent / "jobs").glob("*.yaml"))
IMAGES = {"mnist": 60_000, "cifar10": 50_000, "folder": 1_281_167}


def test_the_shipped_jobs_average_by_their_decay_for_most_of_the_run():
    """A fifth of it at most is the ramp; the random start counts for nothing from the first step."""
    averaged = 0
    for training in (getattr(job, "train", job) for job in map(read, JOBS)):
        optim = getattr(training, "optim", None)
        if optim is None or optim.ema is None:
            continue
        averaged += 1
        steps = optim.epochs * (int(IMAGES[training.data.source] * (1 - training.data.validation)) // optim.batch_size)
        assert decay_at(optim, steps // 5) == pytest.approx(optim.ema, rel=1e-6)
        assert decay_at(optim, 1) == 0
        assert decay_at(optim, 50) < optim.ema
    assert averaged >= 3


def test_without_ema_nothing_is_averaged():
    state = new()
    assert state.average is None and state.judged is state.model


def test_weights_at_their_worst_lie_a_share_of_their_length_up_the_gradient_and_come_back():
    state = new(build=with_norms)
    state.backward(F.cross_entropy(state.model(torch.rand(8, 1, 8, 8)), torch.arange(8)))
    before = {name: one.detach().clone() for name, one in state.model.named_parameters()}
    with state.worst_weights(0.25):
        for name, one in state.model.named_parameters():
            assert one.grad is not None
            if one.ndim > 1:
                moved = one.detach() - before[name]
                torch.testing.assert_close(moved.norm(), 0.25 * before[name].norm())
                cosine = F.cosine_similarity(moved.flatten(), one.grad.flatten(), dim=0)
                torch.testing.assert_close(cosine, torch.tensor(1.0))
            else:
                assert torch.equal(one, before[name])  # biases and normalisation stay
    assert all(torch.equal(one, before[name]) for name, one in state.model.named_parameters())
