"""A run of gradient descent as a certificate keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from blockframe.certificate.model import Inequality, Trajectory
from blockframe.dynamics.descent import Descent, descend
from blockframe.dynamics.ending import interrupted
from blockframe.dynamics.inequalities import Point, StepCurvature, of_run, of_step
from blockframe.dynamics.iterate import NoSecondDerivative
from blockframe.dynamics.probes import PROBES, Probe

if TYPE_CHECKING:
    from blockframe.dynamics.losses import Loss
    from blockframe.problem import Problem
    from blockframe.progress import Progress

Row = dict[str, float | None]


def trajectory(
    problem: Problem,
    blocks: Mapping[str, Sequence[str]] | None = None,
    *,
    lr: float | str = "auto",
    steps: int = 20,
    probes: Iterable[str | Probe | type[Probe]] = (),
    known: Mapping[str, type[Probe]] | None = None,
    losses: Mapping[str, Loss] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    seed: int = 0,
    scale: str = "full",
    progress: Progress | None = None,
) -> Trajectory:
    """Gradient descent with the core's probes and further ones, and docs/theory section 6 along it.

    A run that diverges, meets a number that is not finite, or is interrupted from the keyboard ends
    there; what was measured is kept and ``ended`` says why. Arguments as of `descend`, and
    ``scale``: ``full`` or ``proxy``, which of the two ``problem`` is.

    Raises:
        InputError: as of `descend`.
        PluginError: a contributed probe or loss fails.
    """
    if progress:
        progress.stage("gradient descent")
    try:
        run = descend(
            problem,
            lr=lr,
            steps=steps,
            probes=[*PROBES, *probes],
            known={**{p.name: p for p in PROBES}, **(known or {})},
            losses=losses,
            blocks=blocks,
            device=device,
            dtype=dtype,
            seed=seed,
        )
    except KeyboardInterrupt:  # while the learning rate was sought
        given = lr if isinstance(lr, (int, float)) else 0.0
        return Trajectory(
            given, steps, scale, problem.loss, problem.data, interrupted(0), "not chosen"
        )
    rows: list[Row] = []
    points: list[Point] = []
    unavailable: dict[str, str] = {}
    stopped = ""
    try:
        for it in run:
            if not it.finite:
                rows.append({"loss": it.observe("loss")[""]})
                continue
            if it.step == 0:
                unavailable = _drop_unavailable(run)
            row, point = it.observe_all(), it.point
            rows.append(row)
            points.append(point)
            if progress:
                progress.step(it.step, steps, f"loss {it.loss:.4g}")
    except KeyboardInterrupt:
        stopped = interrupted(len(rows))
    names = dict.fromkeys(name for row in rows for name in row)
    series = {name: [row.get(name) for row in rows] for name in names}
    inequalities = [i for a, b in pairwise(points) for i in of_step(run.lr, a, b)]
    whole = of_run(run.lr, points, run.start.objective.infimum)
    return Trajectory(
        lr=run.lr,
        steps=steps,
        scale=scale,
        loss=problem.loss,
        data=problem.data,
        ended=stopped or run.ended,
        lr_rule=run.lr_rule,
        series=series,
        inequalities=(*inequalities, *whole),
        summary={
            **_numbers(run, points, whole),
            **_summaries(run.probes, series),
            **({"unavailable": unavailable} if unavailable else {}),
        },
    )


def _drop_unavailable(run: Descent) -> dict[str, str]:
    """Probes that need Hessian products of a network that has none, and why; they are left out."""
    reasons: dict[str, str] = {}
    for name in run.probes:
        try:
            run.start.observe(name)
        except NoSecondDerivative as error:
            reasons[name] = error.message
    for name in reasons:
        del run.probes[name]
    return reasons


def _numbers(run: Descent, points: list[Point], whole: list[Inequality]) -> dict[str, Any]:
    """Of the whole run: docs/theory section 6."""
    objective = run.start.objective
    found = [StepCurvature.between(run.lr, a, b) for a, b in pairwise(points)]
    known = [c for c in found if c is not None]
    numbers: dict[str, Any] = {
        "device": objective.arithmetic.device_name,
        "dtype": objective.arithmetic.dtype_name,
        "parameters": objective.start.numel(),
        "loss_infimum": objective.infimum,
    }
    if known and len(known) == len(found):
        numbers["curvature"] = max(c.value for c in known)
        numbers["directional_steps"] = sum(c.directional for c in known)
        numbers["peaks_between_iterates"] = sum(c.peak for c in known)
    for inequality in whole:
        numbers[f"{inequality.name}_bound"] = inequality.right
    return numbers


def _summaries(
    probes: Mapping[str, Probe], series: Mapping[str, list[float | None]]
) -> dict[str, Any]:
    summaries: dict[str, Any] = {}
    for name, probe in probes.items():
        own = {
            full.removeprefix(name).removeprefix("."): values
            for full, values in series.items()
            if full == name or full.startswith(f"{name}.")
        }
        if any(x is not None for values in own.values() for x in values):
            summary = dict(probe.summary(own))
            if summary:
                summaries[name] = summary
    return summaries
