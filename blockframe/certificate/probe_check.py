"""Whether the series of a run are those of its probes, and what those on request can be.

Their numbers are measured. What is demanded of them follows from what they are (docs/certificate),
whatever the network; a search that may have missed an eigenvalue, and an error that holds in 95 of
100 draws only, contradict nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from blockframe.certificate.ledger import Ledger, quoted, whole
from blockframe.certificate.model import Certificate, Trajectory
from blockframe.certificate.run_theory import (
    BY_BLOCK,
    DERIVED,
    MEASURED,
    MOVED,
    ON_REQUEST,
    ROUNDOFF,
    SHARPNESS,
    SPLIT,
    UNITS,
    Numbers,
    Point,
)

SPECTRUM = ("trace", "rms", "negative", "lower", "median", "upper")
QUANTILES = {".lower": 0.01, ".median": 0.5, ".upper": 0.99}
ENTRIES: dict[str, tuple[str, ...]] = {
    "tangent": ("", ".error", ".pl_bound", ".effective_rank", ".change"),
    "tangent_bound": ("", ".residual", ".rounding"),
    "kinks": ("", ".approach", ".margin"),
    "bottom_eigenvalue": ("", ".residual", ".cold"),
    "segment_curvature": ("", ".mean", ".sharpness", ".residual"),
    "spectral_density": tuple(f".{name}{end}" for name in SPECTRUM for end in ("", "_error")),
}
"""What follows a probe's name in those of its series; ``block_jacobian`` has some by block."""
OWN = (*MEASURED, *SHARPNESS, *DERIVED, *MOVED, "lr")
"""Series of every run, or nearly."""

COLD_EVERY = 10
"""Iterates after which an eigenvalue is searched for from a random vector again, at most."""
FALL = 0.2
"""Part of an eigenvalue by which it falls at most without such a search."""
DENSE = 512
"""Parameters up to which the density rests on all eigenvalues."""
PARTS = 1e-9
"""What rounding may leave of a number, relative to those that it was made of."""
NOTHING = 1e-300
"""Below it numbers lose digits, being too small."""
CANCELLED = 0.1
"""A share of λ_max."""
NO_SQUARE = 1e-140
"""Below it squares do."""


@frozen
class Facts:
    """About the run: u, P, how many rows K has where that is known, and that none are merged."""

    roundoff: float
    parameters: int
    rows: int | None
    distinct: bool


@frozen
class Seen:
    """What one probe observed at one iterate: ``entries`` by what follows its name."""

    ledger: Ledger
    at: str
    entries: Mapping[str, float | None]
    first: bool
    point: Point
    cold: bool  # λ_max was searched for from a random vector
    facts: Facts

    def __getitem__(self, key: str) -> float | None:
        return self.entries.get(key)

    def demand(self, holds: bool, key: str, what: str) -> None:
        self.ledger.demand(holds, f"{self.at}{quoted(key)}", repr(self[key]), what)

    def within(self, key: str, low: float, high: float, what: str) -> None:
        value = self[key]
        self.demand(value is None or low <= value <= high, key, what)


def check_probes(
    ledger: Ledger, certificate: Certificate, run: Trajectory, seen: Sequence[Point]
) -> None:
    """Check the names of all series, and the numbers of the core's probes on request."""
    _check_names(ledger, certificate, run, seen)
    _check_searches(ledger, run, "sharpness", len(seen), sign=1)
    _check_searches(ledger, run, "bottom_eigenvalue", len(seen), sign=-1)
    facts = _facts(certificate, run)
    if facts.distinct:
        _check_tangents(ledger, run, len(seen), facts.roundoff)
    cold = run.series.get("sharpness.cold", [])
    for probe, check in CHECKS.items():
        columns = {n.removeprefix(probe): v for n, v in run.series.items() if _of(probe, n)}
        for k, point in enumerate(seen if columns else ()):
            check(
                Seen(
                    ledger, f"iterate {k} of the trajectory, {probe}",
                    {key: values[k] for key, values in columns.items()},
                    k == 0, point, cold[k : k + 1] == [1], facts,
                )
            )  # fmt: skip


