"""Findings in the manner of a linter, the same one in many layers folded into one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve, frozen

from blockframe.certificate.model import Certificate
from blockframe.contract.claim import Finding
from blockframe.contract.codes import CODES
from blockframe.report.sheet import Sheet
from blockframe.report.words import number, one_name, pattern

_ONE_SIDED = {"order", "left", "right", "t"}
"""Keys of a witness that compares one-sided derivatives (docs/findings)."""

_ORDERS = {0: "value", 1: "derivative", 2: "second derivative", 3: "third derivative"}


@frozen
class Fold:
    """One finding and the modules in which it was found."""

    finding: Finding
    modules: tuple[str, ...]


def folded(findings: Iterable[Finding]) -> list[Fold]:
    """Findings of one code, text, place in the source and place in a layer, in order.

    The one with a witness speaks for the others.
    """
    groups: dict[Finding, list[Finding]] = {}
    for finding in findings:
        key = evolve(finding, module=pattern(finding.module), witness=None)
        group = groups.setdefault(key, [])
        if finding not in group:  # a chain's claim repeats what its blocks' claims found
            group.append(finding)
    return [
        Fold(
            next((f for f in group if f.witness), group[0]),
            tuple(dict.fromkeys(f.module for f in group)),
        )
        for group in groups.values()
    ]


def write_findings(sheet: Sheet, certificate: Certificate) -> None:
    """All findings of a certificate."""
    write_folded(sheet, (f for claim in certificate.claims for f in claim.findings))


def write_folded(sheet: Sheet, findings: Iterable[Finding]) -> None:
    """``findings``, each after a blank line, and how to read more about them."""
    folds = folded(findings)
    for fold in folds:
        sheet.blank()
        _write(sheet, fold)
    explained = [fold.finding.code for fold in folds if fold.finding.code in CODES]
    if explained:
        sheet.blank()
        sheet.labelled("what a code means:", f"blockframe explain {explained[0]}")


def _write(sheet: Sheet, fold: Fold) -> None:
    finding = fold.finding
    many = f"   ({len(fold.modules)} places)" if len(fold.modules) > 1 else ""
    sheet.line(sheet.strong(finding.code), f" {finding.message}{many}")
    where = one_name(fold.modules)
    place = "     ".join(p for p in (where, finding.location) if p)
    if place:
        sheet.labelled("at  ", place, indent=2)
    if finding.excerpt:
        sheet.labelled("    ", finding.excerpt.strip(), indent=2)
    if finding.witness:
        of = f"{finding.module}: " if finding.module and len(fold.modules) > 1 else ""
        sheet.labelled("seen", of + seen(finding.witness), indent=2)
    if finding.help:
        sheet.labelled("help", finding.help, indent=2)


def seen(witness: Mapping[str, Any]) -> str:
    """A witness in one line: ``left derivative 0, right derivative 0.419 at t = 0.31792 (…)``."""
    if witness.keys() >= _ONE_SIDED:
        order = _ORDERS.get(witness["order"], "derivative")
        sides = ", ".join(f"{side} {order} {_value(witness[side])}" for side in ("left", "right"))
        details = {k: v for k, v in witness.items() if k in ("scale", "block", "entry", "line")}
        return f"{sides} at t = {witness['t']:.6g} ({_listed(details)})"
    return _listed(witness)


def _listed(witness: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in witness.items())


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        shown = ", ".join(_value(v) for v in value[:6])
        return f"[{shown}, …]" if len(value) > 6 else f"[{shown}]"
    if isinstance(value, Mapping):
        return "{" + _listed(value) + "}"
    return number(value)
