"""How a run of gradient descent is kept while it goes: its rows, and on disk a checkpoint too."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from attrs import asdict

from blockframe.certificate.model import Journal as JournalFile
from blockframe.dynamics.checkpoint import Checkpoint, CheckpointError
from blockframe.dynamics.curvature import Eigenpair
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.journal import Journal, JournalError, Row, Table
from blockframe.dynamics.place import Place
from blockframe.dynamics.trail import Trails
from blockframe.errors import InputError

if TYPE_CHECKING:
    from blockframe.dynamics.descent import Descent

THINNED = 1000
"""How many iterates of a long run stand in a certificate, about."""
SHARE = 0.05
"""Of the time of a run, what checkpoints may take."""

_SPEED = 100e6  # bytes a second, and
_LATENCY = 0.01  # seconds: what the first checkpoint is taken to need
_STEPS = "steps"
_TRAILS = "trails"
_UNITS = "rounding_units"
_PAIRS = ("curvature", "bottom")  # of an iterate, and what the searches for them go on with
_CALLED = {"digests.data": "the SHA-256 of the data", "digests.start": "the SHA-256 of θ_0"}


class CannotResume(InputError):
    """What is on disk is not what this run would go on from."""


class Cadence:
    """When a checkpoint is worth its time: once writing it takes a share of the time since."""

    def __init__(self, cost: float, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            cost: what the first is taken to need, in seconds.
            clock: seconds.
        """
        self._cost = cost
        self._clock = clock
        self._last = clock()

    @property
    def due(self) -> bool:
        return self._clock() - self._last >= self._cost / SHARE

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While one is written."""
        began = self._clock()
        yield
        self._last = self._clock()
        self._cost = self._last - began


class Record:
    """The rows of a run that is under way, in memory or on disk.

    Attributes:
        rows: so far.
        saved: what the run goes on from; None where it begins.
        units: of roundoff, that conclusions from the rows are drawn with.
    """

    def __init__(
        self,
        rows: Table | Journal,
        place: Place | None = None,
        saved: Checkpoint | None = None,
    ) -> None:
        """`of` calls this."""
        self.rows = rows
        self.saved = saved
        self._place = place
        self._last: Iterate | None = None  # the last one in the rows, if a run can go on from it
        self._kept = saved.mark.rows if saved else 0  # rows up to the last checkpoint
        self._cadence: Cadence | None = None
        self.units: float | None = saved.numbers[_UNITS] if saved else None

    @classmethod
    def of(cls, run: Descent, place: Place | None) -> Record:
        """Of ``run``, from its beginning, or from where the run at ``place`` has come to.

        Raises:
            InputError: a file there cannot be written, or is damaged; another run is there.
        """
        if place is None:
            return cls(Table())
        place.check()
        about = json.loads(json.dumps({**place.about, **_facts(run)}))
        if not os.path.lexists(place.checkpoint):
            return cls(Journal.create(place.journal, about), place)
        saved = Checkpoint.read(place.checkpoint)
        journal = Journal.open(place.journal, saved.mark)
        try:
            _agree(journal.header, about, saved.step, run)
        except CannotResume:
            journal.close()
            raise
        return cls(journal, place, saved)

    @property
    def on_disk(self) -> bool:
        return isinstance(self.rows, Journal)

    def add(self, it: Iterate, row: Row) -> None:
        """The next iterate.

        Raises:
            JournalError: no space, or the like; the iterate counts as not measured.
        """
        self.rows.append(row)
        self._last = it if it.finite else None

    def save(self, *, at_once: bool = False) -> None:
        """Write a checkpoint if one is due, or ``at_once``; none where nothing is new.

        Raises:
            JournalError, CheckpointError: no space, or the like; the last one is still there.
        """
        it, rows, place = self._last, self.rows, self._place
        if it is None or place is None or not isinstance(rows, Journal) or self._kept == len(rows):
            return
        if self._cadence is None:
            self._cadence = Cadence(_LATENCY + _checkpoint(it, rows, self.units).size / _SPEED)
        if at_once or self._cadence.due:
            with self._cadence.writing():
                rows.sync()
                _checkpoint(it, rows, self.units).write(place.checkpoint)
            self._kept = len(rows)

    def save_last(self) -> str:
        """Write a checkpoint of the last iterate; why not, if it cannot be written.

        The run can then still go on from the one before.
        """
        try:
            self.save(at_once=True)
        except (JournalError, CheckpointError) as error:
            return error.message
        return ""

    def file(
        self, counts: Mapping[str, Any], series: Mapping[str, Sequence[float | None]]
    ) -> JournalFile | None:
        """The journal as a certificate names it, of a run with ``counts`` of inequalities."""
        if not isinstance(self.rows, Journal):
            return None
        self.rows.cut()
        mark = self.rows.mark
        stride = math.ceil(mark.rows / THINNED)
        return JournalFile(
            self.rows.path.name, mark.end, mark.sha256, mark.rows, stride, dict(counts),
            _ranges(series),
        )  # fmt: skip

    def close(self) -> None:
        """What is on disk is whole, and good for something; the rows can no longer be read.

        Raises:
            JournalError: the file cannot be cut to its whole lines.
        """
        if isinstance(self.rows, Journal):
            if not len(self.rows) and self.saved is None:
                self.rows.remove()
            self.rows.close()

    def earlier(self) -> Iterator[Row]:
        """The rows of the run that is gone on with."""
        return self.rows.rows() if isinstance(self.rows, Journal) else iter(())

    def goal(self, run: Descent, row: Row) -> Iterate:
        """The iterate that ``saved`` is, as it was when ``row`` had been observed at it.

        What a checkpoint does not hold (loss, gradient) is computed again, and compared.

        Raises:
            CannotResume: it gives other numbers than then.
        """
        assert self.saved is not None
        it = Iterate(
            run.start.objective,
            self.saved.tensors["theta"].to(run.start.theta),
            step=self.saved.step,
            lr=run.rate(self.saved.step),
            probes=run.probes,
            curvature_expected=run.start.curvature_expected,
            accuracy=run.start.accuracy,
            rounding_units=run.start.rounding_units,
        )
        _restore(it, row, self.saved)
        found = {"loss": it.loss, "gradient_norm": it.gradient_norm}
        self.compare(it.step, found, {name: row[name] for name in found})
        return it

    def compare(self, step: int, now: Row, then: Row) -> None:
        """
        Raises:
            CannotResume: not the same numbers of the same names.
        """
        for name in (*now, *then):
            if name not in now or name not in then or now[name] != then[name]:
                was, found = (repr(x[name]) if name in x else "not measured" for x in (then, now))
                raise CannotResume(
                    f"the run cannot go on bit for bit: at step {step} {name} was {was}, and is "
                    f"{found}{self._threads()}",
                    "Go on with the machine and the number of threads that it was begun with, or "
                    "give another --out.",
                )

    def _threads(self) -> str:
        header = self.rows.header if isinstance(self.rows, Journal) else {}
        then, now = header.get("threads"), torch.get_num_threads()
        return f" (with {then} threads then, {now} now)" if then != now else ""


def _facts(run: Descent) -> dict[str, Any]:
    """What a run depends on beside the recipe."""
    from blockframe.plugins import core_version

    objective = run.start.objective
    return {
        _STEPS: run.steps,
        "device": objective.arithmetic.device_name,
        "dtype": objective.arithmetic.dtype_name,
        "blockframe": core_version(),
        "torch": version("torch"),
        "threads": torch.get_num_threads(),
        "learning rate": run.lr,
    }


def _agree(then: Mapping[str, Any], now: Mapping[str, Any], step: int, run: Descent) -> None:
    """
    Raises:
        CannotResume: the run with header ``then``, which has come to ``step``, is another one.
    """
    if run.steps < step:
        raise CannotResume(
            f"the run has come to step {step} already", f"Give --steps {step} at least."
        )
    free = {"format", "threads", "recipe.steps", *([] if run.schedule.by_length else [_STEPS])}
    old, new = _flat(then), _flat(now)
    for key in (*new, *old):
        if key not in free and old.get(key) != new.get(key):
            name = _CALLED.get(key, key.removeprefix("recipe."))
            raise CannotResume(
                f"this is not the run that was begun: {name} was {old.get(key)}, and is "
                f"{new.get(key)}", "Give what the run was begun with, or another --out.",
            )  # fmt: skip


def _ranges(series: Mapping[str, Sequence[float | None]]) -> dict[str, list[float]]:
    """The first, the least and the greatest number of each series that has one."""
    found = {}
    for name, values in series.items():
        numbers = [x for x in values if x is not None]
        if numbers:
            found[name] = [numbers[0], min(numbers), max(numbers)]
    return found


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found


def _checkpoint(it: Iterate, rows: Journal, units: float | None) -> Checkpoint:
    tensors = {"theta": it.theta, **{f"{_TRAILS}.{n}": x for n, x in it.trails.tensors().items()}}
    numbers: dict[str, Any] = {_TRAILS: it.trails.numbers(), _UNITS: units}
    for name in _PAIRS:
        if (pair := it.__dict__.get(name)) is not None:
            numbers[name] = asdict(pair, filter=lambda attribute, _: attribute.name != "vector")
            tensors[f"{name}.vector"] = pair.vector
    return Checkpoint(rows.mark, tensors, numbers)


def _restore(it: Iterate, row: Row, saved: Checkpoint) -> None:
    """What was observed at ``it``, and what the searches at the next iterate begin with."""
    tensors = {name: tensor.to(it.theta.device) for name, tensor in saved.tensors.items()}
    mine = f"{_TRAILS}."
    it.trails = Trails.restored(
        {n.removeprefix(mine): x for n, x in tensors.items() if n.startswith(mine)},
        saved.numbers[_TRAILS],
    )
    for name in _PAIRS:
        if name in saved.numbers:
            it.__dict__[name] = Eigenpair(**saved.numbers[name], vector=tensors[f"{name}.vector"])
    for name in row:
        probe, _, key = name.partition(".")
        if probe in it.probes:
            it._observed.setdefault(probe, {})[key] = row[name]
