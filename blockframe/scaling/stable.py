"""The largest constant learning rate that is stable over K steps, found by real runs.

A rate η *trains* over K steps from θ_0 if gradient descent with it meets no loss or gradient that
is not finite, does not diverge (`blockframe.dynamics.descent.DIVERGED`), and ends no higher than it
began: L_K <= L_0. This is the largest rate of the literature on large steps (Lewkowycz, Bahri,
Dyer, Sohl-Dickstein & Gur-Ari 2020): a loss that first rises and then falls below its start is
allowed. A rate *falls* if, moreover, no step raises the loss by more than rounding could.

On L = ½θᵀHθ both limits are 2/λ_max for K → ∞; in general they may lie on either side of it.

Neither set of rates need be an interval: a rate may be unstable and a larger one stable. So what is
found is a pair of rates next to each other, the lower one stable, the upper one not, and both were
run; of rates that were not run nothing is said.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from attrs import field, frozen

from blockframe.dynamics.descent import Descent, start
from blockframe.dynamics.ending import COMPLETED, INTERRUPTED
from blockframe.dynamics.inequalities import Point
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.merging import groups, merged
from blockframe.dynamics.probes.probe import Unavailable
from blockframe.dynamics.rounding import rounding_units
from blockframe.dynamics.tangent import Spectrum
from blockframe.errors import BlockframeError, InputError
from blockframe.foreign import out_of_memory
from blockframe.scaling.rates import Measured, measured_at

if TYPE_CHECKING:
    from blockframe.dynamics.objective import Objective
    from blockframe.dynamics.options import Options
    from blockframe.problem import Problem
    from blockframe.progress import Progress

LADDER = 60
"""Doublings or halvings of the first rate at most, to find one stable rate and one that is not."""
RANK = 512
"""Outputs of all samples together up to which the tangent Gram matrix of a start is looked at."""
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the quantiles over starts."""


@frozen
class Run:
    """What K steps at one rate did; a text says what was against it, "" that nothing was.

    Attributes:
        trains: against L_K <= L_0.
        falls: against that no step raised the loss.
    """

    rate: float
    trains: str
    falls: str


@frozen
class Bracket:
    """Two rates that were run: ``below`` is stable, ``above`` is not, because of ``why``.

    None: no such rate was found. Relative to ``below``, they are no more than the width apart that
    was asked for, where both exist.
    """

    below: float | None
    above: float | None
    why: str = ""


@frozen
class Stable:
    """The brackets of one start.

    Attributes:
        runs: how many it took for both.
        unstable_below: rates that did not train and lie below one that did.
    """

    trains: Bracket
    falls: Bracket
    runs: int
    unstable_below: tuple[float, ...] = ()


@frozen
class Start:
    """One θ_0.

    Attributes:
        measured: the curvature there.
        degenerate: why it is: its gradient is 0, or not finite, or DF cannot have full rank; "" if
            nothing of that is seen.
        rank: whether the rank of DF was looked at, by the least eigenvalue of K = DF DFᵀ.
        undecided: why the rank was not seen to be full: rounding hides that eigenvalue.
        stable: None if no runs were asked for, or a number is not finite at θ_0.
        digest: of θ_0.
    """

    seed: int
    measured: Measured
    degenerate: str = ""
    rank: bool = False
    undecided: str = ""
    stable: Stable | None = None
    digest: str = field(default="", repr=False)


@frozen
class Starts:
    """Those that were looked at, and why not all: "" if all were."""

    found: tuple[Start, ...]
    ended: str = ""


@frozen
class Search:
    """How the largest stable rate is to be found: over how many steps, to which relative width."""

    steps: int
    width: float


