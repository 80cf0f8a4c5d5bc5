"""One run of gradient descent in a few lines."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from blockframe.certificate.model import Inequality, Subject, Trajectory
from blockframe.contract.descent import CURVATURE, SHARPNESS
from blockframe.dynamics.ending import COMPLETED
from blockframe.dynamics.inequalities import STABILITY, UNITS
from blockframe.report.sheet import Sheet
from blockframe.report.words import apart, number, plural, sparkline

_SERIES = {
    "loss": ("loss", "L"),
    "lr": ("learning rate η", "θ²/L"),
    "sharpness.stability": (SHARPNESS, ""),
    "sharpness": ("sharpness λ", "L/θ²"),
    "gradient_norm": ("‖∇L‖", "L/θ"),
    "pl": ("PL ratio μ", "L/θ²"),
    "directional_smoothness": ("directional smoothness M", "L/θ²"),
    "block_norms": ("‖θ‖", "θ"),
    "dissipativity": ("⟨θ, ∇L⟩", "L"),
    "output_pairing": ("⟨F, ∂L/∂F⟩", "L"),
    "distance": ("‖θ − θ₀‖ / ‖θ₀‖", ""),
    "gradient_lipschitz": ("‖Δ∇L‖ / ‖Δθ‖", "L/θ²"),
    "block_jacobian": ("least σ of block Jacobians", ""),
    "kinks": ("kinks crossed", ""),
    "kinks.approach": ("share of the way to a kink", ""),
    "kinks.margin": ("relative distance from a kink", ""),
    "tangent": ("tangent K: least eigenvalue", "F²/θ²"),
    "tangent.pl_bound": ("tangent K: lower bound of μ", "L/θ²"),
    "tangent.effective_rank": ("tangent K: effective rank", ""),
    "tangent.change": ("tangent K: relative change", ""),
    "tangent_bound": ("tangent K: least eigenvalue, at most", "F²/θ²"),
    "bottom_eigenvalue": ("least eigenvalue of ∇²L", "L/θ²"),
    "segment_curvature": ("largest curvature along the step", "L/θ²"),
    "segment_curvature.mean": ("mean curvature along the step", "L/θ²"),
    "segment_curvature.sharpness": ("λ half-way along the step", "L/θ²"),
    "spectral_density.trace": ("trace of ∇²L", "L/θ²"),
    "spectral_density.rms": ("rms eigenvalue of ∇²L", "L/θ²"),
    "spectral_density.negative": ("share of eigenvalues < 0", ""),
    "spectral_density.lower": ("1 % of eigenvalues below", "L/θ²"),
    "spectral_density.median": ("50 % of eigenvalues below", "L/θ²"),
    "spectral_density.upper": ("99 % of eigenvalues below", "L/θ²"),
}
"""What the series of the core are called, in this order, in the signs of docs/theory, and their
units (`Probe.unit`; "" of a pure number); a plugin's follow."""

_DETAILS = (
    "output_pairing.size", "sharpness.residual", "sharpness.cold", "tangent.error",
    "descent.curvature", "descent.margin", "update_size", "loss_floor", "loss_floor.square",
    "tangent_bound.residual", "tangent_bound.rounding", "bottom_eigenvalue.residual",
    "bottom_eigenvalue.cold", "segment_curvature.residual",
)  # fmt: skip
"""Series of the core that stand in the certificate only; others, or the inequalities, say it."""

_DIGITS = 10
"""Of numbers in the table at most, to tell them apart."""

_ERROR = "_error"
"""``NAME_error`` is the 95 % error of the series ``NAME``, and stands below it."""

_SEVERAL = 10
"""Iterates from which on a sharpness about 2/η is more than passing by."""

_EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Distances from 1 to the next number; that of float64 is 2^-52."""


def write_trajectory(sheet: Sheet, trajectory: Trajectory, subject: Subject) -> None:
    """Where it ran, the learning rate and its rule, the course of every series, inequalities."""
    on = f"on the proxy ({subject.proxy})" if trajectory.scale == "proxy" else "at full size"
    where = [f"measured {on}", trajectory.data, f"loss {trajectory.loss}"]
    sheet.labelled("trajectory", " · ".join(w for w in where if w), indent=2)
    sheet.line(" · ".join(_how(trajectory, subject)), indent=4)
    series = dict(trajectory.series)
    rounding = _rounding(trajectory, subject)
    if rounding is not None:
        series["block_jacobian"] = [
            0.0 if x is not None and x <= rounding else x for x in series["block_jacobian"]
        ]
    units = trajectory.summary.get("units", {})
    if "lr" in series:  # the last rate is that of no step
        for name in ("lr", "sharpness.stability"):
            series[name] = series.get(name, [])[:-1]
    ranges = trajectory.journal.ranges if trajectory.journal is not None else {}
    rows = [
        _course(sheet, name, series[name], units, ranges.get(name))
        for name in _shown(trajectory, subject)
        if any(v is not None for v in series[name])
    ]
    if rows:
        header = ("", "unit", "first → last", "course", "least to greatest")
        sheet.table(rows, header, drop=(4, 3, 1), indent=4)
    if rounding is not None and 0.0 in series["block_jacobian"]:
        sheet.line(f"a σ below {rounding:.2g} is shown as 0: rounding decides there", indent=4)
    if trajectory.journal is not None:
        sheet.line(
            f"the courses are of one iterate in {trajectory.journal.stride:,}; "
            f"all {trajectory.journal.iterates:,} are in {trajectory.journal.file}",
            indent=4,
        )
    _write_edge(sheet, trajectory)
    units = trajectory.summary.get("rounding_units")
    if units is not None and units > UNITS:
        digits = plural(math.ceil(math.log10(units / UNITS)), "digit")
        sheet.line(f"the network loses {digits} inside, and the noise of the loss counts them",
                   indent=4)  # fmt: skip
    held = [_held(name, counts) for name, counts in _counts(trajectory).items()]
    if held:
        sheet.labelled("inequalities that hold", " · ".join(held), indent=4)
    for violated in _violations(trajectory.inequalities):
        sheet.line(violated, indent=4)
    _write_minimizer(sheet, trajectory.summary.get("minimizer"))
    for name, reason in _unmeasured(trajectory, subject).items():
        sheet.line(f"not measured: {name} ({reason})", indent=4)


def _how(trajectory: Trajectory, subject: Subject) -> list[str]:
    """The learning rate, how many steps were taken with it, and in which arithmetic."""
    rule = subject.recipe.lr if subject.recipe is not None else None
    changing = f", then by {rule}" if isinstance(rule, str) else ""
    taken, asked = trajectory.completed, trajectory.steps
    steps = plural(taken, "step") if taken == asked else f"{taken:,} of {plural(asked, 'step')}"
    early = "" if trajectory.ended == COMPLETED else ", ended early"
    dtype, device = (trajectory.summary.get(key) for key in ("dtype", "device"))
    arithmetic = [f"{dtype} on {device}"] if dtype and device else []
    return [f"lr {_rate(trajectory)}{changing}", steps + early, *arithmetic]


def _unmeasured(trajectory: Trajectory, subject: Subject) -> dict[str, str]:
    """What was to be measured and was not, and why."""
    reasons = dict(trajectory.summary.get("unavailable", {}))
    seen = {
        name.partition(".")[0]
        for name, values in trajectory.series.items()
        if any(v is not None for v in values)
    }
    asked = subject.recipe.probes if subject.recipe is not None else ()
    silent = [name for name in asked if name not in seen and name not in reasons]
    return reasons | dict.fromkeys(silent, "no number at any iterate")


def _write_edge(sheet: Sheet, trajectory: Trajectory) -> None:
    edge = trajectory.summary.get("edge_of_stability")
    if not edge:
        return
    text = f"{SHARPNESS} ≥ 1 first at step {edge['first']:,}"
    if edge["iterates"] > 1:
        span = " and ".join(apart(edge["least"], edge["most"], most=_DIGITS))
        text += (
            f", in all at {edge['above']:,} of the {edge['iterates']:,} iterates from there on, "
            f"where it lies between {span} and the loss rises on {plural(edge['rises'], 'step')}"
        )
    if _hovers(trajectory, edge):
        sheet.labelled("edge of stability", text, indent=4)
    else:
        sheet.line(text, indent=4)


def _hovers(trajectory: Trajectory, edge: Mapping[str, Any]) -> bool:
    """Whether it is what docs/theory section 6 calls the edge of stability.

    A constant rate; for several iterates, to the end of the run, a sharpness about 2/η (never twice
    that, above it at a good part of them); a loss that falls all the same.
    """
    if "lr" in trajectory.series or trajectory.ended != COMPLETED:
        return False
    stride = trajectory.journal.stride if trajectory.journal is not None else 1
    losses = [x for x in trajectory.series["loss"][edge["first"] // stride :] if x is not None]
    about = edge["most"] < 2 and 4 * edge["above"] >= edge["iterates"] >= _SEVERAL
    return bool(about and losses[-1] < losses[0])


def _rounding(trajectory: Trajectory, subject: Subject) -> float | None:
    """What rounding may make of a singular value 0 of a block's Jacobian: eps × size × ‖J‖.

    ``size``: entries of the largest state of a sample. None where no Jacobian was observed.
    """
    largest = [
        x
        for name, values in trajectory.series.items()
        if name.startswith("block_jacobian.") and name.endswith(".largest")
        for x in values
        if x is not None
    ]
    if not largest or not any(x is not None for x in trajectory.series["block_jacobian"]):
        return None
    size = max((math.prod(z[1:]) for b in subject.blocks for z in b.state), default=1)
    return _EPS.get(trajectory.summary.get("dtype", ""), 2.0**-52) * size * max(largest)


def _write_minimizer(sheet: Sheet, found: Mapping[str, Any] | None) -> None:
    if not found:
        return
    nullity, predicted = found["nullity"], found["predicted"]
    relation = "= P − Nc" if nullity == predicted else f"≠ P − Nc = {predicted}"
    sheet.labelled(
        "a global minimizer",
        f"found from θ₀ by Levenberg and Marquardt's method, not by this run, loss "
        f"{number(found['loss'])}: nullity of its Hessian {nullity} {relation}",
        indent=4,
    )


def _rate(trajectory: Trajectory) -> str:
    """``0.118 = 0.9 × 2/λ(θ₀)``; ``100, as given``; ``1, because the gradient is 0 at θ_0``."""
    lr = number(trajectory.lr)
    rule = trajectory.lr_rule.removeprefix(f"{lr}, ")
    return lr + (f" = {rule}" if "×" in rule else f", {rule}" if rule else "")


def _shown(trajectory: Trajectory, subject: Subject) -> list[str]:
    """Names of the series to show: not those of single blocks, nor those without a number."""
    blocks = {b.name for b in subject.blocks} | {"rest", "(rest)"}
    names = [
        name
        for name, values in trajectory.series.items()
        if not _of_block(name.partition(".")[2], blocks)
        and name not in _DETAILS
        and any(v is not None for v in values)
    ]
    order = [name + end for name in _SERIES for end in ("", _ERROR)]
    return sorted(names, key=lambda n: order.index(n) if n in order else len(order))


def _of_block(key: str, blocks: Collection[str]) -> bool:
    """Whether ``key`` is the name of a block, or that and what of it."""
    return key in blocks or key.rpartition(".")[0] in blocks


def _title(name: str, units: Mapping[str, str]) -> tuple[str, str]:
    """What the series is called, and its unit; ``units``: of a plugin's probes."""
    quantity = _SERIES.get(name.removesuffix(_ERROR))
    if quantity is None:
        return name.replace("_", " ").replace(".", " "), units.get(name, "")
    return quantity if name in _SERIES else ("  ± (95 %)", quantity[1])


