"""The program in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from blockframe.cli.program import program


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, timeout=120, check=False, env={**inherited, **environment},
    )  # fmt: skip


def test_help_and_import_without_torch() -> None:
    for code in (
        "import blockframe",
        "from blockframe.cli.program import program; program(['--help'], standalone_mode=False)",
        "from blockframe.cli.program import program; "
        "program(['certify', '--help'], standalone_mode=False)",
        "from blockframe.cli.program import program; "
        "program(['plugins', 'list'], standalone_mode=False)",
        "from blockframe.cli.program import program; "
        "program(['explain', 'A101'], standalone_mode=False)",
    ):
        heavy = "{'torch', 'transformers', 'scipy', 'sklearn'} & set(sys.modules)"
        done = python("-c", f"import sys; {code}; print(); print(sorted({heavy}))")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"


def test_a_report_is_written_without_torch() -> None:
    code = "import sys, blockframe.report.terminal; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_names_commands_and_exit_codes() -> None:
    text = CliRunner().invoke(program, ["--help"]).stdout
    for word in (
        "certify",
        "chain",
        "explain",
        "plugins",
        "CERTIFIED",
        "REFUTED",
        "INCONCLUSIVE",
        "70",
        "130",
    ):
        assert word in text


def test_every_help_is_ascii() -> None:
    for command in ([], ["certify"], ["chain"], ["explain"], ["plugins"], ["plugins", "list"]):
        result = CliRunner().invoke(program, [*command, "--help"])
        assert result.exit_code == 0
        assert result.stdout.isascii()


def test_version() -> None:
    assert CliRunner().invoke(program, ["--version"]).stdout.startswith("blockframe ")


def test_no_command_shows_help() -> None:
    result = CliRunner().invoke(program, [])
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


def test_unknown_command() -> None:
    result = CliRunner().invoke(program, ["certfy"])
    assert result.exit_code == 2
    assert result.stderr.startswith("blockframe: No such command 'certfy'.")
    assert result.stderr.count("\n") == 1


def test_python_m() -> None:
    done = python("-m", "blockframe", "certify", "no_such_spec_at_all")
    assert done.returncode == 2
    assert "no plugin resolves 'no_such_spec_at_all'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_reader_that_goes_away() -> None:
    code = (
        "import os, sys; from blockframe.cli.output import emit; "
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1); "
        "emit('x' * 100000); sys.exit(3)"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_stdout_on_a_full_disk() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "blockframe", "plugins", "list"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "blockframe: cannot write to standard output: No space left on device.\n"


def test_no_color_and_encoding() -> None:
    code = "from blockframe.cli.output import page; p = page(); print(p.color, p.unicode, p.width)"
    assert python("-c", code, PYTHONIOENCODING="ascii").stdout.split() == ["False", "False", "100"]
    assert python("-c", code, PYTHONIOENCODING="utf-8", COLUMNS="50").stdout.split() == [
        "False", "True", "50",
    ]  # fmt: skip


def test_color_needs_a_terminal_and_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    from blockframe.cli.output import colored

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert colored(Terminal())  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colored(Terminal())  # type: ignore[arg-type]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not colored(Terminal())  # type: ignore[arg-type]


def test_complaints_in_ascii() -> None:
    code = "from blockframe.cli.output import complain; complain('λ\\nμ')"
    done = python("-c", code, PYTHONIOENCODING="ascii")
    assert done.stderr.startswith("blockframe: ")
    assert done.stderr.count("\n") == 1


# --- plugins list -------------------------------------------------------------------------------


def test_plugins_list() -> None:
    result = CliRunner().invoke(program, ["plugins", "list"])
    assert result.exit_code == 0
    assert "core" in result.stdout
    assert "blockframe-certify" in result.stdout
    assert "renderers" in result.stdout


def test_plugins_list_json(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    broken = EntryPoint("acme", "no_such_module_acme", "blockframe")
    monkeypatch.setattr("blockframe.plugins.entry_points", lambda **_: [broken])
    monkeypatch.setenv("BLOCKFRAME_STRICT_PLUGINS", "1")  # a list must show what is broken
    result = CliRunner().invoke(program, ["plugins", "list", "--format", "json"])
    assert result.exit_code == 0
    core, acme = json.loads(result.stdout)
    assert core["state"] == "loaded"
    assert set(core) == {"name", "distribution", "version", "hooks", "state", "error", "specs"}
    assert acme["state"] == "broken"
    assert "no_such_module_acme" in acme["error"]
    text = CliRunner().invoke(program, ["plugins", "list"]).stdout
    assert "broken: ModuleNotFoundError" in text


def test_plugins_list_shows_a_hook_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from blockframe import builtin
    from blockframe.hookspecs import hookimpl

    def fails() -> list[str]:
        raise ValueError("kaput")

    monkeypatch.setattr("blockframe.plugins.entry_points", lambda **_: [])
    monkeypatch.setattr(builtin, "blockframe_specs", hookimpl(fails), raising=False)
    result = CliRunner().invoke(program, ["plugins", "list", "--format", "json"])
    (core,) = json.loads(result.stdout)
    assert core["state"] == "broken"
    assert "ValueError: kaput" in core["error"]
    assert "kaput" in CliRunner().invoke(program, ["plugins", "list"]).stdout
