"""Images per second of one adversarial training step: distrib's against the textbook loop, in one process.

    python benchmarks/training_step.py [--batch 128] [--rounds 5] [--precision bfloat16]

The textbook loop is what most tutorials print: the attack back-propagates into the weights too, in training mode, and
draws its noise from the global generator. Both make the same number of forward and backward passes, on the same images,
with the same network, alternating; the ratio is what counts on a noisy machine.
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from distrib.attack import PGD, OfEpsilon
from distrib.data.loader import Batch
from distrib.models import PaperCNN, PreActResNet, SmallCNN
from distrib.noise import Noise
from distrib.objective import Madry
from distrib.optim import SGD
from distrib.state import State
from distrib.step import update
from distrib.threat import Linf

CASES = {
    "small_cnn, 1x28x28, PGD-10": (SmallCNN(), (1, 28, 28), 10, 0.3),
    "paper_cnn, 1x28x28, PGD-10": (PaperCNN(), (1, 28, 28), 10, 0.3),
    "preact_resnet-18 width 1/4, 3x32x32, PGD-7": (PreActResNet(width=0.25), (3, 32, 32), 7, 8 / 255),
}


def textbook(
    model: torch.nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, steps: int, epsilon: float
) -> None:
    """Adversarial training as it is usually written."""
    x, y = batch.x, batch.y
    delta = torch.empty_like(x).uniform_(-epsilon, epsilon).requires_grad_()
    for _ in range(steps):
        loss = F.cross_entropy(model((x + delta).clamp(0, 1)), y)
        loss.backward()
        delta.data = (delta + epsilon / 4 * delta.grad.sign()).clamp(-epsilon, epsilon)
        delta.grad.zero_()
    optimiser.zero_grad()
    F.cross_entropy(model((x + delta.detach()).clamp(0, 1)), y).backward()
    optimiser.step()


def seconds(work: Callable[[], None]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Prints one line a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="float32", help="of distrib's step; the textbook's is float32")
    options = parser.parse_args()
    torch.manual_seed(0)
    for name, (value, shape, steps, epsilon) in CASES.items():
        channels = shape[0]
        models = [value.build(shape, 10, [0.5] * channels, [0.25] * channels) for _ in range(2)]
        batch = Batch(
            torch.rand(options.batch, *shape), torch.randint(0, 10, (options.batch,)), torch.arange(options.batch)
        )
        attack = PGD(num_steps=steps, step_size=OfEpsilon(of_epsilon=0.25))
        objective = Madry(method="madry", threat=Linf(epsilon=epsilon), attack=attack)
        sgd = SGD(name="sgd", lr=0.01, epochs=10, batch_size=options.batch)
        state = State(models[0], sgd, steps_per_epoch=1000, precision=options.precision)
        optimiser = torch.optim.SGD(models[1].parameters(), lr=0.01, momentum=0.9)

        def ours(state: State = state, batch: Batch = batch, objective: Madry = objective) -> None:
            update(state, batch, objective, Noise.of(batch.index, 0, "attack", state.step), 1.0)

        def theirs(model=models[1], optimiser=optimiser, batch=batch, steps=steps, epsilon=epsilon) -> None:
            textbook(model, optimiser, batch, steps, epsilon)

        for work in (ours, theirs):
            work()
        times = [(seconds(ours), seconds(theirs)) for _ in range(options.rounds)]
        fast, slow = (min(column) for column in zip(*times, strict=True))
        print(
            f"{name}: distrib in {options.precision} {options.batch / fast:.0f} images/s, textbook "
            f"{options.batch / slow:.0f} images/s, ratio {slow / fast:.2f} ({torch.get_num_threads()} threads, best of "
            f"{options.rounds})"
        )


if __name__ == "__main__":
    main()
