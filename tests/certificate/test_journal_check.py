"""Journals of long runs: that of the certificate is read, and no other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import blockframe
from blockframe.certificate.checker import CheckReport, check
from blockframe.certificate.model import Certificate, Outcome
from blockframe.plugins import Registry

STEPS = 44


def reasons(report: CheckReport) -> list[str]:
    return [str(c) for c in report.rejected]


def made(models: Path, registry: Registry, directory: Path, **options: Any) -> Path:
    """``directory``, with the certificate ``c.json`` of a run, made as if its iterates were many,
    and its journal."""
    given = {"registry": registry, "steps": STEPS, "out": directory, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blockframe.dynamics.run.WHOLE", 30)
        certificate = blockframe.certify(f"{models}:net", **given)
    assert certificate.trajectory is not None
    assert certificate.trajectory.journal is not None
    (directory / "c.json").write_text(certificate.to_json(), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def long(models: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 45 iterates."""
    return made(models, registry, tmp_path_factory.mktemp("long"))


def judge(
    directory: Path,
    change: Callable[[list[str]], list[str]] = lambda lines: lines,
    edit: Callable[[dict[str, Any]], None] = lambda document: None,
) -> CheckReport:
    """The report on the certificate with ``change`` made to the lines of its journal, the digest
    and the seal made to fit, then ``edit`` to the certificate."""
    document = json.loads((directory / "c.json").read_text(encoding="utf-8"))
    journal = document["trajectory"]["journal"]
    path = directory / journal["file"]
    before = path.read_bytes()
    content = "".join(f"{line}\n" for line in change(before.decode().splitlines())).encode()
    journal |= {"sha256": hashlib.sha256(content).hexdigest(), "end": len(content)}
    edit(document)
    del document["seal"]
    try:
        path.write_bytes(content)
        return check(Certificate.from_json(json.dumps(document)), directory)
    finally:
        path.write_bytes(before)


def certificate_in(directory: Path) -> Certificate:
    return Certificate.from_json((directory / "c.json").read_text(encoding="utf-8"))


def test_a_long_run_stands_with_its_journal_only(long: Path) -> None:
    certificate = certificate_in(long)
    assert reasons(check(certificate, long)) == []
    assert judge(long).stands
    alone = check(certificate)
    assert any("the directory of the certificate is not given" in r for r in reasons(alone))
    assert alone.verdict is Outcome.INCONCLUSIVE


def test_a_journal_that_is_not_there_is_said_once(long: Path, tmp_path: Path) -> None:
    """What only follows from that is no contradiction; it is not passed over either."""
    report = check(certificate_in(long), tmp_path)
    name = next(long.glob("*.jsonl")).name
    assert reasons(report) == [
        f"trajectory.journal asserts series in {name}, but no such file is in {tmp_path}; "
        "put it there, beside the certificate"
    ]
    assert report.verdict is Outcome.INCONCLUSIVE
    unknown = [line for line in report.unverifiable if "the run is not known" in line]
    assert any("descent" in line for line in unknown)
    assert any("dissipativity" in line for line in unknown)


def test_an_infinite_setting_is_the_same_in_both(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef net(a=1.0):\n"
        "    return nn.Linear(2, 1), (torch.eye(2),), torch.ones(2, 1)\n",
        encoding="utf-8",
    )
    directory = made(tmp_path / "models.py", registry, tmp_path, settings={"a": float("inf")})
    assert reasons(check(certificate_in(directory), directory)) == []


# --- a run that goes on ---------------------------------------------------------------------------


def test_an_extended_run_bears_out_the_certificate_from_before(
    models: Path, registry: Registry, tmp_path: Path
) -> None:
    short = certificate_in(made(models, registry, tmp_path))
    long = certificate_in(made(models, registry, tmp_path, steps=STEPS + 9, resume=True))
    for certificate in (short, long):
        assert reasons(check(certificate, tmp_path)) == []
    assert short.trajectory is not None
    assert short.trajectory.journal is not None
    path = tmp_path / short.trajectory.journal.file
    content = path.read_bytes()
    path.write_bytes(content[: short.trajectory.journal.end] + b"a line that is being writ")
    assert reasons(check(short, tmp_path)) == []
    (reason,) = reasons(check(long, tmp_path))
    assert reason.startswith("trajectory.journal.end asserts ")
    assert "it was cut off" in reason


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda content: content[:-1], "end"),
        (lambda content: b"", "end"),
        (lambda content: content.replace(b'"loss":', b'"lose":', 1), "sha256"),
        (lambda content: content[1:] + b"\n", "sha256"),
    ],
)
def test_a_shorter_or_changed_journal_is_rejected(
    long: Path, change: Callable[[bytes], bytes], where: str, tmp_path: Path
) -> None:
    path = next(long.glob("*.jsonl"))
    (tmp_path / path.name).write_bytes(change(path.read_bytes()))
    (rejected,) = check(certificate_in(long), tmp_path).rejected
    assert rejected.where == f"trajectory.journal.{where}"


@pytest.mark.parametrize("end", [0, -1, 1, 1 << 62])
def test_an_end_that_is_none(long: Path, end: int) -> None:
    report = judge(long, edit=lambda document: document["trajectory"]["journal"].update(end=end))
    assert any(c.where.startswith("trajectory.journal") for c in report.rejected)


