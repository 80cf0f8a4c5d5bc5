"""Clause D: the b of ⟨θ, ∇L⟩ >= a‖θ‖² − b, from the constants of the loss and from the run.

docs/theory sections 5 and 6. For which parameters Euler's identity holds is read off the network;
it is not in the certificate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from blockframe.certificate.index import Index
from blockframe.certificate.ledger import Ledger, quoted, real, whole
from blockframe.certificate.model import Claim, Evidence, Trajectory, Verdict
from blockframe.certificate.run_theory import ROUNDOFF, UNITS

ACCURACY = {"float64": 1e-9, "float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Of a measured pairing, in units of ‖θ_l‖‖∇L‖."""
OUTPUT = {"loss", "output_bound", "samples", "targets_square", "classes"}
"""Numbers about ⟨F, ∇_F L⟩, and what its bound follows from."""
KNOWN = {
    "block": {"a", "b", "degree", "share", *OUTPUT},
    "chain": {
        "a", "b", "blocks", "roundoff", "steps", "largest_norm", "R", "horizon", "degrees", "head",
        "proxy", *OUTPUT,
    },
}  # fmt: skip


def check_dissipativity(
    ledger: Ledger, index: Index, claim: Claim, run: Trajectory | None, where: str
) -> None:
    """Check one claim on clause ``dissipativity``; ``run``: if its series make one."""
    numbers, subject = claim.numbers, index.certificate.subject
    for part, of in ((numbers, where), (numbers.get("proxy"), f"{where}, proxy")):
        if isinstance(part, dict) and part.keys() & {*OUTPUT, "degrees", "degree", "share"}:
            _check_output(ledger, part, subject.loss, of)
    chain = index.chain.get("dissipativity")
    of_chain = chain.numbers.get("a") if chain is not None else None
    ledger.expect(f"{where}, a", numbers.get("a"), of_chain)
    if claim is chain and of_chain is not None:
        _check_parts(ledger, index, claim, where)
    if claim.verdict is Verdict.FAILS:
        ledger.reject(where, "FAILS", "some b there always is: the clause cannot fail")
    if claim.verdict is Verdict.UNKNOWN and of_chain is None:
        return
    a, b = real(numbers.get("a")), real(numbers.get("b"))
    what = "it is a number that is not negative"
    ledger.demand(a is not None and a >= 0, f"{where}, a", quoted(numbers.get("a")), what)
    _check_findings(ledger, claim, run, where)
    if claim.verdict is not Verdict.HOLDS:
        ledger.demand("b" not in numbers, where, f"b, and {claim.verdict}", "with a b it HOLDS")
        return
    ledger.demand(b is not None and b >= 0, f"{where}, b", quoted(numbers.get("b")), what)
    if a is None or b is None or claim.subject not in KNOWN:
        return
    if claim.evidence is Evidence.MEASURED:
        _check_measured(ledger, claim, run, a, where)
    elif claim.evidence is Evidence.ENCLOSED:
        ledger.reject(where, "evidence ENCLOSED", "it is proved by calculus, or measured on a run")
    elif claim.subject == "block":
        _check_proved_block(ledger, claim, run, b, where)
    else:
        _check_sum(ledger, index, claim, b, where)
    extra = sorted(numbers.keys() - KNOWN[claim.subject])
    if extra:
        ledger.unverifiable.append(f"{where}: numbers {quoted(extra)} are unknown to this checker")


def smallest_b(a: float, roundoff: float, run: Trajectory, part: str = "") -> float | None:
    """The least double b >= 0 with p_k − e_k >= a‖θ_k‖² − b at every iterate k, exactly.

    e_k = 64 · ``roundoff`` · ‖θ_k‖‖∇L_k‖ is what rounding may have added to the pairing p_k.
    None where a number is missing.
    """
    names = (f"block_norms{part}", "gradient_norm", f"dissipativity{part}")
    exact = Fraction(0)
    if not run.series.keys() >= set(names):
        return None
    for norm, slope, pairing in zip(*(run.series[name] for name in names), strict=True):
        if norm is None or slope is None or pairing is None:
            return None
        noise = UNITS * Fraction(roundoff) * Fraction(norm) * Fraction(slope)
        exact = max(exact, Fraction(a) * Fraction(norm) ** 2 - Fraction(pairing) + noise)
    try:
        nearest = float(exact)
    except OverflowError:
        return None
    return nearest if Fraction(nearest) >= exact else math.nextafter(nearest, math.inf)


