from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Observation, Probe, existing

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class Kinks(Probe):
    """How many arguments of kinks and jumps changed sides from θ_{k−1} to θ_k. None at θ_0.

    Arguments of every operation that keeps clause A from holding (docs/theory section 1), one for
    each entry and sample; of an operation that chooses (max pooling, sort), the choices that
    changed. 0 throughout: the iterates lie in one analytic piece. Between two iterates an argument
    may have crossed and come back; that is not seen.

    ``approach``: the largest share of the way to its kink that an argument went in the step. At
        most 1 if none crossed; to first order a step of η/approach crosses none;
    ``margin``: the least distance of an argument from its kink at θ_k, over the root mean square of
        these distances at the same operation.
    Both are None where an operation chooses otherwise than by one argument, or nothing has a kink.
    """

    name = "kinks"

    def observe(self, it: Iterate) -> Observation:
        from blockframe.dynamics.kinks import approach, crossings, margin

        found, before = it.sides, it.previous.sides if it.previous is not None else None
        return {
            "": None if before is None else float(crossings(before, found)),
            "approach": None if before is None else approach(before, found),
            "margin": margin(found),
        }

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        counts = existing(series[""])
        return {
            "crossings": int(sum(counts)),
            "crossing_steps": sum(c > 0 for c in counts),
            "least_margin": min(existing(series["margin"]), default=None),
        }
