from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from blockframe.certificate.model import Inequality
from blockframe.dynamics.inequalities import (
    BALL,
    DESCENT,
    MONOTONE,
    NEIGHBOURHOOD,
    NORMS,
    PER_RUN,
    PER_STEP,
    RATE,
    STABILITY,
    Course,
    Point,
    StepCurvature,
    directional_smoothness,
    of_step,
    smallest_b,
)

U = 2.0**-53


def quadratic(lr: float, steps: int, *, curvature: float = 1.0, w: float = 1.0) -> list[Point]:
    """The iterates of L = ½·curvature·w²."""
    points = []
    for step in range(steps + 1):
        g = curvature * w
        points.append(
            Point.of(
                step,
                loss=g * w / 2,
                gradient_norm=abs(g),
                norm=abs(w),
                pairing=w * g,
                roundoff=U,
                sharpness=(curvature, 0.0),
            )
        )
        w -= lr * g
    return points


def of_run(lr: float, points: list[Point], infimum: float) -> list[Inequality]:
    course = Course(infimum)
    for p in points:
        course.add(lr, p)
    return course.of_run()


def named(rows: list[Inequality]) -> dict[str, Inequality]:
    return {i.name: i for i in rows}


@given(st.floats(0.05, 1.9), st.floats(0.01, 100), st.floats(0.1, 10))
def test_everything_holds_on_a_quadratic_below_the_limit(
    share: float, curvature: float, w: float
) -> None:
    """``share`` of 1/λ. On a quadratic descent lemma, rate and M are equalities: the worst case."""
    lr = share / curvature
    points = quadratic(lr, 3, curvature=curvature, w=w)
    assume(points[-1].loss > 1e-6 * points[0].loss)
    for a, b in pairwise(points):
        rows = named(of_step(lr, a, b))
        assert set(rows) == set(PER_STEP)
        assert all(i.holds is True for i in rows.values())
        assert all(i.left <= i.right for i in rows.values())
        assert rows[STABILITY].left == pytest.approx(share / 2, rel=1e-6)
    whole = of_run(lr, points, 0.0)
    assert [i.name for i in whole] == list(PER_RUN)
    assert all(i.holds is True and i.step == 3 for i in whole)


@given(st.floats(2.1, 1e6))
def test_above_the_limit_the_step_is_refuted(share: float) -> None:
    a, b = quadratic(share, 1)
    rows = named(of_step(share, a, b))
    assert rows[MONOTONE].holds is False
    assert rows[STABILITY].holds is False
    assert (rows[MONOTONE].left, rows[MONOTONE].right) == (b.loss, a.loss)
    assert rows[DESCENT].holds is True
    assert rows[NORMS].holds is True
    assert of_run(share, [a, b], 0.0) == []


def test_at_the_limit_rounding_decides() -> None:
    a, b = quadratic(2.0, 1)
    rows = named(of_step(2.0, a, b))
    assert a.loss == b.loss
    assert rows[MONOTONE].holds is None
    assert rows[STABILITY].holds is None


def test_a_change_within_the_noise_is_undecided() -> None:
    a = Point.of(0, loss=1.0, gradient_norm=1e-8, norm=1.0, pairing=0.0, roundoff=U)
    b = Point.of(1, loss=1.0 + 1e-15, gradient_norm=1e-8, norm=1.0, pairing=0.0, roundoff=U)
    assert a.noise == pytest.approx(64 * U)
    rows = named(of_step(1.0, a, b))
    assert rows[MONOTONE].holds is None
    assert rows[STABILITY].holds is None


def test_coarser_arithmetic_has_more_noise() -> None:
    a, b = quadratic(1e-6, 1)
    coarse = [
        Point.of(p.step, loss=p.loss, gradient_norm=p.gradient_norm, norm=p.norm,
                 pairing=p.pairing, roundoff=2.0**-24)
        for p in (a, b)
    ]  # fmt: skip
    assert named(of_step(1e-6, a, b))[MONOTONE].holds is True
    assert named(of_step(1e-6, *coarse))[MONOTONE].holds is None


def test_an_iterate_that_does_not_move_does_not_rise() -> None:
    a, b = quadratic(0.5, 1, w=0.0)
    rows = named(of_step(0.5, a, b))
    assert set(rows) == set(PER_STEP)
    assert all(i.holds is True for i in rows.values())


def test_the_norm_recursion_catches_another_update() -> None:
    a, b = quadratic(0.5, 1)
    assert named(of_step(0.5, a, b))[NORMS].holds is True
    assert named(of_step(0.4, a, b))[NORMS].holds is False


