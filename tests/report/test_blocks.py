"""Folding of repeating blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockframe.certificate.model import BlockSummary
from blockframe.report import Page
from blockframe.report.blocks import Run, block_table, chain_line, runs
from blockframe.report.sheet import Sheet


def block(name: str, role: str, placement: str | None = None, parameters: int = 1) -> BlockSummary:
    return BlockSummary(
        name, role, parameters, None if placement is None else {"placement": placement}
    )


def gpt(layers: int) -> list[BlockSummary]:
    body = [
        block(f"h.{i}.{role}", role, "pre") for i in range(layers) for role in ("attention", "mlp")
    ]
    return [block("wte", "embed"), *body, block("ln_f", "norm"), block("lm_head", "head")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a", [Run(0, 1, 1)]),
        ("aaa", [Run(0, 1, 3)]),
        ("xababab", [Run(0, 1, 1), Run(1, 2, 3)]),
        ("aabaab", [Run(0, 3, 2)]),
        ("abababcc", [Run(0, 2, 3), Run(6, 1, 2)]),
    ],
)
def test_runs(text: str, expected: list[Run]) -> None:
    assert list(runs(text, str)) == expected


@given(st.text("abc", max_size=40))
def test_runs_lose_nothing(text: str) -> None:
    assert "".join(text[r.start : r.start + r.unit] * r.count for r in runs(text, str)) == text


@pytest.mark.parametrize(
    ("blocks", "line"),
    [
        (gpt(12), "embed → 12 × [pre-norm attention, pre-norm MLP] → final norm → head"),
        (gpt(1), "embed → pre-norm attention → pre-norm MLP → final norm → head"),
        (
            [block("e", "embed"), *(block(f"l.{i}", "parallel", "parallel") for i in range(28))],
            "embed → 28 × attention ∥ MLP",
        ),
        (
            [block("n", "norm"), block("a", "attention", "post"), block("m", "mlp", "none")],
            "norm → post-norm attention → residual MLP without norm",
        ),
        ([block(f"{i}", "layer") for i in range(3)], "3 × layer"),
    ],
)
def test_chain_line(blocks: list[BlockSummary], line: str) -> None:
    assert chain_line(blocks) == line


def table(blocks: list[BlockSummary], *verdicts: str) -> list[list[str]]:
    sheet = Sheet(Page())
    column = dict(zip([b.name for b in blocks], verdicts, strict=False))
    block_table(
        sheet, blocks, lambda b: (column[b.name],) if column else (), ["A"] if column else ()
    )
    return [line.split() for line in sheet.text().splitlines()[1:]]


def test_identical_blocks_are_one_row() -> None:
    assert table(gpt(12)) == [
        ["wte", "embed", "–", "1"],
        ["h.0-11.attention", "12", "×", "attention", "pre-norm", "1"],
        ["h.0-11.mlp", "12", "×", "MLP", "pre-norm", "1"],
        ["ln_f", "norm", "–", "1"],
        ["lm_head", "head", "–", "1"],
    ]


def test_a_head_without_parameters_of_its_own_shares_them() -> None:
    assert table([block("lm_head", "head", parameters=0)]) == [
        ["lm_head", "head", "–", "0", "(shared)"]
    ]


def test_a_block_with_another_verdict_or_size_stands_alone() -> None:
    layers = [block(f"h.{i}", "layer") for i in range(4)]
    names = [row[0] for row in table(layers, "HOLDS", "HOLDS", "FAILS", "HOLDS")]
    assert names == ["h.0-1", "h.2", "h.3"]
    layers[1] = block("h.1", "layer", parameters=2)
    assert [row[0] for row in table(layers)] == ["h.0", "h.1", "h.2-3"]
