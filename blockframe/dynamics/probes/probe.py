"""What a probe is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate

Observation: TypeAlias = "float | Mapping[str, float | None] | None"
"""A number, None where the quantity does not exist, or several under names of their own.

In a certificate a mapping's entries are the series ``name.key``; the key ``""`` is the series
``name`` itself.
"""


class Probe(ABC):
    """A quantity that is observed at every iterate; a plugin gives its class by a hook.

    Attributes:
        name: of the series; no dot in it.
        unit: of the quantity; ``"1"`` for a pure number.
        curvature: whether it asks for Hessian products, so that the graph for them is kept at once.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "1"
    curvature: ClassVar[bool] = False

    @abstractmethod
    def observe(self, it: Iterate) -> Observation:
        """The quantity at ``it``; what is not finite is kept as None."""

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        """Some numbers about the run.

        Args:
            series: the probe's own, by key (``""``: its own name), not everything in them None.
        """
        return {}


def existing(series: Sequence[float | None]) -> list[float]:
    """The numbers of a series, without the Nones."""
    return [x for x in series if x is not None]
