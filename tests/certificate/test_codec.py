"""Certificate ↔ JSON: everything survives, and nothing else is accepted."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from blockframe.certificate.model import Certificate, Inequality, Subject, Trajectory
from blockframe.contract.claim import Claim, Evidence, Finding, Verdict
from blockframe.errors import CertificateError


@pytest.mark.parametrize("name", ["refuted", "certified", "inconclusive"])
def test_round_trip(name: str, request: pytest.FixtureRequest) -> None:
    certificate: Certificate = request.getfixturevalue(name)
    assert Certificate.from_json(certificate.to_json()) == certificate


def test_top_level_form(refuted: Certificate) -> None:
    document = json.loads(refuted.to_json())
    assert list(document)[:3] == ["schema", "verdict", "subject"]
    assert document["schema"] == "blockframe.certificate/1"
    assert document["verdict"] == "REFUTED"
    assert document["subject"]["class"] == "ToyModel"
    assert "class_name" not in document["subject"]
    assert document["claims"][0]["findings"][0]["witness"]["t"] == 0.31792


_numbers = st.floats() | st.integers(-(10**30), 10**30)
_texts = st.text().filter(lambda t: t not in ("NaN", "Infinity", "-Infinity"))
_free = st.recursive(
    st.none() | st.booleans() | _numbers | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[k], b[k]) for k in a)
    return bool(a == b) and type(a) is type(b)


@given(
    numbers=st.dictionaries(st.text(), _free, max_size=4),
    left=st.floats(),
    series=st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
)
def test_round_trip_of_any_numbers(
    numbers: dict[str, Any], left: float, series: list[float | None]
) -> None:
    finding = Finding("A1", "m", witness=numbers)
    claim = Claim("analyticity", Verdict.UNKNOWN, "s", numbers=numbers, findings=(finding,))
    run = Trajectory(
        0.1, 3, "full", "mse", "", "completed", series={"loss": series},
        inequalities=(Inequality("i", 0, left, 1.0, None),),
    )  # fmt: skip
    back = Certificate.from_json(Certificate(Subject("s", "C", 1), {}, (claim,), run).to_json())
    assert _same(numbers, back.claims[0].numbers)
    assert _same(numbers, back.claims[0].findings[0].witness)
    assert back.trajectory is not None
    assert back.trajectory.series["loss"] == series
    assert _same(left, back.trajectory.inequalities[0].left)


def test_no_bare_nan(refuted: Certificate) -> None:
    assert refuted.trajectory is not None
    run = evolve(
        refuted.trajectory,
        series={"loss": [1.0, math.inf, math.nan]},
        inequalities=(Inequality("descent lemma", 0, math.inf, math.nan, False),),
    )
    text = evolve(refuted, trajectory=run).to_json()
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"bare {name}"))
    assert document["trajectory"]["series"]["loss"] == [1.0, None, None]
    assert document["trajectory"]["inequalities"][0]["left"] == "Infinity"
    assert document["trajectory"]["inequalities"][0]["right"] == "NaN"


def test_numbers_of_numpy_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    numbers = {"a": numpy.float32(0.5), "b": numpy.int64(3), "c": (1, 2)}
    claim = Claim("analyticity", Verdict.HOLDS, "s", Evidence.PROVED, numbers=numbers)
    text = Certificate(Subject("s", "C", 1), {}, (claim,)).to_json()
    assert json.loads(text)["claims"][0]["numbers"] == {"a": 0.5, "b": 3, "c": [1, 2]}


@pytest.mark.parametrize("value", [object(), {1: 2}, b"bytes", {"deep": [set()]}])
def test_what_json_cannot_hold_is_named(value: object) -> None:
    claim = Claim("analyticity", Verdict.UNKNOWN, "s", numbers={"x": value})
    with pytest.raises(CertificateError, match=r"at \$\.claims\[0\]\.numbers\.x"):
        Certificate(Subject("s", "C", 1), {}, (claim,)).to_json()


def _put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
        inner: Any = document
        for parent in parents:
            inner = inner[parent]
        inner[last] = value

    return change


def _drop(path: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        inner: Any = document
        for parent in parents:
            inner = inner[int(parent) if parent.isdigit() else parent]
        del inner[last]

    return change


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (_drop("subject"), "required key 'subject' missing"),
        (_drop("verdict"), r"\$\.verdict: required key missing"),
        (_drop("subject.class"), r"\$\.subject.*'class' missing"),
        (_drop("claims.1.statement"), r"\$\.claims\[1\].*'statement' missing"),
        (_put("subject.parameters", "12"), r"\$\.subject\.parameters: expected an integer, f"),
        (_put("subject.parameters", 1.5), r"\$\.subject\.parameters: .*, found a number"),
        (_put("subject.parameters", True), r"\$\.subject\.parameters: expected an integer"),
        (_put("subject.class", 3), r"\$\.subject\.class: expected a string, found an integer"),
        (_put("claims", {}), r"\$\.claims: expected an array, found an object"),
        (_put("claims.0", []), r"\$\.claims\[0\]: expected an object, found an array"),
        (_put("trust", "abc"), r"\$\.trust: expected an array, found a string"),
        (_put("trust", None), r"\$\.trust: expected an array, found null"),
        (_put("environment", ["torch"]), r"\$\.environment: expected an object"),
        (_put("environment.torch", 2), r"\$\.environment\['?torch'?\]: expected a string"),
        (_put("claims.0.verdict", "MAYBE"), r"\$\.claims\[0\]\.verdict: 'MAYBE' is not a valid"),
        (_put("claims.0.evidence", "SURE"), r"\$\.claims\[0\]\.evidence"),
        (_put("claims.0.findings", []), r"\$\.claims\[0\]: .*FAILS needs a finding with a wit"),
        (_put("trajectory.lr", "fast"), r"\$\.trajectory\.lr: expected a number"),
        (_put("trajectory.inequalities.2.left", None), r"\$\.trajectory\.inequalities\[2\]\.left"),
        (_put("trajectory.series.loss", [1, "x"]), r"\$\.trajectory\.series\[.*\[1\]"),
        (_put("extra", 1), r"\$: unknown key 'extra'"),
        (_put("subject.class_name", "X"), r"\$\.subject: unknown key 'class_name'"),
        (_put("schema", "blockframe.certificate/2"), "this version reads"),
        (_put("schema", None), "the certificate's schema is None"),
        (_put("schema", []), "this version reads"),
        (_put("verdict", "CERTIFIED"), r"claims say 'REFUTED' \(\$\.verdict\). It is forged"),
        (_put("verdict", None), "forged or damaged"),
    ],
)  # fmt: skip
def test_every_fault_is_one_error_with_its_path(
    change: Callable[[dict[str, Any]], None], where: str, refuted: Certificate
) -> None:
    document = json.loads(refuted.to_json())
    change(document)
    with pytest.raises(CertificateError, match=where):
        Certificate.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("no", "not JSON"),
        ("null", r"\$: expected an object, found null"),
        ("[1]", r"\$: expected an object, found an array"),
        ('{"schema": "a", "schema": "b"}', "the key 'schema' stands twice"),
        ('{"schema": NaN}', "NaN is not a JSON number"),
        ('{"schema": 1e999}', "1e999 is too large"),
        ('{"schema": ' + "9" * 5000 + "}", "not JSON"),
        ("[" * 100_000, "too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "too deeply"),
    ],
    ids=lambda text: text[:20],
)
def test_hostile_text(text: str, says: str) -> None:
    with pytest.raises(CertificateError, match=says):
        Certificate.from_json(text)


def test_deep_free_form_is_refused_too(refuted: Certificate) -> None:
    deep = "[" * 900 + "]" * 900  # shallow enough for the JSON parser
    text = refuted.to_json().replace('"summary": {', '"summary": {"deep": ' + deep + ",")
    with pytest.raises(CertificateError, match=r"deep"):
        Certificate.from_json(text)


@given(_free)
def test_any_json_but_a_certificate_is_an_error(value: Any) -> None:
    head = {"schema": "blockframe.certificate/1", "verdict": "REFUTED"}
    for document in (value, {**head, "subject": value}):
        with pytest.raises(CertificateError):
            Certificate.from_json(json.dumps(document))


@pytest.mark.parametrize("value", [None, 3, b"{}", {}])
def test_what_is_no_text_is_an_error(value: Any) -> None:
    with pytest.raises(CertificateError, match="is read from its JSON text, not from a "):
        Certificate.from_json(value)


@pytest.mark.parametrize("place", ["subject.parameters", "trajectory.steps"])
def test_integers_have_a_size(place: str, refuted: Certificate) -> None:
    document = json.loads(refuted.to_json())
    _put(place, 2**63)(document)
    with pytest.raises(CertificateError, match="the integer is too large"):
        Certificate.from_json(json.dumps(document))


# --- the seal -------------------------------------------------------------------------------------


def test_a_document_is_sealed_when_it_is_written(refuted: Certificate) -> None:
    assert refuted.seal == ""
    back = Certificate.from_json(refuted.to_json())
    assert back.seal == back.digest == refuted.digest
    assert re.fullmatch("[0-9a-f]{64}", back.seal)


def test_a_seal_that_was_read_is_kept(refuted: Certificate) -> None:
    """What is damaged must not look sound after it was read and written."""
    damaged = evolve(Certificate.from_json(refuted.to_json()), trust=())
    assert damaged.seal != damaged.digest
    assert Certificate.from_json(damaged.to_json()).seal == damaged.seal


def test_the_seal_is_of_the_canonical_document(refuted: Certificate) -> None:
    """As docs/certificate says it is made."""
    document = json.loads(refuted.to_json())
    seal = document.pop("seal")
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode("ascii")).hexdigest() == seal
    shuffled = json.dumps(dict(reversed(document.items())), indent=4)
    assert Certificate.from_json(shuffled).digest == seal
