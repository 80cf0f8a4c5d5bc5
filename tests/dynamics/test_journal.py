from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockframe.dynamics.journal import Column, Journal, JournalError, Mark, Row, Table

HEADER = {"recipe": {"spec": "toy", "lr": 0.1}}
ROWS: list[Row] = [
    {"loss": 1.5, "late": None},
    {"loss": 0.1, "late": -0.0, "norm.layers.0.attn": 5e-324},
    {"loss": None},
]
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
tables = st.lists(st.dictionaries(st.sampled_from(["a", "b", "c.d", "λ"]), numbers), max_size=6)


def written(path: Path, rows: list[Row]) -> Mark:
    journal = Journal.create(path, HEADER)
    for row in rows:
        journal.append(row)
    journal.close()
    return journal.mark


def same(found: list[Row], rows: list[Row]) -> bool:
    return repr(found) == repr(rows)  # tells -0.0 from 0.0


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    mark = written(tmp_path / "j", ROWS)
    assert mark.rows == 3
    assert (tmp_path / "j").read_bytes().count(b"\n") == 4
    journal = Journal.open(tmp_path / "j", mark)
    assert journal.header == {"format": "blockframe.steps/1", **HEADER}
    assert journal.names == ("loss", "late", "norm.layers.0.attn")
    assert same(list(journal.rows()), ROWS)
    assert len(journal) == 3
    assert journal.mark == mark
    columns = journal.columns(journal.names)
    assert {n: list(c) for n, c in columns.items()} == {
        "loss": [1.5, 0.1, None],
        "late": [None, -0.0, None],
        "norm.layers.0.attn": [None, 5e-324, None],
    }
    journal.close()


@pytest.mark.parametrize("value", [math.inf, -math.inf, "caf\udce9.py:net"])
def test_a_header_holds_any_setting(value: object, tmp_path: Path) -> None:
    """An infinite number, a file name that is no UTF-8."""
    journal = Journal.create(tmp_path / "j", {"setting": value})
    journal.close()
    again = Journal.open(tmp_path / "j", journal.mark)
    assert again.header["setting"] == value
    again.close()


@given(tables)
def test_memory_and_file_hold_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row]
) -> None:
    table, path = Table(), tmp_path_factory.mktemp("j") / "j"
    mark = written(path, rows)
    for row in rows:
        table.append(row)
    journal = Journal.open(path, mark)
    assert same(list(journal.rows()), rows)
    assert (journal.names, len(journal)) == (table.names, len(table))
    for name, column in journal.columns(journal.names).items():
        assert repr(list(column)) == repr(list(table.columns([name])[name]))
        assert repr(list(column)) == repr([row.get(name) for row in rows])
    journal.close()


def test_every_length_that_the_file_can_be_cut_to(tmp_path: Path) -> None:
    """Killed while a line is written: what was there at the mark is gone on with, else refused."""
    path = tmp_path / "j"
    mark = written(path, ROWS[:2])
    written(path, ROWS)
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        if length < mark.end:
            with pytest.raises(JournalError, match="is damaged"):
                Journal.open(path, mark)
            assert path.read_bytes() == whole[:length]
            continue
        journal = Journal.open(path, mark)
        assert same(list(journal.rows()), ROWS[:2])
        journal.append(ROWS[2])
        journal.close()
        assert path.read_bytes() == whole


def test_every_byte_that_may_be_garbled(tmp_path: Path) -> None:
    path = tmp_path / "j"
    mark = written(path, ROWS)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(JournalError, match="is damaged"):
            Journal.open(path, mark)


def test_what_was_written_after_the_mark_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "j"
    mark = written(path, ROWS[:1])
    with path.open("ab") as file:
        file.write(b'{"step":1,"loss":' + b"9" * 10_000)
    journal = Journal.open(path, mark)
    journal.append(ROWS[1])
    journal.sync()
    assert same(list(journal.rows()), ROWS[:2])
    journal.close()
    again = Journal.open(path, journal.mark)
    assert again.mark.rows == 2
    again.close()


