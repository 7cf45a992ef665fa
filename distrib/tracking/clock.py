"""Where the time of a run went."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Clock:
    """Where the time went, by name, in seconds."""

    began: float
    marks: dict[str, float]

    @classmethod
    def start(cls) -> "Clock":
        """A clock that starts now."""
        return cls(time.perf_counter(), {})

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the time that the block takes to ``name``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.marks[name] = round(self.marks.get(name, 0) + time.perf_counter() - began, 2)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return round(time.perf_counter() - self.began, 2)


def now() -> int:
    """Milliseconds since 1970, as MLflow counts the time of a point."""
    return int(time.time() * 1000)
