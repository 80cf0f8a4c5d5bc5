from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from blockframe.cli.progress import Lines, Live
from blockframe.progress import Pace, duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (99, "99 s"), (100, "2 min"),
        (5969, "99 min"), (6000, "1 h 40 min"), (7199, "2 h 00 min"), (7500, "2 h 05 min"),
        (172_000, "47 h 47 min"), (172_800, "2 d 00 h"), (273_600, "3 d 04 h"),
    ],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_pace_is_that_of_the_last_minute() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.tell(1000, 5000) == ""  # a run that is gone on with begins in the middle
    clock.now += 10
    assert pace.tell(1020, 5000) == "2/s, 33 min left"
    for _ in range(100):  # later it goes ten times as fast
        clock.now += 1
        told = pace.tell(1020 + int(clock.now - 110) * 20, 5000)
    assert told == "20/s, 99 s left"
    assert len(pace._seen) < 80
    assert pace.tell(5000, 5000).endswith("/s")


def test_pace_of_slow_parts() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.tell(0, 10)
    clock.now += 90
    assert pace.tell(1, 10) == "90 s each, 14 min left"
    clock.now += 90
    assert pace.tell(2, 10) == "90 s each, 12 min left"


def test_many_fast_steps_are_not_all_remembered() -> None:
    clock = Clock()
    pace = Pace(clock)
    for k in range(5000):
        clock.now += 0.001
        pace.tell(k, 5000)
    assert len(pace._seen) < 10


def test_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(clock)
    lines.stage("resolving")
    lines.stage("gradient descent")
    for k in range(1, 2001):
        clock.now += 0.05
        lines.step(k, 20_000, "loss 0.5")
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "blockframe: gradient descent …"
    assert len(told) == 4
    assert told[-1].startswith("blockframe: gradient descent: 1,8")
    assert told[-1].endswith(" of 20,000, loss 0.5, 20/s, 15 min left")


def test_a_short_stage_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(Clock())
    lines.stage("resolving")
    lines.step(1, 2, "half")
    assert capsys.readouterr().err == ""


def test_the_bar_shows_the_pace() -> None:
    clock = Clock()
    console = Console(file=io.StringIO(), width=80)
    bar = Bar(MofNCompleteColumn(), TextColumn("{task.fields[detail]}"), console=console)
    live = Live(bar, clock)
    live.stage("tracing")
    live.stage("gradient descent")
    live.step(0, 300, "loss 2")
    clock.now += 2
    live.step(10, 300, "loss 1")
    (task,) = bar.tasks
    assert (task.description, task.completed, task.total) == ("gradient descent", 10, 300)
    assert task.fields["detail"] == "loss 1, 5/s, 58 s left"