def test_another_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockframe.dynamics.journal.FORMAT", "blockframe.steps/9")
    mark = written(tmp_path / "j", ROWS)
    monkeypatch.undo()
    with pytest.raises(JournalError, match=r"no journal of the form blockframe\.steps/1"):
        Journal.open(tmp_path / "j", mark)


def test_no_series_is_called_step(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "j", HEADER)
    with pytest.raises(JournalError, match="'step'"):
        journal.append({"step": 1.0})
    journal.close()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "j", tmp_path):
        with pytest.raises(JournalError, match="cannot open"):
            Journal.create(path, HEADER)
    with pytest.raises(JournalError, match="No such file"):
        Journal.open(tmp_path / "j", Mark(0, 0, ""))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_at_the_first_line() -> None:
    with pytest.raises(JournalError, match="could not write /dev/full: No space left on device"):
        Journal.create(Path("/dev/full"), HEADER)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_full_disk_keeps_the_whole_lines(tmp_path: Path) -> None:
    """In a process of its own, whose files cannot grow beyond some bytes."""
    program = """
import resource, sys
from pathlib import Path
from blockframe.dynamics.journal import Journal, JournalError
journal = Journal.create(Path(sys.argv[1]), {})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    while True:
        journal.append({"loss": 1 / (1 + len(journal))})
except JournalError as error:
    print(error)
print(len(journal), len(list(journal.rows())))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
journal.append({"loss": 7.0})
journal.close()
"""
    path = tmp_path / "j"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    message, counts = done.stdout.splitlines()
    assert f"could not write {path}: File too large." in message
    assert "--resume" in message
    rows, read = map(int, counts.split())
    assert rows == read > 10
    lines = path.read_bytes().splitlines()
    assert len(lines) == 1 + rows + 1
    assert lines[-1] == f'{{"step":{rows},"loss":7.0}}'.encode()


def test_a_disk_that_takes_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.create(tmp_path / "j", HEADER)
    journal.append(ROWS[0])
    file, mark = journal._file, journal.mark

    class Half:
        closed = False

        def __getattr__(self, name: str) -> object:
            return getattr(file, name)

        def write(self, data: memoryview) -> int:
            if len(data) < 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(file.write(data[:10]))

    journal._file = Half()
    with pytest.raises(JournalError, match="No space left"):
        journal.append(ROWS[1])
    assert journal.mark == mark
    journal.close()
    assert (tmp_path / "j").stat().st_size == mark.end


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_one_process_at_a_time(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "j", HEADER)
    for open_ in (
        lambda: Journal.create(tmp_path / "j", HEADER),
        lambda: Journal.open(tmp_path / "j", journal.mark),
    ):
        with pytest.raises(JournalError, match="another process is writing"):
            open_()
    journal.append(ROWS[0])
    journal.close()
    Journal.open(tmp_path / "j", journal.mark).close()


def test_a_column_is_a_sequence() -> None:
    column = Column([1.0, math.nan, 3.0])
    assert (len(column), column[0], column[1], column[-1]) == (3, 1.0, None, 3.0)
    assert list(column[::2]) == [1.0, 3.0]
    assert list(column) == [1.0, None, 3.0]
    assert None in column
    with pytest.raises(IndexError):
        column[3]


def test_a_journal_that_is_opened_and_left_is_as_it_was(tmp_path: Path) -> None:
    """A run that is refused to go on must not take the rows that a certificate speaks of."""
    journal = Journal.create(tmp_path / "j", {})
    journal.append({"a": 1.0})
    mark = journal.mark
    journal.append({"a": 2.0})
    journal.close()
    before = (tmp_path / "j").read_bytes()
    Journal.open(tmp_path / "j", mark).close()
    assert (tmp_path / "j").read_bytes() == before


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_a_link_or_a_pipe_is_refused(kind: str, tmp_path: Path) -> None:
    path, precious = tmp_path / "j", tmp_path / "precious"
    precious.write_text("precious", encoding="utf-8")
    if kind == "symlink":
        path.symlink_to(precious)
    else:
        os.mkfifo(path)
    with pytest.raises(JournalError):
        Journal.create(path, {})
    assert precious.read_text(encoding="utf-8") == "precious"
