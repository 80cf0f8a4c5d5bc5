"""Finding codes: one table, and it says what the program does."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import nn
from torch.nn import functional as F

import blockframe
from blockframe.certificate.model import Certificate
from blockframe.contract import codes
from blockframe.contract.claim import Claim, Verdict
from blockframe.contract.codes import CODES
from blockframe.report import pages

ROOT = Path(__file__).parents[2]

WITHOUT_EXAMPLE: dict[str, str] = {
    "D101": "it needs a plugin's loss whose bound is wrong (test_dissipativity.py)",
}
"""Codes that a few lines cannot bring about, and why."""


def literals(path: Path) -> set[str]:
    """The finding codes that stand in a source file as strings of their own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    return {s for s in strings if isinstance(s, str) and re.fullmatch(r"[A-Z][1-9]\d\d", s)}


def test_the_table_has_exactly_the_codes_that_the_program_uses() -> None:
    sources = set((ROOT / "blockframe").rglob("*.py")) - {Path(codes.__file__)}
    used = set().union(*map(literals, sources))
    assert used - CODES.keys() == set(), "add a record to blockframe/contract/codes.py"
    assert CODES.keys() - used == set(), "nothing uses these: remove their records"


def test_codes_are_unique_and_begin_with_the_letter_of_their_clause() -> None:
    assert len(codes._RECORDS) == len(CODES)
    assert [c.code for c in CODES.values() if c.code[0] != c.clause[0].upper()] == []


@pytest.mark.parametrize("code", CODES)
def test_every_text_is_there_and_its_pages_and_numbers_too(code: str) -> None:
    record = CODES[code]
    texts = [record.name, record.meaning, record.causes, *record.remedies, record.docs]
    assert all(text == text.strip() and text for text in texts)
    for text in texts:
        assert "{" not in text
        for page, section in re.findall(r"docs/(\w+)(?: section (\d+))?", text):
            written = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
            assert not section or f"\n## {section}. " in written
    for case in ("", *record.special):
        names = re.findall(r"\{(\w+)\}", record.special[case] if case else record.help)
        assert "{" not in record.advice(case, **dict.fromkeys(names, "0.1"))


def test_advice_carries_the_numbers_of_the_finding() -> None:
    assert CODES["D404"].advice(limit="0.5") == "lower --lr below 2/λ = 0.5"
    assert CODES["D404"].remedies == ("lower --lr below 2/λ = LIMIT",)
    assert CODES["D402"].advice(codes.AT_START).startswith("look at the weights")
    assert CODES["D402"].remedies[-1].startswith("at step 0: look at the weights")


# --- examples ---------------------------------------------------------------------------------


def test_every_code_has_an_example_or_a_reason() -> None:
    assert {code for code, record in CODES.items() if record.example is None} == set(
        WITHOUT_EXAMPLE
    )


class Between(nn.Module):
    """What `codes.SETTING` says: f between two linear layers."""

    def __init__(self, f: Any) -> None:
        super().__init__()
        self.first, self.last, self.f = nn.Linear(3, 8), nn.Linear(8, 2), f

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.f(self.first(x)))


@cache
def certified(snippet: str) -> Certificate:
    """The certificate of the network that a snippet describes."""
    torch.manual_seed(0)
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "__name__": "example"}
    exec(snippet, names)
    net = names.get("net") or Between(names.get("f", torch.tanh))
    x = names.get("x", torch.randn(4, 3))
    if "lr" not in names:
        target = (net, (x,), names["y"]) if "y" in names else (net, (x,))
        return blockframe.certify(target, static_only=True)
    y = names.get("y", torch.zeros(4, 2))
    return blockframe.certify((net, (x,), y), lr=names["lr"], steps=3, dtype="float64")


def carriers(certificate: Certificate, code: str) -> list[Claim]:
    """The claims in which a finding of this code stands."""
    return [c for c in certificate.claims if any(f.code == code for f in c.findings)]


EXAMPLES = {code: r.example for code, r in CODES.items() if r.example is not None}


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_bad_example_has_the_finding_and_it_does_what_the_table_says(code: str) -> None:
    claims = carriers(certified(EXAMPLES[code].bad), code)
    assert CODES[code].clause in {claim.clause for claim in claims}
    worst = CODES[code].worst
    for claim in claims:
        if worst is None:
            assert claim.verdict is Verdict.HOLDS
        elif worst is Verdict.UNKNOWN:
            assert claim.verdict is Verdict.UNKNOWN
        else:
            assert claim.verdict is not Verdict.HOLDS


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_repaired_example_has_not(code: str) -> None:
    certificate = certified(EXAMPLES[code].good)
    assert carriers(certificate, code) == []
    assert certificate.claim(CODES[code].clause).verdict is Verdict.HOLDS


def test_examples_of_what_refutes_do_refute() -> None:
    failing = {
        code
        for code, example in EXAMPLES.items()
        if any(c.verdict is Verdict.FAILS for c in carriers(certified(example.bad), code))
    }
    assert failing >= {"A101", "A102", "A103", "D401", "D402"}


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_finding_says_what_the_table_says_helps(code: str) -> None:
    """Except where tracing broke off: that error has a remedy of its own."""
    if code == "A901":
        return
    record = CODES[code]
    patterns = [re.escape(t) for t in (record.help, *record.special.values())]
    patterns = [re.sub(r"\\\{\w+\\\}", ".+", p) for p in patterns]
    claims = carriers(certified(EXAMPLES[code].bad), code)
    helps = {f.help for claim in claims for f in claim.findings if f.code == code}
    assert all(any(re.fullmatch(p, text) for p in patterns) for text in helps)


# --- the page ---------------------------------------------------------------------------------


def test_the_committed_page_is_current() -> None:
    assert pages.FINDINGS.read_text(encoding="utf-8") == pages.findings(), (
        "docs/findings.md is stale; write its tables anew with: python -m blockframe.report.pages"
    )


def test_a_clause_without_a_place_in_the_page_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    other = evolve(CODES["A101"], code="Z101", clause="zest")
    monkeypatch.setattr(pages, "CODES", {**CODES, "Z101": other})
    with pytest.raises(ValueError, match="no place for the codes of zest"):
        pages.findings()


def test_a_new_record_makes_the_page_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    other = evolve(CODES["A101"], code="N199", clause="nondegeneracy", meaning="a | b")
    monkeypatch.setattr(pages, "CODES", {**CODES, "N199": other})
    assert "\n| N199 | kink | FAILS | a \\| b | " in pages.findings()