@pytest.mark.parametrize(
    ("name", "extent"),
    [("loss", [1.0, 0.0, 2.0]), ("loss", None), ("sharpness", [0.5]), ("evil", [1.0, 1.0, 1.0])],
)
def test_ranges_are_those_of_all_rows(long: Path, name: str, extent: list[float] | None) -> None:
    def edit(document: dict[str, Any]) -> None:
        ranges = document["trajectory"]["journal"]["ranges"]
        if extent is None:
            del ranges[name]
        else:
            ranges[name] = extent

    where = [c.where for c in judge(long, edit=edit).rejected]
    assert any("trajectory.journal.ranges" in place for place in where)


def test_fewer_iterates_than_the_run_had(long: Path) -> None:
    """A run may not be cut where it suits: the certificate was made of all of its steps."""

    def edit(document: dict[str, Any]) -> None:
        journal = document["trajectory"]["journal"]
        lines = (long / journal["file"]).read_bytes().splitlines(keepends=True)[:-5]
        content = b"".join(lines)
        journal.update(
            end=len(content), sha256=hashlib.sha256(content).hexdigest(),
            iterates=STEPS - 4, stride=1,
        )  # fmt: skip

    assert not judge(long, edit=edit).stands


# --- another run's journal ------------------------------------------------------------------------


def edited(lines: list[str], at: int, old: str, new: str) -> list[str]:
    assert old in lines[at]
    return [*lines[:at], lines[at].replace(old, new, 1), *lines[at + 1 :]]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines[:20], *lines[21:]],
        lambda lines: [*lines[:20], lines[21], lines[20], *lines[22:]],
        lambda lines: [lines[0], *lines],
        lambda lines: lines[1:],
        lambda lines: edited(lines, 20, '"loss":', '"loss":9'),
        lambda lines: edited(lines, 20, '"loss":', '"loss":0.5,"loss":'),
        lambda lines: edited(lines, 20, '"gradient_norm":', '"gradient_norm":2'),
        lambda lines: edited(lines, 2, '"step":1', '"step":true'),
        lambda lines: edited(lines, 2, '"step":1', '"step":1.0'),
        lambda lines: edited(lines, 20, '"loss":', '"other":1' + "0" * 400 + ',"loss":'),
        lambda lines: edited(lines, 0, "blockframe.steps/1", "blockframe.steps/2"),
        lambda lines: edited(lines, 0, '"settings":{}', '"settings":' + "[" * 900 + "]" * 900),
    ],
)
def test_a_journal_that_says_something_else_is_rejected(
    long: Path, change: Callable[[list[str]], list[str]]
) -> None:
    assert not judge(long, change).stands


FREE = {("format",), ("threads",), ("steps",), ("recipe", "steps")}
"""The form has a test of its own, threads are not in a certificate, a run may be extended."""


def header(directory: Path) -> dict[str, Any]:
    line = next(directory.glob("*.jsonl")).read_text(encoding="utf-8").splitlines()[0]
    found: dict[str, Any] = json.loads(line)
    return found


def test_every_field_of_the_header_is_that_of_the_certificate(long: Path) -> None:
    """Each changed, and each left out."""
    first, seen = header(long), set()
    paths = [(k,) for k, v in first.items() if not isinstance(v, dict)]
    paths += [(k, inner) for k, v in first.items() if isinstance(v, dict) for inner in v]
    for path in paths:
        for value in (0.125, "other", None):
            other = json.loads(json.dumps(first))
            above = other if len(path) == 1 else other[path[0]]
            if above[path[-1]] == value:
                continue
            above[path[-1]] = value
            report = judge(long, lambda lines, new=other: [json.dumps(new), *lines[1:]])
            if path in FREE - {("format",)}:
                assert report.stands, (path, value)
            elif path != ("format",):
                (found,) = report.rejected
                assert found.where == f"trajectory.journal, header, {'.'.join(path)}"
                assert "it is the journal of another run" in found.follows
                seen.add(path)
    assert {("learning rate",), ("dtype",), ("torch",), ("recipe", "seed")} < seen
    assert {("digests", "data"), ("digests", "start")} < seen


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 3}, "recipe.seed"),
        ({"lr": 0.011}, "learning rate"),
        ({"settings": {"activation": "GELU"}}, "recipe.settings.activation"),
        ({"dtype": "float32"}, "dtype"),
    ],
)
def test_another_runs_journal_in_its_place(
    options: dict[str, Any], named: str, long: Path, models: Path, registry: Registry,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Also where the certificate's digest, series and all are made to fit it."""
    other = made(models, registry, tmp_path, **options)
    theirs = next(other.glob("*.jsonl")).read_text(encoding="utf-8").splitlines()
    run = json.loads((other / "c.json").read_text(encoding="utf-8"))["trajectory"]

    def edit(document: dict[str, Any]) -> None:
        for key in ("series", "inequalities"):
            document["trajectory"][key] = run[key]

    report = judge(long, lambda lines: theirs, edit)
    assert f"trajectory.journal, header, {named}" in [c.where for c in report.rejected]


def test_rates_that_depend_on_the_number_of_steps(
    models: Path, registry: Registry, tmp_path: Path
) -> None:
    made(models, registry, tmp_path, lr="linear:0.02:0.01")
    assert judge(tmp_path).stands
    more = json.dumps({**header(tmp_path), "steps": STEPS + 1})
    (found,) = judge(tmp_path, lambda lines: [more, *lines[1:]]).rejected
    assert found.where == "trajectory.journal, header, steps"
