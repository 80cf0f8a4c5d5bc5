from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from blockframe.dynamics.checkpoint import Checkpoint, CheckpointError
from blockframe.dynamics.journal import Mark

MARK = Mark(18, 4321, "ab" * 32)


def checkpoint(size: int = 5, **numbers: Any) -> Checkpoint:
    generator = torch.Generator().manual_seed(size)
    theta = torch.randn(size, dtype=torch.float64, generator=generator)
    tensors = {"theta": theta, "basis": torch.randn(2, size).T, "empty": torch.zeros(0, 3)}
    return Checkpoint(MARK, tensors, numbers)


def equal(a: Checkpoint, b: Checkpoint) -> bool:
    return (
        (a.mark, repr(a.numbers), set(a.tensors)) == (b.mark, repr(b.numbers), set(b.tensors))
        and all(a.tensors[n].dtype == b.tensors[n].dtype for n in a.tensors)
        and all(torch.equal(a.tensors[n], b.tensors[n]) for n in a.tensors)
    )


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    made = checkpoint(value=0.1, residual=math.nan, converged=True, nothing=None)
    made.write(tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    found = Checkpoint.read(tmp_path / "c")
    assert equal(found, made)
    assert found.step == 17
    assert made.size == 5 * 8 + 10 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64,
                                   torch.bool])  # fmt: skip
def test_it_is_a_safetensors_file(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.arange(6).view(2, 3).to(dtype)
    Checkpoint(MARK, {"t": tensor, "one": torch.ones(())}).write(tmp_path / "c")
    found = load_file(tmp_path / "c")
    assert torch.equal(found["t"], tensor)
    assert found["one"] == 1


def test_every_length_that_the_file_can_be_cut_to(tmp_path: Path) -> None:
    path = tmp_path / "c"
    checkpoint().write(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="is damaged"):
            Checkpoint.read(path)


@pytest.mark.parametrize("bit", [1, 64])
def test_every_byte_that_may_be_garbled(bit: int, tmp_path: Path) -> None:
    path = tmp_path / "c"
    checkpoint(value=0.1).write(path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match="is damaged"):
            Checkpoint.read(path)


def test_none_and_nothing(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError):
            Checkpoint.read(path)


@pytest.mark.parametrize("step", ["write", "flush", "fsync", "replace"])
def test_one_that_cannot_be_written_leaves_the_old_one(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, old = tmp_path / "c", checkpoint()
    old.write(path)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif step == "replace":
        monkeypatch.setattr(Path, "replace", full)
    else:
        open_ = Path.open

        def opened(self: Path, mode: str) -> Any:
            file = open_(self, mode)

            class Full:
                def __enter__(self) -> Full:
                    return self

                def __exit__(self, *arguments: object) -> None:
                    file.close()

                def __getattr__(self, name: str) -> object:
                    return full if name == step else getattr(file, name)

            return Full()

        monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(CheckpointError, match="No space left on device") as refused:
        checkpoint(6).write(path)
    assert "--resume" in str(refused.value)
    monkeypatch.undo()
    assert equal(Checkpoint.read(path), old)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@pytest.mark.skipif(sys.platform == "win32", reason="no links and pipes")
def test_what_stands_in_the_way_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".c.tmp")
    with pytest.raises(CheckpointError, match=r"\.c\.tmp beside it is no regular file\. Put that"):
        checkpoint().write(tmp_path / "c")
    (tmp_path / ".c.tmp").unlink()
    (tmp_path / ".c.tmp").write_bytes(b"of a process that was killed")
    checkpoint().write(tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from blockframe.dynamics import checkpoint
from blockframe.dynamics.journal import Mark

def write(size):
    tensors = {"theta": torch.full((size,), float(size))}
    checkpoint.Checkpoint(Mark(size, 0, ""), tensors).write(Path(sys.argv[1]))

write(10)
count = int(sys.argv[2])
def tick(frame, event, argument):
    global count
    if "checkpoint" in frame.f_code.co_filename or event == "c_call":
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.setprofile(tick)
write(11)
sys.setprofile(None)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.slow
def test_killed_while_it_is_written(tmp_path: Path) -> None:
    """At every eighth call that the writing makes: there is the old one or the new one."""
    path, seen, count = tmp_path / "c", [], 1
    while True:
        done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(count)], check=False)
        seen.append(Checkpoint.read(path).mark.rows)
        if done.returncode == 0:
            break
        assert done.returncode == -9
        count += 8
    assert seen == sorted(seen)
    assert set(seen) == {10, 11}
    assert len(seen) > 5
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
