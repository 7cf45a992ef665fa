"""Tasks spread over a Ray cluster, a few at a time; what a worker raises is raised here."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from distrib.errors import DistribError, RunError
from distrib.job import Cluster

HOUR = 3600


def spread(
    function: Callable, shared: object, items: Iterable[tuple], cluster: Cluster, cuda: bool, fresh: bool = False
) -> Iterator[tuple[tuple, Any]]:
    """(item, ``function(shared, *item)``) as they come, with at most one task a worker under way.

    With ``fresh`` a process that used a GPU ends with its call, and leaves the GPU's memory to whatever comes next.
    Otherwise it takes the next item: to start another one takes seconds.
    Raises :class:`DistribError` as a worker raised it, or :class:`RunError`.
    """
    # not by .options(), which drops max_calls (Ray 2.60); 0 is without end
    gpu = {"num_gpus": cluster.gpus_per_worker, "max_calls": 1 if fresh else 0} if cuda else {}
    remote: Any = ray.remote(num_cpus=cluster.cpus_per_worker, max_retries=cluster.max_failures, **gpu)(function)
    stored, waiting, running = ray.put(shared), iter(items), {}
    while True:
        while len(running) < cluster.max_workers and (item := next(waiting, None)) is not None:
            running[remote.remote(stored, *item)] = item
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
            try:
                yield running.pop(reference), ray.get(reference)
            except RayTaskError as error:
                if isinstance(error.cause, DistribError):
                    raise error.cause from None
                raise RunError(f"evaluation failed: {str(error.cause or error).strip().splitlines()[-1]}") from None
            except RayError as error:
                raise RunError(f"evaluation failed: {str(error).strip().splitlines()[0]}") from None
