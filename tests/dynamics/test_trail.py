"""Eigenvalues along a path of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blockframe.dynamics.curvature import Accuracy, Eigenpair
from blockframe.dynamics.trail import COLD_EVERY, WATCH_EVERY, Trail, Trails, follow

SIZE = 80


def rotating(seed: int) -> Callable[[float], Tensor]:
    """t ↦ an orthogonal matrix that turns smoothly."""
    generator = torch.Generator().manual_seed(seed)
    skew = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64) / math.sqrt(SIZE)
    start, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64))
    return lambda t: torch.matrix_exp(t * (skew - skew.T)) @ start


def walk(
    matrices: list[Tensor], accuracy: Accuracy | None = None, suspicious: int = -1
) -> list[Eigenpair]:
    trail, found = None, []
    for k, matrix in enumerate(matrices):
        pair, trail = follow(
            lambda v, m=matrix: m @ v, trail, matrix[0], accuracy or Accuracy(), seed=k,
            suspicious=k == suspicious,
        )  # fmt: skip
        found.append(pair)
    return found


def path(spectrum: Callable[[float], list[float]], steps: int, seed: int) -> list[Tensor]:
    turned = rotating(seed)
    rest = list(np.linspace(-1.0, 1.0, SIZE - len(spectrum(0.0))))
    return [
        (q := turned(0.3 * t)) @ torch.diag(torch.tensor([*spectrum(t), *rest]).double()) @ q.T
        for t in np.linspace(0.0, 1.0, steps)
    ]


@given(st.integers(0, 10_000), st.floats(1.0, 2.0), st.floats(0.3, 0.7))
@settings(deadline=None, max_examples=25)
def test_eigenvalues_that_cross_are_both_followed(seed: int, speed: float, where: float) -> None:
    """The second eigenvalue passes the first; the eigenvectors keep their ways.

    It is seen when it is looked at, which is not at every iterate while it seems far below.
    """
    missed = 0
    matrices = path(lambda t: [3.0, 3.0 + speed * (t - where), 2.0], 20, seed)
    for matrix, pair in zip(matrices, walk(matrices), strict=True):
        exact = float(torch.linalg.eigvalsh(matrix)[-1])
        assert pair.converged
        assert pair.value <= exact + 1e-12
        missed += pair.value < exact * (1 - 1e-3)
    assert missed < WATCH_EVERY
    assert pair.value == pytest.approx(exact, rel=1e-3)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=15)
def test_a_value_that_comes_from_below_all_others_is_met_by_the_next_cold_search(seed: int) -> None:
    """It jumps from the midst of the spectrum to the top, where nothing was watched."""
    matrices = path(lambda t: [3.0, 0.0 if t < 0.45 else 4.0], 2 * COLD_EVERY + 1, seed)
    pairs = walk(matrices)
    cold = [k for k, pair in enumerate(pairs) if pair.cold]
    assert cold == [0, COLD_EVERY, 2 * COLD_EVERY]
    assert [pairs[k].value for k in cold[1:]] == pytest.approx([4.0, 4.0], rel=1e-3)


def test_a_negative_eigenvalue_of_larger_size_is_left_alone() -> None:
    matrices = path(lambda t: [3.0 + t, -10.0 - 5 * t], 12, 1)
    for t, pair in zip(np.linspace(0, 1, 12), walk(matrices), strict=True):
        assert pair.value == pytest.approx(3.0 + t, rel=1e-3)


def test_it_takes_fewer_products_than_searching_anew() -> None:
    matrices = path(lambda t: [3.0 + t, 2.5], COLD_EVERY, 2)
    together = walk(matrices)
    alone = [walk([m])[0] for m in matrices]
    assert all(pair.cold for pair in alone)
    assert 2 * sum(p.products for p in together) < sum(p.products for p in alone)


def test_a_sharp_fall_is_looked_into() -> None:
    pairs = walk(path(lambda t: [3.0 if t < 0.5 else 2.0], 8, 3))
    assert [k for k, pair in enumerate(pairs) if pair.cold] == [0, 4]
    assert pairs[4].value == pytest.approx(2.0, rel=1e-3)


def test_a_suspicion_is_looked_into() -> None:
    pairs = walk(path(lambda t: [3.0, 2.0], 6, 4), suspicious=3)
    assert [k for k, pair in enumerate(pairs) if pair.cold] == [0, 3]


def test_nothing_is_followed_from_what_is_not_finite() -> None:
    matrix = torch.full((4, 4), math.nan, dtype=torch.float64)
    pair, trail = follow(lambda v: matrix @ v, None, matrix[0], Accuracy(), seed=0)
    assert math.isnan(pair.value)
    assert trail is None
    good = torch.eye(4, dtype=torch.float64)
    _, trail = follow(lambda v: good @ v, None, matrix[0], Accuracy(), seed=0)
    pair, after = follow(lambda v: matrix @ v, trail, matrix[0], Accuracy(), seed=1)
    assert math.isnan(pair.value)
    assert after is None


@pytest.mark.parametrize("broken", [1, 3])
def test_what_is_restored_goes_on_bit_for_bit(broken: int) -> None:
    matrices = path(lambda t: [3.0 + t, 3.2, 2.0], 6, 5)

    def run(restored: bool) -> list[float]:
        trails, values = Trails(), []
        for k, matrix in enumerate(matrices):
            if restored and k == broken:
                tensors = {n: x.clone() for n, x in trails.tensors().items()}
                numbers = dict(trails.numbers())
                assert all(math.isfinite(x) for x in numbers.values())
                trails = Trails.restored(tensors, numbers)
            found = {}
            for sign, end in ((1, "top"), (-1, "bottom")):
                pair, found[end] = follow(
                    lambda v, m=matrix, s=sign: s * (m @ v), getattr(trails, end), matrix[0],
                    Accuracy(), seed=k,
                )  # fmt: skip
                values.append(pair.value)
            trails = Trails(**found)
        return values

    assert run(restored=True) == run(restored=False)


def test_an_empty_record_is_restored_as_one() -> None:
    assert Trails.restored(Trails().tensors(), Trails().numbers()) == Trails()


def test_the_expected_vector_is_on_the_way_of_the_last_two() -> None:
    first, second = torch.eye(3)[0], torch.tensor([0.8, 0.6, 0.0])
    assert Trail(second).expected is second
    ahead = Trail(second, previous=first, along=0.5).expected
    assert torch.allclose(ahead, torch.tensor([0.7, 0.9, 0.0]))
