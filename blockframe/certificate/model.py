"""The certificate: what was analysed, what is claimed, and the numbers to check it by.

Field names are the JSON keys (docs/certificate); ``class_name`` is written as ``class``.
"""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

from blockframe.contract.claim import Claim, Evidence, Finding, Outcome, Verdict, overall

SCHEMA = "blockframe.certificate/1"


@frozen
class BlockSummary:
    """One block, as ``blockframe chain`` shows it.

    ``residual``: None, or ``{"placement": "pre", ...}`` (post, sandwich, parallel, none);
    ``state``: shapes of the tensors that leave the block.
    """

    name: str
    role: str
    parameters: int
    residual: dict[str, Any] | None = None
    state: tuple[tuple[int, ...], ...] = ()


@frozen
class Recipe:
    """What was asked for: enough to do it again (``blockframe verify --replay``).

    The options of `blockframe.certify`; ``spec`` is None where the target was given in Python,
    ``lr`` where it was to be chosen, a text where it follows a rule; ``probes`` are names;
    ``memory`` is in bytes.
    """

    spec: str | None
    settings: dict[str, Any] = field(factory=dict)
    data: str | None = None
    samples: int | None = None
    loss: str | None = None
    init: str = "default"
    seed: int = 0
    full: bool = False
    static_only: bool = False
    steps: int = 20
    lr: float | str | None = None
    device: str = "auto"
    dtype: str | None = None
    probes: tuple[str, ...] = ()
    memory: int | None = None


@frozen
class Subject:
    """What was analysed. ``scale`` is "full" or "proxy"; the trajectory has its own.

    ``digests``: SHA-256 of ``data`` and of the ``start`` θ_0 of what holds numbers (the proxy, if
    there is one); docs/certificate says of which bytes.
    """

    spec: str
    class_name: str
    parameters: int
    scale: str = "full"
    blocks: tuple[BlockSummary, ...] = ()
    data: str = ""
    loss: str = ""
    settings: dict[str, Any] = field(factory=dict)  # ``--set`` of the command line
    proxy: str = ""  # how the proxy that numbers were measured on was reduced; "" if none was
    replay_exact: bool | None = None  # chain = model, bit for bit, on CPU; None: not run
    recipe: Recipe | None = None
    digests: dict[str, str] = field(factory=dict)


@frozen
class Inequality:
    """``left <= right`` at one step. ``holds`` is None where rounding could decide it."""

    name: str
    step: int
    left: float
    right: float
    holds: bool | None

    @property
    def margin(self) -> float:
        return self.right - self.left


@frozen
class Journal:
    """The file that holds every iterate of a long run, one JSON object per line (docs/certificate).

    ``file`` is a plain name, beside the certificate; ``sha256`` is of its first ``end`` bytes:
    behind them is what the run was extended by. ``counts``: how many inequalities of each name
    follow from it: held, undecided, violated. ``ranges``: of each series that has a number, the
    first, the least and the greatest.
    """

    file: str
    end: int
    sha256: str
    iterates: int
    stride: int  # every how manieth iterate stands in the certificate itself
    counts: dict[str, list[int]]
    ranges: dict[str, list[float]]


@frozen
class Trajectory:
    """One run of gradient descent.

    ``series`` maps a probe's name to one number per iterate; None where the quantity does not
    exist (the step that leads to iterate 0) or was not finite. ``lr`` is the rate of the first
    step; where it changes, ``series["lr"]`` has that of every step. ``ended``: "completed", or why
    not (`blockframe.dynamics.ending`).

    Of a run with a ``journal`` only every ``stride``-th iterate and the last stand in ``series``,
    and of the inequalities of its steps the first violated one of each name, the first undecided,
    the one with the least margin, and all of the first step on which one is violated.
    """

    lr: float
    steps: int  # asked for
    scale: str
    loss: str
    data: str
    ended: str
    lr_rule: str = ""
    series: dict[str, list[float | None]] = field(factory=dict)
    inequalities: tuple[Inequality, ...] = ()
    summary: dict[str, Any] = field(factory=dict)
    journal: Journal | None = None

    @property
    def completed(self) -> int:
        """Steps that were taken: iterates measured, less one."""
        if self.journal is not None:
            return self.journal.iterates - 1
        return max((len(s) for s in self.series.values()), default=1) - 1

    def rate(self, step: int) -> float:
        """η of ``step``; ``series`` must be whole."""
        rates = self.series.get("lr", ())
        rate = rates[step] if 0 <= step < len(rates) else None
        return self.lr if rate is None else rate


@frozen
class Certificate:
    """The result of `blockframe.certify`.

    ``seal``: `digest` when the document was written, "" while it has none. It is no signature: it
    shows damage, not forgery.
    """

    subject: Subject
    environment: dict[str, str]
    claims: tuple[Claim, ...]
    trajectory: Trajectory | None = None
    trust: tuple[str, ...] = ()
    schema: str = SCHEMA
    seal: str = field(default="", eq=False)

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the document without its seal (docs/certificate)."""
        from blockframe.certificate.codec import digest

        return digest(self)

    @property
    def verdict(self) -> Outcome:
        """Of the whole (docs/certificate): derived from the claims, never stored by itself."""
        return overall(self.claims)

    def claim(self, clause: str, block: str | None = None) -> Claim:
        """The chain-level claim on ``clause``, or the one about ``block``.

        ``block`` is a block's name or the module path of a group of blocks (``layers.0`` where
        its attention and MLP are blocks of their own: the weakest of their claims).

        Raises:
            KeyError: there is no such claim; the message names those that exist.
        """
        about = [c for c in self.claims if c.clause == clause]
        if block is None:
            found = [c for c in about if c.block is None]
        else:
            found = [c for c in about if c.block == block] or [
                c for c in about if c.block and f".{block}." in f".{c.block}."
            ]
        if not found:
            known = sorted(
                {c.clause for c in self.claims} if not about else {str(c.block) for c in about}
            )
            raise KeyError(
                f"no claim {clause!r} about {block or 'the chain'}; there are: {', '.join(known)}"
            )
        badness = [Verdict.HOLDS, Verdict.UNKNOWN, Verdict.FAILS]
        return max(found, key=lambda c: badness.index(c.verdict))

    def to_json(self) -> str:
        """The certificate as a JSON document (schema.json beside this file), sealed."""
        from blockframe.certificate.codec import dumps

        return dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """The certificate that ``text`` spells.

        Raises:
            CertificateError: ``text`` is not a certificate of a schema this version knows.
        """
        from blockframe.certificate.codec import loads

        return loads(text)


__all__ = [
    "SCHEMA", "BlockSummary", "Certificate", "Claim", "Evidence", "Finding", "Inequality",
    "Journal", "Outcome", "Recipe", "Subject", "Trajectory", "Verdict",
]  # fmt: skip
