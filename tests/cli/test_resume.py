"""`certify --out`, `--resume`: runs that are killed, interrupted, or run into a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blockframe.certificate import store
from blockframe.certificate.checker import check
from blockframe.certificate.model import Certificate

resource: Any = pytest.importorskip("resource", reason="signals and limits of POSIX")

ROOT = Path(__file__).parents[2]
MODEL = """
import os
import signal
import time

import torch
from torch import nn


class Net(nn.Sequential):
    number, calls = 0, 45

    def forward(self, x):
        if not torch.compiler.is_exporting():
            self.calls -= 1
            if self.number == signal.SIGKILL:
                time.sleep(0.02)  # so that a checkpoint has become due by then
            if self.calls == 0 and self.number:
                os.kill(os.getpid(), self.number)
        return super().forward(x)


def net():
    torch.manual_seed(0)
    net = Net(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    net.number = int(os.environ.get("SIGNAL", "0"))
    return net, (torch.randn(5, 3),), torch.randn(5, 2)
"""
DECIDED = (0, 3)
JOURNAL, CHECKPOINT, CERTIFICATE = "steps.jsonl", "checkpoint.safetensors", "cert.json"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(MODEL, encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Of 60 steps that nothing breaks off."""
    directory = tmp_path_factory.mktemp("whole")
    (directory / "m.py").write_text(MODEL, encoding="utf-8")
    done = certify("--steps", "60", "--out", "o", cwd=directory)
    assert done.returncode in DECIDED, done.stderr
    assert files(directory / "o") == {CERTIFICATE}
    return read(directory / "o")


def certify(
    *options: str, signal: int = 0, largest: int = -1, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """In a process of its own, at some step of whose run ``signal`` comes, and whose files cannot
    have more than ``largest`` bytes."""
    command = [sys.executable, "-m", "blockframe", "certify", "m.py:net", "--lr", "0.1", *options]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    more = {"SIGNAL": str(int(signal)), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd,
        env={**os.environ, **more},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest)),
    )  # fmt: skip


def files(directory: Path) -> set[str]:
    return {path.name.removeprefix("m.py-net.") for path in directory.iterdir()}


def read(directory: Path) -> Certificate:
    return store.read(directory / f"m.py-net.{CERTIFICATE}")


OUT = Path("o")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_gone_on_with(number: signal.Signals, whole: Certificate) -> None:
    """The same certificate as without the break; then nothing but it is left."""
    broken = certify("--steps", "60", "--out", "o", signal=number)
    assert broken.returncode == 128 + number
    last = "blockframe: the run can go on: the same command with --resume."
    assert broken.stderr.splitlines()[-1] == last
    assert files(OUT) == {JOURNAL, CHECKPOINT, CERTIFICATE}
    run = read(OUT).trajectory
    assert run is not None
    assert whole.trajectory is not None
    assert run.ended.startswith("interrupted at step ")
    assert 0 < run.completed < 60
    for name, values in run.series.items():
        assert values == whole.trajectory.series[name][: run.completed + 1]
    resumed = certify("--steps", "60", "--out", "o", "--resume")
    assert resumed.returncode in DECIDED, resumed.stderr
    assert files(OUT) == {CERTIFICATE}
    assert read(OUT) == whole


def test_killed_and_gone_on_with(whole: Certificate) -> None:
    """Nothing is lost, by accident or by another command, until the run is at its end."""
    assert certify("--steps", "60", "--out", "o", signal=signal.SIGKILL).returncode == -9
    assert files(OUT) == {JOURNAL, CHECKPOINT}
    again = certify("--steps", "60", "--out", "o")
    assert again.returncode == 2
    assert "o holds a run that can go on (m.py-net.checkpoint.safetensors)." in again.stderr
    assert "Traceback" not in again.stderr
    other = certify("--steps", "60", "--out", "o", "--resume", "--seed", "1")
    assert other.returncode == 2
    line = "this is not the run that was begun: seed was 0, and is 1."
    assert line in other.stderr.splitlines()[-1]
    assert certify("--steps", "60", "--out", "o", "--resume").returncode in DECIDED
    assert files(OUT) == {CERTIFICATE}
    assert read(OUT) == whole


def test_a_full_disk(whole: Certificate) -> None:
    """The journal reaches its limit: the rows before it make a certificate; then it goes on."""
    full = certify("--steps", "60", "--out", "o", largest=20_000)
    assert full.returncode in (2, 3), full.stderr
    assert "Traceback" not in full.stderr
    said = " ".join(full.stdout.split())
    assert "could not write o/m.py-net.steps.jsonl: File too large" in said
    assert {JOURNAL, CHECKPOINT} <= files(OUT)
    assert certify("--steps", "60", "--out", "o", "--resume").returncode in DECIDED
    assert read(OUT) == whole


@pytest.mark.slow
def test_a_long_run_is_checked_by_its_journal() -> None:
    assert certify("--steps", "2005", "--out", "o").returncode in DECIDED
    assert files(OUT) == {JOURNAL, CHECKPOINT, CERTIFICATE}
    certificate = read(OUT)
    run = certificate.trajectory
    assert run is not None
    assert run.journal is not None
    assert (run.completed, run.journal.stride, len(run.series["loss"])) == (2005, 3, 670)
    assert check(certificate, OUT).rejected == ()
    extended = certify("--steps", "2010", "--out", "o", "--resume")
    assert extended.returncode in DECIDED, extended.stderr
    longer = read(OUT)
    assert longer.trajectory is not None
    assert longer.trajectory.completed == 2010
    assert check(longer, OUT).rejected == ()


def test_resume_needs_a_directory() -> None:
    done = certify("--resume")
    assert done.returncode == 2
    assert "--resume goes on with the run in --out; give --out too." in done.stderr


@pytest.mark.slow
def test_killed_at_random_moments() -> None:
    """benchmarks/long_run.py, shorter."""
    script = ROOT / "benchmarks" / "long_run.py"
    done = subprocess.run(
        [sys.executable, str(script), "kill", "--steps", "60", "--kills", "4"],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical" in done.stdout
