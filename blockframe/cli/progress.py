"""Progress on stderr: a bar on a terminal, otherwise one line per stage."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blockframe.cli.output import colored, complain
from blockframe.progress import Progress

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
    then the only line."""

    def __init__(self) -> None:
        self._begun = False

    def stage(self, text: str) -> None:
        if self._begun:
            complain(f"{text} …")
        self._begun = True

    def step(self, done: int, total: int, detail: str) -> None:
        pass


class Live:
    """A bar that is redrawn in place and gone at the end."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def stage(self, text: str) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(text, total=None, detail="")

    def step(self, done: int, total: int, detail: str) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, detail=detail)
