"""The command line. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """`blockframe.cli.program.main`; Ctrl-C while that is imported leaves no traceback either."""
    try:
        from blockframe.cli.program import main as run
    except KeyboardInterrupt:
        sys.stderr.write("blockframe: interrupted.\n")
        sys.exit(130)
    run()
