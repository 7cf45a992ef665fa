"""Tasks spread over a Ray cluster, a few at a time; what a worker raises is raised here."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from distrib.cluster.memory import shortage
from distrib.config.cluster import Cluster
from distrib.errors import DistribError, RunError

HOUR = 3600


@dataclass(frozen=True)
class Workers:
    """Where tasks run: as many at a time as the job has workers, on its device."""

    cluster: Cluster
    use_gpu: bool
    fresh: bool = False
    """A process that used a GPU ends with its call, and leaves the GPU's memory to whatever comes next. Otherwise it
    takes the next item: to start another one takes seconds."""


def map_tasks(
    function: Callable, shared: object, items: Iterable[tuple], workers: Workers
) -> Iterator[tuple[tuple, Any]]:
    """(item, ``function(shared, *item)``) as they come, with at most one task a worker under way.

    A task whose process or machine is lost is begun again after the others, up to ``cluster.max_failures`` times; by
    Ray's own count, tasks that its memory monitor ends are begun again without end.
    Raises :class:`DistribError` as a worker raised it, or :class:`RunError`.
    """
    cluster = workers.cluster
    # not by .options(), which drops max_calls (Ray 2.60); 0 is without end
    gpu = {"num_gpus": cluster.gpus_per_worker, "max_calls": 1 if workers.fresh else 0} if workers.use_gpu else {}
    remote: Any = ray.remote(num_cpus=cluster.cpus_per_worker, max_retries=0, **gpu)(function)
    stored, running = ray.put(shared), {}
    waiting, again = ((item, 0) for item in items), deque()
    while True:
        while len(running) < cluster.max_workers:
            task = next(waiting, None) or (again.popleft() if again else None)
            if task is None:
                break
            running[remote.remote(stored, *task[0])] = task
        if not running:
            return
        seconds = max(HOUR, cluster.wait_seconds)
        ready, _ = ray.wait(list(running), timeout=seconds)
        if not ready:
            raise RunError(
                f"no part of the work was finished in {seconds} s: others have the machines (cluster.wait_seconds says "
                "how long to wait), or the parts are too large (evaluation.shard_size)"
            )
        for reference in ready:
            item, losses = running.pop(reference)
            try:
                yield item, ray.get(reference)
            except RayTaskError as error:
                if isinstance(error.cause, DistribError):
                    raise error.cause from None
                raise RunError(f"evaluation failed: {str(error.cause or error).strip().splitlines()[-1]}") from None
            except RayError as error:
                if losses >= cluster.max_failures:
                    raise _given_up(error, losses) from None
                again.append((item, losses + 1))


def _given_up(error: RayError, losses: int) -> RunError:
    short, times = shortage(str(error)), f" {losses + 1} times" if losses else ""
    if short is None:
        return RunError(f"evaluation failed{times}: {str(error).strip().splitlines()[0]}")
    return RunError(
        f"evaluation failed{times}: {short}; lower cluster.num_workers, evaluation.batch_size or evaluation.shard_size"
        ", or give the machine more memory. What is done is kept"
    )