def look(problem: Problem, options: Options, seed: int, search: Search | None) -> Start:
    """The start of ``problem``, and the largest stable rates if a ``search`` is given.

    Raises:
        InputError, PluginError: ``problem`` cannot be descended on (`descent.start`).
    """
    it = start(problem, options)
    measured = measured_at(it)
    try:
        degenerate, rank, undecided = _degenerate(it)
        stable = None
        if search is not None and it.finite:
            rate = measured.rate or _guess(it)
            stable = brackets(it.objective, rate, search, rounding_units(it))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise InputError(
            "memory ran out", "Give fewer --samples, --dtype float32, or a --memory that fits."
        ) from error
    it.release()
    theta = it.theta.detach().cpu().numpy().tobytes()
    digest = hashlib.sha256(theta).hexdigest()
    return Start(seed, measured, degenerate, rank, undecided, stable, digest)


def brackets(
    objective: Objective, first: float, search: Search, units: float | None = None
) -> Stable:
    """Both brackets at θ_0; ``first``: a rate to begin with; ``units``: of roundoff, in which the
    noise of a loss is counted."""
    runs: dict[float, Run] = {}

    def run(rate: float) -> Run:
        if rate not in runs:
            runs[rate] = attempt(objective, rate, search.steps, units)
        return runs[rate]

    trains = bracket(lambda rate: run(rate).trains, first, search.width)
    falls = bracket(lambda rate: run(rate).falls, first, search.width)
    largest = max((r.rate for r in runs.values() if not r.trains), default=0.0)
    below = sorted(r.rate for r in runs.values() if r.trains and r.rate < largest)
    return Stable(trains, falls, len(runs), tuple(below))


def bracket(against: Callable[[float], str], first: float, width: float) -> Bracket:
    """Rates ``below`` and ``above`` with above/below <= 1 + width, by doubling or halving from
    ``first`` and then bisecting the logarithm.

    Args:
        against: what speaks against a rate; "" where it is stable.
    """
    below: float | None = None
    above: float | None = None
    why, rate = "", first
    for _ in range(LADDER):
        found = against(rate)
        if found:
            above, why = rate, found
        else:
            below = rate
        if below is not None and above is not None:
            break
        rate = rate / 2 if found else rate * 2
        if not 0 < rate < math.inf:
            break
    if below is None or above is None:
        return Bracket(below, above, why)
    while above > below * (1 + width):
        middle = below * math.sqrt(above / below)
        if not below < middle < above:
            break  # no double lies between them
        found = against(middle)
        if found:
            above, why = middle, found
        else:
            below = middle
    return Bracket(below, above, why)


def attempt(objective: Objective, rate: float, steps: int, units: float | None = None) -> Run:
    """``steps`` steps of gradient descent at ``rate`` from θ_0."""
    begin = Iterate(objective, objective.start, rounding_units=units)
    run = Descent(begin, lr=rate, lr_rule="as given", steps=steps, probes={})
    first: Point | None = None
    before: Point | None = None
    rise = ""
    for it in run:
        if not it.finite:
            return Run(rate, run.ended, rise or run.ended)
        point = _point(it)
        if before is not None and not rise:
            noise = before.noise + point.noise
            if point.loss > before.loss + noise:
                rise = f"step {before.step} raised the loss"
        first, before = first or point, point
    if run.ended != COMPLETED or first is None or before is None:
        return Run(rate, run.ended, rise or run.ended)
    higher = before.loss > first.loss
    trains = f"the loss after {steps} steps is {before.loss:.4g}" if higher else ""
    return Run(rate, trains, rise or trains)


def _point(it: Iterate) -> Point:
    return Point.of(
        it.step,
        loss=it.loss,
        gradient_norm=it.gradient_norm,
        norm=it.theta_norm,
        pairing=0.0,
        roundoff=it.objective.arithmetic.unit_roundoff,
        outputs=it.output_size,
        units=it.rounding_units,
    )


def _guess(it: Iterate) -> float:
    """A rate to begin with where the curvature gives none: the Polyak step, or 1."""
    slope, excess = it.gradient_norm * it.gradient_norm, it.loss - it.objective.infimum
    step = excess / slope if slope > 0 else 1.0
    return step if 0 < step < math.inf else 1.0


