"""Processes that are told to end, and streams that are closed or full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from blockframe.certificate import store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and shells of POSIX")

MODEL = """
import atexit
import os
import signal

import torch
from torch import nn

from blockframe import Probe, Problem


class Net(nn.Module):
    def __init__(self, at, action):
        super().__init__()
        self.linear, self.at, self.action = nn.Linear(3, 2), at, action

    def forward(self, x):
        if not torch.compiler.is_exporting():
            self.at -= 1
            if self.at == 0:
                self.action()
        return torch.tanh(self.linear(x))


def net(number: int, twice: bool = False):
    def action():
        for _ in range(1 + twice):
            os.kill(os.getpid(), number)
    return Net(18, action), (torch.ones(4, 3),), torch.zeros(4, 2)


def hang_up():
    # The terminal goes away; its session gets SIGHUP.
    return Net(18, lambda: (os.kill(os.getppid(), signal.SIGUSR1), signal.pause())), (
        torch.ones(4, 3),), torch.zeros(4, 2)


def late():
    # Ctrl-C once more, while the interpreter ends.
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
    return plain()


def plain():
    return nn.Linear(3, 2), (torch.eye(4, 3),), torch.zeros(4, 2)
"""
CERTIFY = (sys.executable, "-m", "blockframe", "certify")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "m.py").write_text(MODEL, encoding="utf-8")
    return tmp_path


def shell(command: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m blockframe {command}"
    return subprocess.run(
        ["/bin/sh", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("twice", ["false", "true"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_what_was_measured(number: signal.Signals, twice: str, models: Path) -> None:
    done = subprocess.run(
        [*CERTIFY, "m.py:net", "--set", f"number={int(number)}", "--set", f"twice={twice}",
         "--lr", "0.1", "--out", "."],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 128 + number, done.stderr
    certificate = store.read(models / "m.py-net.cert.json")
    assert certificate.trajectory is not None
    assert certificate.trajectory.ended.endswith(f"by {number.name}")
    assert certificate.trajectory.ended.startswith("interrupted at step ")
    assert certificate.trajectory.completed > 0
    assert {c.clause for c in certificate.claims} > {"analyticity", "descent"}


IMPORTING = """
import os
import sys


class Signal:
    # What its handler raises at once is lost, as it may be in torch.
    def __del__(self):
        os.kill(os.getpid(), int(number))


class Now:
    # Sends a signal when a module is about to be imported.
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(number)) if name == "click" else Signal()


_, module, number, *sys.argv[1:] = sys.argv
sys.meta_path.insert(0, Now())
from blockframe.cli import main
main()
"""


@pytest.mark.parametrize(
    ("command", "module", "number"),
    [
        ("certify m.py:plain", "click", signal.SIGINT),
        ("certify m.py:plain", "torch.nn", signal.SIGINT),
        ("certify m.py:plain --out o", "torch.fx", signal.SIGTERM),
        ("chain m.py:plain", "torch.nn", signal.SIGHUP),
        ("lr m.py:plain", "torch.nn", signal.SIGINT),
    ],
)
def test_a_signal_while_modules_are_imported(
    command: str, module: str, number: signal.Signals, models: Path
) -> None:
    """Half of torch would crash what imports it next."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, module, str(int(number)), *command.split()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stderr.strip() == "blockframe: interrupted."
    assert done.returncode == 128 + number
    assert done.stdout == ""


def test_an_interrupt_while_the_interpreter_ends(models: Path) -> None:
    done = subprocess.run(
        [*CERTIFY, "m.py:late", "--static-only"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "KeyboardInterrupt" not in done.stderr


def test_what_is_ignored_stays_ignored(models: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'trap "" HUP; exec "$@"', "sh", *CERTIFY, "m.py:net", "--set",
         f"number={int(signal.SIGHUP)}", "--lr", "0.1", "--out", "."],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    certificate = store.read(models / "m.py-net.cert.json")
    assert certificate.trajectory is not None
    assert certificate.trajectory.ended == "completed"


def test_a_terminal_that_is_hung_up(models: Path) -> None:
    """The bar is on a terminal when it goes away; the certificate is written all the same."""
    pty = pytest.importorskip("pty")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    child, terminal = pty.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        os.execv(sys.executable, [*CERTIFY, "m.py:hang_up", "--lr", "0.1", "--out", "."])
    try:
        assert signal.sigtimedwait([signal.SIGUSR1], 60) is not None
        os.close(terminal)
        _, status = os.waitpid(child, 0)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    certificate = store.read(models / "m.py-hang_up.cert.json")
    assert certificate.trajectory is not None
    assert certificate.trajectory.ended.endswith("by SIGHUP")


@pytest.mark.parametrize(
    ("closed", "shown"),
    [(">&-", False), ("2>&-", True), ("<&-", True), ("<&- >&- 2>&-", False), ("2>/dev/full", True)],
)
def test_closed_streams(closed: str, shown: bool, models: Path) -> None:
    done = shell(f"certify m.py:plain --static-only --out . {closed}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert ("CERTIFIED" in done.stdout) == shown
    assert store.read(models / "m.py-plain.cert.json").claim("analyticity").verdict == "HOLDS"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "2>/dev/full"])
def test_errors_with_closed_streams(closed: str, models: Path) -> None:
    assert shell(f"certify nosuch {closed}").returncode == 2
    assert shell(f"{closed}").returncode == 2
