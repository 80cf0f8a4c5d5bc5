"""The series of a long run, read back from the journal that its certificate names."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, evolve

from blockframe.certificate.files import PLAIN, read_regular
from blockframe.certificate.ledger import Ledger, quoted, same, shown
from blockframe.certificate.model import Certificate, Inequality, Journal, Trajectory

LONGEST = 2 << 30
"""Bytes of the longest journal that is read."""
FORMAT = "blockframe.steps/1"
THINNED = 1000
"""How many iterates stand in the certificate itself, about."""

BY_LENGTH = ("linear:", "cosine:")
"""How a rule for the rate begins that depends on the number of steps."""

NESTED = 200
"""Objects and arrays in a header, at most: deeper ones could not be walked through."""

_WHERE = "trajectory.journal"


def whole_run(
    ledger: Ledger, certificate: Certificate, run: Trajectory, directory: Path | None
) -> Trajectory | None:
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
    found = _lines(ledger, content, journal.iterates) if content is not None and sound else None
    if found is None:
        return None
    header, rows = found
    _check_header(ledger, header, certificate, run)
    names = dict.fromkeys(name for row in rows for name in row)
    series = {name: [row.get(name) for row in rows] for name in names}
    for name in sorted({*names, *run.series}):
        full = series.get(name)
        thin = None if full is None else thinned(full, journal.stride)
        given = run.series.get(name)
        every = f"every {journal.stride}th of the journal"
        where = f"trajectory.series.{quoted(name)}"
        ledger.demand(given == thin, where, "other numbers", f"{every} is something else")
        numbers = [x for x in full or () if x is not None]
        extent = [numbers[0], min(numbers), max(numbers)] if numbers else None
        ledger.expect(f"{_WHERE}.ranges.{quoted(name)}", journal.ranges.get(name), extent)
    unknown = sorted(journal.ranges.keys() - names.keys())
    ledger.demand(
        not unknown, f"{_WHERE}.ranges", quoted(unknown), "the journal has no such series"
    )
    if len(ledger.rejected) > before:
        return None
    ledger.verified.append(f"{_WHERE}: header and SHA-256 of {journal.file}, {len(rows)} iterates")
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
    end, size = journal.end, f"{journal.end:,} bytes"
    most = f"it has 1 at least and {LONGEST:,} at most"
    if not ledger.demand(0 < end <= LONGEST, f"{_WHERE}.end", size, most):
        return None
    try:
        content = read_regular(directory / name, end, follow=False, prefix=True)
    except FileNotFoundError:
        missing = f"no such file is in {directory.absolute()}; put it there, beside the certificate"
        ledger.reject(_WHERE, f"series in {name}", missing)
        return None
    except OSError as error:
        why = error.strerror or str(error)
        ledger.reject(_WHERE, f"series in {name}", f"that file cannot be read: {why}")
        return None
    short = f"{name} has {len(content):,}: it was cut off, or is of another run"
    if not ledger.demand(len(content) == end, f"{_WHERE}.end", size, short):
        return None
    found = hashlib.sha256(content).hexdigest()
    other = f"that of {name} is {shown(found)}: it was changed, or is of another run"
    whole = ledger.demand(found == journal.sha256, f"{_WHERE}.sha256", shown(journal.sha256), other)
    return content if whole else None


def _check_header(
    ledger: Ledger, header: dict[str, Any], certificate: Certificate, run: Trajectory
) -> None:
    """The journal is of the run that the certificate is about: what both say is the same.

    A run can be gone on with in other threads, and to another step where no rate depends on that.
    """
    subject, recipe = certificate.subject, certificate.subject.recipe
    said = {
        "learning rate": run.lr,
        **{name: run.summary.get(name) for name in ("device", "dtype")},
        **{name: certificate.environment.get(name) for name in ("blockframe", "torch")},
        "digests": subject.digests,
        "recipe": {} if recipe is None else asdict(recipe),
        "steps": run.steps,
    }
    free = {"format", "threads", "recipe.steps"}
    if recipe is None or not str(recipe.lr).startswith(BY_LENGTH):
        free.add("steps")
    here, there = _flat(said), _flat(header)
    for name in sorted({*here, *there} - free):
        known = recipe is not None or name.partition(".")[0] != "recipe"
        ours, theirs = (tree.get(name, "nothing") for tree in (here, there))
        what = f"the certificate says {shown(ours)}: it is the journal of another run"
        fits = not known or same(ours, theirs)
        ledger.demand(fits, f"{_WHERE}, header, {quoted(name)}", shown(theirs), what)


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict) and bool(value)
        found |= _flat(value, f"{above}{key}.") if nested else {above + key: value}
    return found


def _lines(
    ledger: Ledger, content: bytes, iterates: int
) -> tuple[dict[str, Any], list[dict[str, float | None]]] | None:
    """The header, and the numbers of every iterate, by name."""
    header: dict[str, Any] = {}
    rows: list[dict[str, float | None]] = []
    lines = content.split(b"\n")
    complete = ledger.demand(lines.pop() == b"", _WHERE, "a last line cut off", "lines end")
    if not complete or not ledger.expect(f"{_WHERE}.iterates", iterates, len(lines) - 1):
        return None
    for k, line in enumerate(lines):
        entries = _entries(line)
        if entries is None or (k == 0 and not _is_header(line, entries)):
            ledger.reject(f"{_WHERE}, line {k + 1}", quoted(line[:80].decode(errors="replace")),
                          "it is no line of a journal")  # fmt: skip
            return None
        if k == 0:
            header = entries
            continue
        row = {name: _number(value) for name, value in entries.items() if name != "step"}
        step = entries.get("step")
        if type(step) is not int or step != k - 1 or any(v is math.nan for v in row.values()):
            ledger.reject(f"{_WHERE}, line {k + 1}", quoted(line[:80].decode(errors="replace")),
                          f"it holds the finite numbers of iterate {k - 1}")  # fmt: skip
            return None
        rows.append(row)
    return header, rows


def _is_header(line: bytes, entries: dict[str, Any]) -> bool:
    nested = line.count(b"{") + line.count(b"[")
    return entries.get("format") == FORMAT and nested <= NESTED


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
