"""The program ``blockframe``: its commands, and how every one of them ends."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import click

from blockframe.cli.certify import certify
from blockframe.cli.chain import chain
from blockframe.cli.explain import explain
from blockframe.cli.lr import lr
from blockframe.cli.output import complain, open_streams, tell
from blockframe.cli.plugins import plugins
from blockframe.cli.signals import asking, ignore_interrupts
from blockframe.cli.verify import verify
from blockframe.errors import LESS_MEMORY, BlockframeError, Exit
from blockframe.foreign import out_of_memory

CRASHED = 70
"""Exit code of a bug (EX_SOFTWARE): a crash must not look like REFUTED, which is 1."""


class Program(click.Group):
    """A group whose commands end in an exit code, and whose errors are one line on stderr."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        click_main: Callable[..., Any] = super().main
        if not standalone_mode:
            return click_main(*args, standalone_mode=False, **extra)
        open_streams()
        with asking() as asked:
            code = _exit_code(lambda: click_main(*args, standalone_mode=False, **extra))
        sys.exit(asked.code or code if code == Exit.INTERRUPTED else code)


def _exit_code(run: Callable[[], Any]) -> int:
    try:
        return int(run() or 0)
    except BlockframeError as error:
        complain(str(error))
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        tell(error.format_message() + "\n")
    except click.ClickException as error:
        command = (
            error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        )
        complain(error.format_message() + (f"   ({command} --help)" if command else ""))
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted.")
        return Exit.INTERRUPTED
    except OSError as error:
        complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.")
    except Exception as error:  # noqa: BLE001 - not swallowed: shown whole, with its own code
        if out_of_memory(error):
            complain(f"out of memory. {LESS_MEMORY}")
            return Exit.USAGE
        tell(traceback.format_exc())
        complain("this is a bug in blockframe or in a plugin; please report the lines above.")
        return CRASHED
    return Exit.USAGE


def _version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from blockframe.plugins import core_version

        click.echo(f"blockframe {core_version()}")
        context.exit()


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 CERTIFIED, 1 REFUTED, 2 usage or input error, 3 INCONCLUSIVE, "
    "70 a bug in blockframe or in a plugin, 130 interrupted, 128 + N ended by signal N.",
)  # fmt: skip
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
def program() -> None:
    """Certify, clause by clause, that gradient descent converges on a neural network."""


program.add_command(certify)
program.add_command(chain)
program.add_command(explain)
program.add_command(lr)
program.add_command(plugins)
program.add_command(verify)


def main() -> NoReturn:
    """Run the program on the arguments of the process, and exit."""
    # without it CUDA's sums of products are not repeatable
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        program(prog_name="blockframe")
    finally:
        ignore_interrupts()
    raise AssertionError("Program.main exits")
