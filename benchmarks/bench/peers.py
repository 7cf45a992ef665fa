"""The same adversarial training step by other libraries: each makes the images its own way; the update is the same.

What can be imported is measured: ``tools/bench-setup`` puts the libraries into ``.peers``, a folder that nothing but
these benchmarks looks into. It comes last on the path, so that all share the torch of distrib's own environment.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.bench.cases import DEVICE, LR, MOMENTUM, STEP, Case

FOLDER = Path(__file__).parents[2] / ".peers"
SETUP = "tools/bench-setup"

Craft = Callable[[Tensor, Tensor], Tensor]


def textbook(case: Case, model: nn.Module) -> Craft:
    """PGD as most tutorials print it: in training mode, gradients of the weights too, noise of the global generator."""
    epsilon, length = case.epsilon, case.epsilon * STEP

    def craft(x: Tensor, y: Tensor) -> Tensor:
        delta = torch.empty_like(x).uniform_(-epsilon, epsilon).requires_grad_()
        for _ in range(case.num_steps):
            F.cross_entropy(model((x + delta).clamp(0, 1)), y).backward()
            assert delta.grad is not None
            delta.data = (delta + length * delta.grad.sign()).clamp(-epsilon, epsilon)
            delta.grad.zero_()
        return (x + delta.detach()).clamp(0, 1)

    return craft


def torchattacks(case: Case, model: nn.Module) -> Craft:
    """torchattacks.PGD, in evaluation mode, which it sees to itself."""
    from torchattacks import PGD  # pyright: ignore[reportMissingImports]

    return PGD(model, eps=case.epsilon, alpha=case.epsilon * STEP, steps=case.num_steps, random_start=True)


def foolbox(case: Case, model: nn.Module) -> Craft:
    """foolbox's LinfPGD, in evaluation mode; ``run`` leaves out the check of what it came to."""
    from foolbox import PyTorchModel  # pyright: ignore[reportMissingImports]
    from foolbox.attacks import LinfPGD  # pyright: ignore[reportMissingImports]
    from foolbox.criteria import Misclassification  # pyright: ignore[reportMissingImports]

    seen = PyTorchModel(model.eval(), bounds=(0, 1), device=DEVICE)
    attack = LinfPGD(abs_stepsize=case.epsilon * STEP, steps=case.num_steps, random_start=True)

    def craft(x: Tensor, y: Tensor) -> Tensor:
        model.eval()
        return attack.run(seen, x, Misclassification(y), epsilon=case.epsilon)

    return craft


def art(case: Case, model: nn.Module) -> Craft:
    """The PGD of the Adversarial Robustness Toolbox for PyTorch; its images are NumPy's, there and back."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch  # pyright: ignore[reportMissingImports]
    from art.estimators.classification import PyTorchClassifier  # pyright: ignore[reportMissingImports]

    seen = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), case.shape, 10, clip_values=(0.0, 1.0),
        device_type="gpu" if DEVICE.type == "cuda" else "cpu",
    )  # fmt: skip
    attack = ProjectedGradientDescentPyTorch(
        seen, eps=case.epsilon, eps_step=case.epsilon * STEP, max_iter=case.num_steps, num_random_init=1,
        batch_size=case.batch_size, verbose=False,
    )  # fmt: skip

    def craft(x: Tensor, y: Tensor) -> Tensor:
        return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(DEVICE)

    return craft


PEERS: dict[str, Callable[[Case, nn.Module], Craft]] = {
    "textbook": textbook, "torchattacks": torchattacks, "foolbox": foolbox, "art": art,
}  # fmt: skip
"""By the module that each needs; the first needs none."""


def installed() -> list[str]:
    """The peers that can be measured here."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return [name for name in PEERS if name == "textbook" or find_spec(name) is not None]


def missing() -> str:
    """What is left out, and the cure; empty where nothing is."""
    names = [name for name in PEERS if name not in installed()]
    return f"Left out, for they are not installed: {', '.join(names)}; {SETUP} installs them." if names else ""


def step_of(name: str, case: Case) -> Callable[[], None]:
    """A whole step of training with a peer's images. Raises :class:`AssertionError` where they are none of PGD's."""
    model, batch = case.model().train(), case.batch()
    optimiser = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    craft = PEERS[name](case, model)
    far = (craft(batch.x, batch.y) - batch.x).abs().max().item()
    assert 0.5 * case.epsilon < far < 1.001 * case.epsilon, f"{name} went {far} from the images, not {case.epsilon}"

    def step() -> None:
        x_adv = craft(batch.x, batch.y)
        model.train()
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(model(x_adv), batch.y).backward()
        optimiser.step()

    return step
