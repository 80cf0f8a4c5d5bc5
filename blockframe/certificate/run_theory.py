"""What follows from the measured series of a run of gradient descent (docs/theory section 6).

A few operations on doubles, which give the same bits wherever they are done in the same order.
Nothing here is taken from the code that made the certificate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from attrs import frozen

from blockframe.certificate.ledger import real
from blockframe.certificate.model import Inequality, Trajectory

PER_STEP = ("monotone decrease", "stability", "descent lemma", "norm recursion")
"""In the order in which the first violated one is named."""
MEASURED = (
    "loss", "gradient_norm", "block_norms", "dissipativity", "output_pairing",
    "output_pairing.size",
)  # fmt: skip
SHARPNESS = ("sharpness", "sharpness.residual", "sharpness.stability", "sharpness.cold")
DERIVED = (
    "directional_smoothness", "pl", "descent.curvature", "descent.margin", "loss_floor",
    "loss_floor.square",
)  # fmt: skip
MOVED = ("update_size", "distance", "gradient_lipschitz")
"""Measured between iterates."""
SPLIT = ("block_norms.", "dissipativity.")
BY_BLOCK = ("update_size.", "distance.")
ON_REQUEST = (
    "tangent", "tangent_bound", "block_jacobian", "kinks", "bottom_eigenvalue",
    "segment_curvature", "spectral_density",
)  # fmt: skip
"""Probes of the core that are there where they were asked for."""
FIGURES: dict[str, dict[str, tuple[str, str]]] = {
    "sharpness": {
        "max": ("greatest", ""), "max_stability": ("greatest taken", ".stability"),
        "worst_residual": ("greatest", ".residual"),
    },
    "pl": {"min": ("least", "")},
    "descent": {"max_curvature": ("greatest", ".curvature")},
    "gradient_lipschitz": {"max": ("greatest", "")},
    "update_size": {"max": ("greatest", "")},
    "distance": {"max": ("greatest", "")},
    "loss_floor": {"least": ("least", ""), "neighbourhood": ("least but the last", ".square")},
    "tangent": {
        "min": ("least", ""), "min_pl_bound": ("least", ".pl_bound"),
        "max_change": ("greatest", ".change"),
    },
    "tangent_bound": {"min": ("least", "")},
    "kinks": {
        "crossings": ("sum", ""), "crossing_steps": ("positive", ""),
        "least_margin": ("least", ".margin"),
    },
    "bottom_eigenvalue": {
        "min": ("least", ""), "worst_residual": ("greatest", ".residual"),
    },
    "segment_curvature": {
        "max": ("greatest", ""), "max_sharpness": ("greatest", ".sharpness"),
    },
}  # fmt: skip
"""Of a probe about the whole run: how a figure follows, and from which of the probe's series."""
CORE = ("loss", "dissipativity", "block_jacobian", *FIGURES)
"""Probes with figures about the whole run."""

UNITS = 64
FEWEST = {"float64": 64, "float32": 64, "float16": 8, "bfloat16": 8}
"""Units of roundoff that the noise of a loss is counted in at least."""
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

NOT_FINITE = re.compile(r"the (loss|gradient) is not finite at step \d+")
TWO_LOSSES = re.compile(
    r"the network gives two (losses|gradients) at one θ,( of norm)? \S+ and \S+, at step \d+"
)
"""Of ``Trajectory.ended``."""

Numbers = list[float | None]
Finding = tuple[str, dict[str, Any] | None]


@frozen
class Point:
    """What was measured at one iterate, and what rounding may have changed the loss by."""

    loss: float
    slope: float  # ‖∇L‖
    norm: float
    pairing: float
    sharpness: float | None
    residual: float
    noise: float
    lr: float  # of the step that leads on

    @property
    def square(self) -> float:
        return self.slope * self.slope


@frozen
class Curvature:
    """Λ of a step, the same less its errors, and where it comes from."""

    value: float
    least: float
    directional: bool = False
    peak: bool = False


