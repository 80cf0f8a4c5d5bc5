"""Runs that are kept on disk, broken off and gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import nn

from blockframe.certificate.journal_check import whole_run
from blockframe.certificate.ledger import Ledger
from blockframe.certificate.model import Certificate, Subject, Trajectory
from blockframe.certifier import certify
from blockframe.dynamics import record as room
from blockframe.dynamics.checkpoint import Checkpoint
from blockframe.dynamics.ending import (
    COMPLETED,
    diverged,
    interrupted,
    not_finite,
    out_of_memory,
    was_final,
)
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.journal import JournalError
from blockframe.dynamics.place import Place
from blockframe.dynamics.probes import ON_REQUEST, Probe
from blockframe.dynamics.record import Cadence, CannotResume
from blockframe.dynamics.run import observe, run_options, thinned
from blockframe.errors import InputError
from blockframe.problem import Problem

Run = Callable[..., Trajectory]


class Breaking(Probe):
    """Breaks off at one step, with one error."""

    name = "breaking"

    def __init__(self, at: int | None = None, error: type[BaseException] = KeyboardInterrupt):
        self.at, self.error = at, error

    def observe(self, it: Iterate) -> float:
        if it.step == self.at:
            raise self.error
        return float(it.step)


class Further(Probe):
    name = "further"

    def observe(self, it: Iterate) -> float:
        return 1.0


@pytest.fixture
def problem(mlp: Problem) -> Problem:
    return mlp


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint at every iterate, whatever it costs."""
    monkeypatch.setattr(room, "SHARE", float("inf"))


def place(directory: Path, *, resume: bool = False, **about: Any) -> Place:
    return Place.of(directory, "toy", about, resume=resume)


def run(
    problem: Problem, place: Place | None, at: int | None = None, *, steps: int = 12,
    error: type[BaseException] = KeyboardInterrupt, **options: Any,
) -> Trajectory:  # fmt: skip
    options = {"lr": "auto", "device": "cpu", "probes": [Breaking(at, error), "tangent"], **options}
    return observe(problem, run_options(steps=steps, **options), place=place)


def files(directory: Path) -> set[str]:
    return {p.name for p in directory.iterdir()}


BOTH = {"toy.steps.jsonl", "toy.checkpoint.safetensors"}


@pytest.mark.parametrize("lr", ["auto", "cosine:0.05:0.01", "0.05,0.04,0.03"])
def test_a_run_that_is_broken_off_again_and_again_is_the_same_run(
    lr: str, problem: Problem, tmp_path: Path
) -> None:
    whole = run(problem, None, lr=lr)
    first = run(problem, place(tmp_path), 3, lr=lr)
    assert (first.ended, first.completed) == ("interrupted at step 3 by the user", 2)
    for at in (4, 9, 10):
        part = run(problem, place(tmp_path, resume=True), at, lr=lr)
        assert (part.ended, part.completed) == (f"interrupted at step {at} by the user", at - 1)
        for name, values in part.series.items():
            assert values == whole.series[name][:at]
    assert run(problem, place(tmp_path, resume=True), lr=lr) == whole
    assert files(tmp_path) == BOTH
    assert run(problem, place(tmp_path, resume=True), lr=lr) == whole


def test_every_probe_goes_on_as_if_nothing_was(problem: Problem, tmp_path: Path) -> None:
    """Also those that keep something: what they keep of θ_0 is there again."""
    further = {"probes": [probe.name for probe in ON_REQUEST], "steps": 14}
    whole = run(problem, None, **further)
    assert {probe.name for probe in ON_REQUEST} <= {name.partition(".")[0] for name in whole.series}
    for at in (2, 5, 13):
        breaking = [*further["probes"], Breaking(at)]
        part = run(problem, place(tmp_path, resume=True), **{**further, "probes": breaking})
        assert part.completed == at - 1
        for name, values in part.series.items():
            if name != "breaking":
                assert values == whole.series[name][:at]


def test_gpt2_too(gpt2: Problem, tmp_path: Path) -> None:
    whole = run(gpt2, None, steps=4)
    run(gpt2, place(tmp_path), 2, steps=4)
    assert run(gpt2, place(tmp_path, resume=True), steps=4) == whole


def test_a_run_in_float32_too(problem: Problem, tmp_path: Path) -> None:
    whole = run(problem, None, dtype="float32")
    run(problem, place(tmp_path), 5, dtype="float32")
    assert run(problem, place(tmp_path, resume=True), dtype="float32") == whole


