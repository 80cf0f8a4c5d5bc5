"""A certificate made again by its recipe, and compared: ``blockframe verify --replay``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from attrs import evolve

from blockframe.certificate.checker import CheckReport
from blockframe.certificate.journal_check import thinned
from blockframe.certificate.ledger import BY_REPLAY, Ledger, quoted, shown
from blockframe.certificate.model import Certificate, Claim, Recipe, Trajectory
from blockframe.errors import InputError

if TYPE_CHECKING:
    from blockframe.plugins import Registry
    from blockframe.progress import Progress

TOLERANCE = {"float64": 1e-6, "float32": 1e-2, "float16": 0.1, "bfloat16": 0.5}
"""How far a measured series may be off, in units of its largest number; on the same machine with
the same libraries and threads it is equal."""
MEASURED = ("loss", "gradient_norm", "block_norms", "dissipativity", "output_pairing", "sharpness")
"""Series that are compared, with those by block. All others follow from them."""
ROUNDED: dict[str, tuple[str, ...]] = {
    "analyticity": (),
    "smoothness": (),
    "nondegeneracy": ("residual", "least singular value", "matrix"),
}
"""Clauses whose numbers must be equal, and those that rounding changes."""
SAME_AGAIN = (
    "replay it with the file of data, the code and the versions of libraries that it was made with "
    "(those that differ are named), or certify these anew"
)
"""What helps where a replay has other data or another start."""
_LANCZOS = 4e-3  # a sharpness is searched to 1e-3 (`Iterate.accuracy`), twice, with some room


def replay(
    certificate: Certificate,
    report: CheckReport,
    *,
    spec: str | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """``report`` with what making the certificate again shows.

    The spec is resolved, traced, decided and trained again with the same options and seeds. Data,
    start, structure, verdicts and evidence must be equal, measured series within `TOLERANCE`.

    Args:
        spec: the certificate's own, said again: consent to run the code that it names.

    Raises:
        InputError: the certificate has no recipe, or names code and ``spec`` does not.
        SpecError, PluginError: as of `blockframe.certify`.
    """
    from blockframe.certifier import certify
    from blockframe.plugins import load_plugins

    known = registry if registry is not None else load_plugins()
    recipe = _recipe(certificate, spec, known)
    again = certify(
        recipe.spec, static_only=recipe.static_only, steps=recipe.steps,
        lr="auto" if recipe.lr is None else recipe.lr, loss=recipe.loss, data=recipe.data,
        init=recipe.init, settings=recipe.settings, device=recipe.device, dtype=recipe.dtype,
        seed=recipe.seed, full=recipe.full, probes=recipe.probes, samples=recipe.samples,
        memory=recipe.memory, registry=known, progress=progress,
    )  # fmt: skip
    ledger = Ledger()
    compared = _compare(ledger, certificate, Certificate.from_json(again.to_json()))
    # What was left to a replay has then been looked at.
    left = (line for line in report.unverifiable if not (compared and line.endswith(BY_REPLAY)))
    return evolve(
        report,
        rejected=(*report.rejected, *ledger.rejected),
        verified=(*report.verified, *ledger.verified),
        unverifiable=(*left, *ledger.unverifiable),
    )


def _recipe(certificate: Certificate, spec: str | None, registry: Registry) -> Recipe:
    from blockframe.userfile import source

    recipe = certificate.subject.recipe
    if recipe is None or recipe.spec is None:
        raise InputError(
            "the certificate cannot be replayed: "
            + ("it has no recipe" if recipe is None else "its target was given in Python"),
            "Check it without --replay; or certify a spec, which can be resolved again.",
        )
    if spec is not None and spec != recipe.spec:
        raise InputError(
            f"the certificate is about {quoted(recipe.spec)}, not {spec!r}", "Leave out --spec."
        )
    prefix = recipe.spec.partition(":")[0]
    plugin = any(prefix == p.info.name for p in registry.loaded) and ":" in recipe.spec
    if spec is None and not plugin and source(recipe.spec) is not None:
        raise InputError(
            f"a replay would run the code {quoted(recipe.spec)} that the certificate names",
            "If you trust that code, say so with --spec and its name.",
        )
    return recipe


def _compare(ledger: Ledger, old: Certificate, new: Certificate) -> bool:
    """Whether claims and run could be compared: those of other data or another start cannot."""
    same_libraries = old.environment == new.environment
    for name in sorted(old.environment.keys() | new.environment.keys()):
        was, now = (c.environment.get(name, "none") for c in (old, new))
        if was != now:
            ledger.unverifiable.append(f"replay: {quoted(name)} was {quoted(was)}, is {now}")
    for name in ("class_name", "parameters", "scale", "blocks", "data", "loss", "proxy",
                 "replay_exact"):  # fmt: skip
        was, now = (getattr(c.subject, name) for c in (old, new))
        found = was == now
        ledger.demand(found, f"subject.{name}", quoted(was), f"the replay gives {quoted(now)}")
    if old.subject.digests != new.subject.digests:
        for name in sorted(old.subject.digests.keys() | new.subject.digests.keys()):
            was, now = (c.subject.digests.get(name, "none") for c in (old, new))
            other = f"the replay has another {name}, {shown(now)}: {SAME_AGAIN}"
            ledger.demand(was == now, f"subject.digests.{name}", shown(was), other)
        ledger.unverifiable.append("replay: claims and run are of other numbers, not compared")
        return False
    names = "data and start" if new.subject.digests else "its structure"
    if not ledger.rejected:
        ledger.verified.append(f"replay: {names} are the same")
    before = len(ledger.rejected)
    claims = {(c.clause, c.subject, c.block): c for c in new.claims}
    for claim in old.claims:
        _compare_claim(ledger, claim, claims.pop((claim.clause, claim.subject, claim.block), None))
    for clause, _, block in claims:
        ledger.reject("claims", "nothing", f"the replay claims {clause} of {block or 'the chain'}")
    if len(ledger.rejected) == before:
        ledger.verified.append(f"replay: {len(old.claims)} claims have the same verdict")
    if old.trajectory is not None and new.trajectory is not None:
        _compare_runs(ledger, old.trajectory, new.trajectory, same_libraries)
    elif (old.trajectory is None) != (new.trajectory is None):
        is_there = "a run" if new.trajectory else "no run"
        ledger.reject("trajectory", "the opposite", f"the replay gives {is_there}")
    return True


def _compare_claim(ledger: Ledger, was: Claim, now: Claim | None) -> None:
    where = f"{quoted(was.clause)} of {quoted(was.block or was.subject)}"
    if now is None:
        ledger.reject(where, was.verdict.value, "the replay claims nothing")
        return
    found = f"{now.verdict} by {now.evidence} evidence"
    same = (was.verdict, was.evidence) == (now.verdict, now.evidence)
    ledger.demand(same, where, f"{was.verdict} by {was.evidence} evidence", f"it gives {found}")
    codes = [sorted({f.code for f in c.findings}) for c in (was, now)]
    ledger.demand(codes[0] == codes[1], where, f"findings {codes[0]}", f"it gives {codes[1]}")
    kept = ROUNDED.get(was.clause)
    if kept is not None:
        a, b = ({k: v for k, v in c.numbers.items() if k not in kept} for c in (was, now))
        ledger.demand(a == b, where, quoted(a), f"it gives {quoted(b)}")


def _compare_runs(ledger: Ledger, was: Trajectory, now: Trajectory, same_libraries: bool) -> None:
    ledger.expect("trajectory.ended", was.ended, now.ended)
    ledger.expect("trajectory.lr_rule", was.lr_rule, now.lr_rule)
    if was.journal is not None and now.journal is None:
        stride = max(was.journal.stride, 1)
        series = {name: thinned(values, stride) for name, values in now.series.items()}
        now = evolve(now, series=series)
    tolerance = TOLERANCE.get(str(now.summary.get("dtype")), TOLERANCE["float64"])
    named = {n for n in (*was.series, *now.series) if _is_measured(n)}
    equal = was.series == now.series and was.lr == now.lr
    for name in sorted(named):
        a, b = was.series.get(name, []), now.series.get(name, [])
        scale, allowed = _scale(name, now), max(tolerance, _LANCZOS * (name == "sharpness"))
        off = max(_differences(a, b), default=math.inf)
        close = len(a) == len(b) and off <= allowed * scale
        what = f"the replay is off by {off:.3g}, {allowed * scale:.3g} is allowed"
        ledger.demand(close, f"trajectory.series.{quoted(name)}", "other numbers", what)
    if not ledger.rejected:
        how = "equal, bit for bit" if equal else f"within {tolerance:g} of their size"
        ledger.verified.append(f"replay: the measured series of the run are {how}")
    if not equal and same_libraries:
        ledger.unverifiable.append(
            "replay: series are not equal bit for bit: another processor, or number of threads"
        )


def _is_measured(name: str) -> bool:
    return name in MEASURED or name.partition(".")[0] in ("block_norms", "dissipativity")


def _scale(name: str, run: Trajectory) -> float:
    """The largest number of a series; of a pairing, of what it is at most."""
    sizes = [abs(x) for x in run.series.get(name, []) if x is not None]
    if name.partition(".")[0] in ("dissipativity", "output_pairing"):
        columns = (run.series.get(n, []) for n in ("block_norms", "gradient_norm"))
        sizes += [a * b for a, b in zip(*columns, strict=False) if a is not None and b is not None]
    return max(sizes, default=0.0)


def _differences(a: Sequence[float | None], b: Sequence[float | None]) -> Iterator[float]:
    for x, y in zip(a, b, strict=False):
        if x is None or y is None:
            yield 0.0 if x is y else math.inf
        else:
            yield abs(x - y)
