"""What a probe is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from blockframe.errors import InputError

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate

Observation: TypeAlias = "float | Mapping[str, float | None] | None"
"""A number, None where the quantity does not exist, or several under names of their own.

In a certificate a mapping's entries are the series ``name.key``; the key ``""`` is the series
``name`` itself.
"""


class Unavailable(InputError):
    """A quantity that this network, or these data, do not allow.

    A probe raises it at θ_0: the run goes on without the probe, and the certificate says why.
    """


class Probe(ABC):
    """A quantity that is observed at every iterate; a plugin gives its class by a hook.

    It may keep what it saw at θ_0, and may ask ``it.previous``; a run that is resumed observes θ_0
    again, and nothing else that came before (`blockframe.dynamics.record`).

    Attributes:
        name: of the series; no dot in it.
        unit: of the quantity, in those of the loss L, the parameters θ and the outputs F; ``"1"``
            for a pure number. An entry of another unit says so.
        curvature: whether it asks for Hessian products, so that the graph for them is kept at once.
        reads: series of other probes, by full name, that its summary is given too.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "1"
    curvature: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def observe(self, it: Iterate) -> Observation:
        """The quantity at ``it``; what is not finite is kept as None."""

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        """Some numbers about the run.

        Args:
            series: the probe's own, by key (``""``: its own name), not everything in them None;
                those that it ``reads`` by ``.`` and their name, where the run has them.
        """
        return {}


def existing(series: Sequence[float | None]) -> list[float]:
    """The numbers of a series, without the Nones."""
    return [x for x in series if x is not None]


def ratio(part: float, whole: float) -> float | None:
    """``part / whole``; None where the whole is 0."""
    return part / whole if whole > 0 else None
