"""What the person at the terminal sees: a live bar on a terminal, plain lines elsewhere. All of it on stderr."""

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

LINE_SECONDS = 30
"""How often a plain line is printed within an epoch."""


class Display:
    """Lines, and one bar at a time."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.bar: Progress | None = None
        self.task = None
        self.title = ""
        self.began = self.shown = 0.0

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    def say(self, text: str) -> None:
        """One line, above the bar if there is one."""
        (self.bar.console if self.bar else self.console).print(text, markup=False)

    def advance(self, title: str, done: float, total: float, detail: str, rough: bool = False) -> None:
        """How far the work named ``title`` is; another title begins another bar.

        ``rough``: nothing of it was finished yet that could tell how long the rest takes.
        """
        now = time.monotonic()
        if title != self.title:
            self.end()
            self.title, self.began, self.shown, self.first = title, now, now, done
            if self.console.is_terminal:
                whole, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
                self.bar = Progress(
                    TextColumn("{task.description} {task.percentage:>3.0f}%", table_column=whole), BarColumn(12),
                    TextColumn("{task.fields[eta]}", table_column=whole),
                    TextColumn("{task.fields[detail]}", table_column=rest), console=self.console, transient=True,
                    expand=True,
                )  # fmt: skip
                self.bar.start()
                self.task = self.bar.add_task(title, total=total, detail=detail, eta="")
        left = (now - self.began) * (total - done) / (done - self.first) if done > self.first else None
        eta = f"ETA {'about ' if rough else ''}{'-:--:--' if left is None else timedelta(seconds=round(left))}"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, detail=detail, eta=eta)
        elif now - self.shown >= LINE_SECONDS:
            self.shown = now
            self.say(f"{title}: {done / total:.0%}, {eta}, {detail}")

    def end(self) -> None:
        """Removes the bar."""
        if self.bar is not None:
            self.bar.stop()
        self.bar = self.task = None
        self.title = ""
