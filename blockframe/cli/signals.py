"""Signals that ask the program to end, treated like Ctrl-C: what was measured is kept."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from blockframe.interrupts import ASKING


class Asked(KeyboardInterrupt):
    """A signal other than that of Ctrl-C asks the program to end; the text is its name."""


class Asking:
    """Which signal came, if one did.

    Attributes:
        code: the exit code that says so, 128 + its number; 0 before.
    """

    def __init__(self) -> None:
        self.code = 0
        self._terminals = [fd for fd in (1, 2) if os.isatty(fd)]

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.code:
            return  # a second one, while the first is obeyed: they often come in pairs
        self.code = 128 + number
        for fd in self._terminals:
            if not os.isatty(fd):  # it was hung up, and every write to it would fail
                os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
        raise Asked(signal.Signals(number).name)


@contextmanager
def asking() -> Iterator[Asking]:
    """Meanwhile SIGTERM and SIGHUP raise `Asked`; what is ignored (``nohup``) stays ignored."""
    asked = Asking()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in ASKING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, asked)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_interrupts() -> None:
    """Ctrl-C does nothing any more: the process is about to end, and says why by its status.

    It takes a moment to end, in which a second one would leave a traceback and another status.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
