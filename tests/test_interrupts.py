from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from blockframe.interrupts import held

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture(autouse=True)
def ordinary() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_for_the_end() -> None:
    done = []

    def work() -> None:
        with held():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            done.append(1)
        done.append(2)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_waits_too_where_another_thread_takes_the_signal() -> None:
    ready, stop, done = threading.Event(), threading.Event(), []

    def other() -> None:
        ready.set()
        stop.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    ready.wait(60)

    def work() -> None:
        with held():
            signal.pthread_kill(thread.ident or 0, signal.SIGINT)
            stop.set()
            thread.join()
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]


IMPORTING = """
import os, signal, sys
import blockframe

class Now:
    def find_spec(self, name, path=None, target=None):
        if name == "torch.nn":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Now())
try:
    blockframe.certify
except KeyboardInterrupt:
    print("interrupted")
print(blockframe.certify.__name__)
"""


def test_an_interrupt_waits_until_torch_is_imported() -> None:
    """As in a notebook, whose user then tries again."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["interrupted", "certify"]


def test_what_is_ignored_stays_ignored_and_a_failure_passes() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def work() -> None:
        with held():
            os.kill(os.getpid(), signal.SIGINT)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        work()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_may_hold_too() -> None:
    def work() -> None:
        with held():
            done.append(1)

    done: list[int] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]
