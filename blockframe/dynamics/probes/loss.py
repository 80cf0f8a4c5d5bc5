from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Probe, existing

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class LossProbe(Probe):
    """L(θ_k)."""

    name, unit = "loss", "L"

    def observe(self, it: Iterate) -> float:
        return it.loss

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        values = existing(series[""])
        return {"first": values[0], "last": values[-1]}
