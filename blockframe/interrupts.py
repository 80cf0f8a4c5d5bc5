"""Signals that wait: Ctrl-C and the like, while something is done as a whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ASKING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals other than that of Ctrl-C which ask a program to end."""


@contextmanager
def held() -> Iterator[None]:
    """Meanwhile Ctrl-C and the like wait, where Python handles them; then the first one acts.

    Handlers are exchanged, since a signal that the main thread blocks arrives all the same by way
    of a thread that does not (PyTorch has many), and its handler then runs in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread only
        return
    waiting: list[tuple[int, FrameType | None]] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        waiting.append((number, frame))

    try:
        for number in (signal.SIGINT, *ASKING):
            if callable(signal.getsignal(number)):
                before[number] = signal.signal(number, note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number, frame in waiting:
            before[number](number, frame)
