"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_NO_SPACE = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def replacing(path: Path, part: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when all is written and on the device: killed at
    any instant, or without power, there is the old one or the new one.

    It is ``part`` meanwhile, in the same directory. Nothing that has this name is followed or
    waited for (a link, a pipe): a regular file there is what a killed process left, and goes.

    Raises:
        OSError: no space, or the like; ``path`` is what it was.
    """
    if os.path.lexists(part):
        if not stat.S_ISREG(part.lstat().st_mode):
            raise OSError(errno.EEXIST, f"{part.name} beside it is no regular file")
        part.unlink()
    file = part.open("xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def remedy(error: OSError) -> str:
    """What to do about a file that could not be written, as the beginning of a sentence."""
    return "Free some space" if error.errno in _NO_SPACE else "Put that right"


def _sync(directory: Path) -> None:
    """See that the new name survives a power failure, where a directory can be opened for that."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
