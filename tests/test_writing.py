from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from blockframe.writing import remedy, replacing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "f").write_bytes(b"old")
    return tmp_path / "f"


def put(path: Path, content: bytes) -> None:
    with replacing(path, path.with_name(".f.tmp")) as file:
        file.write(content)
        assert path.read_bytes() == b"old"


def test_the_new_one_takes_the_place_of_the_old_one(path: Path) -> None:
    put(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["f"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_one_that_breaks_off_leaves_the_old_one(error: BaseException, path: Path) -> None:
    def broken() -> None:
        with replacing(path, path.with_name(".f.tmp")) as file:
            file.write(b"ne")
            raise error

    with pytest.raises(type(error)):
        broken()
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["f"]


@pytest.mark.skipif(sys.platform == "win32", reason="no links")
def test_what_a_killed_process_left_goes(path: Path) -> None:
    """Also where it is another name of a file: that one stays as it is."""
    other = path.parent / "other"
    other.write_bytes(b"mine")
    os.link(other, path.with_name(".f.tmp"))
    put(path, b"new")
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"mine")
    assert {p.name for p in path.parent.iterdir()} == {"f", "other"}


@pytest.mark.skipif(sys.platform == "win32", reason="no links and pipes")
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "directory"])
def test_nothing_is_followed_or_waited_for(kind: str, path: Path) -> None:
    part, other = path.with_name(".f.tmp"), path.parent / "other"
    if kind == "pipe":
        os.mkfifo(part)  # nobody reads: opening it to write would wait for ever
    elif kind == "directory":
        part.mkdir()
    else:
        part.symlink_to(other)
    if kind == "link":
        other.write_bytes(b"mine")
    before = {p.name for p in path.parent.iterdir()}
    with pytest.raises(OSError, match=r"\.f\.tmp beside it is no regular file"):
        put(path, b"new")
    assert path.read_bytes() == b"old"
    assert {p.name for p in path.parent.iterdir()} == before
    assert kind != "link" or other.read_bytes() == b"mine"


def test_space_is_not_always_what_is_missing() -> None:
    assert remedy(OSError(errno.ENOSPC, "No space left on device")) == "Free some space"
    assert remedy(OSError(errno.EISDIR, "Is a directory")) == "Put that right"
