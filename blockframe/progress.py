"""What a long computation tells while it works."""

from __future__ import annotations

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
