"""Pages of docs/ that follow from records: ``python -m blockframe.report.pages`` writes them.

docs/ops is made as a whole. In docs/findings the tables of codes are, each between the comments
``<!-- codes: CLAUSE -->`` and ``<!-- end -->``; the prose around them is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from blockframe.contract.codes import CODES, Code
from blockframe.report import ops
from blockframe.report.codes import worst
from blockframe.report.markdown import linked, table

ROOT = Path(__file__).parents[2]
FINDINGS, OPS = ROOT / "docs/findings.md", ROOT / "docs/ops.md"
LEDGER = ROOT / "tests/domains/gaps.txt"

_TABLE = re.compile(r"(<!-- codes: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def findings() -> str:
    """What docs/findings must contain: its own prose, and the tables of codes.

    Raises:
        ValueError: a clause has codes and no place for them in the page.
    """
    page = FINDINGS.read_text(encoding="utf-8")
    places = {match[2] for match in _TABLE.finditer(page)}
    missing = {code.clause for code in CODES.values()} - places
    if missing:
        raise ValueError(
            f"{FINDINGS} has no place for the codes of {', '.join(sorted(missing))}: "
            "add the lines <!-- codes: CLAUSE --> and <!-- end -->"
        )
    return _TABLE.sub(lambda match: match[1] + _codes(match[2]) + match[3], page)


def operations() -> str:
    """What docs/ops must contain."""
    return ops.page(LEDGER.read_text(encoding="utf-8"))


PAGES: Mapping[Path, Callable[[], str]] = {FINDINGS: findings, OPS: operations}


def _codes(clause: str) -> str:
    rows = [_row(code) for code in CODES.values() if code.clause == clause]
    header = ("code", "name", "verdict", "meaning", "causes", "what helps")
    return f"\n{table(header, rows)}\n\n" if rows else ""


def _row(code: Code) -> tuple[str, ...]:
    texts = (code.meaning, code.causes, "; ".join(code.remedies))
    return (code.code, code.name, worst(code), *map(linked, texts))


if __name__ == "__main__":
    for path, text in PAGES.items():
        path.write_text(text(), encoding="utf-8")
        print(path)