def _of(probe: str, series: str) -> bool:
    return series == probe or series.startswith(f"{probe}.")


def _facts(certificate: Certificate, run: Trajectory) -> Facts:
    numbers = next(
        (c.numbers for c in certificate.claims if (c.clause, c.block) == ("nondegeneracy", None)),
        {},
    )
    rows, unmerged, outputs = (
        whole(numbers.get(key)) for key in ("rows", "unmerged rows", "outputs")
    )
    all_rows = unmerged * outputs if unmerged and outputs and run.scale == "full" else None
    return Facts(
        ROUNDOFF.get(str(run.summary.get("dtype")), math.nan),
        whole(run.summary.get("parameters")) or 0,
        all_rows,
        all_rows is not None and rows == unmerged,
    )


# --- which series there are -----------------------------------------------------------------------


def _check_names(
    ledger: Ledger, certificate: Certificate, run: Trajectory, seen: Sequence[Point]
) -> None:
    """Series are those of the core's probes, whole, and of probes that were asked for."""
    where, recipe = "trajectory.series", certificate.subject.recipe
    core = {name.partition(".")[0] for name in OWN}
    others = [n for n in run.series if n not in OWN and not n.startswith((*SPLIT, *BY_BLOCK))]
    unknown = [quoted(n) for n in others if n.partition(".")[0] in core]
    there = [p for p in ON_REQUEST if any(_of(p, n) for n in others)]
    for probe in there:
        found = {n.removeprefix(probe) for n in others if _of(probe, n)}
        wanted = _jacobians(found) if probe == "block_jacobian" else {*ENTRIES[probe]}
        unknown += [quoted(f"{probe}{key}") for key in sorted(found - wanted)]
        missing = [f"{probe}{key}" for key in sorted(wanted - found)]
        ledger.demand(not missing, where, f"no {quoted(missing)}", "the probe gives it")
    ledger.demand(not unknown, where, ", ".join(unknown[:20]), "no probe of the core gives it")
    if there:
        ledger.leave(f"trajectory: {', '.join(there)}: as measured")
    foreign = [n for n in others if n.partition(".")[0] not in {*core, *ON_REQUEST}]
    if foreign:
        names = ", ".join(map(quoted, foreign[:20]))
        ledger.unverifiable.append(f"{where} of plugins: {names}")
    denied = run.summary.get("unavailable", {})
    denied = [*denied] if isinstance(denied, Mapping) else []
    for name in denied:
        silent = name == "checkpoint" or not any(_of(name, n) for n in run.series)
        ledger.demand(silent, where, quoted(name), "summary.unavailable denies it")
    if recipe is None:
        return
    asked = recipe.probes
    more = [n for n in (*there, *foreign) if not any(_of(p, n) for p in asked)]
    ledger.demand(not more, where, quoted(more), f"subject.recipe asks for {quoted([*asked])}")
    for probe in sorted({*asked}.intersection(ON_REQUEST) - {*there, *denied} if seen else ()):
        ledger.reject(where, f"no {probe}", "subject.recipe asks for it")


def _jacobians(found: set[str]) -> set[str]:
    """Keys of ``block_jacobian``: a bound is there of blocks with a branch."""
    blocks = {key for key in found if f"{key}.largest" in found}
    bounds = {f"{b}.bound" for b in blocks} & found
    return {"", *blocks, *(f"{b}.largest" for b in blocks), *bounds}


# --- what their numbers can be --------------------------------------------------------------------


