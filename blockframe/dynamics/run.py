"""A run of gradient descent as a certificate keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve

from blockframe.certificate.model import Trajectory
from blockframe.dynamics.conclusions import Conclusions
from blockframe.dynamics.descent import Descent, begin, start
from blockframe.dynamics.ending import (
    COMPLETED,
    NetworkError,
    NoFunction,
    NoRate,
    failed,
    interrupted,
)
from blockframe.dynamics.ending import out_of_memory as no_memory
from blockframe.dynamics.inequalities import WHOLE
from blockframe.dynamics.minimizer import find
from blockframe.dynamics.options import Options, Probes
from blockframe.dynamics.place import Place
from blockframe.dynamics.probes import ON_REQUEST, PROBES, Probe, Unavailable
from blockframe.dynamics.record import CannotResume, Record
from blockframe.dynamics.rounding import check_repeatable, rounding_units
from blockframe.dynamics.schedule import AUTO
from blockframe.errors import BlockframeError, PluginError
from blockframe.foreign import foreign, out_of_memory
from blockframe.interrupts import held

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate
    from blockframe.dynamics.journal import Row
    from blockframe.dynamics.losses import Loss
    from blockframe.problem import Problem
    from blockframe.progress import Progress


def trajectory(
    problem: Problem,
    blocks: Mapping[str, Sequence[str]] | None = None,
    *,
    lr: float | str | Sequence[float] = AUTO,
    steps: int = 20,
    probes: Probes = (),
    known: Mapping[str, type[Probe]] | None = None,
    losses: Mapping[str, Loss] | None = None,
    device: str | None = AUTO,
    dtype: str | None = None,
    seed: int = 0,
    scale: str = "full",
    progress: Progress | None = None,
) -> Trajectory:
    """`observe`, with the arguments of `descend`.

    Raises:
        InputError, PluginError: see `run_options` and `observe`.
    """
    options = run_options(
        lr=lr, steps=steps, probes=probes, known=known, losses=losses, device=device, dtype=dtype,
        seed=seed,
    )  # fmt: skip
    return observe(problem, options, blocks, scale=scale, progress=progress)


def run_options(
    *,
    probes: Probes = (),
    known: Mapping[str, type[Probe]] | None = None,
    **options: Any,
) -> Options:
    """`Options` of a run that the core's probes observe, and further ones.

    Raises:
        InputError, PluginError: see `Options.of`.
    """
    core = {p.name: p for p in (*PROBES, *ON_REQUEST)}
    return Options.of(probes=probes, known={**core, **(known or {})}, **options).observed_by(PROBES)


def observe(
    problem: Problem,
    options: Options,
    blocks: Mapping[str, Sequence[str]] | None = None,
    *,
    scale: str = "full",
    progress: Progress | None = None,
    place: Place | None = None,
) -> Trajectory:
    """Gradient descent with docs/theory section 6 along it.

    A run that diverges, meets a number that is not finite, is interrupted, runs out of memory, or
    in which the network or a probe raises, or the disk is full, ends there; what was measured is
    kept and ``ended`` says why.

    Args:
        blocks: as of `descend`.
        scale: ``full`` or ``proxy``, which of the two ``problem`` is.
        place: where on disk the run is kept while it goes, and gone on with; None: in memory. Of a
            long run that is kept on disk the series are whole here; a certificate takes `thinned`.

    Raises:
        InputError: ``problem`` cannot be descended on; outputs, targets and loss do not fit at θ_0;
            ``auto`` finds no learning rate; see `Record.of`.
        CannotResume: the run at ``place`` is another one.
        PluginError: a contributed loss fails at θ_0.
    """
    if progress:
        progress.stage("gradient descent")
    try:
        run = _begun(problem, options, blocks)
    except (KeyboardInterrupt, NetworkError, NoRate, MemoryError, RuntimeError) as error:
        if place is not None and place.checkpoint.exists():
            raise  # a certificate of nothing must not take the place of what is there
        return Trajectory(
            lr=options.lr or 0.0,
            steps=options.steps,
            scale=scale,
            loss=problem.loss,
            data=problem.data,
            ended=_broken_off(error, 0),
            lr_rule="as given" if options.lr else "not chosen",
        )
    with closing(Record.of(run, place)) as record:
        return _observed(run, record, problem, scale, progress)


def _begun(
    problem: Problem, options: Options, blocks: Mapping[str, Sequence[str]] | None
) -> Descent:
    first = start(problem, options, blocks)
    check_repeatable(first)  # here, so that what does not fit is refused
    first.rounding_units = rounding_units(first)
    return begin(first, options)


def _observed(
    run: Descent, record: Record, problem: Problem, scale: str, progress: Progress | None
) -> Trajectory:
    objective = run.start.objective
    conclusions = Conclusions(run, record, WHOLE if record.on_disk else math.inf)
    unavailable: dict[str, str] = {}
    stopped, ended, minimizer = "", "", None
    try:
        for it in run:
            if not it.finite:
                with held():
                    record.add(it, {"loss": it.observe("loss")[""]})
                    ended = _early(run)
                continue
            if it.step == 0:
                unavailable = _drop_unavailable(run)
            row = it.observe_all() if run.schedule.constant else {"lr": it.lr, **it.observe_all()}
            if it.step == 0 and record.saved is not None:
                run.go_on_from(_caught_up(run, record, row, conclusions))
                continue
            conclusions.weigh(it, row)
            record.units = conclusions.units
            with held():
                record.add(it, row)
                conclusions.add(row)
                ended = _early(run)
                record.save()
            if progress:
                progress.step(it.step, run.steps, f"loss {it.loss:.4g}")
        if run.ended == COMPLETED:
            conclusions.weigh_whole(it)
            _check_function(run, record, it)
            minimizer = find(objective)
    except CannotResume:
        raise
    except (KeyboardInterrupt, BlockframeError, MemoryError, RuntimeError) as error:
        if record.saved is not None and conclusions.course.iterates < len(record.rows):
            raise  # nothing was added to what is there
        known = isinstance(error, NoFunction)  # of the last iterate
        stopped = ended or _broken_off(error, len(record.rows) - known)
    with held():
        failure = record.save_last()
    series: dict[str, Any] = {**record.rows.columns(record.rows.names)}
    summaries = _summaries(run.probes, series, unavailable)
    if failure:
        unavailable["checkpoint"] = failure
    course, begun = conclusions.course, len(record.rows) > 0
    long = record.on_disk and course.iterates > WHOLE
    return Trajectory(
        lr=run.lr,
        steps=run.steps,
        scale=scale,
        loss=problem.loss,
        data=problem.data,
        ended=stopped or run.ended,
        lr_rule=run.lr_rule,
        series=series if long else {name: list(column) for name, column in series.items()},
        inequalities=course.inequalities(),
        summary={
            **_numbers(run),
            "rounding_units": conclusions.units,
            **_units(run.probes),
            **course.numbers(),
            **summaries,
            **({"minimizer": asdict(minimizer)} if minimizer else {}),
            **({"unavailable": unavailable} if unavailable else {}),
        }
        if begun
        else {},
        journal=record.file(course.counts, series) if long else None,
    )


def _early(run: Descent) -> str:
    """How it ended, at an iterate that is in its rows; "" where there is something to be done."""
    return "" if run.ended == COMPLETED else run.ended


def _check_function(run: Descent, record: Record, last: Iterate) -> None:
    """At the end loss and gradient at θ_0, and the loss at θ_K, are what they were.

    Raises:
        NetworkError: they are others.
    """
    first = next(iter(record.rows.rows()))
    check_repeatable(run.start, first["loss"], first["gradient_norm"])
    check_repeatable(last)


def _caught_up(run: Descent, record: Record, start: Row, conclusions: Conclusions) -> Iterate:
    """The iterate that an earlier run had come to, and its rows taken up in ``conclusions``.

    Raises:
        CannotResume: it began with another row than ``start``, or the iterate is another one.
    """
    row = start
    for k, row in enumerate(record.earlier()):
        if k == 0:
            record.compare(0, start, row)
    it = record.goal(run, row)
    conclusions.count(record.units)
    return it


def thinned(run: Trajectory) -> Trajectory:
    """``run`` as a certificate holds it: of a long one that is on disk some iterates only."""
    if run.journal is None:
        return run
    stride, last = run.journal.stride, run.completed
    kept = [*range(0, last, stride), last]
    series = {name: [values[k] for k in kept] for name, values in run.series.items()}
    return evolve(run, series=series)


def _broken_off(error: BaseException, step: int) -> str:
    """The ending of a run that ``error`` ended; an error that is no ending is raised again."""
    if isinstance(error, KeyboardInterrupt):
        return interrupted(step, str(error))
    if out_of_memory(error):
        return no_memory(step)
    if isinstance(error, BlockframeError):
        return failed(error, step)
    raise error


def _drop_unavailable(run: Descent) -> dict[str, str]:
    """Probes whose quantity this network or these data do not allow, and why; they are left out."""
    reasons: dict[str, str] = {}
    for name in run.probes:
        try:
            run.start.observe(name)
        except Unavailable as error:
            reasons[name] = error.message
    for name in reasons:
        del run.probes[name]
    return reasons


def _numbers(run: Descent) -> dict[str, Any]:
    """Where and on what it ran."""
    objective = run.start.objective
    return {
        "device": objective.arithmetic.device_name,
        "dtype": objective.arithmetic.dtype_name,
        "parameters": objective.start.numel(),
        "loss_infimum": objective.infimum,
        "rounding_units_at_start": run.start.rounding_units,
    }


def _units(probes: Mapping[str, Probe]) -> dict[str, dict[str, str]]:
    """Units of what a plugin's probes observe; docs/certificate has those of the core's."""
    core = {p.name for p in (*PROBES, *ON_REQUEST)}
    units = {n: str(p.unit) for n, p in probes.items() if n not in core and p.unit != Probe.unit}
    return {"units": units} if units else {}


def _summaries(
    probes: Mapping[str, Probe],
    series: Mapping[str, list[float | None]],
    unavailable: dict[str, str],
) -> dict[str, Any]:
    """What the probes say of the whole run; one that fails is put among the ``unavailable``."""
    summaries: dict[str, Any] = {}
    for name, probe in probes.items():
        own = {
            full.removeprefix(name).removeprefix("."): values
            for full, values in series.items()
            if full == name or full.startswith(f"{name}.")
        }
        if any(x is not None for values in own.values() for x in values):
            own |= {f".{other}": series[other] for other in probe.reads if other in series}
            try:
                with foreign(PluginError):
                    summary = dict(probe.summary(own))
            except PluginError as error:
                unavailable[f"summary of {name}"] = error.message
                continue
            if summary:
                summaries[name] = summary
    return summaries
