"""Names that users misspell."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from blockframe.errors import BlockframeError, InputError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names that look most like ``name``, best first, case aside."""
    spelt = {k.lower(): k for k in sorted(known)}
    return [spelt[k] for k in difflib.get_close_matches(name.lower(), spelt, count, cutoff=0.5)]


def suggestion(name: str, known: Iterable[str]) -> str:
    """A remedy: ``Did you mean gpt2, gptj?``, or the names there are."""
    known = sorted(known)
    close = nearest(name, known)
    if close:
        return f"Did you mean {', '.join(close)}?"
    return f"There are: {', '.join(known)}." if known else "There are none."


def lookup(
    kind: str, name: str, known: Mapping[str, T], error: type[BlockframeError] = InputError
) -> T:
    """``known[name]``.

    Raises:
        InputError: there is no such name (or ``error``); it suggests the nearest.
    """
    if name not in known:
        raise error(f"there is no {kind} {name!r}", suggestion(name, known))
    return known[name]
