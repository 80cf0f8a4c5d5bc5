from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.inequalities import DESCENT, StepCurvature, of_step
from blockframe.dynamics.probes.probe import Observation, Probe, existing

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class DescentLemma(Probe):
    """The descent lemma on the step that leads to θ_k: docs/theory section 6. None at θ_0.

    ``curvature``: Λ of the step (`StepCurvature`);
    ``margin``: how far L_{k+1} lies below the lemma's bound.
    """

    name = "descent"
    curvature = True

    def observe(self, it: Iterate) -> Observation:
        before = it.previous
        if before is None:
            return {"curvature": None, "margin": None}
        found = StepCurvature.between(before.lr, before.point, it.point)
        rows = [i for i in of_step(before.lr, before.point, it.point) if i.name == DESCENT]
        return {
            "curvature": found.value if found else None,
            "margin": rows[0].margin if rows else None,
        }

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        return {"max_curvature": max(existing(series["curvature"]), default=None)}
