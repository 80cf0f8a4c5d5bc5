"""Every op does what its kind says, and no more than the constants of its record.

Operator norms of linear maps are computed, not sampled; bilinear and nonlinear ones are searched
for by optimisation. The same checks find records that are deliberately wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from attrs import evolve, frozen
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.utils._pytree import tree_flatten, tree_unflatten

from blockframe.atoms.catalogue import CORE, Catalogue
from blockframe.atoms.facts import (
    Atom,
    Bilinear,
    Detached,
    Discrete,
    Layout,
    Linear,
    Pairs,
    Pointwise,
    Random,
    Rowwise,
    Selection,
    Source,
)
from blockframe.atoms.interval import Interval
from blockframe.graph.graph import Node, NodeKind, Ref
from blockframe.graph.synthetic import SYNTHETIC
from blockframe.testing.sampling import climb

# the first forward-mode derivative of a process warns about something inside of torch
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
CATALOGUE = Catalogue.of()
EXACT = 1 + 1e-9


def target(op: str) -> Any:
    if op in SYNTHETIC:
        return SYNTHETIC[op]
    name, _, overload = op.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, name), overload or "default")


def x(*shape: int) -> Tensor:
    """An operand: what the op is a function of."""
    g = torch.Generator().manual_seed(math.prod(shape) + len(shape))
    return torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_()


def number(*entries: float) -> Tensor:
    """A constant."""
    return torch.tensor(entries, dtype=torch.float64)


@frozen(eq=False)
class Call:
    """An op applied to tensors (those that require a gradient) and other arguments."""

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def operands(self) -> list[Tensor]:
        leaves = tree_flatten((self.args, self.kwargs))[0]
        found = [a for a in leaves if isinstance(a, Tensor) and a.requires_grad]
        return list({id(a): a for a in found}.values())

    def __call__(self, *values: Tensor) -> Tensor:
        """The (first) value, with ``values`` in the place of the operands."""
        place = {id(old): new for old, new in zip(self.operands, values, strict=True)}
        leaves, spec = tree_flatten((self.args, self.kwargs))
        args, kwargs = tree_unflatten([place.get(id(a), a) for a in leaves], spec)
        value = target(self.op)(*args, **kwargs)
        return value[0] if isinstance(value, (tuple, list)) else value

    @property
    def value(self) -> Tensor:
        return self(*self.operands)

    @property
    def node(self) -> Node:
        place = {id(a): Ref(k) for k, a in enumerate(self.operands)}
        leaves, spec = tree_flatten((self.args, self.kwargs))
        args, kwargs = tree_unflatten([place.get(id(a), a) for a in leaves], spec)
        value, index = self.value, len(place)
        return Node(
            index,
            NodeKind.CALL,
            "n",
            target(self.op),
            args,
            kwargs,
            tuple(value.shape),
            value.dtype,
        )

    @property
    def record(self) -> Atom:
        atom = CATALOGUE.lookup(self.node)
        assert atom is not None
        return atom


def call(op: str, *args: Any, **kwargs: Any) -> Call:
    return Call(op if "::" in op else f"aten::{op}", args, kwargs)


A, B = x(3, 4), x(2, 3, 4)

LINEAR = [
    call("add.Tensor", A, x(4)),
    call("add.Tensor", x(3, 1), A, alpha=-2.5),
    call("add.Tensor", A, 1.5),
    call("add.Scalar", A, 2.0, 3.0),
    call("sub.Tensor", B, x(1, 4), alpha=0.5),
    call("sub.Scalar", A, 2.0),
    call("rsub.Scalar", A, 2.0, 3.0),
    call("rsub.Tensor", x(4), A),
    call("neg", A),
    call("positive", A),
    call("sum", A),
    call("sum.dim_IntList", B, [0, -1], True),
    call("cumsum", B, 1),
    call("mean", A),
    call("mean.dim", B, [1]),
    call("avg_pool1d", x(2, 3, 7), [3], [1], [1]),
    call("avg_pool1d", x(2, 3, 8), [2], [2]),
    call("avg_pool2d", x(1, 2, 5, 5), [3, 2], [2, 1]),
    call("avg_pool3d", x(1, 1, 4, 4, 4), [2, 2, 2], [1, 1, 1]),
    call("adaptive_avg_pool1d", x(2, 6), [3]),
    call("adaptive_avg_pool2d", x(1, 4, 6), [2, 3]),
    call("_adaptive_avg_pool2d", x(1, 2, 4, 6), [2, 2]),
    call("adaptive_avg_pool3d", x(1, 4, 4, 2), [2, 2, 1]),
    call("diff", x(3, 5)),
    call("diff", x(5, 3), 1, 0),
    call(
        "blockframe::rotary", x(2, 4), number(0.6, 0.1), number(0.8, -0.9), "halves", 1.0,
    ),
    call(
        "blockframe::rotary", x(2, 4), number(0.6, 0.6, 3.0, 3.0), number(0.8, 0.8, 4.0, 4.0),
        "neighbours", 5.0,
    ),
]  # fmt: skip

BILINEAR = [
    call("mul.Tensor", B, x(3, 1)),
    call("mul.Tensor", A, -2.5),
    call("mul.Scalar", A, 3.0),
    call("multiply.Tensor", x(2, 1, 4), x(3, 4)),
    call("div.Tensor", B, x(4)),
    call("div.Tensor", A, 0.25),
    call("div.Scalar", A, -2.0),
    call("true_divide.Tensor", x(4), A),
    call("divide.Tensor", A, x(3, 1)),
    call("matmul", x(2, 3, 4), x(4, 5)),
    call("matmul", x(3, 4), x(2, 4, 2)),
    call("matmul", x(2, 3, 4), x(4)),
    call("matmul", x(3), x(2, 3, 4)),
    call("matmul", x(2, 1, 3, 4), x(3, 4, 2)),
    call("mm", A, x(4, 2)),
    call("bmm", B, x(2, 4, 3)),
    call("mv", A, x(4)),
    call("dot", x(5), x(5).neg().detach().requires_grad_()),
    call("vdot", x(5), x(5).neg().detach().requires_grad_()),
    call("inner", A, x(2, 4)),
    call("outer", x(3), x(4)),
    call("linear", B, x(5, 4), x(5)),
    call("linear", x(4), x(2, 4)),
    call("addmm", x(2), A, x(4, 2), beta=0.5, alpha=-2.0),
    call("addmm", x(3, 2), A, x(4, 2), alpha=0.5),
    call("baddbmm", x(2, 3, 3), B, x(2, 4, 3)),
    call("addmv", x(3), A, x(4)),
    call("addr", x(3, 4), x(3), x(4)),
    call("einsum", "bij,bjk->bik", [B, x(2, 4, 3)]),
    call("einsum", "bi,bj->ij", [A, x(3, 2)]),
    call("conv1d", x(2, 4, 6), x(4, 2, 3), x(4), [1], [1], [1], 2),
    call("conv2d", x(1, 2, 4, 4), x(3, 2, 2, 3)),
    call("conv3d", x(1, 1, 3, 3, 3), x(2, 1, 2, 2, 2)),
    call("conv1d.padding", x(2, 4, 6), x(4, 2, 3), x(4), [1], "same", [1], 2),
    call("conv2d.padding", x(1, 2, 4, 4), x(3, 2, 2, 3)),
    call("conv3d.padding", x(1, 1, 3, 3, 3), x(2, 1, 2, 2, 2), None, [1, 1, 1], "same"),
]

ROWWISE = [
    call("softmax.int", A, -1),
    call("softmax.int", B, 1),
    call("_softmax", A, 0, False),
    call("_safe_softmax", A, -1),
    call("log_softmax.int", A, -1),
    call("log_softmax.int", x(2, 2, 2), 1),
    call("_log_softmax", A, 1, False),
    call("logsumexp", B, [1, 2]),
    call("logsumexp", A, [-1], True),
    call("layer_norm", A, [4], None, None, 1e-5),
    call("layer_norm", B, [3, 4], None, None, 0.1),
    call("rms_norm", A, [4], None, 1e-3),
    call("rms_norm", x(2, 2), [2]),
    call("group_norm", x(2, 4, 3), 2, None, None, 0.01),
    call("group_norm", x(2, 4), 2, None, None, 1e-3),
    call("blockframe::normalize", B, [1], 1.0 / 3.0, 1e-3),
    call("blockframe::normalize", B, [0, -1], 2.0, 0.1),
]

LAYOUT = [
    *(
        call(op, B)
        for op in (
            "adjoint", "atleast_1d", "atleast_2d", "flatten.using_ints", "diagonal",
            "diagonal_copy", "fliplr", "flipud", "mH", "mT", "numpy_T", "ravel", "resolve_conj",
            "resolve_neg", "squeeze", "squeeze_copy", "unbind.int", "real", "rot90", "alias",
            "clone", "contiguous", "lift_fresh", "lift_fresh_copy", "_to_copy", "tril", "triu",
            "diag_embed",
        )
    ),
    call("_reshape_alias", A, [4, 3], [3, 1]),
    *(call(op, A, [2, 6]) for op in ("_unsafe_view", "view", "view_copy", "reshape")),
    *(call(op, A, x(2, 6)) for op in ("reshape_as", "view_as")),
    *(call(op, [A, x(2, 4)]) for op in ("cat", "concat", "concatenate", "vstack")),
    *(call(op, [A, x(3, 2)]) for op in ("hstack", "column_stack")),
    call("stack", [A, x(3, 4).neg().detach().requires_grad_()], 1),
    call("chunk", A, 2, 1),
    call("flip", B, [0, 2]),
    call("hsplit.int", A, 2),
    call("movedim.int", B, 0, 2),
    call("movedim.intlist", B, [0, 1], [2, 0]),
    call("narrow", A, 1, 1, 2),
    call("permute", B, [2, 0, 1]),
    call("permute_copy", B, [2, 0, 1]),
    call("pixel_shuffle", x(1, 4, 2, 2), 2),
    call("pixel_unshuffle", x(1, 1, 4, 2), 2),
    call("roll", A, [1], [0]),
    *(call(op, B, 1, 2) for op in ("select.int", "select_copy.int")),
    *(call(op, A, 1, 1, 3) for op in ("slice.Tensor", "slice_copy.Tensor")),
    *(
        call(op, A, [1, 3], 1)
        for op in ("split.sizes", "split_with_sizes", "split_with_sizes_copy")
    ),
    *(call(op, A, 2) for op in ("split.Tensor", "split_copy.Tensor", "tensor_split.sections")),
    call("squeeze.dim", x(2, 1, 3), 1),
    call("squeeze.dims", x(1, 2, 1), [0, 2]),
    *(
        call(op, B, 0, 2)
        for op in ("swapaxes", "swapdims", "transpose.int", "transpose_copy.int")
    ),
    *(call(op, A) for op in ("t", "t_copy")),
    call("unflatten.int", A, 1, [2, 2]),
    *(call(op, A, 1) for op in ("unsqueeze", "unsqueeze_copy")),
    *(call(op, x(3, 1), [2, 3, 4]) for op in ("broadcast_to", "expand", "expand_copy")),
    call("expand_as", x(1, 4), A),
    call("broadcast_tensors", [x(3, 1), x(1, 4)]),
    call("repeat", A, [2, 1, 3]),
    call("repeat_interleave.self_int", A, 3, 1),
    call("tile", A, [2, 2]),
    call("reflection_pad1d", A, [2, 1]),
    call("reflection_pad2d", x(1, 3, 3), [1, 1, 2, 0]),
    call("replication_pad1d", A, [2, 1]),
    call("replication_pad2d", x(1, 3, 3), [1, 1, 2, 0]),
    call("unfold", A, 1, 3, 1),
    call("to.dtype", A, torch.float64),
    call("to.dtype_layout", A, dtype=torch.float64),
    call("to.device", A, torch.device("cpu"), torch.float64),
    call("to.other", A, x(1)),
    call("type_as", A, x(1)),
    call("diag", x(3)),
    call("im2col", x(1, 1, 3, 3), [2, 2], [1, 1], [1, 1], [1, 1]),
    call("pad", A, [1, 2], "constant", 0.7),
    call("pad", A, [1, 2], "reflect"),
    call("constant_pad_nd", A, [1, 0, 0, 2], -3.0),
    call("embedding", x(5, 3), torch.tensor([[0, 4, 4], [1, 4, 0]])),
    *(
        call(op, A, [None, torch.tensor([0, 0, 3])])
        for op in ("index.Tensor", "_unsafe_index.Tensor")
    ),
    call("index_select", A, 1, torch.tensor([0, 0, 3])),
    call("gather", A, 0, torch.tensor([[0, 0, 2, 1]])),
    call("take_along_dim", A, torch.tensor([[1], [0], [3]]), 1),
    *(
        call(op, A, [torch.tensor([0, 2])], x(2, 4)) for op in ("index_put", "_unsafe_index_put")
    ),
    call("scatter.src", A, 1, torch.tensor([[0], [3], [1]]), x(3, 1)),
    call("scatter.value", A, 1, torch.tensor([[0], [3], [1]]), 0.3),
    call("index_copy", A, 0, torch.tensor([2]), x(1, 4)),
    call("index_fill.int_Scalar", A, 0, torch.tensor([2]), 0.3),
    call("slice_scatter", A, x(3, 2), 1, 0, 2),
    call("select_scatter", A, x(3), 1, 2),
    call("diagonal_scatter", A, x(3)),
]  # fmt: skip

UNTESTED = {
    "view_as_complex", "view_as_real", "imag", "complex",  # two numbers for one
    "copy",  # has no derivative outside of a graph
}  # fmt: skip

OTHERS = [
    *(call(op, A) for op in ("zeros_like", "ones_like")),
    *(call(op, A, [2, 2]) for op in ("new_zeros", "new_ones")),
    call("full_like", A, 3.0),
    call("new_full", A, [2], 3.0),
    *(call(op, A) for op in ("floor", "ceil", "round", "trunc", "sign", "isnan")),
    *(call(op, A) for op in ("argmax", "argsort")),
    *(call(op, A, 0.1) for op in ("lt.Scalar", "ge.Scalar", "eq.Scalar", "floor_divide.Scalar")),
    call("heaviside", A, number(0.5)),
    call("detach", A),
    call("bernoulli.p", A, 0.5),
    *(call(op, A) for op in ("rand_like", "randn_like", "exponential")),
    call("dropout", A, 0.5, True),
]  # fmt: skip


# --- what a call says against a record -----------------------------------------------------------


def flaws(c: Call, atom: Atom) -> list[str]:
    """Where the op is not what ``atom`` says, in words; a selection has tests of its own."""
    if not isinstance(atom, Random) and not torch.equal(c.value, c.value):
        return ["draws"]
    match atom:
        case Layout():
            return list(_layout(c, atom))
        case Linear():
            return list(_linear(c, atom))
        case Bilinear():
            return list(_bilinear(c, atom))
        case Rowwise():
            return list(_rowwise(c, atom))
        case Pointwise():
            return list(_pointwise(c))
        case Source() | Discrete():
            moved = c(*(a.detach() + 1e-9 for a in c.operands))
            return [] if torch.equal(moved, c.value) else ["depends smoothly on its operand"]
        case Detached():
            same = torch.equal(c.value, c.operands[0]) and not c.value.requires_grad
            return [] if same else ["not its operand without the gradient"]
        case Random():
            return [] if not torch.equal(c.value, c.value) else ["draws nothing"]
    assert isinstance(atom, Selection)
    return []


def matrices(c: Call, at: list[Tensor]) -> list[Tensor]:
    """Of every operand, the Jacobian as a matrix (entries of the value, of the operand)."""
    if not c(*at).is_floating_point():
        return [torch.full((c.value.numel(), a.numel()), math.nan, dtype=a.dtype) for a in at]
    parts = jacobian(c, tuple(at))
    parts = parts if isinstance(parts, tuple) else (parts,)
    return [p.reshape(c.value.numel(), a.numel()) for p, a in zip(parts, at, strict=True)]


def _affine(c: Call) -> tuple[list[Tensor], Tensor] | None:
    """The matrices and the constant, if the value is affine in all operands jointly."""
    at = [a.detach() for a in c.operands]
    maps, offset = matrices(c, [torch.zeros_like(a) for a in at]), c.value.detach().flatten()
    for scale in (1.0, -3.0):
        point = [scale * a for a in at]
        moved = sum(m @ a.flatten() for m, a in zip(maps, point, strict=True))
        rest = c(*point).detach().flatten() - moved
        if scale == 1.0:
            offset = rest
        elif not torch.allclose(rest.to(offset), offset, atol=1e-12):
            return None
        if any(not torch.equal(m, n) for m, n in zip(maps, matrices(c, point), strict=True)):
            return None
    return maps, offset


def _linear(c: Call, atom: Linear) -> Iterator[str]:
    found = _affine(c)
    if found is None:
        yield "not linear"
        return
    for m, a in zip(found[0], c.operands, strict=True):
        norm, size = atom.norm(c.node, tuple(a.shape)), float(torch.linalg.matrix_norm(m, 2))
        if norm is not None and size > norm * EXACT:
            yield f"norm {size} above {norm}"
        if atom.adds and bool((m.count_nonzero(1) != 1).any()):
            yield "no sum, entry by entry"


def _layout(c: Call, atom: Layout) -> Iterator[str]:
    found = _affine(c)
    if found is None:
        yield "moves entries that it computes"
        return
    maps, offset = found
    filled = torch.ones(c.value.numel(), dtype=torch.bool)
    for m, a in zip(maps, c.operands, strict=True):
        if bool((m != m.bool()).any()):
            yield "an entry is no entry of an operand"
        filled &= m.sum(1) == 0
        copies = None if atom.copies is None else atom.copies(c.node, tuple(a.shape))
        if copies is not None and float(m.sum(0).max()) > copies:
            yield f"{int(m.sum(0).max())} copies, not {copies}"
    if bool((sum(m.sum(1) for m in maps) > 1).any()):
        yield "adds entries"
    if atom.cast and not torch.equal(maps[0], torch.eye(len(maps[0]), dtype=maps[0].dtype)):
        yield "entries do not stay in their places"
    if bool(offset[~filled].abs().gt(1e-12).any()):
        yield "entries are moved and shifted"
    fill = atom.fill(c.node)
    if bool((offset[filled] != (fill or 0.0)).any()):
        yield f"filled by another number than {fill}"


def _bilinear(c: Call, atom: Bilinear) -> Iterator[str]:
    node, operands = c.node, [a.detach() for a in c.operands]
    where = node.args[1] if node.short == "einsum" else node.args
    positions = (0, 1) if node.short == "einsum" else atom.factors
    factors = [where[p] for p in positions]
    u, v = (operands[f.index] if isinstance(f, Ref) else float(f) for f in factors)
    rest = [a for k, a in enumerate(operands) if Ref(k) not in factors]

    def product(u: Any, v: Any) -> Tensor:
        """The op without what it adds, and with 1/v where it divides by v."""
        given = {f: t for f, t in zip(factors, (u, v), strict=True) if isinstance(f, Ref)}
        if atom.divides is not None and isinstance(factors[1], Ref):
            given[factors[1]] = 1.0 / v
        values = [given.get(Ref(k), 0.0 * a) for k, a in enumerate(operands)]
        return c(*values)

    pairs = [(u, v, product)]
    if isinstance(v, Tensor):
        pairs.append((v, u, lambda b, a: product(a, b)))
    value = product(u, v)
    for a, b, times in pairs:
        if not torch.allclose(times(-3.0 * a, b), -3.0 * value) or not torch.allclose(
            times(a + a.sin(), b), value + times(a.sin(), b)
        ):
            yield "not linear in one of its factors"
            return
    if rest and not torch.allclose(c.value, value + _rest(c, factors), atol=1e-12):
        yield "what is added is multiplied"
    shapes = [tuple(f.shape) if isinstance(f, Tensor) else () for f in (u, v)]
    norm = atom.norm(node, *shapes)
    if norm is None:
        return
    if not isinstance(v, Tensor):
        inverse = atom.divides is not None
        size = _steepest(lambda a: product(a, v), u)[0]
        if size > norm * abs(1.0 / v if inverse else v) * EXACT:
            yield f"norm {size} above {norm}"
        return
    for start in range(3):
        size = _norm_of(product, u, v, start)
        if size > norm * EXACT:
            yield f"norm {size} above {norm}"
    for a, b, times in pairs:
        yield from _paired(node, atom.pairs, norm, a, b, times)


def _rest(c: Call, factors: list[Any]) -> Tensor:
    operands = [a.detach() for a in c.operands]
    return c(*(0.0 * a if Ref(k) in factors else a for k, a in enumerate(operands))) * (
        1.0 if torch.isfinite(c.value).all() else math.nan
    )


def _steepest(f: Callable[[Tensor], Tensor], a: Tensor) -> tuple[float, Tensor]:
    """Norm of a linear map of ``a`` and the unit vector that attains it."""
    m = jacobian(f, a).reshape(-1, a.numel())
    _, sizes, rows = torch.linalg.svd(m, full_matrices=False)
    return float(sizes[0]), rows[0].reshape(a.shape)


def _norm_of(product: Callable[[Tensor, Tensor], Tensor], u: Tensor, v: Tensor, seed: int) -> float:
    """The largest |uv| for unit u and v: each in turn is the best one for the other."""
    g = torch.Generator().manual_seed(seed)
    b = torch.randn(v.shape, generator=g, dtype=v.dtype)
    b, size = b / b.norm(), 0.0
    for _ in range(12):
        _, a = _steepest(lambda t, b=b: product(t, b), u)
        size, b = _steepest(lambda t, a=a: product(a, t), v)
    return size


def _paired(
    node: Node, pairs: Pairs, norm: float, a: Tensor, b: Tensor, times: Callable[..., Tensor]
) -> Iterator[str]:
    """|ab| against the better bounds of |b| -> |ab| for the ``a`` that they favour most."""
    shape = tuple(node.shape or ())
    if pairs is Pairs.ENTRIES:
        a = torch.ones_like(a)
        copies, size = math.prod(shape) / b.numel(), 1.0
    elif pairs is Pairs.MATRICES:
        if a.dim() < 2:
            return
        a = torch.eye(*a.shape[-2:], dtype=a.dtype).expand(a.shape)
        stack = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        copies, size = math.prod(stack) / math.prod(b.shape[:-2]), 1.0
    else:
        return
    found, _ = _steepest(lambda t: times(a, t), b)
    if found > norm * size * math.sqrt(copies) * EXACT:
        yield f"{pairs.name}: {found} above {norm * math.sqrt(copies)}"


class _Rows:
    """A function of one operand, as `climb` searches it: on a sphere."""

    def __init__(self, c: Call) -> None:
        (a,) = c.operands
        self.call, self.shape = c, a.shape

    def __call__(self, flat: Tensor) -> Tensor:
        return self.call(flat.reshape(self.shape)).flatten()

    def norms(self, flat: Tensor) -> tuple[float, float]:
        return float(flat.norm()), 0.0

    def onto(self, flat: Tensor, s: float, r: float) -> Tensor:
        return flat * (s / float(flat.norm()))


def _rowwise(c: Call, atom: Rowwise) -> Iterator[str]:
    f, shape = _Rows(c), tuple(c.operands[0].shape)
    dims = atom.dim(c.node)
    if dims is not None and not _only_rows(c, dims):
        yield f"rows are not along {dims}"
    growth = atom.growth(c.node, shape)
    slope, curvature = atom.lipschitz(c.node, shape), atom.curvature(c.node, shape)
    assert growth is not None
    assert slope is not None
    assert curvature is not None
    g = torch.Generator().manual_seed(1)
    normal = torch.randn(f.shape, generator=g, dtype=torch.float64).flatten()
    for size in (1e-3, 0.03, 0.5, 3.0, 50.0):
        for start in (normal, torch.ones_like(normal) + 0.1 * normal):
            point = f.onto(start, size, 0.0)
            bounds = (growth[0] + growth[1] * size, slope, curvature)
            for order, (what, bound) in enumerate(zip(WHAT, bounds, strict=True)):
                found = climb(f, point, order, turns=4, steps=5).size
                if not found <= bound * EXACT + 1e-12:
                    yield f"{what} {found} above {bound}"


WHAT = ("value", "slope", "curvature")


def _only_rows(c: Call, dims: tuple[int, ...]) -> bool:
    """An entry of the operand moves only what lies at the same place of all other dimensions."""
    (a,) = c.operands
    value = c.value
    along = {d % a.dim() for d in dims}
    kept = value.dim() == a.dim()
    for place in torch.cartesian_prod(*(torch.arange(n) for n in a.shape)).reshape(-1, a.dim()):
        moved = a.detach().clone()
        moved[tuple(place)] += 1.0
        changed = (c(moved) - value).abs() > 1e-9
        others = [int(p) for d, p in enumerate(place) if d not in along]
        axes = [d for d in range(a.dim()) if d not in along] if kept else range(value.dim())
        for index in changed.nonzero():
            if [int(index[d]) for d in axes] != others:
                return False
    return True


def _pointwise(c: Call) -> Iterator[str]:
    """Entry by entry one function: permuted entries give the permuted value."""
    a, value = c.operands[0].detach(), c.value
    if value.shape != a.shape or not value.is_floating_point():
        yield "not a number for every number"
        return
    turned = torch.randperm(a.numel(), generator=torch.Generator().manual_seed(0))
    again = c(a.flatten()[turned].reshape(a.shape), *c.operands[1:])
    if not torch.allclose(again.flatten(), value.flatten()[turned]):
        yield "entries do not share one function"
    first = c(a.flatten()[:1].reshape([1] * a.dim()), *c.operands[1:])
    if not torch.allclose(first.flatten()[0], value.flatten()[0]):
        yield "an entry depends on other entries"


# --- the catalogue -------------------------------------------------------------------------------

CALLS = [*LINEAR, *BILINEAR, *ROWWISE, *LAYOUT, *OTHERS]


@pytest.mark.parametrize("c", CALLS, ids=lambda c: c.op)
def test_an_op_is_what_its_record_says(c: Call) -> None:
    assert flaws(c, c.record) == []


def test_every_record_with_constants_is_tested() -> None:
    stated = {
        op.removeprefix("aten::")
        for atom in CORE
        for op in atom.ops
        if isinstance(atom, Layout)
        or (isinstance(atom, (Linear, Bilinear)) and atom.norm is not type(atom)(op).norm)
        or (isinstance(atom, Rowwise) and atom.growth is not Rowwise(op).growth)
    }
    assert stated - {c.op.removeprefix("aten::") for c in CALLS} == UNTESTED


# --- constants of functions of one number, by optimisation ---------------------------------------


def extremes(op: str, rest: tuple[Any, ...], inside: Interval) -> tuple[Tensor, ...]:
    """x, |f|, |f'|, |f''| at many points, and at local maxima of the last three near the best."""

    def jet(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = t.clone().requires_grad_()
        y = target(op)(t, *rest)
        y = y[0] if isinstance(y, tuple) else y
        (d1,) = torch.autograd.grad(y.sum(), t, create_graph=True)
        (d2,) = torch.autograd.grad(d1.sum(), t) if d1.requires_grad else (torch.zeros_like(t),)
        return y.detach().abs(), d1.detach().abs(), d2.abs()

    lo, hi = max(inside.lo, -1e2), min(inside.hi, 1e2)
    far = torch.logspace(-3, 1.9, 100, dtype=torch.float64)
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64) + 1e-3 * math.pi  # not at 0 itself
    points = torch.cat([grid, far, -far, lo + far])
    points = points[(points > lo) & (points < hi)].sort().values
    found = [points]
    for order in range(3):
        sizes = jet(points)[order]
        for k in sizes.argsort(descending=True)[:3].tolist():
            ends = float(points[max(0, k - 1)]), float(points[min(len(points) - 1, k + 1)])
            best = minimize_scalar(
                lambda t, order=order: -float(jet(torch.tensor([t], dtype=torch.float64))[order]),
                bounds=ends, method="bounded", options={"xatol": 1e-12},
            )  # fmt: skip
            if abs(best.x) > 1e-3:  # derivatives of sinc lose all digits at 0
                found.append(torch.tensor([best.x], dtype=torch.float64))
    every = torch.cat(found)
    return every, *jet(every)


