"""Ranks without rounding: elimination modulo a prime, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence

PRIME = 2**61 - 1


def exact_full_row_rank(rows: Sequence[Sequence[float]]) -> bool:
    """Whether the matrix, its entries taken as the exact numbers they are, is proved to have
    linearly independent rows.

    A double is an integer times a power of two, and two is invertible modulo an odd prime q, so
    reduction modulo q is a ring homomorphism: the rank modulo q is at most the true one. False:
    dependent rows, or (by a chance of about rows / q) a minor that q divides; also an entry that
    is no finite number, no rows, or more rows than columns.

    Costs about rows³ / 2 multiplications where the first columns that are tried are independent,
    rows² × columns at worst.

    Raises:
        ValueError: the rows are not of one length.
    """
    count = len(rows)
    width = len(rows[0]) if rows else 0
    if any(len(row) != width for row in rows):
        raise ValueError("the rows are not of one length")
    if not 0 < count <= width or not all(math.isfinite(x) for row in rows for x in row):
        return False
    basis: list[tuple[int, list[int]]] = []  # (pivot, column with a one there)
    for j in _scattered(width):
        column = [_modulo(float(row[j])) for row in rows]
        for pivot, known in basis:
            if factor := column[pivot]:
                column = [(a - factor * b) % PRIME for a, b in zip(column, known, strict=True)]
        place = next((i for i, x in enumerate(column) if x), None)
        if place is not None:
            inverse = pow(column[place], -1, PRIME)
            basis.append((place, [a * inverse % PRIME for a in column]))
            if len(basis) == count:
                return True
    return False


def _modulo(x: float) -> int:
    numerator, denominator = x.as_integer_ratio()
    return numerator * pow(denominator, -1, PRIME) % PRIME


def _scattered(count: int) -> Sequence[int]:
    """All of 0 .. count - 1, neighbours far apart: neighbouring columns tend to be dependent."""
    step = max(1, round(count * 0.618))
    while math.gcd(step, count) > 1:
        step += 1
    return [k * step % count for k in range(count)]
