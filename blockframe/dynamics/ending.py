"""Why a run of gradient descent ended: the words of ``Trajectory.ended``."""

from __future__ import annotations

COMPLETED = "completed"
_NOT_FINITE = "not finite"


def not_finite(what: str, step: int) -> str:
    return f"the {what} is {_NOT_FINITE} at step {step}"


def diverged(loss: float, step: int) -> str:
    return f"diverged at step {step}: the loss reached {loss:.3g}"


def interrupted(step: int) -> str:
    return f"interrupted at step {step} by the user"


def was_not_finite(ended: str) -> bool:
    return _NOT_FINITE in ended
