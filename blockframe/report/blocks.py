"""Blocks in a line and in a table, the repeating ones folded."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

from attrs import frozen

from blockframe.certificate.model import BlockSummary, Certificate
from blockframe.contract.claim import CLAUSES
from blockframe.report.sheet import Sheet
from blockframe.report.words import number, one_name, pattern

T = TypeVar("T")

_LONGEST_UNIT = 8  # blocks in the unit that repeats; architectures alternate 2 to 6 kinds of layer

_ROLES = {"mlp": "MLP", "parallel": "attention ∥ MLP"}
_NORMS = {"pre": "pre-norm", "post": "post-norm", "sandwich": "sandwich-norm", "none": "no norm"}


@frozen
class Run:
    """``count`` repetitions of ``unit`` consecutive items, starting at ``start``."""

    start: int
    unit: int
    count: int


def runs(items: Sequence[T], key: Callable[[T], Hashable]) -> Iterator[Run]:
    """``items`` cut into repetitions, from the left, each the one that covers most."""
    keys = [key(item) for item in items]
    start = 0
    while start < len(keys):
        best = Run(start, 1, 1)
        for unit in range(1, min(_LONGEST_UNIT, (len(keys) - start) // 2) + 1):
            count = 1
            first = keys[start : start + unit]
            while keys[start + count * unit : start + (count + 1) * unit] == first:
                count += 1
            if count > 1 and unit * count > best.unit * best.count:
                best = Run(start, unit, count)
        yield best
        start += best.unit * best.count


def placement(block: BlockSummary) -> str:
    """``pre-norm``; "" without residual form."""
    where = str((block.residual or {}).get("placement", ""))
    return _NORMS.get(where, where)


def label(block: BlockSummary, last: bool = False) -> str:
    """``pre-norm attention``, ``embed``; a norm after everything else is the ``final norm``."""
    role = _ROLES.get(block.role, block.role)
    if block.role == "norm":
        return "final norm" if last else "norm"
    where = placement(block)
    if where in ("", "parallel"):
        return role
    return f"residual {role} without norm" if where == "no norm" else f"{where} {role}"


def chain_line(blocks: Sequence[BlockSummary]) -> str:
    """``embed → 12 × [pre-norm attention, pre-norm MLP] → final norm → head``."""
    bodies = [
        i for i, b in enumerate(blocks) if b.role in ("attention", "mlp", "parallel", "layer")
    ]
    end = bodies[-1] if bodies else -1
    labels = [label(b, last=i > end) for i, b in enumerate(blocks)]
    parts = []
    for run in runs(labels, lambda text: text):
        unit = ", ".join(labels[run.start : run.start + run.unit])
        unit = f"[{unit}]" if run.unit > 1 else unit
        parts.append(f"{run.count} × {unit}" if run.count > 1 else unit)
    return " → ".join(parts)


def block_table(
    sheet: Sheet,
    blocks: Sequence[BlockSummary],
    verdicts: Callable[[BlockSummary], Sequence[str]] = lambda block: (),
    header: Sequence[str] = (),
    *,
    numbers: bool = False,
) -> None:
    """Name, role, norm placement and parameters of every block, and columns of verdicts.

    ``numbers``: these columns hold numbers, not words.
    """

    def key(block: BlockSummary) -> Hashable:
        name = pattern(block.name)
        return name, block.role, placement(block), block.parameters, block.state, *verdicts(block)

    rows = []
    for run in runs(blocks, key):
        for offset in range(run.unit):
            same = blocks[run.start + offset : run.start + run.unit * run.count : run.unit]
            first = same[0]
            rows.append(
                (
                    one_name([b.name for b in same]) or "–",
                    f"{run.count} ×" if run.count > 1 else "",
                    _ROLES.get(first.role, first.role),
                    placement(first) or "–",
                    _parameters(first),
                    *verdicts(first),
                )
            )
    sheet.table(
        rows,
        ("block", "", "role", "residual", "parameters", *header),
        right=(1, 4, *(range(5, 5 + len(header)) if numbers else ())),
        wrap=(0,),
        drop=(3, 2),  # the line of the chain says as much
    )


def _parameters(block: BlockSummary) -> str:
    """How many are its own. A head that is cut off uses some: if none are its own, all are tied."""
    tied = block.role == "head" and not block.parameters
    return number(block.parameters) + (" (shared)" if tied else "")


def certified_blocks(sheet: Sheet, certificate: Certificate) -> None:
    """The table of blocks with one column of verdicts per clause that speaks of blocks.

    What was measured on the proxy's blocks is not said of the full network's.
    """
    blocks = certificate.subject.blocks
    found = {
        (c.clause, c.block): c.verdict.value
        for c in certificate.claims
        if c.block is not None and "on the proxy" not in c.region
    }
    clauses = [name for name in CLAUSES if any(clause == name for clause, _ in found)]
    clauses += sorted({clause for clause, _ in found} - set(CLAUSES))

    def verdicts(block: BlockSummary) -> tuple[str, ...]:
        return tuple(found.get((clause, block.name), "–") for clause in clauses)

    block_table(sheet, blocks, verdicts, [c[0].upper() if c in CLAUSES else c for c in clauses])
