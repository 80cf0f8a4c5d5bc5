"""Values that a user gives as options: of the right type and size, or one sentence."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from blockframe.errors import InputError

LARGEST_SEED = 2**32 - 1
"""What every generator of random numbers takes."""


def whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """``value`` as an integer from ``least`` to ``most``; True and 2.0 are none.

    Raises:
        InputError: it is not one.
    """
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if number is None or number < least or (most is not None and number > most):
        span = f"from {least} on" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} must be a whole number {span}, not {value!r}", f"Try {least}.")
    return number


def seed(value: object) -> int:
    """``value`` as a seed.

    Raises:
        InputError: it is none.
    """
    return whole("seed", value, 0, LARGEST_SEED)


def count(value: object) -> int | None:
    """``value`` as a number of samples, or None.

    Raises:
        InputError: it is neither.
    """
    return None if value is None else whole("samples", value, 1)


def positive(value: object) -> float | None:
    """``value`` as a positive finite number, or None if it is none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer that no float holds
        return None
    return number if math.isfinite(number) and number > 0 else None


_UNITS = {
    unit: base**power
    for base, units in ((1000, "B kB MB GB TB"), (1024, "B KiB MiB GiB TiB"))
    for power, unit in enumerate(units.split())
}


def size(name: str, value: object) -> int:
    """``value`` as a number of bytes: a positive whole number, or a text like ``4GiB``.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-zA-Z]*)\s*", value)
        units = {unit.lower(): factor for unit, factor in _UNITS.items()}
        factor = units.get((match[2] or "B").lower()) if match else None
        number = float(match[1]) * factor if match and factor else math.nan
        if not 1 <= number < 2**63:
            raise InputError(
                f"{name} must be a size such as 4GiB or 800MB, not {value!r}",
                f"Give a number and one of {', '.join(_UNITS)}.",
            )
        return int(number)
    return whole(name, value, 1, 2**63 - 1)


def text(name: str, value: object, instead: str) -> str:
    """``value``, a string.

    Raises:
        InputError: it is none; ``instead`` is the remedy.
    """
    if not isinstance(value, str):
        raise InputError(f"{name} must be a string, not {value!r}", instead)
    return value


def flag(name: str, value: object) -> bool:
    """``value``, True or False.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, not {value!r}", "Omit it for False.")
    return value


def file_name(value: Any) -> Any:
    """A path as the string that names it; anything else unchanged."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def named(name: str, value: object, remedy: str) -> Mapping[str, Any]:
    """``value``, a mapping with strings for keys.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be a mapping, not {value!r}", remedy)
    for key in value:
        if not isinstance(key, str):
            raise InputError(f"{name} has the key {key!r}, which is not a string", remedy)
    return value
