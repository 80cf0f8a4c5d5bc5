"""Arb (python-flint) as the judge of balls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from blockframe.domains.enclosure import Ball

BITS = 200


@pytest.fixture(scope="session")
def arb() -> Callable[[Tensor], Any]:
    """A tensor as an array of Arb's numbers, exactly."""
    flint = pytest.importorskip("flint")
    flint.ctx.prec = BITS
    convert = np.frompyfunc(lambda x: flint.arb(float(x)), 1, 1)
    return lambda t: convert(np.asarray(t.to(torch.float64).numpy(), dtype=object))


@pytest.fixture(scope="session")
def outside(arb: Callable[[Tensor], Any]) -> Callable[[Ball, Any], list[str]]:
    """The entries of an array of Arb's numbers that surely are not in their balls."""

    def check(ball: Ball, values: Any) -> list[str]:
        mid, rad = ball.real.mid.reshape(-1), ball.rad.reshape(-1)
        values = np.asarray(values, dtype=object).reshape(-1)
        assert len(values) == len(mid)
        found = []
        for value, m, r in zip(values, mid.tolist(), rad.tolist(), strict=True):
            if r == float("inf") or (value.is_nan() and not np.isfinite(m)):
                continue
            if value.is_nan() or abs(value - m) > r:
                found.append(f"{value} is not within {r} of {m}")
        return found

    return check
