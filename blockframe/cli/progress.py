"""Progress on stderr: a bar on a terminal, otherwise lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blockframe.cli.output import colored, complain
from blockframe.progress import Pace, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


@contextmanager
def progress() -> Iterator[Progress]:
    """What suits stderr."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    console = Console(stderr=True, no_color=not colored(sys.stderr))
    with Bar(*columns, console=console, transient=True) as bar:
        yield Live(bar)


class Lines:
    """One line per stage but the first, which is short: what goes wrong there (a misspelt spec) is
    then the only line. And now and then how far a long stage has come."""

    EVERY = 30.0
    """Seconds between two lines of one stage, at least."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: seconds.
        """
        self._clock = clock
        self._stage = ""
        self._pace = Pace(clock)
        self._told = clock()

    def stage(self, text: str) -> None:
        if self._stage:
            complain(f"{text} …")
        self._stage, self._pace, self._told = text, Pace(self._clock), self._clock()

    def step(self, done: int, total: int, detail: str) -> None:
        pace, now = self._pace.tell(done, total), self._clock()
        if now - self._told >= self.EVERY:
            self._told = now
            parts = (f"{self._stage}: {done:,} of {total:,}", detail, pace)
            complain(", ".join(filter(None, parts)))


class Live:
    """A bar that is redrawn in place and gone at the end."""

    def __init__(self, bar: Bar, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: seconds.
        """
        self._bar = bar
        self._clock = clock
        self._task: TaskID | None = None
        self._pace = Pace(clock)

    def stage(self, text: str) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(text, total=None, detail="")
        self._pace = Pace(self._clock)

    def step(self, done: int, total: int, detail: str) -> None:
        if self._task is not None:
            text = ", ".join(filter(None, (detail, self._pace.tell(done, total))))
            self._bar.update(self._task, completed=done, total=total, detail=text)