def _check_measured(
    ledger: Ledger, claim: Claim, run: Trajectory | None, a: float, where: str
) -> None:
    """The least b that every iterate satisfies, and what it says of staying in a ball."""
    numbers = claim.numbers
    if run is None or run.ended != "completed" or run.completed < 1:
        ledger.reject(where, "measured evidence", "there is no completed run")
        return
    roundoff = ROUNDOFF.get(str(run.summary.get("dtype")), math.nan)
    if not math.isfinite(roundoff):
        return  # the run itself is rejected for it
    part = "" if claim.subject == "chain" else f".{claim.block}"
    if ledger.expect(f"{where}, b", numbers.get("b"), smallest_b(a, roundoff, run, part)):
        ledger.verified.append(f"{where}: b from {run.completed + 1} iterates")
    if claim.subject == "block":
        return
    starts = "dissipativity."
    blocks = [n.removeprefix(starts) for n in run.series if n.startswith(starts)]
    parts = {name: smallest_b(a, roundoff, run, f".{name}") for name in blocks}
    norms = [x for x in run.series.get("block_norms", []) if x is not None]
    radius = 2 * norms[0] if norms else math.nan
    derived: dict[str, Any] = {
        "blocks": parts, "roundoff": roundoff, "steps": run.completed,
        "largest_norm": max(norms, default=None), "R": radius,
        "horizon": _horizon(run, radius, numbers.get("b")),
    }  # fmt: skip
    for name, value in derived.items():
        ledger.expect(f"{where}, {name}", numbers.get(name, "nothing"), value)


def _horizon(run: Trajectory, radius: float, b: Any) -> float | None:
    """T(R): how many steps stay in ‖θ‖ <= R, if b and the measured Λ hold there."""
    curvature, infimum = (real(run.summary.get(key)) for key in ("curvature", "loss_infimum"))
    loss, norm = (run.series.get(name, [None])[0] for name in ("loss", "block_norms"))
    b = real(b)
    if None in (curvature, infimum, loss, norm, b):
        return None
    slack = 2 - run.lr * (curvature or 0.0)
    if not slack > 0:
        return None
    excess = (loss or 0.0) - (infimum or 0.0)
    room = radius * radius - (norm or 0.0) * (norm or 0.0) - 2 * run.lr / slack * excess
    if not math.isfinite(room):
        return None
    if room < 0:
        return 0
    rate = 2 * run.lr * (b or 0.0)
    steps = room / rate if rate > 0 else math.inf
    return math.floor(steps) if math.isfinite(steps) else math.inf


def _check_output(ledger: Ledger, numbers: dict[str, Any], loss: str, where: str) -> None:
    """The bound of ⟨F, ∇_F L⟩ from its constants: ‖y‖²/4N for mse, W_0((C − 1)/e) for ce."""
    ledger.expect(f"{where}, loss", numbers.get("loss"), loss)
    bound, place = real(numbers.get("output_bound")), f"{where}, output_bound"
    sound = bound is not None and bound >= 0
    ledger.demand(sound, place, quoted(numbers.get("output_bound")), "it is a number >= 0")
    square, samples = real(numbers.get("targets_square")), whole(numbers.get("samples"))
    classes = whole(numbers.get("classes"))
    if bound is None:
        return
    if square is not None and samples:
        ledger.expect(place, bound, math.nextafter(square / (4 * samples), math.inf))
    elif classes is not None:
        # w = W_0(z) solves w e^w = z; from below by rounding only, from above hardly.
        wanted, size = float(max(classes - 1, 0)), min(bound, 700.0)
        close = size * math.exp(size + 1.0)
        tight = abs(close - wanted) <= 1e-9 * (wanted + close) and close >= wanted * (1 - 1e-14)
        ledger.demand(tight, place, repr(bound), f"W_0(({classes} - 1)/e) is another number")
    elif loss in ("mse", "ce"):
        ledger.reject(place, repr(bound), "nothing is said that it follows from")
    else:
        ledger.unverifiable.append(f"{place}: rests on the loss {quoted(loss)}")


