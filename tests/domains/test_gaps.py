"""What the catalogue does not say, committed, so that a change shows in the diff."""

from __future__ import annotations

from pathlib import Path

from blockframe.atoms.catalogue import CORE
from blockframe.atoms.facts import Bilinear, Linear, Pointwise, Rowwise, Selection
from blockframe.atoms.interval import REALS
from blockframe.domains.interpreter import Domain

LEDGER = Path(__file__).with_name("gaps.txt")


def gaps() -> list[str]:
    """Every op × domain for which there is only the weakest answer: range all reals, a failing
    clause without witness."""
    rows = []
    for atom in CORE:
        for op in atom.ops:
            if isinstance(atom, Pointwise) and atom.at is None:
                if atom.value is None and not atom.even and atom.range == REALS:
                    rows.append(f"range    {op}: all reals")
                if atom.kinks and not atom.pieces:
                    rows.append(f"witness  {op}: none is sought")
            elif (isinstance(atom, (Linear, Bilinear)) and atom.range is type(atom)(op).range) or (
                isinstance(atom, Rowwise) and atom.range is Rowwise(op).range
            ):
                rows.append(f"range    {op}: all reals")
            elif isinstance(atom, Selection) and atom.chooser is None and atom.chosen is None:
                rows.append(f"witness  {op}: none is sought")
    return sorted(rows)


def test_the_ledger_is_current() -> None:
    current = "\n".join(gaps()) + "\n"
    assert LEDGER.read_text() == current, (
        "the gaps have changed; if that is meant: python tests/domains/test_gaps.py"
    )


def test_every_domain_has_a_rule_for_every_kind() -> None:
    def concrete(cls: type) -> list[type]:
        found = [c for sub in cls.__subclasses__() for c in concrete(sub)]
        return [*found, *([] if cls.__abstractmethods__ else [cls])]  # type: ignore[attr-defined]

    import blockframe.analysis
    import blockframe.domains.growth  # noqa: F401 (loads the domains)

    assert {d.__name__ for d in concrete(Domain)} == {
        "Dependence",
        "RangeDomain",
        "AnalyticityDomain",
    }


if __name__ == "__main__":
    LEDGER.write_text("\n".join(gaps()) + "\n")
