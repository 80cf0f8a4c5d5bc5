"""The command line. Nothing here imports torch before a command needs it."""

from blockframe.cli.program import main

__all__ = ["main"]
