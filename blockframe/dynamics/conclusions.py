"""What follows from a run that is under way, row by row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from blockframe.dynamics.inequalities import Course, Point
from blockframe.dynamics.rounding import rounding_units

if TYPE_CHECKING:
    from blockframe.dynamics.descent import Descent
    from blockframe.dynamics.iterate import Iterate
    from blockframe.dynamics.journal import Row
    from blockframe.dynamics.record import Record


class Conclusions:
    """The `Course` of a run, from its rows.

    Before it says that an inequality is violated, it looks at what rounding does there: a network
    may come to lose more digits than it did at θ_0. All rows are then gone through again. The rows
    themselves keep the units of θ_0.

    Attributes:
        units: of roundoff, that the noise of a loss is counted in.
    """

    def __init__(self, run: Descent, record: Record, whole: float) -> None:
        """
        Args:
            whole: of `Course`.
        """
        self.units = run.start.rounding_units
        self._run = run
        self._record = record
        self._whole = whole
        self.course = self._begun()

    def weigh(self, it: Iterate, row: Row) -> None:
        """Count more units, if the step to ``it``, whose row is to come, needs them."""
        if not self.course.violated:
            rows = self.course.of_next(self._point(row, self.course.iterates))
            if any(row.holds is False for row in rows):
                self._look(it)

    def weigh_whole(self, it: Iterate) -> None:
        """The same for what is concluded of the whole run, at its last iterate."""
        if any(row.holds is False for row in self.course.of_run()):
            self._look(it)

    def add(self, row: Row) -> None:
        """The next row."""
        course = self.course
        point = self._point(row, course.iterates)
        course.add(self._run.rate(course.iterates), point, _tangent(row))

    def count(self, units: float | None) -> None:
        """Conclude anew from all rows, and go on, in these units."""
        self.units, self.course = units, self._begun()
        for row in self._record.rows.rows():
            self.add(row)

    def _begun(self) -> Course:
        infimum = self._run.start.objective.infimum
        return Course(infimum, self._whole, constant=self._run.schedule.constant)

    def _look(self, it: Iterate) -> None:
        found = [rounding_units(at) for at in (it, it.previous) if at is not None]
        if self.units is None or max(found) > self.units:
            self.count(max(found))

    def _point(self, row: Row, step: int) -> Point:
        def number(name: str, missing: float = math.nan) -> float:
            value = row.get(name)
            return missing if value is None else value

        pair = number("sharpness"), number("sharpness.residual", math.inf)
        return Point.of(
            step,
            loss=number("loss"),
            gradient_norm=number("gradient_norm"),
            norm=number("block_norms", math.inf),
            pairing=number("dissipativity"),
            roundoff=self._run.start.objective.arithmetic.unit_roundoff,
            units=self.units,
            outputs=number("output_pairing.size", math.inf),
            sharpness=pair if row.get("sharpness") is not None else None,
        )


def _tangent(row: Row) -> tuple[float, float, float] | None:
    """λ_min(K), its error and the bound of the PL ratio, where they were observed."""
    least, error, bound = (row.get(f"tangent{key}") for key in ("", ".error", ".pl_bound"))
    if least is None or error is None or bound is None:
        return None
    return least, error, bound
