"""Where things are printed: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TextIO

from blockframe.errors import BlockframeError
from blockframe.report import Page


class OutputError(BlockframeError):
    """Standard output takes nothing."""


def complain(message: str) -> None:
    """``blockframe: message`` on stderr, on one line."""
    line = f"blockframe: {' '.join(message.split(chr(10)))}"
    tell(line + "\n")


def tell(text: str) -> None:
    """Print ``text`` on stderr; where that takes nothing there is nobody to tell."""
    try:
        try:
            sys.stderr.write(text)
        except UnicodeEncodeError:
            sys.stderr.write(text.replace("…", "...").encode("ascii", "backslashreplace").decode())
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def open_streams() -> None:
    """What the shell closed (``>&-``) takes everything and shows nothing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # In this order each gets its own, lowest free number, and no other file does.
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


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
        OutputError: standard output is on a full disk, or the like.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)
    except OSError as error:
        _discard(sys.stdout)
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def _discard(stream: TextIO) -> None:
    """Point a stream at nothing, so that the interpreter's last flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
