"""A run of gradient descent as a certificate keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import asdict

from blockframe.certificate.model import Trajectory
from blockframe.dynamics.descent import Descent, begin, start
from blockframe.dynamics.ending import COMPLETED, NetworkError, failed, interrupted
from blockframe.dynamics.ending import out_of_memory as no_memory
from blockframe.dynamics.inequalities import Course
from blockframe.dynamics.iterate import NoSecondDerivative
from blockframe.dynamics.minimizer import find
from blockframe.dynamics.options import Options, Probes
from blockframe.dynamics.probes import ON_REQUEST, PROBES, Probe
from blockframe.dynamics.schedule import AUTO
from blockframe.dynamics.tangent import TangentTooLarge
from blockframe.errors import BlockframeError, PluginError
from blockframe.foreign import foreign, out_of_memory

if TYPE_CHECKING:
    from blockframe.dynamics.losses import Loss
    from blockframe.problem import Problem
    from blockframe.progress import Progress

Row = dict[str, float | None]


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
) -> Trajectory:
    """Gradient descent with docs/theory section 6 along it.

    A run that diverges, meets a number that is not finite, is interrupted, runs out of memory, or
    in which the network or a probe raises, ends there; what was measured is kept and ``ended`` says
    why.

    Args:
        blocks: as of `descend`.
        scale: ``full`` or ``proxy``, which of the two ``problem`` is.

    Raises:
        InputError: ``problem`` cannot be descended on; outputs, targets and loss do not fit at θ_0;
            ``auto`` finds no learning rate.
        PluginError: a contributed loss fails at θ_0.
    """
    if progress:
        progress.stage("gradient descent")
    try:
        first = start(problem, options, blocks)
        first.loss  # noqa: B018 - computed here, so that what does not fit is refused
        run = begin(first, options)
    except (KeyboardInterrupt, NetworkError, MemoryError, RuntimeError) as error:
        return Trajectory(
            lr=options.lr or 0.0,
            steps=options.steps,
            scale=scale,
            loss=problem.loss,
            data=problem.data,
            ended=_broken_off(error, 0),
            lr_rule="as given" if options.lr else "not chosen",
        )
    rows: list[Row] = []
    course = Course(first.objective.infimum)
    unavailable: dict[str, str] = {}
    stopped, minimizer = "", None
    try:
        for it in run:
            if not it.finite:
                rows.append({"loss": it.observe("loss")[""]})
                continue
            if it.step == 0:
                unavailable = _drop_unavailable(run)
            row = it.observe_all()
            course.add(it.lr, it.point, _tangent(row))
            rows.append(row if run.schedule.constant else {"lr": it.lr, **row})
            if progress:
                progress.step(it.step, options.steps, f"loss {it.loss:.4g}")
        minimizer = find(run.start.objective) if run.ended == COMPLETED else None
    except (KeyboardInterrupt, BlockframeError, MemoryError, RuntimeError) as error:
        stopped = _broken_off(error, len(rows))
    names = dict.fromkeys(name for row in rows for name in row)
    series = {name: [row.get(name) for row in rows] for name in names}
    summaries = _summaries(run.probes, series, unavailable)
    return Trajectory(
        lr=run.lr,
        steps=options.steps,
        scale=scale,
        loss=problem.loss,
        data=problem.data,
        ended=stopped or run.ended,
        lr_rule=run.lr_rule,
        series=series,
        inequalities=course.inequalities(),
        summary={
            **_numbers(run),
            **course.numbers(),
            **summaries,
            **({"minimizer": asdict(minimizer)} if minimizer else {}),
            **({"unavailable": unavailable} if unavailable else {}),
        },
    )


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
    """Probes that need Hessian products of a network that has none, or a tangent Gram matrix that
    is too large, and why; they are left out."""
    reasons: dict[str, str] = {}
    for name in run.probes:
        try:
            run.start.observe(name)
        except (NoSecondDerivative, TangentTooLarge) as error:
            reasons[name] = error.message
    for name in reasons:
        del run.probes[name]
    return reasons


def _tangent(row: Row) -> tuple[float, float, float] | None:
    """λ_min(K), its error and the bound of the PL ratio, where they were observed."""
    least, error, bound = (row.get(f"tangent{key}") for key in ("", ".error", ".pl_bound"))
    if least is None or error is None or bound is None:
        return None
    return least, error, bound


def _numbers(run: Descent) -> dict[str, Any]:
    """Where and on what it ran."""
    objective = run.start.objective
    return {
        "device": objective.arithmetic.device_name,
        "dtype": objective.arithmetic.dtype_name,
        "parameters": objective.start.numel(),
        "loss_infimum": objective.infimum,
    }


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
            try:
                with foreign(PluginError):
                    summary = dict(probe.summary(own))
            except PluginError as error:
                unavailable[f"summary of {name}"] = error.message
                continue
            if summary:
                summaries[name] = summary
    return summaries