def _degenerate(it: Iterate) -> tuple[str, bool, str]:
    """Of `Start`: ``degenerate``, ``rank``, ``undecided``."""
    if not it.finite:
        return "loss or gradient are not finite", False, ""
    if it.gradient_norm == 0:
        return "the gradient is 0", False, ""
    if it.outputs.numel() > RANK:
        return "", False, ""
    try:
        gram, alike = it.tangent_gram, groups(it)
    except Unavailable:
        return "", False, ""
    if alike:
        gram, _ = merged(gram, gram[0], alike)
    if it.theta.numel() < len(gram):
        return f"{it.theta.numel()} parameters for {len(gram)} outputs", True, ""
    spectrum = Spectrum.of(gram, it.objective.arithmetic.unit_roundoff)
    if spectrum.least > spectrum.error:  # not of a NaN
        return "", True, ""
    return "", True, f"λ_min(K) = {spectrum.least:.3g} ± {spectrum.error:.3g}"


# --- several starts -----------------------------------------------------------------------------


def each(
    work: Callable[[int], Start], seeds: Sequence[int], jobs: int, progress: Progress
) -> Starts:
    """``work`` for each seed, in ``jobs`` processes; what was found when it ends early is kept.

    Raises:
        BlockframeError: what it raises for the first of them.
        KeyboardInterrupt: before anything was found.
        InputError: the seed does not change θ_0.
    """
    found: list[Start] = []
    ended = ""
    try:
        for start_ in _results(work, seeds, jobs):
            if isinstance(start_, _Refusal):
                raise InputError(start_.message, start_.remedy)
            found.append(start_)
            progress.step(len(found), len(seeds), f"seed {start_.seed}")
    except (KeyboardInterrupt, BlockframeError) as error:
        if not found:
            raise
        of = f"{len(found)} of {len(seeds)} starts"
        if isinstance(error, KeyboardInterrupt):
            ended = f"{INTERRUPTED} by {str(error) or 'the user'} after {of}"
        else:
            ended = f"after {of}, at seed {seeds[len(found)]}: {error.message}"
    if len(found) > 1 and len({s.digest for s in found}) == 1:
        raise InputError(
            f"the start is the same for all {len(found)} seeds",
            "Draw the weights anew, with --init xavier for instance, or leave out --seeds.",
        )
    return Starts(tuple(found), ended)


@frozen
class _Refusal:
    """An error as it comes from another process."""

    message: str
    remedy: str


def _results(
    work: Callable[[int], Start], seeds: Sequence[int], jobs: int
) -> Iterator[Start | _Refusal]:
    if jobs == 1 or len(seeds) == 1:
        yield from map(work, seeds)
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import BrokenProcessPool

    parallel = Parallel(n_jobs=min(jobs, len(seeds)), return_as="generator")
    try:
        yield from parallel(delayed(_aside)(work, seed) for seed in seeds)
    except BrokenProcessPool as error:
        raise InputError(
            "a process that looked at one of the starts has died",
            "It may have run out of memory: take --jobs 1, or --samples with a smaller number.",
        ) from error


def _aside(work: Callable[[int], Start], seed: int) -> Start | _Refusal:
    """In another process: what a model prints must not end up in the document on stdout."""
    with redirect_stdout(sys.stderr):
        try:
            return work(seed)
        except BlockframeError as error:
            return _Refusal(error.message, error.remedy)


def quantiles(values: Sequence[float | None]) -> tuple[float, ...] | None:
    """At `LEVELS`, of those that exist; None if none does."""
    import numpy as np

    there = [x for x in values if x is not None]
    return tuple(float(q) for q in np.quantile(there, LEVELS)) if there else None


__all__ = [
    "LEVELS", "Bracket", "Run", "Search", "Stable", "Start", "Starts", "attempt", "bracket",
    "brackets", "each", "look", "quantiles",
]  # fmt: skip
