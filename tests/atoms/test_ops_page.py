"""docs/ops says what the catalogue knows."""

from __future__ import annotations

import re

import attrs
import pytest

from blockframe.atoms.catalogue import CORE
from blockframe.atoms.facts import Kink, Pointwise, Rowwise
from blockframe.atoms.interval import Interval
from blockframe.report import ops, pages


@pytest.fixture(scope="module")
def page() -> str:
    return pages.operations()


def row(page: str, op: str) -> dict[str, str]:
    """The facts in the row of an operation, by column."""
    lines = page.partition("## Gaps")[0].splitlines()
    at = next(i for i, line in enumerate(lines) if re.match(rf"\| .*`{re.escape(op)}`", line))
    start = max(i for i in range(at) if lines[i].startswith("| operations |"))
    cells = [re.split(r"(?<!\\)\|", lines[i])[1:-1] for i in (start, at)]
    return {k.strip(" `"): v.strip() for k, v in zip(*cells, strict=True)}


def test_the_committed_page_is_current(page: str) -> None:
    assert pages.OPS.read_text(encoding="utf-8") == page, (
        "docs/ops.md is stale; write it anew with: python -m blockframe.report.pages"
    )


def test_every_operation_stands_once_under_its_kind(page: str) -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    for atom in CORE:
        for op in atom.ops:
            assert sections[type(atom).__name__].count(f"`{op}`") == 1
    listed = re.findall(r"`(\w+::[\w.]+)`", page.partition("## Gaps")[0])
    assert len(listed) == sum(len(atom.ops) for atom in CORE)
    assert f"knows {len(listed)} operations, in {len(CORE)} records" in page


def test_facts_are_those_of_the_records(page: str) -> None:
    gelu = next(a for a in CORE if "aten::gelu" in a.ops)
    assert isinstance(gelu, Pointwise)
    assert gelu.growth is not None
    found = row(page, "aten::gelu")
    assert float(found["lipschitz"]) == gelu.lipschitz
    assert float(found["curvature"]) == gelu.curvature
    assert tuple(map(float, found["growth"].split(", "))) == gelu.growth
    assert (found["analytic_on"], found["kinks"]) == ("ℝ", "–")
    assert row(page, "aten::hardswish")["kinks"] == "-3, 3"
    assert row(page, "aten::reciprocal")["analytic_on"] == "(-∞, 0) ∪ (0, ∞)"
    assert row(page, "aten::leaky_relu")["kinks"] == "at"
    assert row(page, "aten::linear")["norm"] == "stated"
    assert row(page, "aten::layer_norm")["singular"] == "stated"
    assert row(page, "aten::where.self")["chooser"] == "0"


@pytest.mark.parametrize(
    "atom", [a for a in CORE if isinstance(a, Rowwise)], ids=lambda a: a.ops[0]
)
def test_what_is_not_stated_is_not_said_to_be(page: str, atom: Rowwise) -> None:
    found = row(page, atom.ops[0])
    for fact in ("growth", "lipschitz", "curvature"):
        default = attrs.fields_dict(Rowwise)[fact].default
        assert (found[fact] == "–") is (getattr(atom, fact) is default)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (False, "–"),
        (True, "yes"),
        (0, "0"),
        (1.12838, "1.12838"),
        (0.1234567, "0.1234567"),  # no digit of a bound is dropped
        ((0.0, 1.0), "0, 1"),
        (Interval(), "ℝ"),
        ((Interval(0.0), Interval(1.0, 2.0, False, False)), "(0, ∞) ∪ [1, 2]"),
        ((Kink(-3.0), Kink(2.5, 2)), "-3, 2.5 (order 2)"),
    ],
)
def test_values_in_words(value: object, text: str) -> None:
    assert ops._plain(value) == text


def test_every_gap_of_the_ledger_is_on_the_page(page: str) -> None:
    gaps = page.partition("## Gaps")[2].splitlines()
    for line in pages.LEDGER.read_text(encoding="utf-8").splitlines():
        domain, op, what = re.fullmatch(r"(\w+) +(\S+): (.*)", line).groups()  # type: ignore[union-attr]
        assert any(g.startswith(f"| {domain} | {what} | ") and f"`{op}`" in g for g in gaps)
