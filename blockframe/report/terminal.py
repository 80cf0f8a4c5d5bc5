"""The report that a terminal shows: ``--format text``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

from blockframe.certificate.model import Certificate, Subject
from blockframe.contract.claim import CLAUSES, Claim, Outcome, Verdict
from blockframe.dynamics.ending import COMPLETED
from blockframe.report import Page
from blockframe.report.blocks import certified_blocks, chain_line
from blockframe.report.findings import write_findings
from blockframe.report.sheet import Sheet
from blockframe.report.trajectory import write_trajectory
from blockframe.report.words import comma, plural

_NOT_LIBRARIES = ("blockframe", "python")


@frozen
class TextRenderer:
    """Subject, chain, clauses, blocks, trajectory, findings, verdict: from the general down."""

    name: str = "text"

    def render(self, certificate: Certificate, page: Page) -> str:
        sheet = Sheet(page)
        write_subject(sheet, certificate)
        sheet.blank()
        _clauses(sheet, certificate)
        if certificate.subject.blocks:
            sheet.blank()
            certified_blocks(sheet, certificate)
        if certificate.trajectory is not None:
            sheet.blank()
            write_trajectory(sheet, certificate.trajectory, certificate.subject)
        write_findings(sheet, certificate)
        sheet.blank()
        _conclusion(sheet, certificate)
        return sheet.text()


def write_subject(sheet: Sheet, certificate: Certificate) -> None:
    """What was analysed, with what, and how it is cut."""
    subject = certificate.subject
    sheet.ends(headline(subject), ", ".join(_libraries(certificate.environment)))
    replay = replayed(subject.replay_exact)
    if subject.blocks:
        end = "" if subject.proxy else f"     {replay}"
        sheet.labelled("chain", chain_line(subject.blocks) + end)
    if subject.proxy:
        sheet.labelled("proxy", f"{subject.proxy}; numbers are measured on it; {replay}")


def headline(subject: Subject) -> str:
    """``gpt2 (n_layer=2) · GPT2LMHeadModel · 124,439,808 parameters, full size``."""
    size = "full size" if subject.scale == "full" else subject.scale
    parameters = plural(subject.parameters, "parameter")
    settings = ", ".join(f"{k}={v}" for k, v in subject.settings.items())
    spec = f"{subject.spec} ({settings})" if settings else subject.spec
    return f"{spec} · {subject.class_name} · {parameters}, {size}"


def _libraries(environment: dict[str, str]) -> list[str]:
    """``torch 2.13``: the libraries whose versions the environment names."""
    return [
        f"{name} {version[0]}"
        for name, text in environment.items()
        if name not in _NOT_LIBRARIES and (version := re.match(r"\d+\.\d+", text))
    ]


def replayed(exact: bool | None) -> str:
    """Whether the chain, run block by block, gives what the model gives, bit for bit."""
    return {None: "replay not run", True: "replay exact", False: "replay differs"}[exact]


def _clauses(sheet: Sheet, certificate: Certificate) -> None:
    claims = [c for c in certificate.claims if c.block is None]
    claims.sort(key=lambda c: CLAUSES.index(c.clause) if c.clause in CLAUSES else len(CLAUSES))
    rows = [(_letter(c), c.verdict.value, _evidence(c), c.statement) for c in claims]
    sheet.table(rows, ("clause", "verdict", "evidence", "why"), wrap=(3,))
    regions = [(c.clause, c.region) for c in claims if c.region]
    if regions:
        sheet.blank()
        sheet.table(regions, ("clause", "region: what the claim speaks of"), wrap=(1,))


def _letter(claim: Claim) -> str:
    letter = claim.clause[0].upper() if claim.clause in CLAUSES else " "
    return f"{letter} {claim.clause}"


def _evidence(claim: Claim) -> str:
    return claim.evidence.value.lower() if claim.evidence else "–"


def _conclusion(sheet: Sheet, certificate: Certificate) -> None:
    """The verdict, what it means, and what to do next."""
    verdict = certificate.verdict
    sheet.line(verdict.value, ": ", _meaning(certificate))
    trajectory, recipe = certificate.trajectory, certificate.subject.recipe
    if trajectory is not None and trajectory.ended != COMPLETED:
        about = (c.statement for c in certificate.claims if c.subject == "trajectory")
        if not any(trajectory.ended in statement for statement in about):
            sheet.line(f"the run ended early: {trajectory.ended}", indent=2)
    if trajectory is None and recipe is not None and recipe.static_only:
        sheet.line("no run of gradient descent: --static-only", indent=2)
    if sheet.page.saved:
        sheet.whole(f"certificate: {sheet.page.saved}", indent=2)
    else:
        sheet.line("nothing was written; --out DIR keeps the certificate", indent=2)


def _meaning(certificate: Certificate) -> str:
    claims = [c for c in certificate.claims if c.block is None]
    if certificate.verdict is Outcome.CERTIFIED:
        return "every clause holds, on the evidence and over the regions stated above." + (
            " What was measured was measured on the proxy, and says nothing of the full network."
            if certificate.trajectory is not None and certificate.trajectory.scale == "proxy"
            else ""
        )
    if certificate.verdict is Outcome.INCONCLUSIVE:
        held = _names(claims, Verdict.HOLDS)
        undecided = _names(claims, Verdict.UNKNOWN)
        text = "nothing fails"
        text += f"; {comma(held)} {_verb(held, 'hold')}" if held else ""
        text += f"; {comma(undecided)} {_verb(undecided, 'be')} not decided" if undecided else ""
        return text + "."
    failing = [c for c in certificate.claims if c.verdict is Verdict.FAILS]
    network = list(dict.fromkeys(c.clause for c in failing if c.subject != "trajectory"))
    run = list(dict.fromkeys(c.clause for c in failing if c.subject == "trajectory"))
    sentences = []
    if network:
        where = " on this data" if network == ["nondegeneracy"] else ""
        sentences.append(
            f"{comma(network)} {_verb(network, 'fail')}: the contract does not hold for this "
            f"network{where}. Training may still work; the theorem does not say so."
        )
    if run:
        text = f"{comma(run)} {_verb(run, 'fail')}"
        if certificate.trajectory is not None and certificate.trajectory.completed < 1:
            text += ": the run could not start."
        else:
            text += " on this run, at this learning rate; a smaller --lr may pass."
        sentences.append(f"Besides, {text}" if network else text)
    return " ".join(sentences)


def _names(claims: Sequence[Claim], verdict: Verdict) -> list[str]:
    return [c.clause for c in claims if c.verdict is verdict]


def _verb(names: Sequence[str], verb: str) -> str:
    one = {"be": "is"}.get(verb, verb + "s")
    return one if len(names) == 1 else {"be": "are"}.get(verb, verb)
