"""Architectures of HuggingFace transformers, as a plugin of blockframe.

A spec is a model type (``gpt2``, ``llama``, ``bert``, ``t5``, ``vit``) or a local directory with a
``config.json``. Nothing is downloaded, no code of a directory is run, nothing is unpickled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockframe.hookspecs import hookimpl

if TYPE_CHECKING:
    from blockframe.problem import Problem, Request


@hookimpl
def blockframe_specs() -> list[str]:
    from blockframe_transformers.names import model_types

    return sorted(model_types())


@hookimpl
def blockframe_resolve(spec: str, request: Request) -> Problem | None:
    from blockframe_transformers.names import is_ours

    if not is_ours(spec):
        return None
    from blockframe_transformers.resolve import resolve

    return resolve(spec, request)