def points(run: Trajectory, units: str = "rounding_units") -> list[Point]:
    """The iterates at which loss and gradient are finite.

    ``units``: the figure that says in how many units of roundoff the noise is counted.
    """
    empty: Numbers = [None] * (run.completed + 1)
    roundoff = ROUNDOFF.get(str(run.summary.get("dtype")), math.nan)
    counted = real(run.summary.get(units)) or math.nan
    names = (*MEASURED[:4], MEASURED[5], *SHARPNESS[:2])
    columns = [run.series.get(name, empty) for name in names]
    points = []
    rates = run.series.get("lr", [run.lr] * len(empty))
    for row in zip(*columns, rates, strict=True):
        loss, slope, norm, pairing, outputs, sharpness, residual, lr = row
        if loss is None or slope is None:
            continue
        norm = math.inf if norm is None else norm
        outputs = math.inf if outputs is None else outputs
        noise = counted * (roundoff * (abs(loss) + norm * slope + outputs / 4))
        points.append(
            Point(
                loss, slope, norm, math.nan if pairing is None else pairing, sharpness,
                (math.inf if residual is None else residual) if sharpness is not None else 0.0,
                noise, run.lr if lr is None else lr,
            )
        )  # fmt: skip
    return points


def derived_series(run: Trajectory) -> dict[str, Numbers]:
    """The series that follow from others; None for what is not finite or does not exist.

    The rows are written as the run goes, with the noise as it was counted at its start.
    """
    seen = points(run, "rounding_units_at_start")
    infimum = real(run.summary.get("loss_infimum"))
    infimum = -math.inf if infimum is None else infimum
    found: dict[str, Numbers] = {name: [] for name in (SHARPNESS[2], *DERIVED)}
    for k, p in enumerate(seen):
        stable = None if p.sharpness is None else p.lr * p.sharpness / 2
        excess = p.loss - infimum
        ratio = _over(p.square, 2 * excess) if excess > 0 else None
        along = curvature = margin = None
        if k:
            before = seen[k - 1]
            along = _smoothness(before.lr, before, p)
            step = _curvature(before.lr, before, p)
            curvature = None if step is None else step.value
            rows = _of_step(before.lr, k - 1, before, p)
            rows = [i for i in rows if i.name == "descent lemma"]
            margin = rows[0].margin if rows else None
        values = (stable, along, ratio, curvature, margin, excess, p.square)
        for name, value in zip(found, values, strict=True):
            found[name].append(value if value is not None and math.isfinite(value) else None)
    missing: Numbers = [None] * (len(run.series["loss"]) - len(seen))
    return {name: values + missing for name, values in found.items()}


# --- inequalities ---------------------------------------------------------------------------------


def _over(a: float, b: float) -> float:
    return a / b if b else math.inf


def _smoothness(lr: float, a: Point, b: Point) -> float | None:
    """M of a step; None if it has length 0."""
    decrease = lr * a.slope * a.slope
    if not lr * decrease > 0 or not math.isfinite(lr * decrease):
        return None
    return 2 / lr * ((b.loss - a.loss) / decrease + 1)


def _between(lr: float, a: Point, b: Point) -> float:
    """What rounding may have changed L_{k+1} − L_k + η‖∇L_k‖² by."""
    return a.noise + b.noise + UNITS * 2.0**-53 * lr * a.square


def _curvature(lr: float, a: Point, b: Point) -> Curvature | None:
    """Λ of a step (docs/certificate): the largest curvature measured on it."""
    ends = [(p.sharpness, p.residual) for p in (a, b) if p.sharpness is not None]
    sharpest = max((s + r for s, r in ends), default=-math.inf)
    surely = max((s - r for s, r in ends), default=-math.inf)
    along = _smoothness(lr, a, b)
    if along is None:
        return Curvature(sharpest, surely) if ends and lr * sharpest < 2 else None
    noise = _over(2, lr * lr * a.square) * _between(lr, a, b)
    above, below = along + 2 * noise, along - noise
    if not math.isfinite(above) or not math.isfinite(below):
        return None
    if lr * sharpest >= 2:
        return Curvature(above, below, directional=True)
    peak = bool(ends) and below > sharpest
    return Curvature(max(above, sharpest), max(below, surely), peak=peak)


