"""Ranks modulo a prime against ranks of rational matrices."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockframe.rigor.exact import PRIME, exact_full_row_rank

finite = st.floats(allow_nan=False, allow_infinity=False)
entries = st.one_of(st.integers(-3, 3).map(float), finite)


def rational_rank(rows: list[list[float]]) -> int:
    flint = pytest.importorskip("flint")
    fractions = [[Fraction(x) for x in row] for row in rows]
    matrix = flint.fmpq_mat(
        [[flint.fmpq(f.numerator, f.denominator) for f in row] for row in fractions]
    )
    return int(matrix.rref()[1])


@given(st.integers(1, 5), st.integers(0, 6), st.data())
@settings(max_examples=150, deadline=None)
def test_against_rational_elimination(rows: int, more: int, data: st.DataObject) -> None:
    line = st.lists(entries, min_size=rows + more, max_size=rows + more)
    matrix = data.draw(st.lists(line, min_size=rows, max_size=rows))
    assert exact_full_row_rank(matrix) == (rational_rank(matrix) == rows)


def test_exactly_singular_however_close_rounding_comes() -> None:
    rng = np.random.default_rng(0)
    m = rng.integers(-99, 100, (6, 5)) @ rng.integers(-99, 100, (5, 20)) / 1024.0
    assert not exact_full_row_rank(m.tolist())
    m[0, 0] = np.nextafter(m[0, 0], np.inf)
    assert exact_full_row_rank(m.tolist())


def test_a_minor_that_the_prime_divides_is_not_proved() -> None:
    a, b = 2.0**31, 2.0**30  # a b = PRIME + 1
    assert not exact_full_row_rank([[a, 1.0], [1.0, b]])
    assert exact_full_row_rank([[a, 1.0], [1.0, b + 1.0]])
    assert pow(3, PRIME - 1, PRIME) == 1


def test_what_proves_nothing() -> None:
    assert not exact_full_row_rank([])
    assert not exact_full_row_rank([[]])
    assert not exact_full_row_rank([[1.0], [2.0]])
    assert not exact_full_row_rank([[math.nan, 1.0]])
    assert not exact_full_row_rank([[math.inf, 1.0]])
    assert not exact_full_row_rank([[0.0, -0.0]])
    assert exact_full_row_rank([[0.0, 5e-324]])
    with pytest.raises(ValueError, match="one length"):
        exact_full_row_rank([[1.0, 2.0], [1.0]])


def test_many_columns_of_little_rank_come_first() -> None:
    rng = np.random.default_rng(0)
    dull = np.outer(rng.integers(1, 9, 12), rng.integers(1, 9, 500)).astype(float)
    m = np.hstack([dull, rng.standard_normal((12, 40))])
    assert exact_full_row_rank(m.tolist())
    assert not exact_full_row_rank(dull.tolist())


def test_a_checker_can_import_it_alone() -> None:
    code = (
        "import sys, blockframe.rigor.exact; "
        "print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    code = "import sys, blockframe.rigor.rank; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
