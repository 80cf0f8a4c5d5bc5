"""Where things are printed: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO

from blockframe.errors import BlockframeError
from blockframe.report import Page


class OutputError(BlockframeError):
    """Standard output takes nothing."""


def complain(message: str) -> None:
    """``blockframe: message`` on stderr, on one line."""
    line = f"blockframe: {' '.join(message.split(chr(10)))}"
    try:
        print(line, file=sys.stderr, flush=True)
    except UnicodeEncodeError:
        print(line.encode("ascii", "backslashreplace").decode(), file=sys.stderr, flush=True)


def page(saved: str = "") -> Page:
    """What standard output can show."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return Page(
        width=shutil.get_terminal_size(fallback=(100, 24)).columns,
        color=colored(sys.stdout),
        unicode=encoding.startswith("utf"),
        saved=saved,
    )


def colored(stream: TextIO) -> bool:
    """Whether to colour: a terminal that can, and a user who did not refuse (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def emit(text: str) -> None:
    """Print a result. A reader that has gone away (``| head``) has seen what it wanted.

    Raises:
        OutputError: standard output is on a full disk, or closed.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard()
    except OSError as error:
        _discard()
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def _discard() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