def exceeded(op: str, atom: Pointwise, rest: tuple[Any, ...] = ()) -> list[str]:
    found = []
    for part in atom.analytic_on:
        t, value, slope, curvature = extremes(op, rest, part)
        if atom.growth is not None:
            bound = (atom.growth[0] + atom.growth[1] * t.abs()) * EXACT
            if not bool((value <= bound).all()):
                found.append("value")
        for what, sizes, most in (
            ("slope", slope, atom.lipschitz), ("curvature", curvature, atom.curvature),
        ):  # fmt: skip
            if most is not None and not float(sizes.max()) <= most * EXACT:
                found.append(f"{what} {float(sizes.max())} above {most}")
    return found


BOUNDED = [
    (op, atom)
    for atom in CORE
    if isinstance(atom, Pointwise) and not atom.kinks and not atom.at and atom.growth
    for op in atom.ops
]


@pytest.mark.parametrize(("op", "atom"), BOUNDED, ids=[op for op, _ in BOUNDED])
def test_no_optimum_exceeds_the_constants(op: str, atom: Pointwise) -> None:
    assert exceeded(op, atom) == []


@pytest.mark.parametrize("op", ["aten::gelu", "aten::silu", "aten::mish", "aten::tanh"])
def test_the_constants_are_tight(op: str) -> None:
    """A record that is 1 % smaller is caught, each constant for itself."""
    atom = CATALOGUE.records[op]
    assert isinstance(atom, Pointwise)
    assert atom.growth is not None
    c0, c1 = atom.growth
    smaller = {
        "value": evolve(atom, growth=(c0 * 0.99, c1 * 0.99)),
        "slope": evolve(atom, lipschitz=atom.lipschitz * 0.99),
        "curvature": evolve(atom, curvature=atom.curvature * 0.99),
    }
    for what, wrong in smaller.items():
        assert [f.partition(" ")[0] for f in exceeded(op, wrong)] == [what]


