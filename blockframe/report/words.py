"""Numbers and names as a reader wants them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-~=+*#"


def number(value: Any) -> str:
    """``0.118``, ``5.62``, ``12,346``, ``3.1e-07``: three or four digits that count."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"  # never -0
    if 1e-3 <= abs(value) < 9999.5:
        return f"{value:,.4g}"
    return f"{value:,.0f}" if 1 < abs(value) < 1e6 else f"{value:.3g}"


def apart(a: float, b: float | None, *, most: int = 17) -> tuple[str, str]:
    """Two different numbers with as many digits as tell them apart, ``most`` at most."""
    short = number(a), number(b)
    if short[0] != short[1] or a == b or b is None:
        return short
    for digits in range(4, most):
        longer = f"{a:.{digits}g}", f"{b:.{digits}g}"
        if longer[0] != longer[1]:
            return longer
    return (repr(a), repr(b)) if most == 17 else short


def plural(count: int, noun: str) -> str:
    """``1 block``, ``26 blocks``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def sparkline(values: Sequence[float | None], *, unicode: bool = True, width: int = 16) -> str:
    """The course of ``values`` in one line of at most ``width`` characters; None is a blank."""
    bars = _BARS if unicode else _ASCII_BARS
    if len(values) > width:  # the values at evenly spread steps, the first and the last included
        values = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    present = [v for v in values if v is not None]
    if not present:
        return ""
    size = max(map(abs, present)) or 1.0  # everything in units of it, so that nothing overflows
    low = min(present) / size
    span = max(present) / size - low
    top = len(bars) - 1
    return "".join(
        " " if v is None else bars[round((v / size - low) / span * top) if span > 0 else 0]
        for v in values
    )


def one_name(names: Sequence[str]) -> str:
    """Many names in one: ``layers.0-11.mlp`` where they differ in one running number.

    Otherwise the numbers that differ become ``*``; names with no common form are listed.
    """
    distinct = list(dict.fromkeys(names))
    if len(distinct) == 1:
        return distinct[0]
    parts = [re.split(r"(\d+)", name) for name in distinct]
    if len({len(p) for p in parts}) > 1:
        return _few(distinct)
    columns = list(zip(*parts, strict=True))
    differing = [i for i, column in enumerate(columns) if len(set(column)) > 1]
    if not all(part.isdigit() for i in differing for part in columns[i]):
        return _few(distinct)
    folded = [column[0] for column in columns]
    for i in differing:
        numbers = sorted({int(n) for n in columns[i]})
        runs = len(differing) == 1 and numbers == list(range(numbers[0], numbers[-1] + 1))
        folded[i] = f"{numbers[0]}-{numbers[-1]}" if runs else "*"
    return "".join(folded)


def pattern(name: str) -> str:
    """``name`` with its numbers as ``*``: what the same place in other layers is called."""
    return re.sub(r"\d+", "*", name)


def comma(words: Iterable[str], last: str = "and") -> str:
    """``a, b and c``."""
    *most, end = list(words)
    return f"{', '.join(most)} {last} {end}" if most else end


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]}, … {names[-1]}"
