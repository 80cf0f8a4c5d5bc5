"""Processes of these tests take signals as from a terminal, however the tests were started."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def ordinary_signals() -> Iterator[None]:
    """nohup and background jobs ignore SIGHUP or SIGINT, and a process inherits what is ignored."""
    if sys.platform == "win32":
        yield
        return
    wanted = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
