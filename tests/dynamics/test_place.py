"""Names and fates of the files that a run is kept in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from blockframe.dynamics.place import Place
from blockframe.errors import InputError


def test_files_are_called_after_the_spec() -> None:
    where = Place.of(Path("d"), "models/net.py:make")
    assert where.journal == Path("d/models-net.py-make.steps.jsonl")
    assert where.checkpoint == Path("d/models-net.py-make.checkpoint.safetensors")


def test_removing_is_idempotent(tmp_path: Path) -> None:
    where = Place.of(tmp_path, "toy")
    where.journal.touch()
    where.checkpoint.touch()
    where.remove()
    where.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no links")
def test_what_is_there_is_not_lost_unasked(tmp_path: Path) -> None:
    where = Place.of(tmp_path, "toy")
    where.check()
    where.checkpoint.symlink_to("elsewhere")  # it may come back
    with pytest.raises(InputError, match=r"holds a run that can go on \(toy\.checkpoint\."):
        where.check()
    Place.of(tmp_path, "toy", resume=True).check()
