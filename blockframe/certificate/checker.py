"""Whether a certificate is borne out by its own numbers.

Nothing of the analysis is imported: of the package only the records of a certificate
(`blockframe.certificate.model`), which read and seal its JSON, and the parts of this check beside
this file. To audit it, read in this order:

* ``ledger``, ``index``: how findings are kept, how claims are looked up;
* ``checker``: the subject, what is true of every claim, the verdict of the whole;
* ``calculus_check``: clauses A and S;
* ``run_theory``, ``run_check``, ``journal_check``: what follows from the series of a run; whether
  it is said; where they are, if the run is long;
* ``dissipativity_check``: clause D;
* ``nondegeneracy_check``, ``rank_check``, ``files``: clause N and the rank that it rests on.

What the numbers cannot show is listed, never passed over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve, frozen

from blockframe.certificate.calculus_check import check_calculus
from blockframe.certificate.dissipativity_check import check_dissipativity
from blockframe.certificate.index import Index, key, other_run
from blockframe.certificate.ledger import Contradiction, Ledger, quoted
from blockframe.certificate.model import (
    Certificate,
    Claim,
    Evidence,
    Inequality,
    Outcome,
    Trajectory,
    Verdict,
)
from blockframe.certificate.nondegeneracy_check import check_nondegeneracy
from blockframe.certificate.run_check import check_run
from blockframe.certificate.run_theory import descent
from blockframe.errors import CertificateError

CLAUSES = ("analyticity", "smoothness", "dissipativity", "nondegeneracy")
PLACEMENTS = ("pre", "post", "sandwich", "parallel", "none")


@frozen
class CheckReport:
    """What came of checking a certificate.

    Attributes:
        verdict: of the whole, re-derived; a claim that is contradicted counts as UNKNOWN.
        rejected: what the certificate asserts and its numbers contradict.
        verified: what was re-derived.
        unverifiable: what the numbers cannot show, and what could.
    """

    verdict: Outcome
    rejected: tuple[Contradiction, ...] = ()
    verified: tuple[str, ...] = ()
    unverifiable: tuple[str, ...] = ()

    @property
    def stands(self) -> bool:
        """Whether nothing was rejected."""
        return not self.rejected


def check(certificate: Certificate, directory: Path | None = None) -> CheckReport:
    """Re-derive everything that ``certificate`` asserts, as far as its numbers allow.

    Args:
        directory: where the certificate's side files lie; None: they cannot be read.

    Raises:
        CertificateError: ``certificate`` is none, or has values that JSON has no form for.
    """
    if not isinstance(certificate, Certificate):
        raise CertificateError(
            f"a {type(certificate).__name__} is no certificate",
            "Give what blockframe.certify or Certificate.from_json returns.",
        )
    # What is checked is what the JSON document says.
    read = Certificate.from_json(certificate.to_json())
    claims = zip(read.claims, certificate.claims, strict=True)
    certificate = evolve(
        read,
        seal=certificate.seal,
        claims=tuple(evolve(claim, files=given.files) for claim, given in claims),
    )
    ledger = Ledger()
    _check_seal(ledger, certificate)
    _check_subject(ledger, certificate)
    run, inequalities = certificate.trajectory, None
    if run is not None:
        found = check_run(ledger, certificate, run, directory)
        run, inequalities = (None, None) if found is None else found
    index = Index.of(certificate if run is None else evolve(certificate, trajectory=run))
    derived, made = [], set[tuple[str, str, str | None]]()
    lost = run is None and certificate.trajectory is not None
    for claim, where in zip(certificate.claims, index.places, strict=True):
        before = len(ledger.rejected)
        _check_form(ledger, index, claim, where)
        _check_doubts(ledger, index, claim, where)
        name = (claim.clause, claim.subject, claim.block)
        ledger.demand(name not in made, where, "what an earlier claim says", "each is made once")
        made.add(name)
        match claim.clause:
            case "descent" | "dissipativity" if lost and _rests_on_run(claim):
                ledger.unverifiable.append(f"{where} {claim.verdict}: the run is not known")
                derived.append(evolve(claim, verdict=Verdict.UNKNOWN, evidence=None))
                continue
            case "analyticity" | "smoothness":
                check_calculus(ledger, index, claim, where)
            case "dissipativity":
                check_dissipativity(ledger, index, claim, run, where)
            case "nondegeneracy":
                check_nondegeneracy(ledger, index, claim, where, directory)
            case "descent":
                _check_descent(ledger, index, run, claim, inequalities, where)
            case _:
                ledger.unverifiable.append(f"{where} {claim.verdict}: a clause of a plugin")
        sound = len(ledger.rejected) == before
        derived.append(claim if sound else evolve(claim, verdict=Verdict.UNKNOWN, evidence=None))
    identities = len(index.blocks.get("nondegeneracy", ()))
    if identities:
        ledger.leave(f"nondegeneracy: {identities} blocks return their input where a map is 0")
    _check_completeness(ledger, certificate, {(clause, subject) for clause, subject, _ in made})
    verdict = _overall(derived)
    if not ledger.rejected and ledger.expect("verdict", certificate.verdict.value, verdict.value):
        ledger.verified.append(f"verdict {verdict.value}, from {len(derived)} claims")
    ledger.unverifiable.append("statements, regions, messages, help, trust: prose, to be read")
    return CheckReport(
        verdict, tuple(ledger.rejected), tuple(ledger.verified), tuple(ledger.unverifiable)
    )


def _overall(claims: Sequence[Claim]) -> Outcome:
    """REFUTED if a claim FAILS; CERTIFIED if all hold, all four clauses of the chain among them."""
    if any(c.verdict is Verdict.FAILS for c in claims):
        return Outcome.REFUTED
    complete = {c.clause for c in claims if c.subject == "chain"}.issuperset(CLAUSES)
    holds = complete and all(c.verdict is Verdict.HOLDS for c in claims)
    return Outcome.CERTIFIED if holds else Outcome.INCONCLUSIVE


def _check_seal(ledger: Ledger, certificate: Certificate) -> None:
    if not certificate.seal:
        ledger.unverifiable.append("seal: the certificate has none, so that damage would not show")
    elif ledger.expect("seal", certificate.seal, certificate.digest):
        ledger.verified.append("seal: SHA-256 of everything else")


def _check_subject(ledger: Ledger, certificate: Certificate) -> None:
    subject, recipe, demand = certificate.subject, certificate.subject.recipe, ledger.demand
    names = [b.name for b in subject.blocks]
    unique = len(set(names)) == len(names)
    demand(unique, "subject.blocks", "two of one name", "a claim names its block by it")
    total, most = sum(b.parameters for b in subject.blocks), subject.parameters
    demand(total <= most, "subject.parameters", str(most), f"its blocks have {total}")
    for b in subject.blocks:
        where, sizes = f"block {quoted(b.name)}", [b.parameters, *(n for s in b.state for n in s)]
        demand(min(sizes) >= 0, where, "a negative size", "none is below 0")
        known = b.residual is None or b.residual.get("placement") in PLACEMENTS
        demand(known, f"{where}, residual", quoted(b.residual), f"one of {PLACEMENTS} is placed")
    scaled = subject.scale == "full" or (subject.scale == "proxy" and bool(subject.proxy))
    demand(scaled, "subject.scale", quoted(subject.scale), "it is full, or of a proxy described")
    demand(bool(certificate.trust), "trust", "nothing", "something always has to be trusted")
    for name, digest in subject.digests.items():
        sound = name in ("data", "start") and re.fullmatch("[0-9a-f]{64}", digest) is not None
        demand(sound, f"subject.digests.{quoted(name)}", quoted(digest), "that is no SHA-256")
    if subject.digests:
        ledger.leave("subject.digests: of the data and of the start")
    if recipe is None:
        ledger.unverifiable.append("subject.recipe: there is none, so nothing can be replayed")
        return
    if recipe.spec is None:
        ledger.unverifiable.append("subject: the target was given in Python; it has no replay")
    reduced = recipe.full and bool(subject.proxy)
    demand(not reduced, "subject.proxy", quoted(subject.proxy), "subject.recipe asks for full size")
    environment, settings = certificate.environment, recipe.settings.items()
    ledger.expect("environment.seed", environment.get("seed"), str(recipe.seed))
    ledger.expect("environment.init", environment.get("init"), recipe.init)
    plain = {k: str(v) if isinstance(v, (list, dict)) else v for k, v in settings}
    ledger.expect("subject.settings", subject.settings, plain)
    if recipe.loss is not None and subject.loss:
        ledger.expect("subject.loss", subject.loss, recipe.loss)


def _check_form(ledger: Ledger, index: Index, claim: Claim, where: str) -> None:
    """What is true of every claim."""
    named = {"chain": claim.block is None, "trajectory": claim.block is None}
    fits = named.get(claim.subject, claim.subject == "block" and claim.block in index.parts)
    about = f"to be about {quoted(claim.subject)} {quoted(claim.block or '')}"
    ledger.demand(fits, where, about, "the subject has no such part")
    known = (claim.evidence is None) == (claim.verdict is Verdict.UNKNOWN)
    evidence = "no evidence" if claim.evidence is None else f"{claim.evidence} evidence"
    what = "what is unknown has no evidence, and all else has"
    ledger.demand(known, where, f"{claim.verdict} by {evidence}", what)
    shown = claim.verdict is not Verdict.FAILS or any(f.witness for f in claim.findings)
    ledger.demand(shown, where, "FAILS", "no finding has a witness")


def _check_doubts(ledger: Ledger, index: Index, claim: Claim, where: str) -> None:
    """What speaks against the graph is said of clause A, and speaks against the others too."""
    if claim.clause not in CLAUSES[1:]:
        return
    said = {key(f) for f in claim.findings if other_run(f)}
    what = "clause A has no such finding"
    ledger.demand(said <= index.doubts, f"{where}, findings", "a doubt about the graph", what)
    sound = not index.doubts or claim.verdict is Verdict.UNKNOWN
    what = "clause A doubts that the graph is the network's"
    ledger.demand(sound, where, claim.verdict.value, what)


def _rests_on_run(claim: Claim) -> bool:
    """Whether ``claim``, of clause D or about the run, says nothing without it."""
    measured = claim.evidence is Evidence.MEASURED or bool(claim.findings)
    return claim.clause == "descent" or measured


def _check_descent(
    ledger: Ledger,
    index: Index,
    run: Trajectory | None,
    claim: Claim,
    inequalities: Sequence[Inequality] | None,
    where: str,
) -> None:
    """The claim about the run is what the inequalities say, as far as the network is known."""
    ledger.expect(f"{where}, subject", claim.subject, "trajectory")
    if run is None or inequalities is None:
        ledger.expect(f"{where}, verdict", claim.verdict.value, "UNKNOWN")
        ledger.expect(f"{where}, numbers", claim.numbers, {})
        return
    doubts = [(f.code, f.witness) for f in index.followed]
    verdict, numbers, findings = descent(run, inequalities, doubts)
    ledger.expect(f"{where}, verdict", claim.verdict.value, verdict)
    evidence = None if claim.evidence is None else claim.evidence.value
    ledger.expect(f"{where}, evidence", evidence, None if verdict == "UNKNOWN" else "MEASURED")
    ledger.expect(f"{where}, numbers", claim.numbers, numbers)
    asserted = [[f.code, f.witness] for f in claim.findings]
    ledger.expect(f"{where}, findings", asserted, [list(f) for f in findings])


def _check_completeness(
    ledger: Ledger, certificate: Certificate, made: set[tuple[str, str]]
) -> None:
    """Every clause is claimed of the chain, and the run has its claim: nothing is left unsaid."""
    for clause in CLAUSES:
        said = (clause, "chain") in made
        ledger.demand(said, "claims", f"nothing of {clause}", "it is one of the four clauses")
    recipe, traced = certificate.subject.recipe, bool(certificate.subject.blocks)
    asked = recipe is not None and not recipe.static_only and traced
    if certificate.trajectory is not None or asked:
        said = ("descent", "trajectory") in made
        ledger.demand(said, "claims", "nothing of descent", "a run was asked for")


__all__ = ["CheckReport", "Contradiction", "check"]
