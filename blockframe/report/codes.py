"""What ``blockframe explain`` shows: one finding code, or all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from attrs import asdict

from blockframe.contract.claim import Verdict
from blockframe.contract.codes import SETTING, Code
from blockframe.report import Page
from blockframe.report.sheet import Sheet


def explanation(code: Code, page: Page) -> str:
    """Everything about one code."""
    sheet = Sheet(page)
    sheet.line(sheet.strong(code.code), f" {code.name}")
    for label, text in (
        ("means", code.meaning),
        ("verdict", _effect(code)),
        ("causes", code.causes),
        *_labelled("help", code.remedies),
        *(("", f"{name}: a number that the finding gives") for name in code.numbers),
    ):
        sheet.labelled(f"{label:7}", text, indent=2)
    if code.example is not None:
        for label, snippet in (("bad", code.example.bad), ("good", code.example.good)):
            sheet.blank()
            for first, line in _labelled(label, snippet.split("\n")):
                sheet.labelled(f"{first:7}", line, indent=2)
        sheet.blank()
        sheet.line(SETTING, indent=2)
    sheet.blank()
    sheet.labelled("more   ", f"{code.docs}, docs/findings", indent=2)
    return sheet.text()


def overview(codes: Iterable[Code], page: Page) -> str:
    """One line for each code."""
    sheet = Sheet(page)
    sheet.table(
        [(c.code, c.name, c.clause, worst(c)) for c in codes],
        ("code", "name", "clause", "verdict"),
        drop=(2, 3),
        indent=0,
    )
    return sheet.text()


def document(codes: Code | list[Code]) -> str:
    """One JSON object, or a list of them: the fields of `Code`."""
    value: Any = asdict(codes) if isinstance(codes, Code) else [asdict(c) for c in codes]
    return json.dumps(value, indent=2) + "\n"


def worst(code: Code) -> str:
    """The worst that a code can do to a claim, in a word."""
    return code.worst.value if code.worst else "note"


def _effect(code: Code) -> str:
    if code.worst is None:
        return f"a note: {code.clause} is what it is without it"
    if code.worst is Verdict.FAILS:
        return f"{code.clause} FAILS where there is a witness, else it is UNKNOWN"
    return f"{code.clause} is UNKNOWN: it does not hold by what is known, and nothing refutes it"


def _labelled(label: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    """The first text with the label, the others below it."""
    return [(label if i == 0 else "", text) for i, text in enumerate(texts)]
