"""The command `certify`, with `blockframe.certify` replaced: options, output, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from click.testing import CliRunner, Result

import blockframe
from blockframe.certificate import store
from blockframe.certificate.model import Certificate, Trajectory
from blockframe.cli.program import CRASHED, program
from blockframe.errors import CertificateError, InputError

Run = Callable[..., Result]


class Fake:
    """Stands for `blockframe.certify`: remembers its arguments, gives ``answer``."""

    def __init__(self, answer: Certificate | BaseException) -> None:
        self.answer = answer
        self.arguments: dict[str, Any] = {}

    def __call__(self, target: str, **arguments: Any) -> Certificate:
        self.arguments = {"target": target, **arguments}
        arguments["progress"].stage("resolving")
        arguments["progress"].stage("tracing")
        arguments["progress"].step(1, 2, "half")
        print("the user's model prints")
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, inconclusive: Certificate) -> Fake:
    made = Fake(inconclusive)
    monkeypatch.setattr(blockframe, "certify", made, raising=False)
    monkeypatch.setattr("blockframe.plugins.entry_points", lambda **_: [])
    monkeypatch.setenv("COLUMNS", "100")
    return made


@pytest.fixture
def run(fake: Fake) -> Run:
    def _run(*arguments: str) -> Result:
        return CliRunner().invoke(program, ["certify", *arguments])

    return _run


@pytest.mark.parametrize(("name", "code"), [("certified", 0), ("refuted", 1), ("inconclusive", 3)])
def test_exit_code(
    name: str, code: int, run: Run, fake: Fake, request: pytest.FixtureRequest
) -> None:
    fake.answer = request.getfixturevalue(name)
    result = run("toy")
    assert result.exit_code == code
    assert fake.answer.verdict.value in result.stdout


def test_interrupted_run(run: Run, fake: Fake, refuted: Certificate, tmp_path: Path) -> None:
    assert refuted.trajectory is not None
    ended = evolve(refuted.trajectory, steps=9, ended="interrupted at step 4 by the user")
    fake.answer = evolve(refuted, trajectory=ended)
    result = run("toy", "--out", str(tmp_path))
    assert result.exit_code == 130
    assert "interrupted at step 4 by the user" in result.stdout
    assert store.read(tmp_path / "toy.cert.json") == fake.answer


def test_a_second_interrupt_leaves_the_hint(run: Run, fake: Fake, tmp_path: Path) -> None:
    """The first ends the run; one that comes while its claims are decided ends the program."""
    fake.answer = KeyboardInterrupt()
    result = run("toy", "--out", str(tmp_path))
    assert result.exit_code == 130
    assert "the run can go on" not in result.stderr  # there is none
    (tmp_path / "toy.checkpoint.safetensors").touch()
    result = run("toy", "--out", str(tmp_path), "--resume")
    assert result.exit_code == 130
    assert list(filter(None, result.stderr.splitlines()))[-2:] == [
        "blockframe: the run can go on: the same command with --resume.",
        "blockframe: interrupted.",
    ]


def of_nothing(certificate: Certificate) -> Certificate:
    """Of a run that was interrupted before it had measured anything."""
    run = Trajectory(
        lr=0.1, steps=9, scale="full", loss="mse", data="toy", lr_rule="as given",
        ended="interrupted at step 0 by the user",
    )  # fmt: skip
    return evolve(certificate, trajectory=run)


def test_nothing_does_not_replace_a_certificate(
    run: Run, fake: Fake, certified: Certificate, inconclusive: Certificate, tmp_path: Path
) -> None:
    fake.answer = of_nothing(inconclusive)
    path = tmp_path / "toy.cert.json"
    assert run("toy", "--out", str(tmp_path)).exit_code == 130
    assert store.read(path) == fake.answer  # there was none before
    store.write(certified, path)
    result = run("toy", "--out", str(tmp_path))
    assert result.exit_code == 130
    assert store.read(path) == certified
    line = f"blockframe: nothing was measured yet: {path} is still the one from before."
    assert result.stderr.splitlines()[-1] == line


def test_static_only_does_not_replace_a_run(
    run: Run, fake: Fake, refuted: Certificate, inconclusive: Certificate, tmp_path: Path
) -> None:
    path = tmp_path / "toy.cert.json"
    assert refuted.trajectory is not None
    store.write(refuted, path)
    result = run("toy", "--static-only", "--out", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr == (
        f"blockframe: {path} holds a run, which --static-only would drop. Give another --out, or "
        "remove that file.\n"
    )
    assert fake.arguments == {}
    assert store.read(path) == refuted
    fake.answer = evolve(inconclusive, trajectory=None)
    for replaceable in (fake.answer, of_nothing(inconclusive)):
        store.write(replaceable, path)
        assert run("toy", "--static-only", "--out", str(tmp_path)).exit_code == 3
        assert store.read(path) == fake.answer


@pytest.mark.parametrize("option", ["--static-only", "--full"])
def test_a_run_that_can_go_on_is_not_replaced(
    option: str, run: Run, fake: Fake, tmp_path: Path
) -> None:
    (tmp_path / "toy.checkpoint.safetensors").touch()
    result = run("toy", option, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "holds a run that can go on (toy.checkpoint.safetensors)" in result.stderr
    assert fake.arguments == {}


def test_a_directory_in_the_place_of_the_certificate(run: Run, fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "toy.cert.json").mkdir()
    result = run("toy", "--out", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.endswith("cert.json is a directory. Remove it, or give another --out.\n")
    assert fake.arguments == {}


def test_json_is_all_that_is_on_stdout(run: Run, fake: Fake) -> None:
    result = run("toy", "--format", "json")
    assert Certificate.from_json(result.stdout) == fake.answer
    assert "the user's model prints" in result.stderr
    assert "blockframe: tracing …" in result.stderr
    assert "resolving" not in result.stderr


def test_defaults(run: Run, fake: Fake) -> None:
    run("toy")
    assert fake.arguments.pop("registry").plugins[0].name == "core"
    assert fake.arguments.pop("progress") is not None
    assert fake.arguments == {
        "target": "toy", "settings": {}, "data": None, "samples": None, "loss": None, "steps": 20,
        "lr": "auto", "init": "default", "device": "auto", "dtype": None, "seed": 0,
        "static_only": False, "full": False, "probes": (),
        "memory": None, "out": None, "resume": False,
    }  # fmt: skip


def test_options(run: Run, fake: Fake) -> None:
    result = run(
        "toy", "--set", "width=64", "--set", "activation=gelu", "--set", "x.y=[1, 2]",
        "--set", "z=", "--set", "n=null", "--set", "e=a=b",
        "--data", "digits", "--samples", "5", "--loss", "ce",
        "--steps", "0", "--lr", "0.5", "--init", "he", "--device", "cpu", "--dtype", "float32",
        "--seed", "7", "--static-only", "--full", "--probe", "loss", "--probe", "pl",
    )  # fmt: skip
    assert result.exit_code == 3
    del fake.arguments["registry"], fake.arguments["progress"]
    assert fake.arguments == {
        "target": "toy",
        "settings": {
            "width": 64, "activation": "gelu", "x.y": [1, 2], "z": "", "n": None, "e": "a=b",
        },
        "data": "digits", "samples": 5, "loss": "ce", "steps": 0, "lr": 0.5, "init": "he",
        "device": "cpu", "dtype": "float32", "seed": 7, "static_only": True, "full": True,
        "probes": ("loss", "pl"), "memory": None, "out": None, "resume": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing argument 'SPEC'."),
        (["toy", "--steps", "-1"], "Invalid value for '--steps': -1 is not in the range x>=0."),
        (["toy", "--steps", "1.5"], "'1.5' is not a valid integer"),
        (["toy", "--samples", "0"], "0 is not in the range x>=1"),
        (
            ["toy", "--lr", "abc"],
            "Invalid value for '--lr': lr cannot be 'abc': it must be a number, not 'abc'. Give "
            "auto, a number, a list",
        ),
        (["toy", "--lr=-1"], "lr cannot be '-1': it must be positive and finite"),
        (["toy", "--lr", "cosine:0.1:0"], "B must be positive and finite, not 0.0. Give auto"),
        (["toy", "--init", "lucky"], "there is no initialization 'lucky'. Choose default"),
        (["toy", "--dtype", "float8"], "'float8' is not one of"),
        (["toy", "--set", "width"], "'width' is not of the form KEY=VALUE"),
        (["toy", "--set", "=3"], "'=3' is not of the form KEY=VALUE"),
        (["toy", "--set", "a=1", "--set", "a=2"], "'a' is given twice"),
        (["toy", "--nosuch"], "No such option"),
        (["toy", "--out", ".", "--resume", "--static-only"], "and --static-only makes none."),
        (["toy", "more"], "unexpected extra argument"),
        (["toy", "--format", "jsn"], "there is no format 'jsn'. Did you mean json?"),
        (["toy", "--probe", "los"], "there is no probe 'los'. Did you mean loss?"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], says: str, run: Run, fake: Fake) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.startswith("blockframe: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert fake.arguments == {}


def test_errors_are_one_line(run: Run, fake: Fake) -> None:
    fake.answer = InputError("the data does\nnot fit", "Bring other data.")
    result = run("toy")
    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line == "blockframe: the data does not fit. Bring other data."


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "blockframe: interrupted.\n"),
        (MemoryError(), 2, "out of memory"),
        (OSError(28, "No space left on device", "/x"), 2, "No space left on device: /x."),
        (RuntimeError("a bug"), CRASHED, "RuntimeError: a bug"),
    ],
)
def test_other_endings(error: BaseException, code: int, says: str, run: Run, fake: Fake) -> None:
    fake.answer = error
    result = run("toy")
    assert result.exit_code == code
    assert says in result.stderr
    assert ("Traceback" in result.stderr) is (code == CRASHED)
    assert result.stdout == ""


def test_out(run: Run, fake: Fake, tmp_path: Path) -> None:
    directory = tmp_path / "new" / "place"
    result = run("models/toy.py:make", "--out", str(directory))
    path = directory / "models-toy.py-make.cert.json"
    assert store.read(path) == fake.answer
    assert f"  certificate: {path}\n" in result.stdout


def test_nothing_is_written_unasked(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "nothing was written; --out DIR keeps the certificate" in run("toy").stdout
    assert list(tmp_path.iterdir()) == []


def test_out_is_tried_before_the_work(run: Run, fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("toy", "--out", str(tmp_path / "file" / "below"))
    assert result.exit_code == 2
    assert "cannot write to" in result.stderr
    assert fake.arguments == {}


def test_a_disk_that_fills_up_loses_nothing(
    run: Run, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = store.write

    def full(certificate: Certificate, path: Path) -> None:
        if path.parent == tmp_path / "out":
            raise CertificateError(f"could not write {path}: No space left on device")
        write(certificate, path)

    monkeypatch.setattr(store, "write", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = run("toy", "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "INCONCLUSIVE" in result.stdout
    assert result.stderr.splitlines()[-1].endswith("No space left on device.")
    (saved,) = tmp_path.glob("blockframe-*/toy.cert.json")
    assert store.read(saved) == fake.answer
    assert str(saved) in result.stderr


def test_nowhere_to_write(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(certificate: Certificate, path: Path) -> None:
        raise CertificateError(f"could not write {path}: No space left on device")

    monkeypatch.setattr(store, "write", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = run("toy", "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "INCONCLUSIVE" in result.stdout


def test_a_renderer_of_a_plugin(run: Run, monkeypatch: pytest.MonkeyPatch, fake: Fake) -> None:
    from blockframe import builtin
    from blockframe.hookspecs import hookimpl

    class Words:
        name = "words"

        def render(self, certificate: Certificate, page: Any) -> str:
            return f"{certificate.verdict} in {page.width}\n"

    monkeypatch.setattr(builtin, "blockframe_renderers", hookimpl(lambda: [Words()]))
    monkeypatch.setenv("COLUMNS", "77")
    assert run("toy", "--format", "words").stdout == "INCONCLUSIVE in 77\n"


def test_a_broken_plugin_is_a_warning(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    broken = EntryPoint("acme", "no_such_module_acme", "blockframe")
    monkeypatch.setattr("blockframe.plugins.entry_points", lambda **_: [broken])
    result = run("toy", "--format", "json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["verdict"] == "INCONCLUSIVE"
    assert "could not be loaded (ModuleNotFoundError: No module named" in result.stderr
    monkeypatch.setenv("BLOCKFRAME_STRICT_PLUGINS", "1")
    result = run("toy")
    assert result.exit_code == 2
    assert result.stdout == ""


def test_progress_on_a_terminal_is_on_stderr_and_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from blockframe.cli.progress import Live, progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    with progress() as working:
        assert isinstance(working, Live)
        working.step(1, 2, "before any stage")
        working.stage("tracing [bold]")
        working.step(1, 2, "half")
        working.stage("gradient descent")
    assert capfd.readouterr().out == ""
