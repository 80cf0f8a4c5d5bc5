"""The rows of a run, one per iterate: held in memory, or appended to a file of JSON lines.

docs/certificate has the form of the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast, overload

from attrs import frozen

from blockframe.errors import InputError
from blockframe.writing import remedy

FORMAT = "blockframe.steps/1"
STEP = "step"
"""The key of k in a line; no series can have it."""

_CHUNK = 1 << 20

Row: TypeAlias = Mapping[str, float | None]
"""Series name → number at one iterate; None: it does not exist there."""


class JournalError(InputError):
    """A journal that cannot be written, or not be gone on with."""


class Column(Sequence[float | None]):
    """One series: 8 bytes a number, NaN standing for None."""

    def __init__(self, numbers: Iterable[float] = ()) -> None:
        self._numbers = array("d", numbers)

    def append(self, number: float | None) -> None:
        self._numbers.append(math.nan if number is None else number)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> float | None: ...
    @overload
    def __getitem__(self, index: slice) -> Column: ...
    def __getitem__(self, index: int | slice) -> float | Column | None:
        if isinstance(index, slice):
            return Column(self._numbers[index])
        number = self._numbers[index]
        return None if math.isnan(number) else number

    def __iter__(self) -> Iterator[float | None]:
        return (None if math.isnan(x) else x for x in self._numbers)


class Rows(Protocol):
    """What a run writes its rows to, and is read back from."""

    @property
    def names(self) -> tuple[str, ...]:
        """The series that some row has, in the order in which they came up."""
        ...

    def __len__(self) -> int:
        """Rows so far."""
        ...

    def append(self, row: Row) -> None:
        """The next iterate."""
        ...

    def columns(self, names: Iterable[str]) -> dict[str, Column]:
        """These series, one number per row: None where a row has none."""
        ...


class Table:
    """Rows in memory."""

    def __init__(self) -> None:
        self._columns: dict[str, Column] = {}
        self._rows = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._columns)

    def __len__(self) -> int:
        return self._rows

    def append(self, row: Row) -> None:
        for name in row:
            if name not in self._columns:
                self._columns[name] = Column([math.nan] * self._rows)
        for name, column in self._columns.items():
            column.append(row.get(name))
        self._rows += 1

    def rows(self) -> Iterator[Row]:
        """All rows, from the first on."""
        columns = self._columns.items()
        return ({name: column[k] for name, column in columns} for k in range(self._rows))

    def columns(self, names: Iterable[str]) -> dict[str, Column]:
        return {name: self._columns[name] for name in names}


@frozen
class Mark:
    """How far a journal had come.

    Attributes:
        rows: lines after the first.
        end: bytes.
        sha256: of these bytes, in hexadecimal.
    """

    rows: int
    end: int
    sha256: str


class Journal:
    """Rows in a file: a line with a header, then a line per iterate. `create` and `open` make it.

    Only what lies before ``mark.end`` counts. A line that was cut off (the process was killed, the
    disk was full) lies behind it, and the next line takes its place. One process at a time.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], *, new: bool) -> None:
        """`create` and `open` call this."""
        self.path = path
        self.header = header
        self._file = _opened(path, os.O_CREAT if new else 0)
        self._names: dict[str, None] = {}
        self._rows, self._end, self._hash = 0, 0, hashlib.sha256()
        self._whole = False  # nothing lies behind the end
        self._begun = False  # a row was put

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> Journal:
        """A journal without rows; what was in the file before is gone.

        Args:
            header: plain JSON; ``format`` is put in front.

        Raises:
            JournalError: the file cannot be written, or another process has it open.
        """
        journal = cls(path, {"format": FORMAT, **header}, new=True)
        try:
            journal._whole = True  # what was there goes once the header is written
            journal._put(_line(journal.header, allow_nan=True))  # a setting can be infinite
            journal._whole = False
            journal.cut()
        except JournalError:
            journal._file.close()
            raise
        return journal

    @classmethod
    def open(cls, path: Path, mark: Mark) -> Journal:
        """The journal in the file ``path`` as it was at ``mark``; the next row, or `cut`, drops
        what lies behind.

        Raises:
            JournalError: it is not there, another process has it open, or it is damaged before
                the mark.
        """
        journal = cls(path, {}, new=False)
        try:
            journal._rewind(mark)
        except BaseException:
            journal._file.close()
            raise
        return journal

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    @property
    def mark(self) -> Mark:
        """How far it has come."""
        return Mark(self._rows, self._end, self._hash.hexdigest())

    def __len__(self) -> int:
        return self._rows

    def append(self, row: Row) -> None:
        """
        Raises:
            JournalError: no space, or the like; the row counts as not written.
        """
        if STEP in row:
            raise JournalError(
                f"a journal cannot hold a series called {STEP!r}", "Give the probe another name."
            )
        self._put(_line({STEP: self._rows, **row}))
        self._rows += 1
        self._names.update(dict.fromkeys(row))

    def rows(self) -> Iterator[Row]:
        """All rows, from the first on."""
        lines = self._lines()
        next(lines)
        return (_row(line) for line in lines)

    def columns(self, names: Iterable[str]) -> dict[str, Column]:
        found = {name: Column() for name in names}
        for row in self.rows():
            for name, column in found.items():
                column.append(row.get(name))
        return found

    def sync(self) -> None:
        """See that the rows survive a power failure.

        Raises:
            JournalError: the device does not take them.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritten(self.path, error) from error

    def remove(self) -> None:
        """Remove the file, while no other process can have it; `close` comes next."""
        with suppress(OSError):  # it is in nobody's way
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process have it, without what a row that failed has left behind.

        What lay behind the mark when it was opened stays, if no row came after.
        """
        if not self._file.closed:
            try:
                if self._begun:
                    self.cut()
            finally:
                self._file.close()

    def _put(self, line: bytes) -> None:
        self.cut()
        self._begun, self._whole = True, False
        try:
            self._file.seek(self._end)
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            raise _unwritten(self.path, error) from error
        self._hash.update(line)
        self._end += len(line)
        self._whole = True

    def cut(self) -> None:
        """Drop what lies behind the mark.

        Raises:
            JournalError: the file system refuses.
        """
        if self._whole:
            return
        try:
            self._file.truncate(self._end)
            self._whole = True
        except OSError as error:
            raise _unwritten(self.path, error) from error

    def _lines(self) -> Iterator[bytes]:
        left = self._end
        with open(self._file.fileno(), "rb", closefd=False) as file:
            file.seek(0)
            while left:
                line = file.readline(left)
                left -= len(line)
                yield line

    def _rewind(self, mark: Mark) -> None:
        self._file.seek(0)
        left = mark.end
        while left:
            piece = self._file.read(min(left, _CHUNK))
            if not piece:
                break
            self._hash.update(piece)
            left -= len(piece)
        if left or self._hash.hexdigest() != mark.sha256:
            raise JournalError(
                f"{self.path} is damaged: it is not what it was when the checkpoint was written",
                "Begin again in another --out.",
            )
        self._end = mark.end
        lines = self._lines()
        self.header = json.loads(next(lines, b"{}"))
        if self.header.get("format") != FORMAT:
            raise JournalError(
                f"{self.path} is no journal of the form {FORMAT}", "Begin again in another --out."
            )
        for line in lines:
            self._names.update(dict.fromkeys(_row(line)))
            self._rows += 1


