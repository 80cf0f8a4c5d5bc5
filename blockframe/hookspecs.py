"""Every hook, in the order in which the program calls them.

A plugin is a module or object whose functions carry `blockframe.hookimpl`; its distribution
declares it under the entry point group ``blockframe``. All hooks are optional. Return ``None``
or an empty list to contribute nothing. docs/plugins walks through a complete one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from blockframe.atoms.facts import Atom
    from blockframe.blocks import BlockChain
    from blockframe.contract.clause import Clause
    from blockframe.data import Dataset
    from blockframe.dynamics.losses import Loss
    from blockframe.dynamics.probes import Probe
    from blockframe.problem import Problem, Request
    from blockframe.report import Renderer

hookspec = pluggy.HookspecMarker("blockframe")
hookimpl = pluggy.HookimplMarker("blockframe")


@hookspec
def blockframe_specs() -> Iterable[str]:
    """Names that this plugin resolves, for listings and for "did you mean". Must be cheap."""
    raise NotImplementedError


@hookspec
def blockframe_resolve(spec: str, request: Request) -> Problem | None:
    """The problem that ``spec`` names, or None if this plugin does not know the name.

    Raises:
        SpecError: the name is known and a setting is not, or has no sensible value.
        InputError: the data does not fit.
    """
    raise NotImplementedError


@hookspec
def blockframe_chain(problem: Problem, chain: BlockChain) -> BlockChain | None:
    """Another cut of the same graph into blocks, or None to keep ``chain``.

    Only names, roles and cuts may change: the nodes are the traced ones, in their order.
    """
    raise NotImplementedError


@hookspec
def blockframe_atoms() -> Iterable[Atom]:
    """Records for ops that the core's catalogue does not know. Two records for one op: an error."""
    raise NotImplementedError


@hookspec
def blockframe_clauses() -> Iterable[Clause]:
    """Deciders of contract clauses, or of further clauses of the plugin's own."""
    raise NotImplementedError


@hookspec
def blockframe_probes() -> Iterable[type[Probe]]:
    """Quantities that can be observed at every iterate of gradient descent."""
    raise NotImplementedError


@hookspec
def blockframe_datasets() -> Iterable[Dataset]:
    """Data that ``--data NAME`` can name."""
    raise NotImplementedError


@hookspec
def blockframe_losses() -> Iterable[Loss]:
    """Losses that ``--loss NAME`` can name."""
    raise NotImplementedError


@hookspec
def blockframe_renderers() -> Iterable[Renderer]:
    """Forms of the report that ``--format NAME`` can name."""
    raise NotImplementedError
