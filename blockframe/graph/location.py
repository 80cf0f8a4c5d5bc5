"""From stack traces to the model's own line."""

from __future__ import annotations

import linecache
import re
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from traceback import walk_stack, walk_tb

from blockframe.graph.graph import Location

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


@cache
def _foreign() -> tuple[str, ...]:
    """Folders whose lines are not a model's: torch, this package, the standard library."""
    import torch

    here = Path(__file__).resolve().parent.parent
    library = sysconfig.get_paths()["stdlib"]
    return (f"{Path(torch.__file__).parent}/", f"{here}/", f"{library}/")


def _is_model(file: str) -> bool:
    if file.startswith("<"):
        return False
    in_library = file.startswith(_foreign()[-1]) and "site-packages" not in file
    return not in_library and not file.startswith(_foreign()[:-1])


def _innermost(frames: Iterable[tuple[str, int]]) -> Location | None:
    """The innermost frame in the model's source; failing that, the innermost one in torch.nn."""
    model = module = None
    for file, line in frames:
        if _is_model(file):
            model = (file, line)
        elif "/torch/nn/modules/" in file:
            module = (file, line)
    found = model or module
    if found is None:
        return None
    return Location(*found, text=linecache.getline(*found).strip())


def from_trace(trace: str | None) -> Location | None:
    """The model's line in a stack trace as torch.export records it (outermost call first)."""
    return _innermost((m["file"], int(m["line"])) for m in _FRAME.finditer(trace or ""))


def from_stack() -> Location | None:
    """The line of a ``forward`` of the model that is running: as torch.export records it."""
    frames = [(f.f_code, line) for f, line in walk_stack(None)]
    return _innermost((c.co_filename, line) for c, line in frames[::-1] if c.co_name == "forward")


def from_exception(error: BaseException) -> Location | None:
    """The model's line that was running when ``error`` was raised, its causes included."""
    seen: set[int] = set()
    found: Location | None = None
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = ((f.f_code.co_filename, line) for f, line in walk_tb(current.__traceback__))
        found = _innermost(frames) or found
        current = current.__cause__ or current.__context__
    return found
