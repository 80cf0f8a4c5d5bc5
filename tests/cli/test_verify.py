"""The command `verify`: what it says, how it ends, and what it never does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from blockframe.certificate.model import Certificate
from blockframe.cli.program import program

MODELS = """
import pathlib
import torch
from torch import nn

pathlib.Path("was-run").touch()


def net(width: int = 4):
    print("the model prints")
    module = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))
    return module, (torch.randn(6, 3),), torch.randn(6, 2)
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the program in a directory that holds ``models.py``; no plugins are installed."""
    (tmp_path / "models.py").write_text(MODELS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("blockframe.plugins.entry_points", lambda **_: [])
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *arguments: CliRunner().invoke(program, list(arguments))


@pytest.fixture
def certificate(run: Run) -> Path:
    done = run("certify", "models.py:net", "--set", "width=5", "--steps", "2", "--out", ".")
    assert done.exit_code in (0, 3), done.stderr
    Path("was-run").unlink()
    return Path("models.py-net.cert.json")


def change(path: Path, edit: Callable[[dict[str, Any]], None], *, sealed: bool = True) -> None:
    """Edit the document in ``path``; ``sealed``: and give it the seal that fits."""
    document = json.loads(path.read_text(encoding="utf-8"))
    edit(document)
    if sealed:
        del document["seal"]
        text = Certificate.from_json(json.dumps(document)).to_json()
    else:
        text = json.dumps(document)
    path.write_text(text, encoding="utf-8")


def test_it_stands(run: Run, certificate: Path) -> None:
    done = run("verify", str(certificate))
    assert done.exit_code == 0
    assert done.stderr == ""
    first, *_, last = done.stdout.rstrip("\n").split("\n")
    assert first.startswith("models.py:net · Sequential · 32 parameters")
    assert first.endswith(certificate.name)
    assert last.startswith("It stands: ")
    for line in ("re-derived from its numbers", "not to be seen from its numbers", "(--replay)"):
        assert line in done.stdout
    assert not Path("was-run").exists()


def test_json(run: Run, certificate: Path) -> None:
    done = run("verify", str(certificate), "--format", "json")
    document = json.loads(done.stdout)
    assert list(document) == [
        "certificate", "stands", "verdict", "rejected", "verified", "unverifiable",
    ]  # fmt: skip
    assert document["stands"] is True
    assert document["rejected"] == []
    assert document["verdict"] in ("INCONCLUSIVE", "CERTIFIED")


def lower_the_loss(document: dict[str, Any]) -> None:
    document["trajectory"]["series"]["loss"][-1] /= 2


def test_it_does_not_stand(run: Run, certificate: Path) -> None:
    change(certificate, lower_the_loss)
    done = run("verify", str(certificate))
    assert done.exit_code == 1
    assert "trajectory.series.directional_smoothness[2] asserts" in done.stdout
    assert "REJECTED" in done.stdout
    document = json.loads(run("verify", str(certificate), "--format", "json").stdout)
    assert document["stands"] is False
    assert {"where", "asserted", "follows"} == document["rejected"][0].keys()
    assert not any(c["where"] == "seal" for c in document["rejected"])


def test_a_stale_seal(run: Run, certificate: Path) -> None:
    change(certificate, lambda document: document["trust"].pop(), sealed=False)
    done = run("verify", str(certificate))
    assert done.exit_code == 1
    assert "REJECTED: one assertion does not follow." in done.stdout


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]", b'{"schema": 1e400}'])
def test_what_cannot_be_read(content: bytes, run: Run) -> None:
    Path("c.cert.json").write_bytes(content)
    done = run("verify", "c.cert.json")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("blockframe: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("path", ["none.cert.json", ".", "loop"])
def test_what_is_not_there(path: str, run: Run) -> None:
    Path("loop").symlink_to("loop")
    done = run("verify", path)
    assert done.exit_code == 2
    assert "cannot read" in done.stderr


def test_hostile_words_on_an_old_terminal(run: Run, certificate: Path, tmp_path: Path) -> None:
    """Control characters, lone surrogates and very long words are printed in what can be shown."""

    def edit(document: dict[str, Any]) -> None:
        document["subject"]["spec"] = "\x1b[31m\ud800" + "x" * 1000
        document["claims"][0].update(clause="\x1b]0;title\x07" * 100)
        document["verdict"] = "INCONCLUSIVE"

    change(certificate, edit)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "60"}
    done = subprocess.run(
        [sys.executable, "-m", "blockframe", "verify", str(certificate)],
        capture_output=True, text=True, timeout=120, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stdout.isascii()


def test_nothing_heavy_is_imported(certificate: Path) -> None:
    heavy = "{'torch', 'transformers', 'scipy', 'sklearn', 'blockframe.certifier'}"
    code = (
        "import sys; from blockframe.cli.program import program; "
        f"program(['verify', {str(certificate)!r}], standalone_mode=False); "
        f"print(); print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


# --- replay ---------------------------------------------------------------------------------------


def test_a_replay_runs_no_code_that_it_was_not_told_to_run(run: Run, certificate: Path) -> None:
    done = run("verify", str(certificate), "--replay")
    assert done.exit_code == 2
    assert "would run the code models.py:net" in done.stderr
    assert "--spec" in done.stderr
    assert not Path("was-run").exists()
    done = run("verify", str(certificate), "--replay", "--spec", "other.py:net")
    assert done.exit_code == 2
    assert not Path("was-run").exists()


def test_modules_are_code_too(run: Run, certificate: Path) -> None:
    """`os:system` is importable, and its argument would come from the certificate."""

    def edit(document: dict[str, Any]) -> None:
        document["subject"]["recipe"].update(spec="os:system", settings={"command": "touch ran"})

    change(certificate, edit)
    done = run("verify", str(certificate), "--replay")
    assert done.exit_code == 2
    assert not Path("ran").exists()


def test_a_replay(run: Run, certificate: Path) -> None:
    done = run("verify", str(certificate), "--replay", "--spec", "models.py:net")
    assert done.exit_code == 0, done.stdout
    assert "the model prints" in done.stderr
    assert "the model prints" not in done.stdout
    assert "replay: data and start are the same" in done.stdout
    assert "have the same verdict" in done.stdout
    assert "replay: the measured series of the run are" in done.stdout
    assert "(--replay)" not in done.stdout
    assert Path("was-run").exists()


def test_a_replay_sees_another_model(run: Run, certificate: Path) -> None:
    Path("models.py").write_text(MODELS.replace("nn.Tanh()", "nn.ReLU()"), encoding="utf-8")
    done = run("verify", str(certificate), "--replay", "--spec", "models.py:net")
    assert done.exit_code == 1
    text = " ".join(done.stdout.split())
    assert "analyticity of chain asserts HOLDS by PROVED evidence, but it gives" in text
    assert "the replay is off by" in text


def test_a_replay_sees_other_data_and_seeds(run: Run, certificate: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["subject"]["recipe"]["seed"] = 1
        document["environment"]["seed"] = "1"

    change(certificate, edit)
    assert run("verify", str(certificate)).exit_code == 0  # nothing in it contradicts that
    done = run(
        "verify", str(certificate), "--replay", "--spec", "models.py:net", "--format", "json"
    )
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    places = [c["where"] for c in document["rejected"]]
    assert places == ["subject.data", "subject.digests.data", "subject.digests.start"]
    assert document["rejected"][0]["follows"].endswith("torch seeded with 1")
    for reason in document["rejected"][1:]:
        assert re.fullmatch("SHA-256 [0-9a-f]{12}…", reason["asserted"])
        assert "replay it with the file of data, the code" in reason["follows"]
    assert "replay: claims and run are of other numbers, not compared" in document["unverifiable"]
    left = json.loads(run("verify", str(certificate), "--format", "json").stdout)["unverifiable"]
    assert {line for line in left if "(--replay)" in line} <= {*document["unverifiable"]}


def test_a_certificate_without_a_recipe(run: Run, certificate: Path) -> None:
    change(certificate, lambda document: document["subject"].update(recipe=None))
    done = run("verify", str(certificate), "--replay")
    assert done.exit_code == 2
    assert "it has no recipe" in done.stderr


def test_a_spec_is_for_a_replay(run: Run, certificate: Path) -> None:
    done = run("verify", str(certificate), "--spec", "models.py:net")
    assert done.exit_code == 2
    assert "--spec is for --replay" in done.stderr


def test_help_is_ascii_and_tells_the_exit_status() -> None:
    done = CliRunner().invoke(program, ["verify", "--help"])
    assert done.exit_code == 0
    assert done.stdout.isascii()
    assert "Exit status: 0" in done.stdout
