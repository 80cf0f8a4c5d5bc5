"""The numbers of clause N: counts, and the matrix whose nonsingularity it rests on."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from blockframe.certificate.files import PLAIN, read_regular
from blockframe.certificate.index import Index
from blockframe.certificate.ledger import Ledger, quoted, real, whole
from blockframe.certificate.model import Claim, Evidence, Verdict
from blockframe.certificate.rank_check import LARGEST, prove

ROWS = {"linear head": ("rows",), "Jacobian": ("rows", "outputs")}
"""The matrix of each argument has as many rows as the product of these."""
COUNTS = ("rows", "unmerged rows", "outputs", "parameters", "rank")
PROOF = (
    "argument", "point", "residual", "least singular value", "matrix", "gradient descent",
)  # fmt: skip
IDENTITY = ("pre", "parallel", "none", "sandwich")
"""Placements of a norm that leave z + F(norm(z)) the identity where F is zero."""
BYTES = {"<f4": 4, "<f8": 8}


@frozen
class Given:
    """Where side files are: in memory, or in a directory."""

    files: Mapping[str, bytes]
    directory: Path | None


def check_nondegeneracy(
    ledger: Ledger, index: Index, claim: Claim, where: str, directory: Path | None
) -> None:
    """Counts agree, evidence is that of the argument, and the rank is proved again."""
    if claim.subject == "block":
        _check_block(ledger, index, claim, where)
        return
    ledger.expect(f"{where}, subject", claim.subject, "chain")
    holds, numbers = claim.verdict is Verdict.HOLDS, claim.numbers
    if claim.verdict is Verdict.FAILS:
        _check_refutation(ledger, claim, where)
    extra = sorted(numbers.keys() - {*COUNTS, *PROOF, "weak"})
    if extra:
        ledger.unverifiable.append(f"{where}: numbers {quoted(extra)} are unknown to this checker")
    if numbers.get("weak") is not None:
        _check_weak(ledger, index, numbers["weak"], f"{where}, weak")
    if not holds:
        ledger.demand("matrix" not in numbers, where, f"{claim.verdict}, by a matrix", "it HOLDS")
        if not numbers.keys() & set(COUNTS):
            return
    counts = {key: whole(numbers.get(key)) for key in COUNTS}
    for key, count in counts.items():
        ledger.demand(bool(count), f"{where}, {key}", quoted(numbers.get(key)), "it is a count")
    if not all(counts.values()):
        return
    rows, unmerged, outputs, parameters, rank = (counts[key] or 0 for key in COUNTS)
    ledger.expect(f"{where}, rank", rank, rows * outputs)
    merged = rows <= unmerged
    ledger.demand(merged, f"{where}, rows", str(rows), f"merging leaves {unmerged} or fewer")
    _check_parameters(ledger, index, parameters, f"{where}, parameters")
    _check_dimension(ledger, index, parameters - unmerged * outputs, where)
    few = parameters < rows * outputs
    what = f"{parameters} parameters are too few for rank {rows * outputs}"
    ledger.demand(not few or claim.verdict is Verdict.FAILS, where, claim.verdict.value, what)
    if holds:
        _check_proof(ledger, index, claim, rows, outputs, where, directory)


def _check_parameters(ledger: Ledger, index: Index, count: int, where: str) -> None:
    """P counts what is trained: at full size exactly what a run trained."""
    subject, run = index.certificate.subject, index.certificate.trajectory
    least, most = sum(b.parameters for b in subject.blocks), subject.parameters
    fits = least <= count <= most
    ledger.demand(fits, where, str(count), f"the blocks have {least}, the network {most}")
    if run is not None and run.scale == "full" and run.summary:
        ledger.expect(where, count, run.summary.get("parameters"))


def _check_dimension(ledger: Ledger, index: Index, dimension: int, where: str) -> None:
    """That of the set of minimizers, P − Nc, is the one that the run predicts (section 8)."""
    run = index.certificate.trajectory
    found = run.summary.get("minimizer") if run is not None and run.scale == "full" else None
    if isinstance(found, dict):
        ledger.expect(f"{where}, P - Nc", found.get("predicted"), dimension)


def _check_weak(ledger: Ledger, index: Index, weak: Any, where: str) -> None:
    """An entry of ∇L at θ_0 that is not 0: no larger than ‖∇L‖ where a run began there.

    A gradient in fewer digits than a double's may be off by as much as it is itself.
    """
    least = real(weak.get("gradient at least")) if isinstance(weak, dict) else None
    sound = least is not None and least > 0 and isinstance(weak.get("parameter"), str)
    if not ledger.demand(sound, where, quoted(weak), "it is a parameter, and a number above 0"):
        return
    run = index.certificate.trajectory
    same = run is not None and run.scale == "full" and run.summary.get("dtype") == "float64"
    slopes = run.series.get("gradient_norm") if run is not None and same else None
    if slopes and slopes[0] is not None and least is not None:
        fits = least <= slopes[0] * (1 + 1e-3)
        ledger.demand(fits, where, quoted(weak), f"‖∇L‖ was {slopes[0]!r} there")
    ledger.leave(f"{where}: a lower bound by the enclosure arithmetic")


def _check_proof(
    ledger: Ledger,
    index: Index,
    claim: Claim,
    rows: int,
    outputs: int,
    where: str,
    directory: Path | None,
) -> None:
    numbers, analytic = claim.numbers, index.chain.get("analyticity")
    holds = analytic is not None and analytic.verdict is Verdict.HOLDS
    ledger.demand(holds, where, "that almost every θ is", "that takes clause A (witness theorem)")
    bound = [Evidence.ENCLOSED.strength]
    if analytic is not None and analytic.evidence is not None:
        bound.append(analytic.evidence.strength)
    weak = claim.evidence is not None and claim.evidence.strength <= min(bound)
    what = "it is no stronger than a point that is ENCLOSED, nor than clause A"
    ledger.demand(weak, where, f"evidence {claim.evidence}", what)
    residual, least = real(numbers.get("residual")), real(numbers.get("least singular value"))
    small, at = residual is not None and 0 <= residual < 1, f"{where}, residual"
    ledger.demand(small, at, quoted(numbers.get("residual")), "a proof has 0 <= it < 1")
    positive, at = least is not None and least > 0, f"{where}, least singular value"
    ledger.demand(positive, at, quoted(numbers.get("least singular value")), "it is above 0")
    count = re.search(r"at most ([\d,]+) no iterate", str(numbers.get("gradient descent", "")))
    if count is not None:
        asserted = count[1].replace(",", "")
        ledger.expect(f"{where}, learning rates", asserted, str(numbers["parameters"]))
    argument = str(numbers.get("argument"))
    if argument not in ROWS:
        ledger.reject(f"{where}, argument", quoted(argument), f"arguments are {', '.join(ROWS)}")
        return
    size = rows if ROWS[argument] == ("rows",) else rows * outputs
    given = Given(claim.files, directory)
    _check_matrix(ledger, numbers.get("matrix"), size, least or 0.0, f"{where}, matrix", given)
    ledger.leave(f"{where}: that the matrix encloses what the network gives at the point named")


def _check_block(ledger: Ledger, index: Index, claim: Claim, where: str) -> None:
    """A residual block whose last maps are zero returns its input: its Jacobian is I."""
    if claim.verdict is not Verdict.HOLDS:
        idle = "zero" not in claim.numbers
        ledger.demand(idle, where, claim.verdict.value, "where these are 0 it is the identity")
        return
    part, names = index.parts.get(claim.block or ""), claim.numbers.get("zero")
    listed = isinstance(names, list) and bool(names) and all(isinstance(n, str) for n in names)
    ledger.demand(listed, f"{where}, zero", quoted(names), "it names the parameters that are 0")
    placement = part.residual.get("placement") if part is not None and part.residual else None
    what = f"a block of placement {quoted(placement)} does not return its input"
    ledger.demand(placement in IDENTITY, where, "that it can be the identity", what)
    kinds = (Evidence.PROVED, Evidence.DECLARED)
    what = "calculus proves it, or a plugin declares it"
    ledger.demand(claim.evidence in kinds, where, f"evidence {claim.evidence}", what)
    blocks = index.blocks.get("analyticity", ())
    analytic = any(c.block == claim.block and c.verdict is Verdict.HOLDS for c in blocks)
    ledger.demand(analytic, where, "that almost every θ_l is", "clause A does not hold of it")


def _check_refutation(ledger: Ledger, claim: Claim, where: str) -> None:
    """Why DF has full row rank nowhere: of all θ, so it is proved."""
    evidence = f"evidence {claim.evidence}"
    ledger.demand(claim.evidence is Evidence.PROVED, where, evidence, "a count or a pair proves")
    for f in claim.findings:
        w, at = f.witness or {}, f"{where}, witness of {quoted(f.code)}"
        if f.code == "N101":
            found = {key: claim.numbers.get(key) for key in ("parameters", "rows", "outputs")}
            ledger.expect(at, w, found)
            p, rows, outputs = (whole(found[key]) or 0 for key in found)
            few = 0 < p < rows * outputs
            if ledger.demand(few, at, quoted(w), f"rank {rows * outputs} needs no more"):
                ledger.verified.append(f"{where}: {p} parameters for {rows} × {outputs} outputs")
        elif f.code in ("N102", "N104"):
            pair = w.get("samples")
            pair = [whole(k) for k in pair] if isinstance(pair, list) else []
            two = len(set(pair)) == 2 and None not in pair
            ledger.demand(two, at, quoted(w), "it names no two samples")
            ledger.leave(f"{at}: rests on the data")
        elif f.code == "N103":
            ledger.demand(isinstance(w.get("op"), str), at, quoted(w), "it names no operation")
            ledger.leave(f"{at}: rests on the graph")
        elif w:
            ledger.reject(at, "a refutation", "such a finding refutes nothing")


def _check_matrix(
    ledger: Ledger, record: Any, size: int, least: float, where: str, given: Given
) -> None:
    if not isinstance(record, dict):
        ledger.reject(where, quoted(record), "without a matrix no rank is proved")
        return
    radius, kind, digest = (
        real(record.get("radius")),
        str(record.get("dtype")),
        record.get("sha256"),
    )
    ledger.expect(f"{where}.size", record.get("size"), size)
    sound = [
        ledger.demand(
            radius is not None and radius >= 0, f"{where}.radius", quoted(record.get("radius")),
            "it is a distance",
        ),
        ledger.demand(kind in BYTES, f"{where}.dtype", quoted(kind), f"one of {[*BYTES]} is"),
        ledger.demand(
            isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None,
            f"{where}.sha256", quoted(digest), "it is no SHA-256",
        ),
    ]  # fmt: skip
    if not all(sound) or radius is None or record.get("size") != size:
        return
    if size > LARGEST:
        ledger.unverifiable.append(f"{where}: {size} rows, and {LARGEST} are checked at most")
        return
    raw = _bytes(ledger, record, size * size * BYTES[kind], where, given)
    if raw is None:
        return
    if not ledger.expect(f"{where}.sha256", digest, hashlib.sha256(raw).hexdigest()):
        return
    middle: NDArray[np.float64] = np.frombuffer(raw, dtype=kind).astype(np.float64)
    if not ledger.demand(bool(np.isfinite(middle).all()), where, "what is not finite", "none is"):
        return
    _check_rank(ledger, middle.reshape(size, size), radius, least, where)


def _bytes(
    ledger: Ledger, record: dict[str, Any], count: int, where: str, given: Given
) -> bytes | None:
    """The matrix's bytes, from the certificate or from a file beside it."""
    data, name = record.get("data"), record.get("file")
    if (data is None) == (name is None):
        ledger.reject(where, "data and file both or neither", "the numbers are in one of them")
        return None
    if isinstance(data, str):
        try:
            raw = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        whole_ = len(raw) == count
        return (
            raw if ledger.demand(whole_, f"{where}.data", quoted(data), f"{count} bytes") else None
        )
    if not isinstance(name, str) or not PLAIN.fullmatch(name):
        ledger.reject(f"{where}.file", quoted(data or name), "a side file has a plain name")
        return None
    if name in given.files and len(given.files[name]) == count:
        return given.files[name]
    if given.directory is None:
        ledger.unverifiable.append(f"{where}: its numbers are in the side file {name}, not given")
        return None
    try:
        raw = read_regular(given.directory / name, count, follow=False)
    except FileNotFoundError:
        ledger.unverifiable.append(f"{where}: there is no side file {name} beside the certificate")
        return None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        ledger.reject(f"{where}.file", name, f"it cannot be read as {count} bytes: {why}")
        return None
    return raw


def _check_rank(
    ledger: Ledger, middle: NDArray[np.float64], radius: float, least: float, where: str
) -> None:
    size = len(middle)
    proof = prove(middle, radius)
    if proof is None:
        ledger.reject(
            where, f"that every matrix within {radius!r} of it is nonsingular",
            f"no proof was found ({size} rows)",
        )  # fmt: skip
        return
    ledger.verified.append(
        f"{where}: all {size} × {size} matrices within {radius:.3g} of it are nonsingular "
        f"({proof.method})"
    )
    what = f"{least!r} as least singular value"
    if ledger.demand(least <= proof.most, where, what, f"it is {proof.most:.6g} at most"):
        if least <= proof.least:
            ledger.verified.append(f"{where}: least singular value at least {least:.4g}")
        else:
            ledger.unverifiable.append(
                f"{where}: least singular value at least {least:.4g}: here {proof.least:.4g} was "
                "proved"
            )