def _course(
    sheet: Sheet,
    name: str,
    values: Sequence[float | None],
    units: Mapping[str, str],
    extent: Sequence[float] | None,
) -> tuple[str, ...]:
    """``extent``: the first number, the least and the greatest, where ``values`` are not all."""
    present = [v for v in values if v is not None]
    first, least, greatest = extent or (present[0], min(present), max(present))
    return (
        *_title(name, units),
        " → ".join(apart(first, values[-1], most=_DIGITS)),
        sparkline(values, unicode=sheet.page.unicode),
        " to ".join(apart(least, greatest, most=_DIGITS)),
    )


def _counts(trajectory: Trajectory) -> dict[str, list[int]]:
    """Of the inequalities of each name, how many hold, are undecided, are violated."""
    counts = dict(trajectory.journal.counts) if trajectory.journal is not None else {}
    for i in trajectory.inequalities:
        if trajectory.journal is None or i.name not in trajectory.journal.counts:
            counts.setdefault(i.name, [0, 0, 0])[(True, None, False).index(i.holds)] += 1
    return counts


def _held(name: str, counts: Sequence[int]) -> str:
    """``descent lemma 19 of 20 (1 within rounding)``."""
    held, undecided, _ = counts
    rounding = f" ({undecided:,} within rounding)" if undecided else ""
    return f"{name} {held:,} of {sum(counts):,}{rounding}"


def _violations(inequalities: Sequence[Inequality]) -> list[str]:
    """The first violation of each inequality."""
    first = {i.name: i for i in reversed(inequalities) if i.holds is False}
    return [
        f"{_called(i)} first violated at step {i.step:,}: {_sides(i)}"
        for i in sorted(first.values(), key=lambda i: i.step)
    ]


def _sides(violated: Inequality) -> str:
    """``5.62 > 3.07``; where digits do not tell them apart, by how much."""
    left, right = apart(violated.left, violated.right, most=_DIGITS)
    more = f", by {number(-violated.margin)}" if left == right else ""
    return f"{left} > {right}{more}"


def _called(inequality: Inequality) -> str:
    """Its name, and what its sides are where they are no losses."""
    sides = f", {CURVATURE}," if inequality.name == STABILITY else ""
    return inequality.name + sides
