"""Why a run of gradient descent ended: the words of ``Trajectory.ended``."""

from __future__ import annotations

import re

from blockframe.errors import LESS_MEMORY, BlockframeError, InputError

COMPLETED = "completed"
_NOT_FINITE = "not finite"
INTERRUPTED = "interrupted"


class NetworkError(InputError):
    """The network raised, forward or backward; ``reason`` is that in the words of an ending."""

    def __init__(self, message: str, remedy: str, *, reason: str) -> None:
        super().__init__(message, remedy)
        self.reason = reason


class NoFunction(NetworkError):
    """Loss or gradient are not the same again at the same θ."""


class NoRate(InputError):
    """No learning rate follows from the curvature at θ_0."""


def not_finite(what: str, step: int) -> str:
    return f"the {what} is {_NOT_FINITE} at step {step}"


def diverged(loss: float, step: int) -> str:
    return f"diverged at step {step}: the loss reached {loss:.3g}"


def interrupted(step: int, by: str = "") -> str:
    """``by``: what the interrupt says; Ctrl-C says nothing."""
    return f"{INTERRUPTED} at step {step} by {by or 'the user'}"


def out_of_memory(step: int) -> str:
    return f"out of memory at step {step}. {LESS_MEMORY.rstrip('.')}"


def failed(error: BlockframeError, step: int) -> str:
    """``the forward raised ValueError: no, at my_model.py:17, at step 3``."""
    if isinstance(error, NetworkError):
        return f"{error.reason}, at step {step}"
    if isinstance(error, NoRate):
        return f"it had no learning rate: {error.message.rstrip('.')}. {error.remedy.rstrip('.')}"
    return f"stopped at step {step}: {error.message}"


# What follows reads endings that may quote anybody's words: only their own form counts.


def was_not_finite(ended: str) -> bool:
    return re.fullmatch(rf"the \w+ is {_NOT_FINITE} at step \d+", ended) is not None


def was_interrupted(ended: str) -> bool:
    return re.match(rf"{INTERRUPTED} (at step \d+ )?by ", ended) is not None


def was_no_function(ended: str) -> bool:
    """Whether loss or gradient turned out to be no function of θ."""
    two = r"the network gives two (losses|gradients) at one θ,( of norm)? \S+ and \S+, at step \d+"
    return re.fullmatch(two, ended) is not None


def was_final(ended: str) -> bool:
    """Whether there is nothing to go on with."""
    went = re.fullmatch(r"diverged at step \d+: the loss reached \S+", ended) is not None
    return ended == COMPLETED or went or was_not_finite(ended) or was_no_function(ended)
