"""Which model types there are, and what each is for, without importing torch.

``transformers.models.auto.modeling_auto`` maps model types to classes in plain literals, but
importing it imports torch. A listing must not wait for that, so the literals are read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from blockframe.errors import SpecError

TABLES = {
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "image": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
}
"""Task → the table of its classes. Where a model type has several, the first task is taken."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@cache
def classes() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Task → model type → names of the classes that do it."""
    found = _read_literals()
    if found.keys() != TABLES.keys():  # a release that builds its tables in another way
        from transformers.models.auto import modeling_auto

        found = {task: dict(getattr(modeling_auto, table)) for task, table in TABLES.items()}
    return {
        task: {t: (c,) if isinstance(c, str) else tuple(c) for t, c in table.items()}
        for task, table in found.items()
    }


@cache
def model_types() -> Mapping[str, str]:
    """Model type → task."""
    return {t: task for task in reversed(TABLES) for t in classes()[task]}


def is_ours(spec: str) -> bool:
    """Whether ``spec`` is a model type or a directory with a ``config.json``.

    Raises:
        SpecError: it is spelt as a directory that there is not, or that has no ``config.json``; or
            it looks like an id on the hub, from where nothing is fetched.
    """
    path = Path(spec)
    if spec in model_types() or (path / "config.json").is_file():
        return True
    if "/" in spec and path.is_dir():
        raise SpecError(
            f"the directory {spec} has no config.json",
            "Give one that save_pretrained of transformers wrote.",
        )
    if spec.startswith(("./", "../", "/")) and not path.exists():
        raise SpecError(f"there is no directory {spec}", "Check its name.")
    if HUB_ID.fullmatch(spec) and not path.exists() and not spec.endswith(".py"):
        raise SpecError(
            f"'{spec}' would have to be downloaded, and blockframe downloads nothing",
            "Give a local directory with its config.json, or a model type (gpt2, llama, bert).",
        )
    return False


def _read_literals() -> dict[str, dict[str, str | tuple[str, ...]]]:
    """The tables as they stand in the source; those that are no literals are left out."""
    package = find_spec("transformers")
    if package is None or not package.submodule_search_locations:
        return {}
    source = Path(package.submodule_search_locations[0], "models", "auto", "modeling_auto.py")
    tasks = {table: task for task, table in TABLES.items()}
    found = {}
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(args=[pairs])) if (
                name in tasks
            ):
                found[tasks[name]] = dict(ast.literal_eval(pairs))
    return found
