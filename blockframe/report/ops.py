"""docs/ops: which operations the catalogue knows, and what it states about them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import groupby
from typing import Any

import attrs

from blockframe.atoms.catalogue import CORE
from blockframe.atoms.facts import KINDS, Atom, Kink, Pointwise
from blockframe.atoms.interval import REALS, Interval
from blockframe.report.markdown import linked, table

_FOR_PROGRAMS = {
    "at", "pieces", "value", "choice", "chosen", "definition", "monotone", "even", "note",
}  # fmt: skip
"""Facts that the domains compute with, and that say nothing in a table."""

_UNSTATED, _STATED, _BY_ARGUMENTS = "–", "stated", "at"

_HEAD = f"""\
# Which operations are known

The catalogue knows {{operations}} operations, in {{records}} records of {{kinds}} kinds. One that
is not here gives finding A900: [atoms](atoms.md) shows how to teach it, and explains the kinds and
the facts that the columns name.

- {_UNSTATED}: not stated, so nothing is concluded; of `kinks`, `singular`, `weight` and `bias`:
  there are none.
- {_STATED}: given by a function of the operation's arguments and shapes; for some uses it may have
  no answer.
- {_BY_ARGUMENTS}: depends on further arguments of the operation (a slope, an exponent), which the
  record reads.
- ℝ: all real numbers.

[theory](theory.md), section 2, derives the constants. Facts that only a program can read are left
out.

{{counts}}
"""

_GAPS = """\
## Gaps

What the domains cannot say of a known operation: *range*: its values may be any real number;
*growth*: clause S has no bound from it on, or only a crude one; *witness*: clause A does not FAIL
by it, it stays UNKNOWN. This is the committed ledger `tests/domains/gaps.txt`.

{gaps}
"""


def page(ledger: str) -> str:
    """The whole page. ``ledger``: the lines ``DOMAIN OP: WHAT`` of what has no bound."""
    kinds = [(kind, [a for a in CORE if type(a) is kind]) for kind in KINDS]
    sizes = [(k.__name__, len(atoms), sum(len(a.ops) for a in atoms)) for k, atoms in kinds]
    counts = table(
        ("kind", "records", "operations"),
        [(f"[{name}](#{name.lower()})", f"{n}", f"{ops}") for name, n, ops in sizes],
    )
    head = _HEAD.format(
        operations=sum(ops for _, _, ops in sizes), records=len(CORE), kinds=len(KINDS),
        counts=counts,
    )  # fmt: skip
    return "\n".join([head, *(_section(kind, atoms) for kind, atoms in kinds), _gaps(ledger)])


def _section(kind: type[Atom], atoms: Sequence[Atom]) -> str:
    facts = [f.name for f in attrs.fields(kind) if f.name not in {*_FOR_PROGRAMS, "ops", "source"}]
    rows = [
        [_names(a.ops), *(_fact(a, f) for f in facts), linked(a.source) or _UNSTATED]
        for a in sorted(atoms, key=lambda a: sorted(a.ops))
    ]
    header = ["operations", *(f"`{f}`" for f in facts), "source"]
    # A column in which nothing is stated is not shown.
    shown = [i for i in range(len(header)) if any(row[i] != _UNSTATED for row in rows)]
    body = table([header[i] for i in shown], [[row[i] for i in shown] for row in rows])
    what = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0].replace("``", "`")
    return f"## {kind.__name__}\n\n{what}\n\n{body}\n"


def _names(ops: Iterable[str]) -> str:
    return ", ".join(f"`{op}`" for op in sorted(ops))


def _fact(atom: Atom, name: str) -> str:
    value = getattr(atom, name)
    default = attrs.fields_dict(type(atom))[name].default
    if isinstance(atom, Pointwise) and atom.at is not None and value == default:
        return _BY_ARGUMENTS
    if callable(value):
        return _UNSTATED if value is default else _STATED
    return _plain(value)


def _plain(value: Any) -> str:
    match value:
        case None | False | () | "":
            return _UNSTATED
        case True:
            return "yes"
        case Interval():
            return "ℝ" if value == REALS else str(value).replace("inf", "∞")
        case Kink():
            return _plain(value.at) + ("" if value.order == 1 else f" (order {value.order})")
        case Enum():
            return value.name.lower()
        case tuple() | list() if all(isinstance(v, Interval) for v in value):
            return " ∪ ".join(map(_plain, value))
        case tuple() | list():
            return ", ".join(map(_plain, value))
        case float():
            short = f"{value:g}"
            return short if float(short) == value else repr(value)  # never rounded down
    return str(value)


def _gaps(ledger: str) -> str:
    found = []
    for line in ledger.splitlines():
        domain, rest = line.split(None, 1)
        op, _, what = rest.partition(": ")
        found.append((domain, what, op))
    rows = []
    for (domain, what), group in groupby(sorted(found), key=lambda row: row[:2]):
        ops = [op for _, _, op in group]
        rows.append((domain, what, f"{len(ops)}", _names(ops)))
    return _GAPS.format(gaps=table(("domain", "what is said", "operations", "which"), rows))
