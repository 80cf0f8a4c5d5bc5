"""Matrices, effective bottlenecks and norms: what ``blockframe chain --widths`` adds."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from attrs import asdict

from blockframe.certificate.model import BlockSummary
from blockframe.report.blocks import block_table, runs
from blockframe.report.sheet import Sheet
from blockframe.report.words import number, one_name, pattern, plural
from blockframe.scaling.xavier import Matrix, Measured, Norms, Weight, Widths

_BLOCK_COLUMNS = ("matrices", "largest", "bottleneck", "n_eff")


def write_widths(
    sheet: Sheet,
    blocks: Sequence[BlockSummary],
    widths: Sequence[Widths],
    measured: Measured | None,
) -> None:
    """The table of blocks with its widths, the table of matrices, and what was measured."""
    columns = {id(block): _numbers(w) for block, w in zip(blocks, widths, strict=True)}
    block_table(sheet, blocks, lambda b: columns[id(b)], _BLOCK_COLUMNS, numbers=True)
    sheet.line(
        "largest, bottleneck: sides of the matrices; n_eff = 2mn/(m+n), the smallest of theirs",
        indent=2,
    )
    if measured is None or measured.on != "full":
        sheet.blank()
        sheet.line(sheet.strong("matrices at full size"), ": from shapes alone")
        _table(sheet, widths, {})
    if measured is not None:
        sheet.blank()
        title = "matrices" if measured.on == "full" else f"matrices of the {measured.on}"
        own = measured.init == "default"
        drawn = "the problem's own" if own else f"drawn by --init {measured.init}"
        sheet.line(sheet.strong(title), f": norms measured, weights {drawn}")
        _table(sheet, measured.blocks, measured.norms)
        if not own and any(w.is_table for block in measured.blocks for w in block.weights):
            sheet.line(f"--init {measured.init} leaves embeddings as they are", indent=2)
    sheet.line("m × n: outputs × inputs, of a convolution its channels", indent=2)
    sheet.line("at Xavier: √(n_eff), the Frobenius norm at Xavier initialization", indent=2)
    _others(sheet, widths)


def width_document(widths: Widths) -> dict[str, Any]:
    """The widths of one block in JSON."""
    return {
        "largest": widths.largest,
        "bottleneck": widths.bottleneck,
        "n_eff": widths.n_eff,
        "weights": [_weight_document(w) for w in widths.weights],
        "others": [asdict(other) for other in widths.others],
    }


def norm_document(measured: Measured) -> dict[str, Any]:
    """The measured norms in JSON; None where a norm was not computed or is no finite number."""
    return {
        "on": measured.on,
        "init": measured.init,
        "weights": [
            {
                "block": block.block,
                **_weight_document(weight),
                **{
                    kind: value if value is not None and math.isfinite(value) else None
                    for kind, value in asdict(measured.norms[weight.name]).items()
                },
            }
            for block in measured.blocks
            for weight in block.weights
            if not weight.tied
        ],
    }


def _weight_document(weight: Weight) -> dict[str, Any]:
    matrix = weight.matrix
    return {
        "name": weight.name,
        "op": weight.op,
        "tied": weight.tied,
        **asdict(matrix),
        "n_eff": matrix.n_eff,
        "frobenius_at_xavier": matrix.at_xavier,
    }


def _numbers(widths: Widths) -> tuple[str, ...]:
    count = sum(w.matrix.count for w in widths.weights)
    return (number(count or None), number(widths.largest), number(widths.bottleneck),
            number(widths.n_eff))  # fmt: skip


def _table(sheet: Sheet, widths: Sequence[Widths], norms: Mapping[str, Norms]) -> None:
    """One row for the same matrix of all blocks that are alike."""
    rows = []
    for same in _alike(widths):
        first = same[0]
        row = [
            one_name([w.name.removesuffix(".weight") for w in same]) + _tied(first),
            f"{len(same)} ×" if len(same) > 1 else "",
            _sides(first.matrix),
            number(first.matrix.n_eff),
            number(first.matrix.at_xavier),
        ]
        if norms:
            found = [norms[w.name] for w in same if w.name in norms]
            row += [_span([n.frobenius for n in found]), _span([n.spectral for n in found])]
        rows.append(row)
    measured = ("Frobenius", "spectral") if norms else ()
    header = ("matrix", "", "m × n", "n_eff", "at Xavier", *measured)
    sheet.table(rows, header, right=range(1, len(header)), wrap=(0,), drop=(3,))


def _alike(widths: Sequence[Widths]) -> Iterator[list[Weight]]:
    """The same matrix of blocks that repeat each other."""

    def key(block: Widths) -> Hashable:
        return tuple((pattern(w.name), w.matrix, w.tied) for w in block.weights)

    for run in runs(widths, key):
        for offset in range(run.unit):
            same = widths[run.start + offset : run.start + run.unit * run.count : run.unit]
            for column in zip(*(block.weights for block in same), strict=True):
                yield list(column)


def _tied(weight: Weight) -> str:
    return " (tied)" if weight.tied else ""


def _sides(matrix: Matrix) -> str:
    """``2,304 × 768``, ``8 × [4,096 × 1,024]``, ``16 × 1, kernel 9``."""
    text = f"{matrix.outputs:,} × {matrix.inputs:,}"
    if matrix.kernel > 1:
        text += f", kernel {matrix.kernel:,}"
    if matrix.groups > 1:
        text += f", {plural(matrix.groups, 'group')}"
    return f"{matrix.count:,} × [{text}]" if matrix.count > 1 else text


def _span(values: Sequence[float | None]) -> str:
    """One number, or the least and the largest."""
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    ends = list(dict.fromkeys([number(min(known)), number(max(known))]))
    return "–".join(ends)


def _others(sheet: Sheet, widths: Sequence[Widths]) -> None:
    """Parameters of more than one side that nothing multiplies by as matrices."""
    alike: dict[tuple[str, tuple[int, ...], str], list[str]] = {}
    for other in (o for block in widths for o in block.others):
        alike.setdefault((pattern(other.name), other.shape, other.op), []).append(other.name)
    texts = [
        f"{one_name(names)} ({' × '.join(f'{side:,}' for side in shape)}: {op})"
        for (_, shape, op), names in alike.items()
    ]
    if texts:
        sheet.line("no matrix, by the operation that uses it: ", ", ".join(texts), indent=2)