def _inequality(
    name: str, step: int, left: float, right: float, noise: float, *, still: bool = False
) -> Inequality:
    holds = None
    if (still and left == right) or left <= right - noise:
        holds = True
    elif left > right + noise:
        holds = False
    return Inequality(name, step, left, right, holds)


def _of_step(lr: float, k: int, a: Point, b: Point) -> list[Inequality]:
    moved = lr * a.slope
    rows, still = [], moved == 0
    curvature = _curvature(lr, a, b)
    if curvature is not None:
        stable, surely = lr * curvature.value / 2, lr * curvature.least / 2
        decided = None if surely <= 1 <= stable else stable < 1
        rows.append(Inequality("stability", k, stable, 1.0, decided))
        right = a.loss - lr * (1 - stable) * a.square
        noise = _between(lr, a, b)
        rows.append(_inequality("descent lemma", k, b.loss, right, noise, still=still))
    noise = a.noise + b.noise
    rows.append(_inequality("monotone decrease", k, b.loss, a.loss, noise, still=still))
    expected = a.norm * a.norm - 2 * lr * a.pairing + moved * moved
    scale = a.norm * a.norm + b.norm * b.norm
    scale += 2 * lr * a.norm * a.slope + moved * moved
    left, right = abs(b.norm * b.norm - expected), UNITS * 2.0**-53 * scale + 2.0**-1022
    rows.append(Inequality("norm recursion", k, left, right, left <= right))
    return [r for r in rows if math.isfinite(r.left) and math.isfinite(r.right)]


def of_run(run: Trajectory, points: Sequence[Point]) -> list[Inequality]:
    """What follows where every step was stable."""
    steps, infimum = len(points) - 1, real(run.summary.get("loss_infimum"))
    curvatures = [_curvature(a.lr, a, b) for a, b in pairwise(points)]
    if steps < 1 or infimum is None:
        return []
    first, last = points[0], points[-1]
    excess, noise = first.loss - infimum, first.noise + last.noise
    time = gain = worst = relative = b = 0.0
    least, product = math.inf, 1.0
    for p, curvature in zip(points, curvatures, strict=False):
        if curvature is None or not p.lr * curvature.value < 2:
            return []
        least = min(least, p.square)
        b = math.nan if math.isnan(p.pairing) else max(b, -p.pairing)
        slack = 2 - p.lr * curvature.value
        time += p.lr
        gain += p.lr * slack / 2
        worst = max(worst, 2 * p.lr / slack)
        gap = p.loss - infimum
        if gap > 0:
            product *= 1 - p.lr * slack * p.square / (2 * gap)
            relative += p.noise / gap
    if not gain > 0:
        return []
    radius = first.norm * first.norm + 2 * b * time + worst * excess
    rate, norm, rounding = excess * product, last.norm * last.norm, UNITS * 2.0**-53 * steps
    rows = [
        _inequality("neighbourhood", steps, least, excess / gain, noise / gain),
        _inequality("ball", steps, norm, radius, rounding * (norm + radius) + worst * noise),
        _inequality("rate", steps, last.loss - infimum, rate, last.noise + relative * abs(rate)),
    ]
    return [r for r in rows if math.isfinite(r.left) and math.isfinite(r.right)]


def _of_tangent(run: Trajectory, k: int, p: Point, roundoff: float) -> list[Inequality]:
    """The PL ratio is at least what follows from the least eigenvalue of K."""
    names = ("tangent", "tangent.error", "tangent.pl_bound")
    least, error, bound = (run.series[n][k] if n in run.series else None for n in names)
    infimum = real(run.summary.get("loss_infimum"))
    if least is None or error is None or bound is None or infimum is None or not error >= 0:
        return []
    surely, excess = max(0.0, least - error), p.loss - infimum
    if not (excess > 0 and surely > 0 and bound > 0):
        return []
    u = max(roundoff, 2.0**-53)
    g = math.sqrt(bound * 2 * excess / surely)
    noise = 2 * UNITS * u * math.sqrt(error / (2 * u)) * g * p.slope / (2 * excess)
    row = _inequality("PL bound", k, bound, p.square / (2 * excess), noise)
    return [row] if math.isfinite(row.left) and math.isfinite(row.right) else []


