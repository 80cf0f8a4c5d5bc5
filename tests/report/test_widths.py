"""What ``--widths`` adds to the page of ``blockframe chain``."""

from __future__ import annotations

import json
import math

from attrs import evolve

from blockframe.certificate.model import Certificate, Subject
from blockframe.report import Page
from blockframe.report.chain import ChainReport
from blockframe.scaling.xavier import Matrix, Measured, Norms, Other, Weight, Widths


def widths(subject: Subject, size: int) -> tuple[Widths, ...]:
    """A table, a wide and a square matrix in every layer, and a head that shares the table."""
    weights = {
        "embed": Weight("wte.weight", Matrix(size, 256), "embedding"),
        "attention": Weight("{}.qkv.weight", Matrix(3 * size, size), "linear"),
        "mlp": Weight("{}.experts", Matrix(size, size, count=4), "bmm"),
        "head": Weight("wte.weight", Matrix(256, size), "linear", tied=True),
    }
    return tuple(
        Widths(
            block.name,
            tuple(evolve(w, name=w.name.format(block.name))
                  for role, w in weights.items() if role == block.role),
            (Other(f"{block.name}.rate", (16, 4), "exp"),) if block.role == "mlp" else (),
        )
        for block in subject.blocks
    )  # fmt: skip


def measured(subject: Subject, on: str, *values: Norms) -> Measured:
    """``values`` in turn for the weights that are not tied."""
    blocks = widths(subject, 8)
    names = [w.name for b in blocks for w in b.weights if not w.tied]
    norms = {name: values[i % len(values)] for i, name in enumerate(names)}
    return Measured(on, "default", blocks, norms)


def row(text: str, name: str) -> list[list[str]]:
    return [line.split()[1:] for line in text.splitlines() if line.split()[:1] == [name]]


def test_blocks_that_are_alike_share_a_row(refuted: Certificate) -> None:
    subject = refuted.subject
    text = ChainReport(subject, 0.0, "proxy", widths(subject, 16)).text(Page())
    assert row(text, "h.0-2.attention")[0][-4:] == ["1", "48", "16", "24"]
    assert row(text, "h.0-2.mlp")[0][-4:] == ["4", "16", "16", "16"]
    assert row(text, "ln_f")[0][-4:] == ["–"] * 4
    assert row(text, "wte")[1] == ["16", "×", "256", "30.12", "5.488"]
    assert row(text, "wte")[2] == ["(tied)", "256", "×", "16", "30.12", "5.488"]
    assert row(text, "h.0-2.mlp.experts") == [["3", "×", "4", "×", "[16", "×", "16]", "16", "8"]]
    assert "no matrix, by the operation that uses it: h.0-2.mlp.rate (16 × 4: exp)" in text


def test_numbers_of_the_proxy_stand_apart(refuted: Certificate) -> None:
    subject = refuted.subject
    norms = measured(subject, "proxy", Norms(1.5, 0.5), Norms(2.5, None))
    text = ChainReport(subject, 0.0, "proxy", widths(subject, 16), norms).text(Page())
    full, _, proxy = text.partition("matrices of the proxy: norms measured, weights the problem's")
    assert "matrices at full size: from shapes alone" in full
    assert "Frobenius" not in full
    (attention,) = row(proxy, "h.0-2.attention.qkv")
    assert attention == ["3", "×", "24", "×", "8", "12", "3.464", "2.5", "–"]
    (table,) = [r for r in row(proxy, "wte") if r[0] != "(tied)"]
    assert table[-2:] == ["1.5", "0.5"]


def test_a_span_where_like_blocks_differ(refuted: Certificate) -> None:
    subject = refuted.subject
    norms = measured(subject, "full", Norms(1.0, 0.25), Norms(2.0, 0.5), Norms(3.0, 0.75))
    text = ChainReport(subject, 0.0, "full", widths(subject, 8), norms).text(Page())
    assert "at full size" not in text.partition("matrices")[2]
    assert row(text, "h.0-2.attention.qkv")[0][-2:] == ["1–3", "0.25–0.75"]


def test_what_is_no_number_is_null_in_json(refuted: Certificate) -> None:
    subject = refuted.subject
    norms = measured(subject, "full", Norms(math.nan, None), Norms(2.0, 0.5))
    report = ChainReport(subject, 0.0, "full", widths(subject, 8), norms)
    document = json.loads(report.json())
    first, second = document["norms"]["weights"][:2]
    assert (first["frobenius"], first["spectral"]) == (None, None)
    assert (second["block"], second["frobenius"]) == ("h.0.attention", 2.0)
    assert not any(w["tied"] for w in document["norms"]["weights"])
    assert document["blocks"][-1]["widths"]["weights"][0]["tied"]
    assert "NaN" in report.text(Page())


def test_a_narrow_page_without_unicode(refuted: Certificate) -> None:
    subject = refuted.subject
    norms = measured(subject, "proxy", Norms(1.5, 0.5))
    report = ChainReport(subject, 0.0, "proxy", widths(subject, 16), norms)
    text = report.text(Page(width=50, unicode=False))
    assert text.isascii()
    assert "?" not in text
    assert max(map(len, text.splitlines())) <= 50
    assert "4 x [16 x 16]" in text
