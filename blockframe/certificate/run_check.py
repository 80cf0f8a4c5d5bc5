"""Whether a certificate's trajectory says what follows from its measured series.

What is measured at an iterate is taken as it stands: loss, gradient norm, norm, pairing with the
gradient, sharpness and its residual. Everything else that is asserted must be *equal* to what
follows from these (`blockframe.certificate.run_theory`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from blockframe.certificate.journal_check import condensed, whole_run
from blockframe.certificate.ledger import Ledger, quoted, real, whole
from blockframe.certificate.model import Certificate, Inequality, Trajectory
from blockframe.certificate.probe_check import PARTS, check_probes
from blockframe.certificate.run_theory import (
    BY_BLOCK,
    CORE,
    DERIVED,
    FEWEST,
    MEASURED,
    MOVED,
    ROUNDOFF,
    SHARPNESS,
    SPLIT,
    TWO_LOSSES,
    Numbers,
    Point,
    derived_series,
    of_iterates,
    of_run,
    points,
    summary,
)

DIVERGED = 1e6
"""A run ends where its loss is above this many times the larger of L(θ_0) and 1."""
NO_LOSS = 1e-24
"""A loss that a minimizer may have and be taken to have none."""

DEVICES = ("cpu", "cuda")
_DEVICE = re.compile(r"cpu(:\d+)?|cuda(:\d+)? \(.+\)")
_POLYAK = re.compile(
    r"(\S+) × \(L − L_inf\)/‖∇L‖² at θ_0, because λ_max\(θ_0\) = (\S+) bounds no step"
)


def check_run(
    ledger: Ledger, certificate: Certificate, asserted: Trajectory, directory: Path | None
) -> tuple[Trajectory, tuple[Inequality, ...]] | None:
    """Check everything that ``asserted`` says.

    Args:
        directory: where the journal of a long run lies.

    Returns the run with all its series, and the inequalities that follow; None where the series
    make no run.
    """
    run = whole_run(ledger, certificate, asserted, directory)
    if run is None or not _has_form(ledger, run):
        return None
    seen = points(run)
    _check_request(ledger, certificate, run)
    _check_ending(ledger, run, seen)
    _check_rate(ledger, certificate, run, seen)
    if not run.series:
        return run, ()
    _check_series(ledger, run, seen)
    _check_blocks(ledger, certificate, run, seen)
    check_probes(ledger, certificate, run, seen)
    groups = list(of_iterates(run, seen))
    every = [row for rows in groups for row in rows]
    if asserted.journal is not None:
        every, counts = condensed(groups)
        ledger.expect("trajectory.journal.counts", asserted.journal.counts, counts)
    found = (*every, *of_run(run, seen))
    _check_inequalities(ledger, run, found)
    found = (*(row for rows in groups for row in rows), *of_run(run, seen))
    _check_summary(ledger, run, summary(run, seen, found))
    ledger.verified.append(
        f"trajectory: {len(seen)} iterates: what follows from their measured series, and all "
        f"{len(found)} inequalities"
    )
    measured = ", ".join(
        n for n in (*MEASURED, *SHARPNESS[:2], SHARPNESS[3], *MOVED) if n in run.series
    )
    ledger.leave(f"trajectory: {measured}: as measured")
    return run, found


def _has_form(ledger: Ledger, run: Trajectory) -> bool:
    """Whether there is a run to work with: series of one length, numbers that end only at its end.

    Where it did not begin there are no series, and nothing else may be said of it.
    """
    before = len(ledger.rejected)
    demand, where = ledger.demand, "trajectory.series"
    demand(run.steps >= 0, "trajectory.steps", str(run.steps), "steps are counted from 0")
    chosen = run.lr_rule != "not chosen"
    sound = 0 < run.lr < math.inf if chosen else run.lr == 0
    demand(sound, "trajectory.lr", repr(run.lr), "a rate is positive and finite, 0 if not chosen")
    lengths = sorted({len(values) for values in run.series.values()})
    demand(len(lengths) <= 1, where, f"lengths {lengths}", "there is one number per iterate")
    for name, values in run.series.items():
        finite = all(x is None or math.isfinite(x) for x in values)
        demand(finite, f"{where}.{quoted(name)}", "what is not finite", "null stands for that")
    if not run.series:
        silent = not run.inequalities and not run.summary
        demand(silent, "trajectory", "inequalities or a summary", "there are no series")
    elif demand(bool(run.series.get("loss")), where, "a run without losses", "it has none"):
        losses = run.series["loss"]
        slopes = run.series.get("gradient_norm", [None] * len(losses))
        gaps = [k for k, pair in enumerate(zip(losses, slopes, strict=False)) if None in pair]
        ends = gaps in ([], [len(losses) - 1])
        demand(ends, where, f"no loss or gradient at {gaps}", "a run ends at the first of them")
    return len(ledger.rejected) == before


def _check_request(ledger: Ledger, certificate: Certificate, run: Trajectory) -> None:
    subject, recipe = certificate.subject, certificate.subject.recipe
    ledger.expect("trajectory.scale", run.scale, "proxy" if subject.proxy else "full")
    ledger.expect("trajectory.loss", run.loss, subject.loss)
    ledger.expect("trajectory.data", run.data, subject.data)
    if recipe is None:
        return
    ledger.expect("trajectory.steps", run.steps, recipe.steps)
    ledger.demand(not recipe.static_only, "trajectory", "a run", "subject.recipe asks for none")
    named = subject.digests.keys() >= {"data", "start"}
    ledger.demand(named, "subject.digests", quoted([*subject.digests]), "a run has data and start")
    if not run.summary:
        return
    device = run.summary.get("device")
    name = str(device).partition(" ")[0]
    kind = name.partition(":")[0]
    fits = name == recipe.device or (recipe.device == "auto" and name in DEVICES)
    where = "trajectory.summary.device"
    ledger.demand(fits, where, quoted(device), f"subject.recipe asks for {recipe.device}")
    dtype = recipe.dtype or ("float64" if kind == "cpu" else "float32")
    ledger.expect("trajectory.summary.dtype", run.summary.get("dtype"), dtype)


def _check_ending(ledger: Ledger, run: Trajectory, seen: Sequence[Point]) -> None:
    """``ended`` is what the last iterate says."""
    ended, rows = run.ended, len(run.series.get("loss", ()))
    last, finite = rows - 1, len(seen) == rows
    diverged = finite and rows > 0 and seen[-1].loss > DIVERGED * max(seen[0].loss, 1.0)
    step = re.search(r"^[a-z ]+ at step (\d{1,18})\b|at step (\d{1,18})$", ended)
    at = int(step[1] or step[2]) if step else None
    if not finite:
        lost = "loss" if run.series["loss"][-1] is None else "gradient"
        follows = ended == f"the {lost} is not finite at step {last}"
    elif diverged:
        follows = ended == f"diverged at step {last}: the loss reached {seen[-1].loss:.3g}"
    elif ended == "completed":
        follows = last == run.steps
    elif TWO_LOSSES.fullmatch(ended):  # seen before the first iterate, or after the last
        follows = at == (run.steps if rows else 0) and last in (run.steps, -1)
    else:  # broken off before the next iterate was there
        follows = at == rows and not ended.startswith(
            ("diverged", "the loss is", "the gradient is")
        )
    what = f"the series have {rows} iterates of {run.steps + 1}"
    what += ", the last one not finite" * (not finite) + ", the last one diverged" * diverged
    ledger.demand(follows and last <= run.steps, "trajectory.ended", quoted(ended), what)


def _check_rate(
    ledger: Ledger, certificate: Certificate, run: Trajectory, seen: Sequence[Point]
) -> None:
    """``lr`` is what its rule gives."""
    where, rule, recipe = "trajectory.lr", run.lr_rule, certificate.subject.recipe
    asked = recipe.lr if recipe is not None else None
    first = None if asked is None else _first_rate(asked)
    if recipe is not None:
        _check_schedule(ledger, run, asked)
    if rule == "as given":
        if recipe is not None:
            ledger.expect(where, run.lr, first)
        return
    what = "subject.recipe gives the rate"
    ledger.demand(first is None, f"{where}_rule", quoted(rule), what)
    start, infimum = seen[0] if seen else None, real(run.summary.get("loss_infimum"))
    by_curvature, polyak = re.fullmatch(r"(\S+) × 2/λ_max\(θ_0\)", rule), _POLYAK.fullmatch(rule)
    if rule == "not chosen":
        ledger.demand(not run.series, f"{where}_rule", rule, "a run was made")
    elif rule.startswith("1, because "):
        why = "loss or gradient are not finite" if start is None else "the gradient is 0"
        sound = start is None or start.square == 0
        ledger.demand(sound, f"{where}_rule", quoted(rule), "they are finite, and it is not 0")
        ledger.expect(f"{where}_rule", rule, f"1, because {why} at θ_0")
        ledger.expect(where, run.lr, 1.0)
    elif by_curvature and start is not None and start.sharpness is not None:
        ledger.expect(f"{where} / (2/λ_max(θ_0))", by_curvature[1], "0.1")
        derived = 0.1 * 2 / start.sharpness if start.sharpness > 0 else None
        ledger.expect(where, run.lr, derived)
    elif polyak and start is not None and start.sharpness is not None and infimum is not None:
        ledger.expect(f"{where} in Polyak steps", polyak[1], "0.1")
        ledger.expect(f"{where}_rule, λ_max", polyak[2], f"{start.sharpness:.3g}")
        excess = start.loss - infimum
        ledger.expect(where, run.lr, 0.1 * excess / start.square if start.square > 0 else None)
    else:
        ledger.reject(f"{where}_rule", quoted(rule), "no such rule chooses a rate here")


def _first_rate(asked: float | str) -> float | None:
    """η_0 of a recipe; None where it is to be chosen."""
    if isinstance(asked, float):
        return asked
    kind, _, rest = asked.partition(":")
    text = rest.partition(":")[0] if rest else kind.partition(",")[0]
    return None if text == "auto" else _parsed(text)


def _check_schedule(ledger: Ledger, run: Trajectory, asked: float | str | None) -> None:
    """The rates of the steps follow the rule that was asked for; a cosine to a few last digits."""
    where, rates = "trajectory.series.lr", run.series.get("lr")
    if not isinstance(asked, str) or not run.series or run.series["loss"][0] is None:
        constant = rates is None or (isinstance(asked, str) and set(rates) == {None})
        ledger.demand(constant, where, "rates", "subject.recipe asks for a constant one")
        return
    if rates is None:
        ledger.reject(where, "nothing", f"subject.recipe asks for {asked}")
        return
    for k, rate in enumerate(rates):
        wanted = _scheduled(asked, run.lr, k, run.steps)
        known = rate is not None and wanted is not None
        last = rate is None and k == len(rates) - 1
        close = known and math.isclose(rate or 0.0, wanted or 0.0, rel_tol=1e-12)
        ledger.demand(close or last, f"{where}[{k}]", repr(rate), f"{asked} gives {wanted!r}")


def _scheduled(asked: str, first: float, k: int, steps: int) -> float | None:
    """η_k; None where ``asked`` is no rule (docs/certificate)."""
    kind, *arguments = asked.split(":")
    numbers = [_parsed(text) for text in arguments[1:]]
    if not arguments:
        listed = [_parsed(text) for text in asked.split(",")]
        return listed[min(k, len(listed) - 1)]
    t = min(k / (steps - 1), 1.0) if steps > 1 else 0.0
    match kind, numbers:
        case "linear", [float(last)]:
            return first * (1 - t) + last * t
        case "cosine", [float(last)]:
            weight = (1 + math.cos(math.pi * t)) / 2
            return first * weight + last * (1 - weight)
        case "step", [float(factor), float(every)] if every >= 1:
            try:
                power: float = factor ** (k // int(every))
            except OverflowError:
                return None
            return first * power
    return None


def _parsed(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _check_series(ledger: Ledger, run: Trajectory, seen: Sequence[Point]) -> None:
    series, unavailable = run.series, run.summary.get("unavailable", {})
    unmeasured = isinstance(unavailable, Mapping) and "sharpness" in unavailable
    wanted = {"loss", *((*MEASURED, *DERIVED, *MOVED) if seen else ())}
    for name in sorted(wanted if unmeasured or not seen else wanted.union(SHARPNESS)):
        ledger.demand(name in series, "trajectory.series", f"no {name}", "every run has one")
    for name, derived in derived_series(run).items():
        for k, value in enumerate(series.get(name, ())):
            ledger.expect(f"trajectory.series.{name}[{k}]", value, derived[k])
    if len(seen) < len(series["loss"]):
        for name in series.keys() - {"loss"}:
            ledger.expect(f"trajectory.series.{quoted(name)}, last", series[name][-1], None)
    least = real(run.summary.get("loss_infimum"))
    for k, p in enumerate(seen):
        at = f"iterate {k} of the trajectory"
        signs = min(p.slope, p.norm, p.residual) >= 0
        ledger.demand(signs, at, "a negative norm or residual", "norms and distances are not")
        low = least is not None and p.loss < least - p.noise
        ledger.demand(not low, at, f"the loss {p.loss!r}", f"none is below {least}")
        _check_pairing(ledger, at, p.pairing, p.norm, p.slope)
        paired, size = (series.get(n, [None] * (k + 1))[k] for n in MEASURED[4:])
        fits = paired is None or size is None or abs(paired) <= size * (1 + PARTS)
        ledger.demand(fits, f"{at}, output_pairing", repr(paired), f"{size!r} is the most")
    _check_moves(ledger, run, seen)


def _check_moves(ledger: Ledger, run: Trajectory, seen: Sequence[Point]) -> None:
    """What was measured between iterates fits the length of the steps, η_k‖∇L_k‖, up to rounding.

    A number is missing only where it would be over 0.
    """
    path, start = 0.0, seen[0].norm if seen else 0.0
    for k, p in enumerate(seen):
        before, at = seen[k - 1] if k else None, f"iterate {k} of the trajectory"
        length = before.lr * before.slope if before is not None else 0.0
        path += length
        room = PARTS * (path + p.norm + start)
        update, distance, steepness = (run.series.get(n, [None] * (k + 1))[k] for n in MOVED)
        if before is None:
            moved = [update, steepness, distance or None]
            for name, values in run.series.items():
                if name.startswith(BY_BLOCK):
                    moved.append(values[k] or None)
            none = all(x is None for x in moved)
            ledger.demand(none, at, "that θ has moved", "it is the first")
        else:
            there = update is not None or not _finite(length, before.norm) or before.norm == 0
            ledger.demand(there, f"{at}, update_size", "nothing", "the step has a length")
            still = not _finite(length, p.slope + before.slope) or length <= room
            ledger.demand(steepness is not None or still, f"{at}, gradient_lipschitz", "nothing",
                          "the step has a length")  # fmt: skip
            if steepness is not None:
                most = (p.slope + before.slope) * (1 + PARTS)
                fits = steepness >= 0 and steepness * max(length - room, 0.0) <= most
                what = f"gradients apart by {steepness * length!r}"
                ledger.demand(fits, f"{at}, gradient_lipschitz", what, f"{most!r} is the most")
        if update is not None and before is not None:
            step = update * before.norm
            close = abs(step - length) <= room or not math.isfinite(length)
            ledger.demand(close, f"{at}, update_size", f"‖θ_k − θ_(k−1)‖ = {step!r}",
                          f"the step has length {length!r}")  # fmt: skip
            _check_shares(ledger, run, "update_size", k, k - 1, step, room)
        known = distance is not None or start == 0 or not _finite(path, p.norm)
        ledger.demand(known, f"{at}, distance", "nothing", "θ_0 is not 0")
        if distance is not None:
            far = distance * start
            fits = distance >= 0 and (far <= path + room or not math.isfinite(path))
            ledger.demand(fits, f"{at}, distance", f"‖θ_k − θ_0‖ = {far!r}",
                          f"the path has length {path!r}")  # fmt: skip
            _check_shares(ledger, run, "distance", k, 0, far, room)


def _finite(*numbers: float) -> bool:
    """Whether the squares of all of them are."""
    return all(math.isfinite(x * x) for x in numbers)


def _check_shares(
    ledger: Ledger, run: Trajectory, name: str, k: int, base: int, whole_: float, room: float
) -> None:
    """What blocks moved by, relative to their norms at iterate ``base``, adds up to ``whole_``."""
    square, complete = 0.0, True
    for series, norms in run.series.items():
        if not series.startswith("block_norms."):
            continue
        block = series.removeprefix("block_norms.")
        part, norm = run.series.get(f"{name}.{block}", [None] * (k + 1))[k], norms[base]
        at = f"iterate {k} of the trajectory, {name}.{quoted(block)}"
        none = part is None and (norm is None or norm == 0)
        if not ledger.demand(none or (part is not None and part >= 0), at, repr(part),
                             "it is a number >= 0, if the norm is not 0"):  # fmt: skip
            return
        complete = complete and not none
        moved = (part or 0.0) * (norm or 0.0)
        square += moved * moved
    if not _finite(whole_, square) or not square:
        return
    total, at = math.sqrt(square), f"iterate {k} of the trajectory, {name}"
    fits = total <= whole_ + room and (not complete or total >= whole_ - room)
    ledger.demand(fits, at, f"parts that add up to {total!r}", f"the whole is {whole_!r}")


def _check_pairing(ledger: Ledger, at: str, pairing: float, norm: float, slope: float) -> None:
    """|⟨θ, ∇L⟩| ≤ ‖θ‖‖∇L‖ (Cauchy-Schwarz)."""
    above = abs(pairing) > norm * slope * (1 + PARTS) + 1e-300
    ledger.demand(not above, at, f"⟨θ, ∇L⟩ = {pairing!r}", f"‖θ‖‖∇L‖ = {norm * slope!r}")


def _check_blocks(
    ledger: Ledger, certificate: Certificate, run: Trajectory, seen: Sequence[Point]
) -> None:
    """Blocks share out θ: squares of norms, and pairings, add up to those of the whole."""
    norms, pairs = (
        {n.removeprefix(s): values for n, values in run.series.items() if n.startswith(s)}
        for s in SPLIT
    )
    if not ledger.expect("trajectory.series.dissipativity.*", sorted(pairs), sorted(norms)):
        return
    for split in BY_BLOCK:
        moved = sorted(n.removeprefix(split) for n in run.series if n.startswith(split))
        ledger.expect(f"trajectory.series.{split}*", moved, sorted(norms))
    for k, p in enumerate(seen):
        at, square = f"iterate {k} of the trajectory", p.norm * p.norm
        most = sum(x * x for values in norms.values() if (x := values[k]) is not None)
        _check_sum(ledger, f"{at}, ‖θ_l‖²", norms, k, square, most, power=2)
        _check_sum(ledger, f"{at}, ⟨θ_l, ∇_lL⟩", pairs, k, p.pairing, p.norm * p.slope)
        for name, values in norms.items():
            norm, pairing = values[k], pairs[name][k]
            if norm is not None and pairing is not None:
                ledger.demand(norm >= 0, f"{at}, {quoted(name)}", f"norm {norm!r}", "none is < 0")
                _check_pairing(ledger, f"{at}, {quoted(name)}", pairing, norm, p.slope)
    if run.scale != "full" or not seen:
        return
    owned = {b.name: b.parameters for b in certificate.subject.blocks}
    rest = {"rest", "(rest)"} & (norms.keys() - owned.keys())
    names = sorted(name for name, count in owned.items() if count)
    if owned:
        ledger.expect("trajectory.series.block_norms.*", sorted(norms.keys() - rest), names)
    trained, total = whole(run.summary.get("parameters")), sum(owned.values())
    if owned and trained is not None:
        fits = total < trained if rest else total == trained
        where = "trajectory.summary.parameters"
        ledger.demand(fits, where, str(trained), f"the blocks have {total}, in {len(rest)} rest")
    most = certificate.subject.parameters
    if trained is not None:
        ledger.demand(trained <= most, "subject.parameters", str(most), f"{trained} are trained")


def _check_sum(
    ledger: Ledger,
    where: str,
    series: Mapping[str, Numbers],
    k: int,
    total: float,
    scale: float,
    power: int = 1,
) -> None:
    parts = [values[k] for values in series.values()]
    if not parts or not math.isfinite(scale):
        return
    added = sum(math.nan if x is None else math.prod([x] * power) for x in parts)
    close = abs(added - total) <= PARTS * scale
    ledger.demand(close, where, f"parts that add up to {added!r}", f"the whole is {total!r}")


def _check_inequalities(ledger: Ledger, run: Trajectory, found: Sequence[Inequality]) -> None:
    derived = {(i.name, i.step): i for i in found}
    stated = set()
    for i in run.inequalities:
        where, key = f"trajectory.inequalities, {quoted(i.name)} at step {i.step}", (i.name, i.step)
        ledger.demand(key not in stated, where, "the same twice", "each is stated once")
        stated.add(key)
        if key not in derived:
            ledger.reject(where, f"{i.left!r} <= {i.right!r}", "the series give no such inequality")
            continue
        for name in ("left", "right", "holds"):
            ledger.expect(f"{where}, {name}", getattr(i, name), getattr(derived[key], name))
    for name, step in sorted(derived.keys() - stated):
        where = f"trajectory.inequalities, {name} at step {step}"
        ledger.reject(where, "nothing", "the series give it")


def _check_summary(ledger: Ledger, run: Trajectory, derived: Mapping[str, object]) -> None:
    where, asserted = "trajectory.summary", run.summary
    for key in derived:
        ledger.expect(f"{where}.{key}", asserted.get(key), derived[key])
    figures = {
        "curvature", "directional_steps", "peaks_between_iterates", "neighbourhood_bound",
        "ball_bound", "rate_bound", "edge_of_stability", *CORE,
    }  # fmt: skip
    raw = {
        "device", "dtype", "parameters", "loss_infimum", "rounding_units",
        "rounding_units_at_start", "unavailable",
        "minimizer",
    }  # fmt: skip
    for key in sorted(asserted.keys() - derived.keys() - raw):
        if key in figures:
            ledger.reject(f"{where}.{key}", quoted(asserted[key]), "the series give none")
        else:
            ledger.unverifiable.append(f"{where}.{quoted(key)}: of a plugin's probe")
    device, dtype = str(asserted.get("device")), asserted.get("dtype")
    named = _DEVICE.fullmatch(device) is not None
    ledger.demand(named, f"{where}.device", quoted(device), "it is cpu, or cuda (its name)")
    infimum = asserted.get("loss_infimum")
    ledger.demand(dtype in [*ROUNDOFF], f"{where}.dtype", quoted(dtype), f"one of {[*ROUNDOFF]} is")
    bound = real(infimum) is not None or infimum == -math.inf
    ledger.demand(bound, f"{where}.loss_infimum", quoted(infimum), "a bound is a number")
    units, fewest = asserted.get("rounding_units"), FEWEST.get(str(dtype), 0)
    enough = (real(units) or 0) >= fewest
    ledger.demand(enough, f"{where}.rounding_units", quoted(units), f"it is {fewest} at least")
    first = asserted.get("rounding_units_at_start")
    fits = fewest <= (real(first) or 0) <= (real(units) or 0)
    what = f"it is {fewest} at least, and no more than in the end"
    ledger.demand(fits, f"{where}.rounding_units_at_start", quoted(first), what)
    count = asserted.get("parameters")
    ledger.demand(bool(whole(count)), f"{where}.parameters", quoted(count), "it is a count")
    if "minimizer" in asserted:
        _check_minimizer(ledger, run, asserted["minimizer"])
    unavailable = asserted.get("unavailable", {})
    if not isinstance(unavailable, Mapping):
        ledger.reject(f"{where}.unavailable", quoted(unavailable), "it names what and why")
        return
    for name, why in unavailable.items():
        ledger.unverifiable.append(f"trajectory: no {quoted(name)}: {quoted(why)}")


def _check_minimizer(ledger: Ledger, run: Trajectory, found: object) -> None:
    """A point with no loss, and how many eigenvalues of the Hessian are 0 there (section 8)."""
    where, keys = "trajectory.summary.minimizer", {"loss", "predicted", "nullity", "gap"}
    if not isinstance(found, Mapping) or found.keys() != keys:
        ledger.reject(where, quoted(found), f"it has {', '.join(sorted(keys))}")
        return
    trained = whole(run.summary.get("parameters")) or 0
    loss, gap = real(found["loss"]), real(found["gap"])
    predicted, nullity = whole(found["predicted"]), whole(found["nullity"])
    none = loss is not None and 0 <= loss <= NO_LOSS and run.loss == "mse"
    ledger.demand(none, f"{where}.loss", quoted(found["loss"]), f"0 is {NO_LOSS} at most, of mse")
    ledger.demand(gap is not None and gap >= 1, f"{where}.gap", quoted(found["gap"]), "it is >= 1")
    fits = predicted is not None and predicted <= trained
    of = f"of {trained} parameters"
    ledger.demand(fits, f"{where}.predicted", quoted(found["predicted"]), of)
    fits = nullity is not None and 1 <= nullity < trained
    ledger.demand(fits, f"{where}.nullity", quoted(found["nullity"]), of)
    ledger.leave(f"{where}: the nullity, its gap and the loss: as measured")
