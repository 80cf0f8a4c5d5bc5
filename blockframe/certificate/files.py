"""Reading a file that somebody else named: regular files only, never more than a limit."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}", re.ASCII)
"""A file name without a path, and without anything that a system could read as one."""


def read_regular(path: Path, limit: int, *, follow: bool = True, prefix: bool = False) -> bytes:
    """The bytes of the regular file ``path``.

    ``follow``: whether it may be a symbolic link; ``prefix``: whether it may go on behind the
    first ``limit`` bytes, which are then what is read.

    Raises:
        OSError: it cannot be opened, or is a directory, pipe or device; the text says so.
        ValueError: it has more than ``limit`` bytes; nothing of it was read.
    """
    # O_NONBLOCK: a pipe must not block before it is seen to be one.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        if prefix:
            return file.read(min(limit, status.st_size))
        if status.st_size > limit:
            raise ValueError(f"it has {status.st_size:,} bytes, and {limit:,} are the limit")
        content = file.read(limit + 1)
    if len(content) > limit:  # it grew meanwhile
        raise ValueError(f"it has more than {limit:,} bytes, the limit")
    return content
