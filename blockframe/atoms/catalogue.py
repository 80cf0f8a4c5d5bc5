"""Looking a node's op up: the core's records and those of plugins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import frozen

from blockframe.atoms.bilinear import BILINEARS
from blockframe.atoms.composite import COMPOSITES
from blockframe.atoms.discrete import DISCRETES
from blockframe.atoms.facts import KINDS, Atom, Pointwise
from blockframe.atoms.layout import LAYOUTS
from blockframe.atoms.linear import LINEARS
from blockframe.atoms.pointwise import POINTWISES
from blockframe.atoms.random import DETACHEDS, RANDOMS
from blockframe.atoms.rowwise import ROWWISES
from blockframe.atoms.selection import SELECTIONS
from blockframe.atoms.source import SOURCES
from blockframe.errors import PluginError
from blockframe.graph.graph import Node

CORE: tuple[Atom, ...] = (
    *SOURCES, *LAYOUTS, *LINEARS, *BILINEARS, *POINTWISES, *ROWWISES, *SELECTIONS, *DISCRETES,
    *RANDOMS, *DETACHEDS, *COMPOSITES,
)  # fmt: skip


@frozen
class Catalogue:
    """One record per op. ``declared``: the ops whose records are a plugin's word."""

    records: Mapping[str, Atom]
    declared: frozenset[str] = frozenset()

    @classmethod
    def of(cls, plugin_atoms: Iterable[Atom] = ()) -> Catalogue:
        """The core's records and ``plugin_atoms``.

        Raises:
            PluginError: two records name one op, or a record is of no known kind.
        """
        records: dict[str, Atom] = {}
        plugin_atoms = tuple(plugin_atoms)
        for atom in (*CORE, *plugin_atoms):
            if not isinstance(atom, KINDS):
                raise PluginError(
                    f"{atom!r} is not a record of a known kind",
                    f"Use one of {', '.join(k.__name__ for k in KINDS)}.",
                )
            for op in atom.ops:
                if op in records:
                    raise PluginError(f"two records describe {op}", "Remove one of them.")
                records[op] = atom
        return cls(records, frozenset(op for atom in plugin_atoms for op in atom.ops))

    def lookup(self, node: Node) -> Atom | None:
        """The record that speaks for ``node``; None: nothing is known of it."""
        atom = self.records.get(node.op)
        if isinstance(atom, Pointwise) and atom.at is not None:
            return atom.at(node)
        return atom
