"""What the catalogue does not say, committed, so that a change shows in the diff."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import blockframe.domains
from blockframe.atoms.catalogue import CORE
from blockframe.atoms.facts import (
    Atom,
    Bilinear,
    Layout,
    Linear,
    Pointwise,
    Rowwise,
    Selection,
)
from blockframe.atoms.interval import REALS
from blockframe.domains.enclosure.domain import RULES
from blockframe.domains.interpreter import Domain

LEDGER = Path(__file__).with_name("gaps.txt")


def gaps() -> list[str]:
    """Every op x domain for which there is only the weakest answer: a range of all reals, no
    envelope, a failing clause without witness."""
    rows = []
    for atom in CORE:
        for op in atom.ops:
            rows += [f"{domain:9}{op}: {what}" for domain, what in _gaps_of(atom, op)]
    return sorted(rows)


def _gaps_of(atom: Atom, op: str) -> Iterator[tuple[str, str]]:
    short = op.removeprefix("aten::").partition(".")[0]
    if short not in RULES.get(type(atom), [short]):
        yield "enclose", "no rule"
    match atom:
        case Pointwise(at=None):
            if atom.value is None and not atom.even and atom.range == REALS:
                yield "range", "all reals"
            if atom.kinks and not atom.pieces:
                yield "witness", "none is sought"
            stated = atom.growth and atom.lipschitz is not None and atom.curvature is not None
            if not stated and atom.on is None and atom.power is None:
                yield "growth", "no envelope"
        case Linear() | Bilinear():
            if atom.range is type(atom)(op).range:
                yield "range", "all reals"
            if atom.norm is type(atom)(op).norm:
                yield "growth", "no envelope"
        case Rowwise():
            if atom.range is Rowwise(op).range:
                yield "range", "all reals"
            if atom.growth is Rowwise(op).growth:
                yield "growth", "no envelope"
        case Layout(copies=None):
            yield "growth", "an entry may be copied to every place"
        case Selection(chooser=None):
            yield "growth", "no envelope: not twice differentiable"
            if atom.chosen is None:
                yield "witness", "none is sought"


def test_the_ledger_is_current() -> None:
    current = "\n".join(gaps()) + "\n"
    assert LEDGER.read_text() == current, (
        "the gaps have changed; if that is meant: python tests/domains/test_gaps.py"
    )


def test_every_domain_has_a_rule_for_every_kind() -> None:
    def concrete(cls: type) -> list[type]:
        found = [c for sub in cls.__subclasses__() for c in concrete(sub)]
        return [*found, *([] if cls.__abstractmethods__ else [cls])]  # type: ignore[attr-defined]

    for module in pkgutil.walk_packages(blockframe.domains.__path__, "blockframe.domains."):
        importlib.import_module(module.name)
    ours = {d.__name__ for d in concrete(Domain) if d.__module__.startswith("blockframe.domains.")}
    assert ours == {
        "Dependence",
        "RangeDomain",
        "ReachDomain",
        "AnalyticityDomain",
        "Growth",
        "Homogeneity",
        "Enclosure",
        "Exchange",
    }


if __name__ == "__main__":
    LEDGER.write_text("\n".join(gaps()) + "\n")
