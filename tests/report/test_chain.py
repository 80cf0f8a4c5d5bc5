"""What ``blockframe chain`` prints."""

from __future__ import annotations

import json
import math

import pytest
from attrs import evolve

from blockframe.certificate.model import Certificate
from blockframe.report import Page
from blockframe.report.chain import ChainReport


def test_text(refuted: Certificate) -> None:
    text = ChainReport(evolve(refuted.subject, proxy=""), 0.0).text(Page())
    assert text.startswith(
        "toy · ToyModel · 13,824 parameters, full size\nchain  embed → 3 × [pre-norm"
    )
    assert "replay exact" in text
    assert "h.0-2.mlp" in text


@pytest.mark.parametrize(
    ("difference", "says", "exact"),
    [
        (None, "replay not run", None),
        (1e-7, "replay differs by 1e-07", False),
        (0.0, "exact", True),
    ],
)
def test_replay(difference: float | None, says: str, exact: object, refuted: Certificate) -> None:
    report = ChainReport(refuted.subject, difference, "proxy")
    assert says in report.text(Page())
    replay = json.loads(report.json())["replay"]
    assert replay == {"exact": exact, "max_abs_difference": difference, "on": "proxy"}


def test_a_replay_that_is_not_a_number_is_not_exact(refuted: Certificate) -> None:
    report = ChainReport(refuted.subject, math.nan)
    assert json.loads(report.json())["replay"]["exact"] is False
    assert "replay differs by NaN" in report.text(Page())


def test_json(refuted: Certificate) -> None:
    document = json.loads(ChainReport(refuted.subject, 0.0).json())
    assert document["subject"] == {
        "spec": "toy", "class": "ToyModel", "parameters": 13_824, "scale": "full",
    }  # fmt: skip
    assert document["blocks"][1] == {
        "name": "h.0.attention", "role": "attention", "parameters": 1088,
        "residual": {"placement": "pre"}, "state": [[4, 8, 16]],
    }  # fmt: skip