# --- wrong records -------------------------------------------------------------------------------


def shrunk(c: Call) -> Iterator[tuple[str, Atom]]:
    """The record with one constant a little below what the op attains."""
    atom = c.record
    match atom:
        case Linear() | Bilinear():
            yield "norm", evolve(atom, norm=lambda *a: 0.99 * atom.norm(*a))
        case Layout() if atom.copies is not None:
            yield "copies", evolve(atom, copies=lambda *a: atom.copies(*a) - 1)
        case Rowwise():
            yield "value", evolve(atom, growth=lambda *a: tuple(0.5 * g for g in atom.growth(*a)))
            yield "slope", evolve(atom, lipschitz=lambda *a: 0.5 * atom.lipschitz(*a))
            yield "curvature", evolve(atom, curvature=lambda *a: 0.1 * atom.curvature(*a))


@pytest.mark.parametrize(
    "c",
    [
        call("add.Tensor", A, x(4)),
        call("sum.dim_IntList", B, [0]),
        call("mean.dim", B, [1]),
        call("neg", A),
        call("mul.Tensor", A, x(3, 4).neg().detach().requires_grad_()),
        call("matmul", B, x(4, 5)),
        call("linear", B, x(5, 4), x(5)),
        call("bmm", B, x(2, 4, 3)),
        call("div.Tensor", A, 0.25),
        call("expand", x(3, 1), [2, 3, 4]),
        call("view", A, [2, 6]),
        call("softmax.int", x(1, 4), -1),
        call("layer_norm", x(1, 4), [4], None, None, 1e-3),
        call("rms_norm", x(1, 4), [4], None, 1e-3),
        call("logsumexp", x(1, 4), [-1]),
    ],
    ids=lambda c: c.op,
)
def test_a_constant_that_is_too_small_is_caught(c: Call) -> None:
    for what, wrong in shrunk(c):
        assert any(what in flaw for flaw in flaws(c, wrong)), what


