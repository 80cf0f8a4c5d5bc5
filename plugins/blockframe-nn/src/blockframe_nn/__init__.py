"""Small networks of `torch.nn` on real data, as a plugin of blockframe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockframe.hookspecs import hookimpl

if TYPE_CHECKING:
    from blockframe.data import Dataset
    from blockframe.problem import Problem, Request

SPECS = ("mlp", "cnn", "rnn", "lstm", "gru", "transformer")


@hookimpl
def blockframe_specs() -> tuple[str, ...]:
    return SPECS


@hookimpl
def blockframe_resolve(spec: str, request: Request) -> Problem | None:
    if spec not in SPECS:
        return None
    from blockframe_nn.problems import build

    return build(spec, request)


@hookimpl
def blockframe_datasets() -> tuple[Dataset, ...]:
    from blockframe_nn.datasets import DATASETS

    return tuple(DATASETS.values())