def of_iterates(run: Trajectory, points: Sequence[Point]) -> Iterator[list[Inequality]]:
    """At each iterate, those of the step that led there and those of the iterate itself."""
    roundoff = ROUNDOFF.get(str(run.summary.get("dtype")), math.nan)
    for k, p in enumerate(points):
        before = points[k - 1]
        step = _of_step(before.lr, k - 1, before, p) if k else []
        yield [*step, *_of_tangent(run, k, p, roundoff)]


# --- the whole run --------------------------------------------------------------------------------


def summary(
    run: Trajectory, points: Sequence[Point], found: Sequence[Inequality]
) -> dict[str, Any]:
    """The figures about the whole run that follow."""
    series = {name: [x for x in values if x is not None] for name, values in run.series.items()}
    steps = [_curvature(a.lr, a, b) for a, b in pairwise(points)]
    known = [c for c in steps if c is not None]
    derived: dict[str, Any] = {}
    if known and len(known) == len(steps):
        derived["curvature"] = max(c.value for c in known)
        derived["directional_steps"] = sum(c.directional for c in known)
        derived["peaks_between_iterates"] = sum(c.peak for c in known)
    for i in found:
        if i.name in ("neighbourhood", "ball", "rate"):
            derived[f"{i.name}_bound"] = i.right
    edge = _edge(points if "lr" not in run.series else points[:-1])
    if edge:
        derived["edge_of_stability"] = edge
    if series["loss"]:
        derived["loss"] = {"first": series["loss"][0], "last": series["loss"][-1]}
    for probe, figures in FIGURES.items():
        if any(v for n, v in series.items() if n.partition(".")[0] == probe):
            derived[probe] = {
                key: _figure(run, how, run.series.get(f"{probe}{part}", []))
                for key, (how, part) in figures.items()
            }
    jacobians = {n: v for n, v in series.items() if n.partition(".")[0] == "block_jacobian"}
    if any(jacobians.values()):
        names = [n.removesuffix(".largest") for n in jacobians if n.endswith(".largest")]
        derived["block_jacobian"] = {
            "least": min(jacobians.get("block_jacobian", []), default=None),
            "blocks": {
                n.removeprefix("block_jacobian."): min(jacobians.get(n, []), default=None)
                for n in names
            },
        }
    pairs = {n: v for n, v in series.items() if n.partition(".")[0] == "dissipativity"}
    if any(pairs.values()):
        b = {n: max([0.0, *(-x for x in v)]) for n, v in pairs.items()}
        total = b.pop("dissipativity", None)
        blocks = {n.removeprefix("dissipativity."): x for n, x in b.items()}
        derived["dissipativity"] = {"b": total, "blocks": blocks, "pairs": _pairs(run, total)}
    return derived


def _taken(run: Trajectory, series: Numbers) -> Numbers:
    """Without the last number where that is of a rate with which no step was taken."""
    return series[:-1] if "lr" in run.series else series


def _figure(run: Trajectory, how: str, series: Numbers) -> float | None:
    match how.partition(" ")[2]:
        case "but the last":
            series = series[:-1]
        case "taken":
            series = _taken(run, series)
    known = [x for x in series if x is not None]
    match how.partition(" ")[0]:
        case "greatest":
            return max(known, default=None)
        case "sum":
            return int(sum(known))
        case "positive":
            return sum(x > 0 for x in known)
    return min(known, default=None)


def _pairs(run: Trajectory, smallest: float | None) -> list[dict[str, float]]:
    """The largest a >= 0 for the smallest b, twice and four times as much."""
    columns = (run.series.get(name, []) for name in ("dissipativity", "block_norms"))
    known = [
        (p, n * n)
        for p, n in zip(*columns, strict=False)
        if p is not None and n is not None and n * n > 0
    ]
    if not known or smallest is None:
        return []
    bounds = [smallest, 2 * smallest, 4 * smallest] if smallest > 0 else [0.0]
    return [{"a": max(0.0, min((p + b) / square for p, square in known)), "b": b} for b in bounds]