def test_wrong_facts_are_caught() -> None:
    def found(c: Call, **changes: Any) -> str:
        return " ".join(flaws(c, evolve(c.record, **changes)))

    softmax = call("softmax.int", A, -1)
    assert "not along" in found(softmax, dim=lambda node: (0,))
    assert "MATRICES" in found(call("mul.Tensor", A, x(1, 1)), pairs=Pairs.MATRICES)
    assert "ENTRIES" in found(call("mm", A, x(4, 2)), pairs=Pairs.ENTRIES)
    assert "places" in found(call("flip", B, [0]), cast=True)
    assert "entry by entry" in found(call("cumsum", B, 1), adds=True)
    assert "another number" in found(
        call("constant_pad_nd", A, [1, 0], -3.0), fill=lambda node: 3.0
    )


WRONG_KINDS = [
    (call("relu", A), Linear("aten::relu"), "not linear"),
    (call("exp", A), Linear("aten::exp"), "not linear"),
    (call("mul.Tensor", A, x(4)), Linear("aten::mul.Tensor"), "not linear"),
    (call("sort", A), Layout("aten::sort"), "computes"),
    (call("exp", A), Layout("aten::exp"), "computes"),
    (call("argmax", A), Layout("aten::argmax"), "computes"),
    (call("detach", A), Layout("aten::detach"), "computes"),
    (call("sum.dim_IntList", B, [0]), Layout("aten::sum.dim_IntList"), "adds entries"),
    (call("neg", A), Layout("aten::neg"), "no entry"),
    (call("add.Tensor", A, x(4)), Bilinear("aten::add.Tensor"), "not linear in one"),
    (call("maximum", A, x(3, 1)), Bilinear("aten::maximum"), "not linear in one"),
    (call("softmax.int", A, -1), Pointwise("aten::softmax.int"), "other entries"),
    (call("cumsum", B, 1), Pointwise("aten::cumsum"), "share one function"),
    (call("amax", B, [0]), Pointwise("aten::amax"), "for every number"),
    (call("lt.Scalar", A, 0.1), Pointwise("aten::lt.Scalar"), "for every number"),
    (call("rand_like", A), Pointwise("aten::rand_like"), "draws"),
    (call("rand_like", A), Source("aten::rand_like"), "draws"),
    (call("tanh", A), Discrete("aten::tanh"), "smoothly"),
    (call("clone", A), Source("aten::clone"), "smoothly"),
    (call("clone", A), Detached("aten::clone"), "without the gradient"),
    (call("sign", A), Detached("aten::sign"), "not its operand"),
    (call("tanh", A), Random("aten::tanh"), "nothing"),
    (
        call("cumsum", B, 1),
        evolve(call("softmax.int", B, 1).record, ops="aten::cumsum"),
        "above",
    ),
]


@pytest.mark.parametrize(
    ("c", "atom", "complaint"), WRONG_KINDS, ids=lambda v: getattr(v, "op", type(v).__name__)
)
def test_an_op_of_the_wrong_kind_is_caught(c: Call, atom: Atom, complaint: str) -> None:
    assert any(complaint in flaw for flaw in flaws(c, atom))