def point(step: int, loss: float, sharpness: float, *, residual: float = 0.0) -> Point:
    return Point.of(
        step,
        loss=loss,
        gradient_norm=1.0,
        norm=1.0,
        pairing=0.0,
        roundoff=U,
        sharpness=(sharpness, residual),
    )


def test_the_curvature_of_a_step_is_the_largest_measured() -> None:
    # η = 1, ‖∇L‖ = 1: L falls by 1 − M/2.
    a = point(0, 1.0, 1.2, residual=0.1)
    ends = StepCurvature.between(1.0, a, point(1, 0.25, 0.9))
    assert ends is not None
    assert ends.value == pytest.approx(1.3)  # λ and its residual
    assert not ends.peak
    assert not ends.directional
    between = StepCurvature.between(1.0, a, point(1, 0.8, 0.9))
    assert between is not None
    assert between.value == pytest.approx(1.6)  # M
    assert between.peak


def test_above_the_limit_the_direction_of_the_step_counts() -> None:
    found = StepCurvature.between(1.0, point(0, 1.0, 5.0), point(1, 0.25, 0.9))
    assert found is not None
    assert found.directional
    assert found.value == pytest.approx(0.5)
    rows = named(of_step(1.0, point(0, 1.0, 5.0), point(1, 0.25, 0.9)))
    assert rows[STABILITY].holds is True
    assert rows[STABILITY].left == pytest.approx(0.25)


def test_an_undecided_eigenvalue_does_not_refute() -> None:
    """The sharpness may be above or below 2/η: M decides."""
    found = StepCurvature.between(1.0, point(0, 1.0, 1.9, residual=0.5), point(1, 0.25, 0.9))
    assert found is not None
    assert found.directional


def test_without_a_sharpness_the_direction_is_enough() -> None:
    points = [
        Point.of(p.step, loss=p.loss, gradient_norm=p.gradient_norm, norm=p.norm,
                 pairing=p.pairing, roundoff=U)
        for p in quadratic(0.5, 2)
    ]  # fmt: skip
    rows = of_step(0.5, *points[:2])
    assert {i.name for i in rows} == set(PER_STEP)
    assert all(i.holds for i in rows)
    assert all(i.holds for i in of_run(0.5, points, 0.0))


@given(st.floats(1e-3, 10), st.floats(0, 100), st.floats(1e-3, 100), st.floats(0, 100))
def test_directional_smoothness_is_the_number_of_its_definition(
    lr: float, loss: float, norm: float, after: float
) -> None:
    m = directional_smoothness(lr, loss, norm, after)
    assert m is not None
    slope = norm * norm
    expected = loss - lr * slope + lr**2 * m / 2 * slope
    scale = loss + after + lr * slope
    assert expected == pytest.approx(after, rel=1e-12, abs=1e-12 * scale)


def test_a_step_of_length_zero_or_of_infinite_length_has_none() -> None:
    assert directional_smoothness(0.1, 1.0, 0.0, 1.0) is None
    assert directional_smoothness(0.1, 1.0, 1e200, 1.0) is None


def test_what_overflows_is_left_out() -> None:
    a = Point.of(0, loss=1e300, gradient_norm=1e200, norm=1e200, pairing=0.0, roundoff=U)
    b = Point.of(1, loss=1.0, gradient_norm=1.0, norm=1e200, pairing=0.0, roundoff=U)
    rows = of_step(0.1, a, b)
    assert all(math.isfinite(i.left) and math.isfinite(i.right) for i in rows)
    assert DESCENT not in named(rows)


def test_smallest_b() -> None:
    assert smallest_b([0.5, -0.25, -2.0]) == 2.0
    assert smallest_b([0.5]) == 0.0
    assert smallest_b([]) == 0.0


def test_the_run_by_hand() -> None:
    """L = w²/2, η = ½, two steps: w = 1, ½, ¼."""
    whole = named(of_run(0.5, quadratic(0.5, 2), 0.0))
    assert whole[NEIGHBOURHOOD].left == pytest.approx(0.25)
    assert whole[NEIGHBOURHOOD].right == pytest.approx(2 * 0.5 / (0.5 * 2 * 1.5))
    assert whole[BALL].left == pytest.approx(1 / 16)
    assert whole[BALL].right == pytest.approx(1 + 2 * 0.5 / 1.5 * 0.5)
    assert whole[RATE].left == pytest.approx(1 / 32)
    assert whole[RATE].right == pytest.approx((1 - 0.5 * 1.5) ** 2 * 0.5)


def test_without_a_step_nothing_follows() -> None:
    assert of_run(0.5, quadratic(0.5, 0), 0.0) == []
    assert of_run(0.5, [], 0.0) == []
