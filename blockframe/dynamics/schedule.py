"""Learning rates that change along a run: η_k as a function of k."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from attrs import frozen

from blockframe import checks
from blockframe.errors import InputError

AUTO = "auto"
FORMS = "auto, a number, a list (0.1,0.05), linear:A:B, cosine:A:B or step:A:F:N"
"""What ``--lr`` takes; A may be ``auto``."""

_ARGUMENTS = {"linear": "AB", "cosine": "AB", "step": "AFN"}
"""What a rule is told, by the names that `FORMS` has for it."""


@frozen
class Schedule:
    """η_k, given η_0.

    With K steps and t = k/(K − 1), at most 1 (0 where K < 2):

    * ``constant``: η_0;
    * ``list``: the k-th of ``numbers``, the last one from there on;
    * ``linear`` to B: η_0(1 − t) + Bt;
    * ``cosine`` to B: η_0w + B(1 − w), w = (1 + cos πt)/2 (Loshchilov and Hutter 2017);
    * ``step`` by F every N: η_0 · F^⌊k/N⌋.

    Attributes:
        numbers: of a list, all; B; or F and N.
        text: how ``--lr`` spells it; "" if it is constant.
    """

    kind: str = "constant"
    numbers: tuple[float, ...] = ()
    text: str = ""

    @property
    def constant(self) -> bool:
        return self.kind == "constant"

    @property
    def by_length(self) -> bool:
        """Whether η_k depends on how many steps are taken in all."""
        return self.kind in ("linear", "cosine")

    def rate(self, first: float, step: int, steps: int) -> float:
        """η of ``step``, η_0 being ``first``, of ``steps`` in all."""
        t = min(step / (steps - 1), 1.0) if steps > 1 else 0.0
        match self.kind:
            case "list":
                return self.numbers[min(step, len(self.numbers) - 1)]
            case "linear":
                return first * (1 - t) + self.numbers[0] * t
            case "cosine":
                weight = (1 + math.cos(math.pi * t)) / 2
                return first * weight + self.numbers[0] * (1 - weight)
            case "step":
                factor, every = self.numbers
                try:
                    power: float = factor ** (step // int(every))
                except OverflowError:
                    return math.inf
                return first * power
        return first


def reach(schedule: Schedule, first: float, steps: int) -> None:
    """
    Raises:
        InputError: a rate on the way is not a normal number: it is 0, or not finite, or 2/η is.
    """
    last = schedule.rate(first, steps, steps)  # each rule is monotone, a list is checked
    if not (sys.float_info.min <= last < math.inf):
        raise InputError(
            f"the learning rate {schedule.text or first} comes to {last:g} in {steps} steps",
            "Give a factor nearer to 1, or fewer steps."
            if schedule.text
            else f"Give one of {sys.float_info.min:.3g} at least.",
        )


def parse(lr: object) -> tuple[float | None, Schedule]:
    """η_0, or None where it is to be chosen, and how it goes on.

    Args:
        lr: a number, a sequence of them, or a text (`FORMS`).

    Raises:
        InputError: it is none of these; the message says why.
    """
    if isinstance(lr, Sequence) and not isinstance(lr, str):
        return _listed(tuple(_positive(x, lr, f"number {n}") for n, x in enumerate(lr, 1)), lr)
    if not isinstance(lr, str):
        return _positive(lr, lr, "it"), Schedule()
    text = lr.strip()
    if "," in text:
        numbers = (_number(x, lr, f"number {n}") for n, x in enumerate(text.split(","), 1))
        return _listed(tuple(numbers), lr)
    kind, *arguments = text.split(":")
    if arguments:
        return _named(kind, arguments, lr)
    return (None if text == AUTO else _number(text, lr, "it")), Schedule()


def _listed(numbers: tuple[float, ...], lr: object) -> tuple[float, Schedule]:
    if not numbers:
        raise _refused(lr, "it is empty")
    text = ",".join(map(repr, numbers))
    return numbers[0], Schedule("list", numbers, text) if len(numbers) > 1 else Schedule()


def _named(kind: str, arguments: list[str], lr: str) -> tuple[float | None, Schedule]:
    names = _ARGUMENTS.get(kind)
    if names is None:
        raise _refused(lr, f"there is no rule {kind!r}")
    if len(arguments) != len(names):
        raise _refused(lr, f"{kind} takes {':'.join(names)}, {len(names)} values")
    first = None if arguments[0].strip() == AUTO else _number(arguments[0], lr, names[0])
    numbers = tuple(_number(x, lr, n) for x, n in zip(arguments[1:], names[1:], strict=True))
    if kind == "step" and not numbers[1].is_integer():
        raise _refused(lr, f"N must be a whole number, not {arguments[2]!r}")
    spelled = [repr(int(x)) if x.is_integer() else repr(x) for x in numbers]
    text = ":".join([kind, AUTO if first is None else repr(first), *spelled])
    return first, Schedule(kind, numbers, text)


def _number(text: str, lr: object, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _refused(lr, f"{name} must be a number, not {text!r}") from None
    return _positive(value, lr, name)


def _positive(value: object, lr: object, name: str) -> float:
    number = checks.positive(value)
    if number is None:
        raise _refused(lr, f"{name} must be positive and finite, not {value!r}")
    return number


def _refused(lr: object, why: str) -> InputError:
    return InputError(f"lr cannot be {lr!r}: {why}", f"Give {FORMS}.")
