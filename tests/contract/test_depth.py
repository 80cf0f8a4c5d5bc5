"""What docs/theory section 2 says about depth, on the chains of benchmarks/depth.py."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "depth.py"
DEPTH = 6


@pytest.fixture(scope="module")
def depth() -> ModuleType:
    spec = importlib.util.spec_from_file_location("depth", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def steps(logs: Sequence[float]) -> list[float]:
    """Differences of the sizes themselves."""
    sizes = [math.exp(x) for x in logs]
    return [b - a for a, b in pairwise(sizes)]


def factors(logs: Sequence[float]) -> list[float]:
    return [math.exp(b - a) for a, b in pairwise(logs)]


@pytest.mark.parametrize("branch", ["MLP", "Attention"])
def test_the_state_grows_additively_under_pre_norm_only(depth: ModuleType, branch: str) -> None:
    pre, post, none = (
        depth.growth(getattr(depth, branch), placement, DEPTH).state
        for placement in depth.PLACEMENTS
    )
    assert steps(pre) == pytest.approx([steps(pre)[0]] * (DEPTH - 1))  # each layer adds the same
    assert factors(post) == pytest.approx([1.0] * (DEPTH - 1))  # the norm holds it
    assert min(factors(none)) > 10.0  # each layer multiplies by as much as the last
    assert factors(none)[1:] == pytest.approx(factors(none)[:-1], rel=0.1)


@pytest.mark.parametrize("branch", ["MLP", "Attention"])
def test_the_bounds_hold_at_the_start(depth: ModuleType, branch: str) -> None:
    for placement in depth.PLACEMENTS:
        found = depth.growth(getattr(depth, branch), placement, 3)
        assert all(x <= bound for x, bound in zip(found.measured, found.state, strict=True))


def test_without_a_norm_the_derivative_of_attention_grows_faster_than_geometrically(
    depth: ModuleType,
) -> None:
    """Scores are quadratic in a state that itself grows geometrically."""
    pre, _, none = (
        factors(depth.growth(depth.Attention, p, DEPTH).derivative) for p in depth.PLACEMENTS
    )
    assert pre == pytest.approx([pre[0]] * len(pre))
    assert all(b > 10.0 * a for a, b in pairwise(none))
