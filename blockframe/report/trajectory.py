"""One run of gradient descent in a few lines."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from blockframe.certificate.model import Inequality, Subject, Trajectory
from blockframe.contract.descent import CURVATURE, SHARPNESS
from blockframe.dynamics.inequalities import STABILITY
from blockframe.report.sheet import Sheet
from blockframe.report.words import apart, number, plural, sparkline

_TITLES = {
    "loss": "loss",
    "sharpness.stability": SHARPNESS,
    "sharpness": "sharpness λ",
    "gradient_norm": "‖∇L‖",
    "pl": "PL ratio μ",
    "directional_smoothness": "directional smoothness M",
    "block_norms": "‖θ‖",
    "dissipativity": "⟨θ, ∇L⟩",
    "output_pairing": "⟨F, ∂L/∂F⟩",
    "distance": "‖θ − θ₀‖ / ‖θ₀‖",
    "gradient_lipschitz": "‖Δ∇L‖ / ‖Δθ‖",
    "block_jacobian": "least σ of block Jacobians",
    "kinks": "kinks crossed",
}
"""What every reader looks for, in this order, in the signs of docs/theory; others follow."""

_DETAILS = (
    "output_pairing.size", "sharpness.residual", "sharpness.cold", "tangent.error",
    "descent.curvature", "descent.margin", "update_size", "loss_floor", "loss_floor.square",
    "tangent_bound.residual", "tangent_bound.rounding",
)  # fmt: skip
"""Series of the core that stand in the certificate only; others, or the inequalities, say it."""


def write_trajectory(sheet: Sheet, trajectory: Trajectory, subject: Subject) -> None:
    """Where it ran, the learning rate and its rule, the course of every series, inequalities."""
    on = f"on the proxy ({subject.proxy})" if trajectory.scale == "proxy" else "at full size"
    where = [f"measured {on}", trajectory.data, f"loss {trajectory.loss}"]
    sheet.labelled("trajectory", " · ".join(w for w in where if w), indent=2)
    taken, asked = trajectory.completed, trajectory.steps
    steps = plural(taken, "step") if taken == asked else f"{taken} of {plural(asked, 'step')}"
    ended = "" if trajectory.ended == "completed" else f" · ended: {trajectory.ended}"
    rule = subject.recipe.lr if subject.recipe is not None else None
    changing = f", then by {rule}" if isinstance(rule, str) else ""
    sheet.line(f"lr {_rate(trajectory)}{changing} · {steps}{ended}", indent=4)
    rows = [_course(sheet, name, trajectory.series[name]) for name in _shown(trajectory, subject)]
    if rows:
        sheet.table(
            rows, ("", "first → last", "course", "least to greatest"), drop=(2, 3), indent=4
        )
    held = [_held(name, counts) for name, counts in _counts(trajectory).items()]
    if held:
        sheet.labelled("inequalities that hold", " · ".join(held), indent=4)
    for violated in _violations(trajectory.inequalities):
        sheet.line(violated, indent=4)
    _write_minimizer(sheet, trajectory.summary.get("minimizer"))
    for name, reason in trajectory.summary.get("unavailable", {}).items():
        sheet.line(f"not measured: {name} ({reason})", indent=4)


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
    order = list(_TITLES)
    return sorted(names, key=lambda n: order.index(n) if n in _TITLES else len(order))


def _of_block(key: str, blocks: Collection[str]) -> bool:
    """Whether ``key`` is the name of a block, or that and what of it."""
    return key in blocks or key.rpartition(".")[0] in blocks


def _course(sheet: Sheet, name: str, values: Sequence[float | None]) -> tuple[str, ...]:
    present = [v for v in values if v is not None]
    return (
        _TITLES.get(name) or name.replace("_", " ").replace(".", " "),
        " → ".join(apart(present[0], present[-1])),
        sparkline(values, unicode=sheet.page.unicode),
        " to ".join(apart(min(present), max(present))),
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
    rounding = f" ({undecided} within rounding)" if undecided else ""
    return f"{name} {held} of {sum(counts)}{rounding}"


def _violations(inequalities: Sequence[Inequality]) -> list[str]:
    """The first violation of each inequality."""
    first = {i.name: i for i in reversed(inequalities) if i.holds is False}
    return [
        f"{_called(i)} first violated at step {i.step}: {' > '.join(apart(i.left, i.right))}"
        for i in sorted(first.values(), key=lambda i: i.step)
    ]


def _called(inequality: Inequality) -> str:
    """Its name, and what its sides are where they are no losses."""
    sides = f", {CURVATURE}," if inequality.name == STABILITY else ""
    return inequality.name + sides
