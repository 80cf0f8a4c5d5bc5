"""Ops that make a tensor from constants, or from another tensor's shape."""

from __future__ import annotations

from blockframe.atoms.facts import Source
from blockframe.graph.graph import Node


def _filled(node: Node) -> float | None:
    value = node.args[1] if len(node.args) > 1 else node.kwargs.get("fill_value")
    return float(value) if isinstance(value, (int, float)) else None


def _new_filled(node: Node) -> float | None:
    value = node.args[2] if len(node.args) > 2 else node.kwargs.get("fill_value")
    return float(value) if isinstance(value, (int, float)) else None


SOURCES = (
    Source(
        (
            "aten::arange", "aten::arange.start", "aten::arange.start_step", "aten::eye",
            "aten::eye.m", "aten::linspace", "aten::scalar_tensor", "aten::tril_indices",
            "aten::triu_indices", "aten::sym_size.int", "aten::sym_numel", "aten::sym_stride.int",
        )
    ),
    Source(("aten::zeros", "aten::zeros_like", "aten::new_zeros"), value=lambda node: 0.0),
    Source(("aten::ones", "aten::ones_like", "aten::new_ones"), value=lambda node: 1.0),
    Source(("aten::full", "aten::full_like"), value=_filled),
    Source("aten::new_full", value=_new_filled),
    # What these hold is whatever lies in memory; a later write replaces it. Where none does,
    # the replay differs from the model and says so.
    Source(
        (
            "aten::empty.memory_format", "aten::empty_like", "aten::new_empty",
            "aten::empty_strided", "aten::empty_permuted",
        )
    ),
)  # fmt: skip