def test_without_second_derivatives_too(tmp_path: Path) -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            return g * 2

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Once.apply(self.inner(x))  # type: ignore[no-any-return, no-untyped-call]

    torch.manual_seed(0)
    doubled = Problem(Doubled(), (torch.ones(3, 2),), torch.zeros(3, 1))
    whole = run(doubled, None, lr=0.01)
    assert "sharpness" in whole.summary["unavailable"]
    run(doubled, place(tmp_path), 5, lr=0.01)
    assert run(doubled, place(tmp_path, resume=True), lr=0.01) == whole


def test_nothing_to_resume_is_a_run_from_the_start(problem: Problem, tmp_path: Path) -> None:
    assert run(problem, place(tmp_path, resume=True)) == run(problem, None)


def test_rows_after_the_checkpoint_are_computed_again(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after kill -9 between two checkpoints, in the middle of a line."""
    run(problem, place(tmp_path), 4)
    saved = (tmp_path / "toy.checkpoint.safetensors").read_bytes()
    run(problem, place(tmp_path, resume=True), 9)
    (tmp_path / "toy.checkpoint.safetensors").write_bytes(saved)
    journal = tmp_path / "toy.steps.jsonl"
    journal.write_bytes(journal.read_bytes()[:-17])
    assert run(problem, place(tmp_path, resume=True)) == run(problem, None)


def test_more_steps_than_before(problem: Problem, tmp_path: Path) -> None:
    run(problem, place(tmp_path), steps=5)
    assert run(problem, place(tmp_path, resume=True), steps=9) == run(problem, None, steps=9)
    with pytest.raises(CannotResume, match=r"step 9 already\. Give --steps 9 at least"):
        run(problem, place(tmp_path, resume=True), steps=8)


def test_a_schedule_by_length_has_its_length(problem: Problem, tmp_path: Path) -> None:
    run(problem, place(tmp_path), 3, steps=5, lr="cosine:0.05:0.01")
    with pytest.raises(CannotResume, match="steps was 5, and is 9"):
        run(problem, place(tmp_path, resume=True), steps=9, lr="cosine:0.05:0.01")


@pytest.mark.parametrize(
    ("then", "now", "options", "says"),
    [
        ({"recipe": {"seed": 0}}, {"recipe": {"seed": 1}}, {}, "seed was 0, and is 1"),
        ({"recipe": {"settings": {"width": 4}}}, {"recipe": {"settings": {}}}, {},
         "settings.width was 4, and is None"),
        ({"digests": {"data": "ab"}}, {"digests": {"data": "cd"}}, {},
         "the SHA-256 of the data was ab, and is cd"),
        ({}, {}, {"lr": 0.01}, "learning rate was 0.0729157069162789., and is 0.01"),
        ({}, {}, {"dtype": "float32"}, "dtype was float64, and is float32"),
        ({}, {}, {"probes": [Breaking()]}, "at step 0 tangent was 0.002.*, and is not measured"),
        ({}, {}, {"probes": [Breaking(), "tangent", Further]},
         "at step 0 further was not measured, and is 1.0"),
    ],
)  # fmt: skip
def test_another_run_is_refused(
    then: dict[str, Any], now: dict[str, Any], options: dict[str, Any], says: str,
    problem: Problem, tmp_path: Path,
) -> None:  # fmt: skip
    run(problem, place(tmp_path, **then), 4)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(CannotResume, match=says):
        run(problem, place(tmp_path, resume=True, **now), **options)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_other_data_are_refused_bit_for_bit(problem: Problem, tmp_path: Path) -> None:
    """What nobody told: θ_0 gives another loss, here by one unit in the last place of an input."""
    run(problem, place(tmp_path), 4, lr=0.05)
    moved = problem.inputs[0].double()
    moved[0, 0] = torch.nextafter(moved[0, 0], torch.tensor(9.0, dtype=torch.float64))
    other = evolve(problem, inputs=(moved,))
    with pytest.raises(CannotResume, match=r"cannot go on bit for bit: at step 0 .* was .*, and"):
        run(other, place(tmp_path, resume=True), lr=0.05)


def test_another_theta_is_refused_bit_for_bit(problem: Problem, tmp_path: Path) -> None:
    """A checkpoint that is whole, but not of the row that it says."""
    run(problem, place(tmp_path), 4)
    path = place(tmp_path).checkpoint
    saved = Checkpoint.read(path)
    theta = saved.tensors["theta"].clone()
    theta[0] *= 1 + 2.0**-20
    evolve(saved, tensors={**saved.tensors, "theta": theta}).write(path)
    with pytest.raises(CannotResume, match=r"bit for bit: at step 3 loss was 2\.1.*, and is 2\.1"):
        run(problem, place(tmp_path, resume=True))


def test_a_run_is_not_lost_by_accident(problem: Problem, tmp_path: Path) -> None:
    run(problem, place(tmp_path), 4)
    with pytest.raises(InputError, match=r"holds a run that can go on .*Give --resume"):
        run(problem, place(tmp_path))
    assert Checkpoint.read(place(tmp_path).checkpoint).step == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
def test_what_is_there_outlives_a_break_before_it_is_reached(
    error: type[BaseException], problem: Problem, tmp_path: Path
) -> None:
    run(problem, place(tmp_path), 4)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises((KeyboardInterrupt, MemoryError, InputError, Exception)):
        run(problem, place(tmp_path, resume=True), 0, error=error)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_ends_before_its_first_row_leaves_nothing(
    resume: bool, error: type[BaseException], problem: Problem, tmp_path: Path
) -> None:
    ended = run(problem, place(tmp_path, resume=resume), 0, error=error)
    assert "at step 0" in ended.ended
    assert ended.series == {}
    assert files(tmp_path) == set()
    run(problem, place(tmp_path, resume=resume), 1, error=error)
    assert files(tmp_path) == BOTH


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("checkpoint", "toy.checkpoint.safetensors is damaged"),
        ("journal", "toy.steps.jsonl is damaged"),
        ("no journal", "cannot open .*toy.steps.jsonl: No such file"),
    ],
)
def test_damage_is_told(damage: str, says: str, problem: Problem, tmp_path: Path) -> None:
    run(problem, place(tmp_path), 4)
    where = place(tmp_path, resume=True)
    if damage == "no journal":
        where.journal.unlink()
    else:
        path = getattr(where, damage)
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=says):
        run(problem, where)


def test_a_run_that_diverges_is_at_its_end(problem: Problem, tmp_path: Path) -> None:
    whole = run(problem, None, lr=1e3)
    assert whole.ended.startswith("diverged")
    assert run(problem, place(tmp_path), lr=1e3) == whole
    assert run(problem, place(tmp_path, resume=True), lr=1e3) == whole


def test_a_full_disk_keeps_what_was_measured(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the journal is full, then the checkpoint; once there is space, the run goes on."""
    whole, fsync, calls = run(problem, None), os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= 11:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    part = run(problem, place(tmp_path))
    step = part.completed + 1
    assert part.ended.startswith(f"stopped at step {step}: could not write ")
    assert "No space left on device" in part.ended
    assert "No space left on device" in part.summary["unavailable"]["checkpoint"]
    assert part.series["loss"] == whole.series["loss"][:step]
    monkeypatch.undo()

    class Full:
        def __init__(self, journal: Any) -> None:
            self.journal, self.put = journal, journal._put

        def __call__(self, line: bytes) -> None:
            if len(self.journal) == 8:
                raise JournalError("could not write j: No space left on device")
            self.put(line)

    opened = room.Journal.open

    def small(*arguments: Any) -> Any:
        journal = opened(*arguments)
        journal._put = Full(journal)  # type: ignore[method-assign]
        return journal

    monkeypatch.setattr(room.Journal, "open", small)
    part = run(problem, place(tmp_path, resume=True))
    assert part.ended == "stopped at step 8: could not write j: No space left on device"
    assert (part.completed, part.series["loss"]) == (7, whole.series["loss"][:8])
    monkeypatch.undo()
    assert run(problem, place(tmp_path, resume=True)) == whole


def test_a_long_run_leaves_its_series_in_the_journal(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockframe.dynamics.run.WHOLE", 30)
    monkeypatch.setattr(room, "THINNED", 10)
    monkeypatch.setattr("blockframe.certificate.journal_check.THINNED", 10)
    whole = run(problem, None, steps=44)
    assert whole.journal is None
    run(problem, place(tmp_path, digests={}), 33, steps=44)
    long = run(problem, place(tmp_path, digests={}, resume=True), steps=44)
    assert {n: list(v) for n, v in long.series.items()} == whole.series
    assert long.summary == whole.summary
    assert 0 < len(long.inequalities) < len(whole.inequalities)
    short = thinned(long)
    assert short.journal is not None
    assert (short.journal.file, short.journal.iterates, short.journal.stride) == (
        "toy.steps.jsonl", 45, 5
    )  # fmt: skip
    assert short.completed == 44
    assert short.series["loss"] == [*whole.series["loss"][:44:5], whole.series["loss"][44]]
    ledger = Ledger()
    header = json.loads(place(tmp_path).journal.read_text("utf-8").splitlines()[0])
    environment = {name: header[name] for name in ("blockframe", "torch")}
    certificate = Certificate(Subject("toy", "Sequential", 1), environment, ())
    read = whole_run(ledger, certificate, short, tmp_path)
    assert ledger.rejected == []
    assert read is not None
    assert read.series == whole.series
    assert thinned(whole) is whole


def test_the_first_line_says_what_was_run(problem: Problem, tmp_path: Path) -> None:
    run(problem, place(tmp_path, recipe={"seed": 3, "probes": ("tangent",)}), steps=1)
    header, *rows = map(json.loads, place(tmp_path).journal.read_text("utf-8").splitlines())
    assert header["format"] == "blockframe.steps/1"
    assert header["recipe"] == {"seed": 3, "probes": ["tangent"]}
    assert {"steps", "learning rate", "device", "dtype", "torch", "threads"} < set(header)
    assert [row["step"] for row in rows] == [0, 1]


def test_certify_keeps_its_run(problem: Problem, tmp_path: Path) -> None:
    given = {"lr": 0.05, "steps": 3, "device": "cpu"}
    whole = certify(problem, **given)
    assert certify(problem, out=tmp_path / "new", resume=True, **given) == whole
    assert files(tmp_path / "new") == {name.replace("toy", "Sequential") for name in BOTH}
    with pytest.raises(InputError, match="holds a run that can go on"):
        certify(problem, out=str(tmp_path / "new"), **given)
    assert certify(problem, out=str(tmp_path / "new"), resume=True, **given) == whole
    with pytest.raises(CannotResume, match="seed was 0, and is 1"):
        certify(problem, out=tmp_path / "new", resume=True, seed=1, **given)
    other = evolve(problem, inputs=(problem.inputs[0] + 1,))
    with pytest.raises(CannotResume, match="the SHA-256 of the data was"):
        certify(other, out=tmp_path / "new", resume=True, **given)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"resume": True}, "nothing to resume"),
        ({"resume": 1, "out": "."}, "resume"),
        ({"out": 3}, "out is 3"),
        ({"out": __file__}, "cannot write to"),
    ],
)
def test_options_without_a_meaning(options: dict[str, Any], says: str, problem: Problem) -> None:
    with pytest.raises(InputError, match=says):
        certify(problem, lr=0.05, steps=1, device="cpu", **options)


