"""schema.json says what the code does."""

from __future__ import annotations

import json

import pytest

from blockframe.certificate import schema
from blockframe.certificate.model import Certificate

jsonschema = pytest.importorskip("jsonschema")


def test_the_committed_schema_is_current() -> None:
    assert schema.PATH.read_text(encoding="utf-8") == schema.text(), (
        "schema.json is stale; regenerate it with: python -m blockframe.certificate.schema"
    )


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.schema())


@pytest.mark.parametrize("name", ["refuted", "certified", "inconclusive"])
def test_certificates_conform(name: str, request: pytest.FixtureRequest) -> None:
    certificate: Certificate = request.getfixturevalue(name)
    jsonschema.Draft202012Validator(schema.schema()).validate(json.loads(certificate.to_json()))


@pytest.mark.parametrize("key", ["schema", "verdict", "subject", "environment", "claims"])
def test_what_is_required(key: str, refuted: Certificate) -> None:
    document = json.loads(refuted.to_json())
    del document[key]
    assert not jsonschema.Draft202012Validator(schema.schema()).is_valid(document)