def _row(line: bytes) -> Row:
    row = json.loads(line)
    del row[STEP]
    return cast(Row, row)


def _line(entries: Mapping[str, Any], *, allow_nan: bool = False) -> bytes:
    text = json.dumps(entries, ensure_ascii=False, allow_nan=allow_nan, separators=(",", ":"))
    return f"{text}\n".encode("utf-8", "surrogatepass")  # of a file name, as json reads it


def _opened(path: Path, create: int) -> Any:
    """The file, unbuffered, for reading and writing, and locked."""
    try:
        plain = [getattr(os, flag, 0) for flag in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK")]
        descriptor = os.open(path, os.O_RDWR | create | sum(plain), 0o666)
    except OSError as error:
        raise JournalError(
            f"cannot open {path}: {error.strerror or error}", "Use another --out."
        ) from error
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise JournalError(f"{path} is a pipe", "Remove it, or use another --out.")
    file = os.fdopen(descriptor, "r+b", buffering=0)
    try:
        _lock(descriptor)
    except BlockingIOError:
        file.close()
        raise JournalError(
            f"another process is writing {path}", "Wait for it, or give another --out."
        ) from None
    return file


def _lock(descriptor: int) -> None:
    """Until the file is closed, also by death. Where a file system has no locks, nothing happens.

    Raises:
        BlockingIOError: another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return


def _unwritten(path: Path, error: OSError) -> JournalError:
    return JournalError(
        f"could not write {path}: {error.strerror or error}",
        f"{remedy(error)} and go on with --resume, or use another --out.",
    )
