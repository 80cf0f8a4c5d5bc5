"""The series of a long run, read back from the journal that its certificate names."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve

from blockframe.certificate.files import PLAIN, read_regular
from blockframe.certificate.ledger import Ledger, quoted
from blockframe.certificate.model import Inequality, Journal, Trajectory

LONGEST = 2 << 30
"""Bytes of the longest journal that is read."""
FORMAT = "blockframe.steps/1"
THINNED = 1000
"""How many iterates stand in the certificate itself, about."""

_WHERE = "trajectory.journal"


def whole_run(ledger: Ledger, run: Trajectory, directory: Path | None) -> Trajectory | None:
    """``run`` with the series that its journal holds, and without a journal; None if it cannot be
    read, or says something else than the certificate."""
    journal = run.journal
    if journal is None:
        return run
    before = len(ledger.rejected)
    sound = journal.iterates >= 1
    ledger.demand(sound, _WHERE, f"{journal.iterates} iterates", "there is one at least")
    ledger.expect(f"{_WHERE}.stride", journal.stride, -(-journal.iterates // THINNED))
    content = _content(ledger, journal, directory)
    rows = _rows(ledger, content, journal.iterates) if content is not None and sound else None
    if rows is None:
        return None
    names = dict.fromkeys(name for row in rows for name in row)
    series = {name: [row.get(name) for row in rows] for name in names}
    for name in sorted({*names, *run.series}):
        full = series.get(name)
        thin = None if full is None else thinned(full, journal.stride)
        given = run.series.get(name)
        same = f"every {journal.stride}th of the journal"
        where = f"trajectory.series.{quoted(name)}"
        ledger.demand(given == thin, where, "other numbers", f"{same} is something else")
    if len(ledger.rejected) > before:
        return None
    ledger.verified.append(f"{_WHERE}: SHA-256 of {journal.file}, {len(rows)} iterates")
    return evolve(run, series=series, journal=None)


def thinned(values: Sequence[float | None], stride: int) -> list[float | None]:
    """Every ``stride``-th of them, and the last."""
    last = len(values) - 1
    return [v for k, v in enumerate(values) if k % stride == 0 or k == last]


def condensed(
    iterates: Iterable[Sequence[Inequality]],
) -> tuple[list[Inequality], dict[str, list[int]]]:
    """Which of the inequalities at each iterate the certificate of a long run states, and how many
    of each name hold, are undecided, are violated.

    The first violated one of each name, the first undecided, the one with the least margin (the
    first of these), and all at the first iterate at which one is violated.
    """
    kept: dict[tuple[str, str], Inequality] = {}
    counts: dict[str, list[int]] = {}
    violated = False
    for rows in iterates:
        broken = violated or any(row.holds is False for row in rows)
        for row in rows:
            counts.setdefault(row.name, [0, 0, 0])[(True, None, False).index(row.holds)] += 1
            if row.holds is not True:
                kept.setdefault((row.name, str(row.holds)), row)
            least = kept.get((row.name, "least"))
            if least is None or row.margin < least.margin:
                kept[row.name, "least"] = row
            if broken and not violated:
                kept[row.name, "beside"] = row
        violated = broken
    return list({(row.name, row.step): row for row in kept.values()}.values()), counts


def _content(ledger: Ledger, journal: Journal, directory: Path | None) -> bytes | None:
    name = journal.file
    if not PLAIN.fullmatch(name):
        ledger.reject(f"{_WHERE}.file", quoted(name), "a side file has a plain name")
        return None
    if directory is None:
        ledger.reject(_WHERE, f"series in {name}", "the directory of the certificate is not given")
        return None
    try:
        content = read_regular(directory / name, LONGEST, follow=False)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        ledger.reject(_WHERE, f"series in {name}", f"that file cannot be read: {why}")
        return None
    found = hashlib.sha256(content).hexdigest()
    return content if ledger.expect(f"{_WHERE}.sha256", journal.sha256, found) else None


def _rows(ledger: Ledger, content: bytes, iterates: int) -> list[dict[str, float | None]] | None:
    """The numbers of every iterate, by name."""
    rows: list[dict[str, float | None]] = []
    lines = content.split(b"\n")
    complete = ledger.demand(lines.pop() == b"", _WHERE, "a last line cut off", "lines end")
    if not complete or not ledger.expect(f"{_WHERE}.iterates", iterates, len(lines) - 1):
        return None
    for k, line in enumerate(lines):
        entries = _entries(line)
        if entries is None or (k == 0 and entries.get("format") != FORMAT):
            ledger.reject(f"{_WHERE}, line {k + 1}", quoted(line[:80].decode(errors="replace")),
                          "it is no line of a journal")  # fmt: skip
            return None
        if k == 0:
            continue
        row = {name: _number(value) for name, value in entries.items() if name != "step"}
        step = entries.get("step")
        if type(step) is not int or step != k - 1 or any(v is math.nan for v in row.values()):
            ledger.reject(f"{_WHERE}, line {k + 1}", quoted(line[:80].decode(errors="replace")),
                          f"it holds the finite numbers of iterate {k - 1}")  # fmt: skip
            return None
        rows.append(row)
    return rows


def _entries(line: bytes) -> dict[str, Any] | None:
    try:
        entries = json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return None
    return entries if isinstance(entries, dict) else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return members


def _number(value: object) -> float | None:
    """NaN for what is neither a finite number nor null."""
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return math.nan
    try:
        number = float(value)
    except OverflowError:  # an integer that no float holds
        return math.nan
    return number if math.isfinite(number) else math.nan