@pytest.mark.parametrize(
    ("ended", "final"),
    [
        (COMPLETED, True),
        (diverged(1e9, 3), True),
        (not_finite("loss", 3), True),
        (interrupted(3), False),
        (out_of_memory(3), False),
        ("stopped at step 3: diverged at step 3: the loss reached 9", False),
        ("the forward raised X: completed, at step 3", False),
    ],
)
def test_which_endings_are_final(ended: str, final: bool) -> None:
    assert was_final(ended) is final


def test_cadence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing takes a twentieth of the time, or less."""
    monkeypatch.setattr(room, "SHARE", 0.05)
    now = 0.0
    cadence = Cadence(0.1, lambda: now)
    spent = 0.0
    due: list[float] = []
    while now < 100:
        if cadence.due:
            due.append(now)
            with cadence.writing():
                now += 0.5
            spent += 0.5
        now += 0.25
    assert due[0] == 2.0
    assert all(b - a >= 10.5 for a, b in pairwise(due))
    assert spent / now <= 0.05
    assert len(due) >= 9


def test_one_checkpoint_in_many_iterates_where_writing_is_slow(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SHARE", 1e-9)
    written: list[int] = []
    write = Checkpoint.write

    def count(self: Checkpoint, path: Path) -> None:
        written.append(self.step)
        write(self, path)

    monkeypatch.setattr(Checkpoint, "write", count)
    run(problem, place(tmp_path), 5)
    assert written == [4]  # the last, when the run is broken off
    monkeypatch.setattr(room, "SHARE", float("inf"))
    run(problem, place(tmp_path, resume=True), 9)
    assert written == [4, 5, 6, 7, 8]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
