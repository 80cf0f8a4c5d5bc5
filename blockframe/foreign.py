"""Calling code that is not ours: a plugin's hook, a user's factory, an import of either.

Such code may raise anything at all, and whatever it raises is for its author to read, not a
failure of this program. This is the one place that catches `Exception`; nothing is swallowed,
every error comes out as a `BlockframeError` that names its line.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from blockframe.errors import BlockframeError, OutOfMemory

_CPU_ALLOCATOR = "DefaultCPUAllocator"
_NOT_TO_BLAME = (str(Path(__file__).parent), str(Path(importlib.__file__).parent), "<frozen ")


@contextmanager
def foreign(complain: Callable[[str], BlockframeError], *, file: str = "") -> Iterator[None]:
    """Run foreign code; what it raises becomes ``complain(description)``.

    A `BlockframeError` of its own passes unchanged, and so does Ctrl-C. Running out of memory, in
    whatever words, is `OutOfMemory`, which is a `MemoryError`, too.
    ``file``: the source file to blame where it is on the stack; otherwise the innermost frame is.
    """
    try:
        yield
    except BlockframeError:
        raise
    except (Exception, SystemExit) as error:
        if out_of_memory(error):
            raise OutOfMemory(_allocator(_text(error))) from error
        raise complain(describe(error, file)) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says so: Python's, CUDA's (`torch.OutOfMemoryError`) or the CPU's of torch.

    The last has no class of its own, but a text.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR in _text(error)


def describe(error: BaseException, file: str = "") -> str:
    """``ValueError: width must be even, at my_model.py:17``, on one line."""
    text = _text(error)
    kind = type(error).__name__
    where = location(error, file)
    return (f"{kind}: {text}" if text else kind) + (f", at {where}" if where else "")


def _text(error: BaseException) -> str:
    """What the error says, on one line; its class may be foreign, too, and fail to say it."""
    try:
        return " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    except (Exception, SystemExit):  # noqa: BLE001 - the error that is described is what counts
        return ""


def _allocator(text: str) -> str:
    """The sentence that counts; all that an allocator says fills a screen."""
    _, cpu, rest = text.partition(_CPU_ALLOCATOR)
    return (cpu + rest if cpu else text).partition(". ")[0].rstrip(".")


def location(error: BaseException, file: str = "") -> str:
    """The line responsible, as ``file.py:17``; "" if no foreign frame is on the stack."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno or 1}"
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if not f.filename.startswith(_NOT_TO_BLAME)
    ]
    blamed = [f for f in frames if f.filename == file] or frames
    return f"{Path(blamed[-1].filename).name}:{blamed[-1].lineno}" if blamed else ""
