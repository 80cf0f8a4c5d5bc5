"""Errors that a user can cause: one sentence, a remedy, an exit code; never a traceback."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line (docs/cli)."""

    CERTIFIED = 0
    REFUTED = 1
    USAGE = 2
    INCONCLUSIVE = 3
    INTERRUPTED = 130


class BlockframeError(Exception):
    """Something the user can put right.

    ``message`` says what is wrong in one sentence, ``remedy`` what to do about it.
    """

    exit_code: Exit = Exit.USAGE

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message.rstrip(".")
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}".strip() if self.remedy else f"{self.message}."


class SpecError(BlockframeError):
    """A spec that nothing, or more than one plugin, resolves; a setting that does not exist."""


class InputError(BlockframeError):
    """Inputs, targets, data or options that do not fit the model or each other."""


class PluginError(BlockframeError):
    """A plugin that could not be loaded, or that broke the hook contract."""


LESS_MEMORY = "Try fewer --samples, --memory, or --dtype float32."


class OutOfMemory(BlockframeError, MemoryError):
    """The memory of the device ran out while a network ran; the message is the allocator's."""

    def __init__(self, said: str) -> None:
        super().__init__(f"out of memory ({said})" if said else "out of memory", LESS_MEMORY)


class CaptureError(BlockframeError):
    """The model's forward is not one traced function.

    ``location`` is the model's own line that is responsible (``file.py:17``), where it is known;
    ``code`` the finding that `certify` reports for it.
    """

    def __init__(
        self,
        message: str,
        remedy: str = "",
        *,
        location: str = "",
        excerpt: str = "",
        code: str = "A901",
    ) -> None:
        super().__init__(message, remedy)
        self.location = location
        self.excerpt = excerpt
        self.code = code

    def __str__(self) -> str:
        where = f"{self.location}: " if self.location else ""
        return where + super().__str__()


class CertificateError(BlockframeError):
    """A certificate that cannot be read, or that does not have the promised form."""