def _edge(points: Sequence[Point]) -> dict[str, Any]:
    """From where on the sharpness is at 2/η; nothing where it stays below."""
    stable = [None if p.sharpness is None else p.lr * p.sharpness / 2 for p in points]
    first = next((k for k, x in enumerate(stable) if x is not None and x >= 1), None)
    if first is None:
        return {}
    seen = [x for x in stable[first:] if x is not None]
    rises = sum(b.loss > a.loss for a, b in pairwise(points[first:]))
    return {
        "first": first, "iterates": len(seen), "above": sum(x >= 1 for x in seen),
        "least": min(seen), "most": max(seen), "rises": rises,
    }  # fmt: skip


def descent(
    run: Trajectory, inequalities: Sequence[Inequality], doubts: Sequence[Finding] = ()
) -> tuple[str, dict[str, Any], list[Finding]]:
    """Verdict, numbers, and findings (code and witness) that the claim ``descent`` must have.

    Where ``doubts`` speak against the gradient only, a loss that rises is still one that rises.
    """
    order = {name: n for n, name in enumerate(PER_STEP)}
    told = () if any(code[:2] == "A9" for code, _ in doubts) else PER_STEP[:1]

    def first(holds: bool | None) -> Inequality | None:
        rows = [i for i in inequalities if i.holds is holds and (not doubts or i.name in told)]
        return min(rows, key=lambda i: (i.step, order.get(i.name, len(order))), default=None)

    numbers: dict[str, Any] = {"lr": run.lr, "steps": run.completed}
    margins = [i.margin for i in inequalities if i.name == "descent lemma"]
    if margins:
        numbers["least_descent_margin"] = min(margins)
    stability = _taken(run, run.series.get("sharpness.stability", []))
    known = [x for x in stability if x is not None]
    if known:
        numbers["max_stability"] = max(known)
    if TWO_LOSSES.fullmatch(run.ended):
        return "UNKNOWN", numbers, []
    failed: list[Finding] = []
    violated = first(False)
    if violated is not None:
        failed.append(("D401", _violation(run, inequalities, violated)))
    losses = run.series.get("loss", [])
    if NOT_FINITE.fullmatch(run.ended) and losses:
        finite = [x for x in losses if x is not None]
        last = finite[-1] if finite else None
        step = len(losses) - 1
        witness = {"step": step, "last_finite_loss": last, "lr": run.rate(max(step - 1, 0))}
        failed.append(("D402", witness))
    if failed:
        return "FAILS", numbers, failed
    if doubts:
        return "UNKNOWN", numbers, [*doubts]
    if run.ended != "completed" or run.completed < 1:
        return "UNKNOWN", numbers, []
    if run.series.get("gradient_norm", [None])[0] == 0:
        return "UNKNOWN", numbers, [("D405", None)]
    if first(None) is not None:
        return "UNKNOWN", numbers, [("D403", None)]
    there = {(i.step, i.name) for i in inequalities}
    if any((k, n) not in there for k in range(run.completed) for n in PER_STEP):
        return "UNKNOWN", numbers, []
    sharp = [(k, x) for k, x in enumerate(stability) if x is not None and x >= 1][:1]
    return "HOLDS", numbers, [
        ("D404", {"step": k, "η·λ/2 (sharpness)": x, "lr": run.rate(k)}) for k, x in sharp
    ]  # fmt: skip


def _violation(
    run: Trajectory, inequalities: Sequence[Inequality], i: Inequality
) -> dict[str, Any]:
    witness: dict[str, Any] = {"inequality": i.name, "step": i.step, "lr": run.rate(i.step)}
    if i.name != "stability":
        witness |= {"left": i.left, "right": i.right}
    if i.name in ("monotone decrease", "stability"):
        rate, ends = run.rate(i.step), run.series.get("sharpness", [])[i.step : i.step + 2]
        stabilities = [rate * x / 2 for x in ends if x is not None]
        above = [x for x in stabilities if x > 1][:1]
        if above:
            witness["η·λ/2 (sharpness)"] = above[0]
        stable = [j.left for j in inequalities if (j.name, j.step) == ("stability", i.step)]
        if stable and stable[0] > 1:
            witness["η·Λ/2 (largest curvature of the step)"] = stable[0]
    return witness
