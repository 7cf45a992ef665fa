"""Why one worker and two drift apart: the first epoch of a training, each in float32 and in float64.

    python benchmarks/rounding.py --job jobs/mnist.yaml --root DEST [--steps 210]

One process and two gloo ranks take the same steps as distrib does. Both see the same images and the same noise; all
that differs is the order in which the gradients of a batch are summed. If the drift is rounding that training
amplifies, it must shrink with the rounding, by 2^29 in float64; if the two computed different things, it would not.
(Logits and images are cast to float32 by the loop itself; in float64 such a cast rounds both runs alike.)
"""

import argparse
import os
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn

from distrib.commands.prepare import prepared
from distrib.config.file import read
from distrib.config.job import Train
from distrib.data.beton import open_split
from distrib.data.loader import TrainLoader, open_reader
from distrib.noise import Noise
from distrib.optim import epsilon_scale_at
from distrib.state import State
from distrib.step import update
from distrib.tracking.display import Display
from distrib.world import current

LOOKS = (1, 2, 5, 10, 20, 50, 100, 200)
"""Steps after which the weights are kept, beside the last."""


class InDouble(nn.Module):
    """A network that computes in float64."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net.double()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``x``, float64."""
        return self.net(x.double())


def rank_main(rank: int, size: int, room: str, job: Train, data: Path, dtype: str, steps: int) -> None:
    """One rank; rank 0 leaves (losses, weights by step) in ``room``."""
    torch.set_num_threads(1)
    if size > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", f"file://{room}/meet-{dtype}", timedelta(minutes=5), rank=rank, world_size=size)
    world = current(torch.device("cpu"))
    train = open_split(data, "train", "training")
    height, width, channels = train.card.image
    reader = open_reader(train, "memory")
    loader = TrainLoader(reader, train.card.count, job.seed, job.optim.batch_size, job.augment, world)
    torch.manual_seed(job.seed)
    model = job.model.build((channels, height, width), len(train.card.classes), train.card.mean, train.card.std)
    state = State(InDouble(model) if dtype == "float64" else model, job.optim, loader.steps, world, "float32")
    losses, weights = [], {}
    for batch in loader.epoch(0):
        noise = Noise.of(batch.index, job.seed, "attack", 0)
        natural, warmup = job.objective.natural_epochs, job.objective.epsilon_warmup_epochs
        scale = epsilon_scale_at(state.step, loader.steps, natural, warmup)
        sums = update(state, batch, job.objective, noise, scale)
        losses.append(world.sum(sums.loss.double()).item() / loader.batch_size)
        if state.step in (*LOOKS, steps):
            weights[state.step] = torch.cat([one.detach().double().flatten() for one in state.model.parameters()])
        if state.step == steps:
            break
    if rank == 0:
        torch.save({"losses": losses, "weights": weights}, f"{room}/{dtype}-{size}.pt")
    if size > 1:
        dist.destroy_process_group()


def main() -> None:
    """Prints the drift after so many steps, in both formats."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--job", type=Path, default=Path("jobs/mnist.yaml"))
    words.add_argument("--root", default="data")
    words.add_argument("--steps", type=int, default=210, help="one epoch, by default")
    options = words.parse_args()
    job = read(options.job, [f"data.root={options.root}"])
    assert isinstance(job, Train)
    data = prepared(job, Display())
    found = {}
    with tempfile.TemporaryDirectory() as room:
        for dtype in ("float32", "float64"):
            for size in (1, 2):
                multiprocessing.spawn(  # pyright: ignore[reportPrivateImportUsage]
                    rank_main, (size, room, job, data, dtype, options.steps), nprocs=size
                )
                found[dtype, size] = torch.load(f"{room}/{dtype}-{size}.pt", weights_only=True)
    print(f"{options.job}, seed {job.seed}: one process against two ranks")
    print(f"{'step':>5}  {'format':8} {'|w1-w2|/|w2|':>13} {'mean loss':>10} {'its relative difference':>24}")
    for step in found["float32", 1]["weights"]:
        for dtype in ("float32", "float64"):
            one, two = found[dtype, 1], found[dtype, 2]
            w1, w2 = one["weights"][step], two["weights"][step]
            mean1, mean2 = (sum(run["losses"][:step]) / step for run in (one, two))
            drift = (torch.linalg.vector_norm(w1 - w2) / torch.linalg.vector_norm(w2)).item()
            print(f"{step:5}  {dtype:8} {drift:13.1e} {mean2:10.6f} {abs(mean1 - mean2) / mean2:24.1e}")


if __name__ == "__main__":
    main()
