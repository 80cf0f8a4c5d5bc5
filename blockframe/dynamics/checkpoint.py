"""What a run of gradient descent goes on from after a break: θ_k and what goes with it.

A safetensors file, replaced as a whole. docs/certificate has its form.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from attrs import field, frozen
from safetensors import SafetensorError, safe_open
from torch import Tensor

from blockframe.dynamics.journal import Mark
from blockframe.errors import InputError
from blockframe.writing import remedy, replacing

FORMAT = "blockframe.checkpoint/2"

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int64: "I64", torch.bool: "BOOL",
}  # fmt: skip
_ALIGNED = 8  # bytes: numbers begin at a multiple of it, as safetensors' own writer has it


class CheckpointError(InputError):
    """A checkpoint that cannot be written, or that is damaged."""


@frozen(eq=False)
class Checkpoint:
    """The last iterate that is finished.

    Attributes:
        mark: the journal up to and including row k.
        tensors: of the iterate, by name.
        numbers: of the iterate, plain JSON.
    """

    mark: Mark
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any] = field(factory=dict)

    @property
    def step(self) -> int:
        """k."""
        return self.mark.rows - 1

    @property
    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(t.nbytes for t in self.tensors.values())

    def write(self, path: Path) -> None:
        """Put it in the place of the file ``path``.

        Raises:
            CheckpointError: no space, or the like; the file that was there is still there.
        """
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}
        about = self._about()
        header = _header(tensors, {**about, "sha256": _digest(about, tensors)})
        try:
            # one process works on a run (the journal is locked): the name can be the same
            with replacing(path, path.with_name(f".{path.name}.tmp")) as file:
                _dump(file, header, tensors)
        except OSError as error:
            raise CheckpointError(
                f"could not write {path}: {error.strerror or error}",
                f"{remedy(error)} and go on with --resume, or use another --out.",
            ) from error

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """The one in the file ``path``, on the CPU.

        Raises:
            CheckpointError: it cannot be read, or is not what was written.
        """
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise _damaged(path, "it is no regular file")
            with safe_open(path, "pt") as file:
                about = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise _damaged(path, str(error)) from error
        asserted = about.pop("sha256", "")
        if about.get("format") != FORMAT or _digest(about, tensors) != asserted:
            raise _damaged(path, "its content is not what was written")
        mark = Mark(int(about["rows"]), int(about["end"]), about["sha256 of journal"])
        return cls(mark, tensors, json.loads(about["numbers"]))

    def _about(self) -> dict[str, str]:
        return {
            "format": FORMAT,
            "rows": str(self.mark.rows),
            "end": str(self.mark.end),
            "sha256 of journal": self.mark.sha256,
            "numbers": json.dumps(self.numbers),
        }


def _header(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(about)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        dtype = _DTYPES[tensor.dtype]
        entries[name] = {
            "dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]
        }  # fmt: skip
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % _ALIGNED)


def _dump(file: BinaryIO, header: bytes, tensors: Mapping[str, Tensor]) -> None:
    """The form of safetensors. Its own writer would hold all tensors in memory a second time, and
    leave a file of another name behind when it is killed."""
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)
    for tensor in tensors.values():
        file.write(_bytes(tensor))


def _digest(about: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of everything in the file, whatever the order."""
    found = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    found: memoryview = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return found


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {why}", "Begin again in another --out.")