def _check_proved_block(
    ledger: Ledger, claim: Claim, run: Trajectory | None, b: float, where: str
) -> None:
    numbers = claim.numbers
    bound, degree = real(numbers.get("output_bound")), whole(numbers.get("degree", 0))
    if not degree or bound is None:
        ledger.expect(f"{where}, b", b, 0.0)
        ledger.expect(f"{where}, degree", degree, 0)
    else:
        many = math.nextafter(degree * bound, math.inf)
        ledger.expect(f"{where}, b", b, bound if degree == 1 else many)
    if "share" in numbers:
        ledger.expect(f"{where}, share", numbers["share"], numbers.get("output_bound"))
    ledger.leave(f"{where}: that the output is homogeneous in the block's parameters")
    if run is None:
        return
    names = (f"dissipativity.{claim.block}", "output_pairing", f"block_norms.{claim.block}")
    others = ("gradient_norm", "output_pairing.size")
    columns = [run.series.get(name, ()) for name in (*names, *others)]
    accuracy = ACCURACY.get(str(run.summary.get("dtype")), math.nan)
    for k, row in enumerate(zip(*columns, strict=False)):
        pairing, output, norm, slope, most = (math.nan if x is None else x for x in row)
        # Euler: ⟨θ_l, ∇_lL⟩ = degree · ⟨F, ∇_F L⟩.
        off, size = abs(pairing - (degree or 0) * output), norm * slope + most
        what = f"of degree {degree}: ⟨θ_l, ∇_lL⟩ = {pairing!r}, ⟨F, ∇_F L⟩ = {output!r}"
        ledger.demand(not off > accuracy * size, f"{where}, iterate {k}", what, "they differ")
        lost = math.isnan(output) and not math.isnan(pairing)
        ledger.demand(not lost, f"{where}, iterate {k}", "no output_pairing", "there must be one")
        low = bound is not None and run.scale == "full" and output < -bound - accuracy * size
        ledger.demand(not low, f"{where}, output_bound", repr(bound), f"{output!r} at iterate {k}")


def _check_findings(ledger: Ledger, claim: Claim, run: Trajectory | None, where: str) -> None:
    """A run beyond the bound of the loss (D101); weights that a norm makes of no size (D102)."""
    for f in claim.findings:
        at, w = f"{where}, witness of {quoted(f.code)}", f.witness or {}
        series = {} if run is None else run.series
        if f.code == "D101":
            step, values = whole(w.get("step")), series.get("output_pairing", [])
            there = step is not None and step < len(values)
            ledger.expect(f"{at}, pairing", w.get("pairing"), values[step or 0] if there else None)
            pairing, bound = real(w.get("pairing")), real(w.get("bound"))
            below = pairing is not None and bound is not None and pairing < bound
            ledger.demand(below, at, quoted(w), "it is not beyond the bound")
            ledger.expect(f"{where}, verdict", claim.verdict.value, "UNKNOWN")
        elif f.code == "D102":
            pairs = [x for x in series.get(f"dissipativity.{claim.block}", []) if x is not None]
            least, largest = min(pairs, default=None), max(pairs, default=None)
            found = {"block": claim.block, "least_pairing": least, "largest_pairing": largest}
            ledger.expect(at, w, found)


def _check_parts(ledger: Ledger, index: Index, claim: Claim, where: str) -> None:
    """The chain's claim goes with one about each block, and names the degrees that they have."""
    blocks, subject = index.blocks.get("dissipativity", ()), index.certificate.subject
    if not subject.proxy:  # blocks of a reduced network are not those of the full one
        ledger.expect(f"{where}, its blocks", [c.block for c in blocks], [*index.parts])
    degrees = {c.block: c.numbers["degree"] for c in blocks if "degree" in c.numbers}
    if claim.numbers.get("a") == 0 and ("degrees" in claim.numbers or degrees):
        ledger.expect(f"{where}, degrees", claim.numbers.get("degrees"), degrees)


def _check_sum(ledger: Ledger, index: Index, claim: Claim, b: float, where: str) -> None:
    """Proved of the chain: the sum of what is proved of all blocks."""
    blocks: Sequence[Claim] = index.blocks.get("dissipativity", ())
    names = [p.name for p in index.certificate.subject.blocks]
    ledger.expect(f"{where}, its blocks", [c.block for c in blocks], names)
    known = [c.evidence for c in blocks if c.evidence is not None and c.verdict is Verdict.HOLDS]
    if ledger.expect(f"{where}, blocks that hold", len(known), len(names)) and known:
        evidence = None if claim.evidence is None else claim.evidence.value
        ledger.expect(f"{where}, evidence", evidence, Evidence.weakest(known).value)
    parts = [x for c in blocks if (x := real(c.numbers.get("b")) or 0.0) > 0.0]
    added = math.nextafter(math.fsum(parts), math.inf) if len(parts) > 1 else math.fsum(parts)
    ledger.expect(f"{where}, b", b, added)
