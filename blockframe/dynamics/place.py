"""Where a run of gradient descent is kept on disk. Without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import field, frozen

from blockframe.certificate.store import file_name
from blockframe.errors import InputError


@frozen
class Place:
    """Where a run is kept on disk.

    Attributes:
        journal: the file of all rows (`blockframe.dynamics.journal`).
        checkpoint: the file that the run goes on from; where it is, there is a run.
        about: what has to be the same for the run to go on: plain JSON, ``steps`` excepted.
        resume: go on with the run that is there, if there is one.
    """

    journal: Path
    checkpoint: Path
    about: Mapping[str, Any] = field(factory=dict)
    resume: bool = False

    @classmethod
    def of(
        cls, directory: Path, spec: str, about: Mapping[str, Any] | None = None, *,
        resume: bool = False,
    ) -> Place:  # fmt: skip
        """Beside the certificate of ``spec`` in ``directory``."""
        stem = file_name(spec).removesuffix(".cert.json")
        return cls(
            directory / f"{stem}.steps.jsonl", directory / f"{stem}.checkpoint.safetensors",
            about or {}, resume,
        )  # fmt: skip

    def check(self) -> None:
        """
        Raises:
            InputError: there is a run, which would be lost.
        """
        if os.path.lexists(self.checkpoint) and not self.resume:
            raise InputError(
                f"{self.checkpoint.parent} holds a run that can go on ({self.checkpoint.name})",
                "Give --resume to go on with it, another --out, or remove that file.",
            )

    def remove(self) -> None:
        """Remove both files, once they are no longer needed."""
        with suppress(OSError):  # they are in nobody's way
            self.checkpoint.unlink(missing_ok=True)
            self.journal.unlink(missing_ok=True)
