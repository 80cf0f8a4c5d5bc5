"""Certificates of transformers are borne out by their numbers, and not by others."""

from __future__ import annotations

import json
from typing import Any

import pytest

import blockframe
from blockframe.certificate.model import Certificate
from blockframe.errors import CertificateError

SPECS = {"gpt2": {"n_layer": 2}, "opt": {"num_hidden_layers": 2}}


@pytest.fixture(scope="module", params=SPECS)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    certificate = blockframe.certify(request.param, settings=SPECS[request.param], steps=2)
    found: dict[str, Any] = json.loads(certificate.to_json())
    return found


@pytest.mark.slow
def test_it_stands(document: dict[str, Any]) -> None:
    report = blockframe.check(Certificate.from_json(json.dumps(document)))
    assert [*map(str, report.rejected)] == []
    assert document["trajectory"]["scale"] == "proxy"


@pytest.mark.slow
def test_no_claim_can_say_something_else(document: dict[str, Any]) -> None:
    """Every claim that is decided, with every other verdict and with stronger evidence."""
    count = 0
    for i, claim in enumerate(document["claims"]):
        if claim["verdict"] == "UNKNOWN" and not claim["findings"]:
            continue
        for verdict, evidence in (("HOLDS", "PROVED"), ("UNKNOWN", None), ("HOLDS", "ENCLOSED")):
            if (verdict, evidence) == (claim["verdict"], claim["evidence"]):
                continue
            changed = {**claim, "verdict": verdict, "evidence": evidence}
            claims = [*document["claims"][:i], changed, *document["claims"][i + 1 :]]
            plain = {k: v for k, v in document.items() if k != "seal"}
            for outcome in ("REFUTED", "INCONCLUSIVE", "CERTIFIED"):
                text = json.dumps({**plain, "verdict": outcome, "claims": claims})
                try:
                    certificate = Certificate.from_json(text)
                except CertificateError:
                    continue
                assert not blockframe.check(certificate).stands, (i, verdict, evidence)
                count += 1
    assert count > 30
