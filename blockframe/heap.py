"""Memory that was freed and that the C library has not given back to the system."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

LARGE = 2**26
"""Bytes of a vector from which on it is worth looking for such memory after each iterate."""


def give_back() -> None:
    """On Linux with glibc, where tensors of a few MB, freed in any order, leave holes: tracing the
    full-size GPT-2 leaves more than 2 GB of them. Elsewhere nothing happens."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
