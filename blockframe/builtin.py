"""The core's own contributions, through the hooks that every plugin uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from blockframe.hookspecs import hookimpl

if TYPE_CHECKING:
    from blockframe.contract.clause import Clause
    from blockframe.data import Dataset
    from blockframe.dynamics.losses import Loss
    from blockframe.dynamics.probes import Probe
    from blockframe.report import Renderer


@hookimpl
def blockframe_clauses() -> Iterable[Clause]:
    from blockframe.contract.analyticity import AnalyticityClause
    from blockframe.contract.dissipativity import DissipativityClause
    from blockframe.contract.nondegeneracy import NondegeneracyClause
    from blockframe.contract.smoothness import SmoothnessClause

    return [AnalyticityClause(), SmoothnessClause(), DissipativityClause(), NondegeneracyClause()]


@hookimpl
def blockframe_probes() -> Iterable[type[Probe]]:
    from blockframe.dynamics.probes import ON_REQUEST, PROBES

    return (*PROBES, *ON_REQUEST)


@hookimpl
def blockframe_losses() -> Iterable[Loss]:
    from blockframe.dynamics.losses import LOSSES

    return LOSSES


@hookimpl
def blockframe_datasets() -> Iterable[Dataset]:
    from blockframe.data import TEXT

    return [TEXT]


@hookimpl
def blockframe_renderers() -> Iterable[Renderer]:
    from blockframe.report.document import JsonRenderer
    from blockframe.report.terminal import TextRenderer

    return [TextRenderer(), JsonRenderer()]
