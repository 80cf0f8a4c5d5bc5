"""What a check of a certificate finds: contradictions, what was re-derived, what cannot be."""

from __future__ import annotations

import math
import re
from typing import Any

from attrs import Factory, define, frozen

BY_REPLAY = " (--replay)"
"""Ends what the numbers cannot show and making the certificate again does."""
LONGEST = 200
"""Characters of a value that a message quotes."""


@frozen
class Contradiction:
    """Something that the certificate asserts and its own numbers do not bear out."""

    where: str
    asserted: str
    follows: str

    def __str__(self) -> str:
        return f"{self.where} asserts {self.asserted}, but {self.follows}"


@define
class Ledger:
    """Collects the findings of one check."""

    rejected: list[Contradiction] = Factory(list)
    verified: list[str] = Factory(list)
    unverifiable: list[str] = Factory(list)

    def reject(self, where: str, asserted: str, follows: str) -> None:
        self.rejected.append(Contradiction(where, asserted, follows))

    def leave(self, text: str) -> None:
        """Say that ``text`` is left to a replay."""
        self.unverifiable.append(text + BY_REPLAY)

    def expect(self, where: str, asserted: Any, derived: Any) -> bool:
        """Whether ``asserted`` is exactly ``derived``; a contradiction is written down if not."""
        if same(asserted, derived):
            return True
        self.reject(where, quoted(asserted), f"{quoted(derived)} follows")
        return False

    def demand(self, holds: bool, where: str, asserted: str, follows: str) -> bool:
        """``holds``, written down where it is false."""
        if not holds:
            self.reject(where, asserted, follows)
        return holds


def same(a: Any, b: Any) -> bool:
    """Equality of JSON values, NaN equal to itself and no boolean equal to a number."""
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b or (a != a and b != b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and bool(a == b)


def whole(value: Any) -> int | None:
    """``value`` if it is an integer from 0 to 2^63 - 1, else None."""
    return value if type(value) is int and 0 <= value < 1 << 63 else None


def real(value: Any) -> float | None:
    """``value`` as a float if it is a finite number, else None."""
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def shown(value: Any) -> str:
    """``value`` for a message; of a SHA-256 its beginning."""
    text = quoted(value)
    return f"SHA-256 {text[:12]}…" if re.fullmatch("[0-9a-f]{64}", text) else text


def quoted(value: Any) -> str:
    """``value`` for a message, shortened."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