def _check_searches(
    ledger: Ledger, run: Trajectory, probe: str, iterates: int, *, sign: int
) -> None:
    """``cold`` is 1 or 0; 1 at the first, every `COLD_EVERY`, and where the eigenvalue fell.

    Args:
        sign: −1 if the eigenvalue is the least one, where it is rising that looks off.
    """
    values, marks = (run.series.get(f"{probe}{key}", []) for key in ("", ".cold"))
    age, before = COLD_EVERY, None
    for k, (value, cold) in enumerate(zip(values[:iterates], marks, strict=False)):
        if value is None:
            age = COLD_EVERY  # with nothing to follow the next search is a cold one
            continue
        age = 0 if cold == 1 else age + 1
        fell = before is not None and sign * value < sign * before - FALL * abs(before)
        fits = cold == 1 or (cold == 0 and age < COLD_EVERY and not fell)
        what = f"1 or 0, and 1 at the first, in every {COLD_EVERY}, and after a leap"
        ledger.demand(fits, f"iterate {k} of the trajectory, {probe}.cold", repr(cold), what)
        before = value


def _check_tangents(ledger: Ledger, run: Trajectory, iterates: int, unit: float) -> None:
    """``tangent_bound`` is above λ_min, where both are of the same K, but for a share of λ_max that
    a network which cancels inside may lose."""
    names = ("tangent", "tangent.error", "tangent_bound", "tangent_bound.rounding")
    columns = zip(*(run.series.get(name, [])[:iterates] for name in names), strict=False)
    for k, (least, error, above, rounding) in enumerate(columns):
        if least is None or error is None or above is None or rounding is None:
            continue
        largest = rounding / (UNITS * unit)
        fits = least - error <= above + CANCELLED * largest + NOTHING
        at = f"iterate {k} of the trajectory, tangent"
        ledger.demand(fits, at, repr(least), f"tangent_bound {above!r} is above λ_min")


def _tangent(s: Seen) -> None:
    """K is positive semidefinite, and its error is 2nu·λ_max."""
    least, error, facts = s[""], s[".error"], s.facts
    s.demand((least is None) == (error is None), ".error", "λ_min has one")
    s.within(".error", 0, math.inf, "an error is not below 0")
    s.within(".change", 0, 0 if s.first else math.inf, "it is a norm, and 0 at the first iterate")
    if least is None or error is None:
        return
    most = error / (2 * facts.roundoff) + NOTHING
    what = "λ_min is from 0, up to its error, to λ_max, which its error tells"
    s.within("", -error - PARTS * most - NOTHING, most * (1 + PARTS), what)
    s.within(".pl_bound", 0, math.inf if least > error else 0, "λ_min less its error gives it")
    if most > NO_SQUARE:
        rank = min(facts.parameters, facts.rows or facts.parameters)
        what = f"it is from 1 to the rank of K, {rank} at most"
        s.within(".effective_rank", 1 - PARTS, rank * (1 + PARTS), what)


def _tangent_bound(s: Seen) -> None:
    """A Rayleigh quotient of K is no larger than λ_max; ``rounding`` is 64u·λ_max as found.

    It may be below 0 by more than that: a network that cancels inside loses more digits.
    """
    value, rounding = s[""], s[".rounding"]
    for key in (".residual", ".rounding"):
        s.within(key, 0, math.inf, "it is not below 0")
    if value is not None and rounding is not None:
        most = (rounding / (UNITS * s.facts.roundoff) + NOTHING) * (1 + PARTS)
        what = "it is no larger than λ_max, which its rounding tells"
        s.within("", -most, most, what)


