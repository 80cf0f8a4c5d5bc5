"""What a long computation tells while it works."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Receives what happens; `blockframe.certify` takes None for silence."""

    def stage(self, text: str) -> None:
        """A new stage begins: ``tracing``, ``gradient descent``."""
        ...

    def step(self, done: int, total: int, detail: str) -> None:
        """``done`` of ``total`` parts of the stage are finished; ``detail`` is one short phrase."""
        ...


class Silence:
    """Tells nobody."""

    def stage(self, text: str) -> None:
        pass

    def step(self, done: int, total: int, detail: str) -> None:
        pass


class Pace:
    """How fast the parts of a stage are done, by the last minute."""

    WINDOW = 60.0  # seconds
    APART = 1.0  # seconds between two times that are remembered

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: seconds.
        """
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def tell(self, done: int, total: int) -> str:
        """``41.2/s, 7 min left`` (``8.3 s each``), now that ``done`` of ``total`` parts are; empty
        before the second."""
        now = self._clock()
        first = self._seen[0] if self._seen else (now, done)
        while len(self._seen) > 1 and self._seen[1][0] <= now - self.WINDOW:
            self._seen.popleft()
            first = self._seen[0]
        if not self._seen or now - self._seen[-1][0] >= self.APART:
            self._seen.append((now, done))
        parts, seconds = done - first[1], now - first[0]
        if parts <= 0 or seconds <= 0:
            return ""
        each = seconds / parts
        speed = f"{1 / each:,.3g}/s" if each < 1 else f"{duration(each)} each"
        return f"{speed}, {duration(each * (total - done))} left" if done < total else speed


def duration(seconds: float) -> str:
    """``40 s``, ``7 min``, ``2 h 05 min``, ``3 d 04 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds else "0 s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours:02} h"
