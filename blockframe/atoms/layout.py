"""Ops that move, repeat, drop, pad or cast entries."""

from __future__ import annotations

import math

from blockframe.atoms.facts import Layout, Shape, argument
from blockframe.graph.graph import Node


def _padding(node: Node) -> float | None:
    mode = argument(node, 2, "mode", "constant")
    value = argument(node, 3, "value")
    if mode != "constant":
        return None
    return 0.0 if value is None else float(value)


def _constant_padding(node: Node) -> float:
    return float(argument(node, 2, "value", 0.0))


def _scattered(node: Node) -> float:
    return float(argument(node, 3, "value"))


def accumulates(node: Node) -> bool:
    """Whether a write adds to what is there (``index_put`` with ``accumulate``)."""
    return bool(node.kwargs.get("accumulate")) or ("index_put" in node.op and True in node.args[3:])


def _once(node: Node, shape: Shape) -> int:
    return 1


def _evenly(node: Node, shape: Shape) -> int:
    """Every entry as often as any other."""
    return -(-math.prod(node.shape or ()) // max(1, math.prod(shape)))


def _per_position(node: Node, shape: Shape) -> int:
    """A row of a table once for each position that asks for it."""
    return -(-math.prod(node.shape or ()) // max(1, math.prod(shape[1:])))


LAYOUTS = (
    Layout(
        (
            "aten::_reshape_alias", "aten::_unsafe_view", "aten::adjoint",
            "aten::atleast_1d", "aten::atleast_2d", "aten::cat", "aten::chunk",
            "aten::column_stack", "aten::concat", "aten::concatenate",
            "aten::diagonal", "aten::diagonal_copy", "aten::flatten.using_ints", "aten::flip",
            "aten::fliplr", "aten::flipud", "aten::hsplit.int", "aten::hstack",
            "aten::mH", "aten::movedim.int",
            "aten::movedim.intlist", "aten::mT", "aten::narrow", "aten::numpy_T",
            "aten::permute", "aten::permute_copy", "aten::pixel_shuffle",
            "aten::pixel_unshuffle", "aten::ravel", "aten::reshape", "aten::reshape_as",
            "aten::resolve_conj", "aten::resolve_neg", "aten::roll", "aten::rot90",
            "aten::select.int", "aten::select_copy.int", "aten::slice.Tensor",
            "aten::slice_copy.Tensor", "aten::split.sizes", "aten::split.Tensor",
            "aten::split_copy.Tensor", "aten::split_with_sizes", "aten::split_with_sizes_copy",
            "aten::squeeze", "aten::squeeze.dim", "aten::squeeze.dims", "aten::squeeze_copy",
            "aten::stack", "aten::swapaxes", "aten::swapdims", "aten::t", "aten::t_copy",
            "aten::tensor_split.sections", "aten::transpose.int", "aten::transpose_copy.int",
            "aten::unbind.int", "aten::unflatten.int", "aten::unsqueeze", "aten::unsqueeze_copy",
            "aten::view", "aten::view_as", "aten::view_copy", "aten::vstack",
            # between real and complex: pairs of reals either way
            "aten::view_as_complex", "aten::view_as_real", "aten::real", "aten::imag",
            "aten::complex",
        ),
        copies=_once,
    ),
    Layout(
        (
            "aten::broadcast_tensors", "aten::broadcast_to", "aten::expand", "aten::expand_as",
            "aten::expand_copy", "aten::repeat", "aten::repeat_interleave.self_int",
            "aten::tile",
        ),
        copies=_evenly,
    ),
    Layout(
        (
            "aten::reflection_pad1d", "aten::reflection_pad2d", "aten::replication_pad1d",
            "aten::replication_pad2d", "aten::unfold",
        )
    ),
    # Casts and copies: the identity between floating types; a cast to integers of a value that
    # varies is caught by its dtype (domains/analyticity).
    Layout(
        (
            "aten::to.dtype", "aten::to.dtype_layout", "aten::to.device", "aten::to.other",
            "aten::_to_copy", "aten::type_as", "aten::alias", "aten::clone", "aten::contiguous",
            "aten::lift_fresh", "aten::lift_fresh_copy",
        ),
        copies=_once,
        cast=True,
        source="theory section 1: casts between floating types are the identity",
    ),
    Layout(
        ("aten::tril", "aten::triu", "aten::diag_embed", "aten::diag"),
        fill=lambda node: 0.0,
        copies=_once,
    ),
    Layout("aten::im2col", fill=lambda node: 0.0),
    Layout("aten::pad", fill=_padding),
    Layout("aten::constant_pad_nd", fill=_constant_padding, copies=_once),
    # value, then indices that must not depend on parameters
    Layout("aten::embedding", index=(1,), copies=_per_position),
    Layout("aten::index.Tensor", index=(1,)),
    Layout("aten::_unsafe_index.Tensor", index=(1,)),
    Layout(("aten::index_select", "aten::gather"), index=(2,)),
    Layout("aten::take_along_dim", index=(1,)),
    Layout(("aten::index_put", "aten::_unsafe_index_put"), index=(1,), writes=True),
    Layout(("aten::scatter.src", "aten::index_copy"), index=(2,), writes=True),
    Layout(("aten::scatter.value", "aten::index_fill.int_Scalar"), index=(2,), fill=_scattered),
    Layout(("aten::slice_scatter", "aten::select_scatter", "aten::diagonal_scatter")),
    Layout("aten::copy", copies=_evenly),
)  # fmt: skip
"""``index_put`` with ``accumulate`` adds: linear all the same; its range is then not bounded
(domains/range)."""