def _block_jacobian(s: Seen) -> None:
    """1 − ‖J − I‖ <= σ_min <= σ_max, and the worst block is the least of all."""
    blocks = [key for key in s.entries if f"{key}.largest" in s.entries]
    for block in blocks:
        largest, bound = s[f"{block}.largest"], s[f"{block}.bound"]
        s.within(f"{block}.largest", 0, math.inf, "a singular value is not below 0")
        what = f"it is from 0 to the largest, {largest!r}"
        s.within(block, 0, math.inf if largest is None else largest, what)
        s.within(f"{block}.bound", -math.inf, 1, "it is 1 less a norm")
        least = s[block]
        if least is not None and bound is not None:
            # J − I is taken in the numbers of the network, singular values in doubles.
            size = 1 - bound + (largest or 0.0)
            room = (2 * s.facts.roundoff + PARTS) * size
            s.demand(bound <= least + room, f"{block}.bound", f"σ_min is {least!r}")
    known = [x for block in blocks if (x := s[block]) is not None]
    complete = bool(known) and len(known) == len(blocks)
    fits = s[""] == min(known, default=None) or (s[""] is None and not complete)
    s.demand(fits, "", f"the least of the blocks is {min(known, default=None)!r}")


def _kinks(s: Seen) -> None:
    """A count, of the step that led here; a distance over the root of a mean square of some."""
    count = s[""]
    if s.first:
        s.demand(count is None and s[".approach"] is None, "", "no step led to the first")
    else:
        s.demand(count is not None and count >= 0 and count == int(count), "", "it is a count")
    s.within(".margin", 0, 1.5, "it is from 0 to 1")  # squares of the smallest doubles are coarse


def _bottom_eigenvalue(s: Seen) -> None:
    """λ_min <= λ_max, where no larger eigenvalue was missed."""
    residual = s[".residual"]
    s.within(".residual", 0, math.inf, "a residual is not below 0")
    if s.point.sharpness is not None and s.cold and residual is not None:
        most = s.point.sharpness + s.point.residual + residual
        s.within("", -math.inf, most, f"the largest eigenvalue is {s.point.sharpness!r}")


def _segment_curvature(s: Seen) -> None:
    """The largest of three numbers, and a mean of them."""
    if s.first:
        none = all(x is None for x in s.entries.values())
        s.demand(none, "", "no step led to the first")
    s.within(".residual", 0, math.inf, "a residual is not below 0")
    most = s[""]
    if most is not None:
        above = most + PARTS * abs(most) + NOTHING
        s.within(".mean", -math.inf, above, f"the largest is {most!r}")


def _spectral_density(s: Seen) -> None:
    """Shares, errors and quantiles, and sums where they are of all eigenvalues."""
    for name in SPECTRUM:
        s.within(f".{name}_error", 0, math.inf, "a negative error is none")
    s.within(".negative", 0, 1, "a share is from 0 to 1")
    s.within(".rms", 0, math.inf, "it is a root")
    ends: Numbers = [x for key in QUANTILES if (x := s[key]) is not None]
    s.demand(ends == sorted(x for x in ends if x is not None), "", f"quantiles rise, not {ends}")
    count, rms, error = s.facts.parameters, s[".rms"], s[".rms_error"]
    if count > DENSE or rms is None or error is None or not rms > NO_SQUARE:
        return
    s.within(".trace", -count * rms * (1 + PARTS), count * rms * (1 + PARTS), "it is P·rms at most")
    most = math.sqrt(count) * (rms + error)
    for key, share in QUANTILES.items():
        s.within(key, -most, most, "no eigenvalue is above √P·rms")
        value, noise, negative = s[key], s[f"{key}_error"], s[".negative"]
        if value is not None and noise is not None and negative is not None:
            fits = (value < -noise) == (negative >= share * (1 - PARTS))
            s.demand(fits, key, f"a share of {negative!r} is negative")
    size, room = abs(s.point.sharpness or 0.0), s.point.residual
    s.demand(size <= most + room, ".rms", f"an eigenvalue is {s.point.sharpness!r}")


CHECKS: dict[str, Callable[[Seen], None]] = {
    "tangent": _tangent,
    "tangent_bound": _tangent_bound,
    "block_jacobian": _block_jacobian,
    "kinks": _kinks,
    "bottom_eigenvalue": _bottom_eigenvalue,
    "segment_curvature": _segment_curvature,
    "spectral_density": _spectral_density,
}
