"""Specs that name Python code: ``path/file.py:attr`` and ``pkg.module:attr``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import frozen

from blockframe.errors import SpecError
from blockframe.foreign import foreign


def source(spec: str) -> Source | None:
    """The code that ``spec`` names; None if it has another form, or there is no such module."""
    where, _, attribute = spec.rpartition(":")
    if where.endswith(".py"):
        return Source(where, attribute)
    if spec.endswith(".py"):
        return Source(spec, "")
    code = Source(where, attribute)
    named = attribute and all(part.isidentifier() for part in where.split("."))
    return code if named and code.exists() else None


@frozen
class Source:
    """An attribute of a Python file (``where`` ends in ``.py``) or of an importable module."""

    where: str
    attribute: str

    def __str__(self) -> str:
        name = Path(self.where).name if self.file else self.where
        return f"{name}:{self.attribute}" if self.attribute else name

    @property
    def file(self) -> str:
        """Absolute path of the file; "" for a module."""
        return str(Path(self.where).resolve()) if self.where.endswith(".py") else ""

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Modules beside the file, or in the current directory, can be imported meanwhile."""
        directory = str(Path(self.file).parent if self.file else Path.cwd())
        sys.path.insert(0, directory)
        try:
            yield
        finally:
            if directory in sys.path:
                sys.path.remove(directory)

    def exists(self) -> bool:
        """Whether the module's package (or the module itself) can be found."""
        with self.importable():
            return importlib.util.find_spec(self.where.partition(".")[0]) is not None

    def find(self) -> Any:
        """Import the code and return the attribute.

        Raises:
            SpecError: there is no such file, module or attribute, or importing it raises.
        """
        module = self._import_file() if self.file else self._import_module()
        missing = object()
        found: Any = module
        for name in self.attribute.split("."):
            found = getattr(found, name, missing)
        if found is not missing and self.attribute:
            return found
        names = ", ".join(_candidates(module)) or "nothing that could be a problem"
        if not self.attribute:
            raise SpecError(
                f"{self} names no attribute", f"Write {self.where}:NAME; it has {names}."
            )
        raise SpecError(f"{self.where} has no {self.attribute!r}", f"It has {names}.")

    def _import_file(self) -> ModuleType:
        path = Path(self.file)
        if not path.is_file():
            raise SpecError(f"there is no file {self.where}", "Write path/file.py:attr.")
        # A name of its own, so that it neither shadows a real module nor another file.
        name = f"{path.stem}_{zlib.crc32(self.file.encode()):08x}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None  # the name ends in .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with ExitStack() as undo, self._importing():
            sys.modules[name] = module  # dataclasses, pickle and torch look it up there
            undo.callback(sys.modules.pop, name, None)
            spec.loader.exec_module(module)
            undo.pop_all()
        return module

    def _import_module(self) -> ModuleType:
        with self._importing():
            return importlib.import_module(self.where)

    @contextmanager
    def _importing(self) -> Iterator[None]:
        with foreign(
            lambda what: SpecError(
                f"{self.where} could not be imported: {what}", "Correct it first."
            ),
            file=self.file,
        ):
            yield


def _candidates(module: ModuleType) -> list[str]:
    """Public names in ``module`` that can be a problem, or make one."""
    import torch

    from blockframe.problem import Problem

    def possible(value: object) -> bool:
        if isinstance(value, tuple):
            return bool(value) and isinstance(value[0], torch.nn.Module)
        made_here = getattr(value, "__module__", "") == module.__name__
        function = callable(value) and not isinstance(value, type) and made_here
        return isinstance(value, (Problem, torch.nn.Module)) or function

    return [n for n, v in vars(module).items() if not n.startswith("_") and possible(v)]
