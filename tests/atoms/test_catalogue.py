"""Every record of the catalogue against the op that it describes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve

from blockframe.atoms.catalogue import CORE, Catalogue
from blockframe.atoms.facts import Atom, Composite, Kink, Pointwise, Random, Selection
from blockframe.atoms.interval import INF, Interval
from blockframe.errors import PluginError
from blockframe.graph.graph import Node, NodeKind, Ref
from blockframe.graph.synthetic import SYNTHETIC

CATALOGUE = Catalogue.of()

# Arguments beyond the operand, for ops that need some, as the model would write them.
EXTRA: dict[str, list[tuple[Any, ...]]] = {
    "aten::clamp": [(-0.5, 0.75), (None, 0.3), (-0.2, None), (0.5, 0.5)],
    "aten::clip": [(-0.5, 0.75)],
    "aten::clamp_min": [(0.1,)],
    "aten::clamp_max": [(0.1,)],
    "aten::hardtanh": [(), (-2.0, 0.5)],
    "aten::leaky_relu": [(), (0.3,), (-0.5,), (1.0,), (0.0,)],
    "aten::elu": [(), (2.0,), (0.5, 2.0, 2.0)],
    "aten::celu": [(), (0.5,), (3.0,)],
    "aten::softshrink": [(), (0.25,), (0.0,)],
    "aten::hardshrink": [(), (0.25,)],
    "aten::threshold": [(0.5, 0.5), (0.5, -1.0)],
    "aten::pow.Tensor_Scalar": [
        (2,),
        (3,),
        (4,),
        (1,),
        (0,),
        (0.5,),
        (-1,),
        (-2,),
        (-0.5,),
        (1.5,),
    ],
    "aten::prelu": [(torch.tensor([0.25], dtype=torch.float64),)],
    "aten::_prelu_kernel": [(torch.tensor([0.25], dtype=torch.float64),)],
    "aten::pow.Tensor_Tensor": [(torch.tensor(1.7),)],
    "blockframe::swish": [(1.0,), (1.702,), (0.1,)],
}


def target(op: str) -> Any:
    if op in SYNTHETIC:
        return SYNTHETIC[op]
    name, _, overload = op.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, name), overload or "default")


def node(op: str, *rest: Any) -> Node:
    """A node that applies ``op`` to an earlier value and ``rest``."""
    return Node(1, NodeKind.CALL, "n", target(op), (Ref(0), *rest))


def pointwise() -> list[Any]:
    cases = []
    for atom in CORE:
        if not isinstance(atom, Pointwise):
            continue
        for op in atom.ops:
            if op == "aten::pow.Scalar":
                continue
            for rest in EXTRA.get(op, [()]):
                cases.append(pytest.param(op, rest, id=f"{op}{rest if rest else ''}"))
    return cases


def settled(op: str, rest: tuple[Any, ...]) -> Pointwise:
    atom = CATALOGUE.lookup(node(op, *rest))
    assert isinstance(atom, Pointwise)
    return atom


def apply(op: str, x: torch.Tensor, rest: tuple[Any, ...]) -> torch.Tensor:
    value = target(op)(x, *rest)
    return value[0] if isinstance(value, tuple) else value


def samples(atom: Pointwise, count: int = 4001, spread: float = 12.0) -> torch.Tensor:
    x = torch.linspace(-spread, spread, count, dtype=torch.float64) + 1e-3 * math.pi
    inside = torch.zeros_like(x, dtype=torch.bool)
    for part in atom.analytic_on:
        inside |= (x > part.lo) & (x < part.hi)
    return x[inside]


def violations(op: str, atom: Pointwise, rest: tuple[Any, ...]) -> list[str]:
    """What samples of the op say against the record."""
    found = []
    x = samples(atom)
    y = apply(op, x, rest)
    if not torch.isfinite(y).all():
        found.append("not finite where it is said to be analytic")
    outside = [
        float(v) for v in y if float(v) not in atom.range and not _rounded(float(v), atom.range)
    ]
    if outside:
        found.append(f"value {outside[0]} outside of {atom.range}")
    if atom.even and not torch.allclose(y, x**atom.even):
        found.append("not the even power it is said to be")
    if atom.value is not None:
        told = torch.tensor([atom.value(float(t)) for t in x], dtype=torch.float64)
        known = ~told.isnan()
        if not torch.allclose(y[known], told[known], rtol=1e-9, atol=1e-12):
            found.append("`value` is another function")
        slopes = torch.diff(y[known]) * atom.monotone
        if atom.monotone and bool((slopes < -1e-12).any()):
            found.append("not monotone where `value` is defined")
    if atom.growth is not None:
        c0, c1 = atom.growth
        if bool((y.abs() > (c0 + c1 * x.abs()) * (1 + 1e-12)).any()):
            found.append("grows faster")
    found += _slopes(op, atom, rest)
    return found + _pieces(op, atom, rest)


def _rounded(v: float, interval: Interval) -> bool:
    """tanh of 12 is 1 in floating point, and 1 is not in (-1, 1)."""
    return v in (interval.lo, interval.hi)


def _slopes(op: str, atom: Pointwise, rest: tuple[Any, ...]) -> list[str]:
    x = samples(atom)
    for kink in atom.kinks:
        x = x[(x - kink.at).abs() > 1e-2]
    if len(x) == 0 or any(isinstance(r, torch.Tensor) for r in rest):
        return []
    x = x.requires_grad_()
    y = apply(op, x, rest)
    if not y.requires_grad:
        return []
    (d1,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    found = []
    if atom.lipschitz is not None and float(d1.detach().abs().max()) > atom.lipschitz * (1 + 1e-12):
        found.append(f"slope {float(d1.detach().abs().max())} above {atom.lipschitz}")
    if atom.curvature is not None and d1.requires_grad:
        (d2,) = torch.autograd.grad(d1.sum(), x)
        if float(d2.detach().abs().max()) > atom.curvature * (1 + 1e-12):
            found.append(
                f"second derivative {float(d2.detach().abs().max())} above {atom.curvature}"
            )
    return found


def _pieces(op: str, atom: Pointwise, rest: tuple[Any, ...]) -> list[str]:
    """The op is the k-th piece between the kinks, and the pieces part at the stated order."""
    found = []
    if not atom.pieces:
        return ["kinks without pieces"] if atom.kinks else _smooth(op, atom, rest)
    edges = [-20.0, *(k.at for k in atom.kinks), 20.0]
    for k, piece in enumerate(atom.pieces):
        x = torch.linspace(edges[k], edges[k + 1], 101, dtype=torch.float64)[1:-1]
        if not torch.allclose(apply(op, x, rest), piece(x, *rest)):
            found.append(f"piece {k} is another function")
    for k, kink in enumerate(atom.kinks):
        order = _parting(atom.pieces[k], atom.pieces[k + 1], kink, rest)
        if order != kink.order:
            found.append(f"pieces part at {kink.at} in order {order}, not {kink.order}")
    return found


def _parting(left: Any, right: Any, kink: Kink, rest: tuple[Any, ...]) -> int | None:
    """The lowest derivative in which two pieces differ at a kink."""
    h = 1e-2
    x = torch.tensor([kink.at + h * i for i in range(-4, 5)], dtype=torch.float64)
    difference = (right(x, *rest) - left(x, *rest)).numpy()
    fit = np.polynomial.Polynomial.fit(x.numpy() - kink.at, difference, 6).convert()
    coefficients = fit.coef
    return next((k for k in range(4) if abs(coefficients[k]) > 1e-6), None)


def _smooth(op: str, atom: Pointwise, rest: tuple[Any, ...]) -> list[str]:
    """No kink or jump was forgotten: third differences shrink with the step, everywhere."""
    worst = []
    for h in (2e-2, 1e-2, 5e-3):
        x = torch.arange(-6.0, 6.0, h, dtype=torch.float64) + 0.318 * h
        inside = torch.zeros_like(x, dtype=torch.bool)
        for part in atom.analytic_on:
            inside |= (x > part.lo + 0.5) & (x < part.hi - 0.5)
        y = apply(op, x, rest)
        third = torch.diff(y, n=3).abs()
        whole = inside[3:] & inside[2:-1] & inside[1:-2] & inside[:-3]
        # h^3 f''' for a smooth f; h^2, h or 1 times a jump at a kink
        scale = 1.0 + y.abs().max() if inside.all() else 1.0 + y[inside].abs().max()
        worst.append(float((third[whole] / h**3).max() / scale) if bool(whole.any()) else 0.0)
    return ["an unstated kink or jump"] if worst[2] > 1.6 * worst[0] + 1e-6 else []


@pytest.mark.parametrize(("op", "rest"), pointwise())
def test_pointwise_record(op: str, rest: tuple[Any, ...]) -> None:
    assert violations(op, settled(op, rest), rest) == []


def test_power_of_a_number() -> None:
    for base in (0.5, 2.0, math.e):
        exponent = Node(1, NodeKind.CALL, "n", target("aten::pow.Scalar"), (base, Ref(0)))
        atom = CATALOGUE.lookup(exponent)
        assert isinstance(atom, Pointwise)
        assert atom.value is not None
        assert atom.value(1.5) == pytest.approx(base**1.5)
    assert (
        CATALOGUE.lookup(Node(1, NodeKind.CALL, "n", target("aten::pow.Scalar"), (-2.0, Ref(0))))
        is None
    )


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda a: evolve(a, kinks=(), pieces=()), "unstated kink"),
        (lambda a: evolve(a, lipschitz=0.9), "slope"),
        (lambda a: evolve(a, range=Interval(0.0, 3.0, False, False)), "outside"),
        (lambda a: evolve(a, value=lambda t: abs(t)), "another function"),
        (lambda a: evolve(a, kinks=(Kink(0.0, 2),)), "part at"),
        (lambda a: evolve(a, pieces=a.pieces[::-1]), "another function"),
        (lambda a: evolve(a, growth=(0.0, 0.5)), "grows"),
    ],
    ids=["missing kink", "lipschitz", "range", "value", "order", "pieces", "growth"],
)
def test_a_wrong_record_is_caught(wrong: Any, complaint: str) -> None:
    atom = wrong(settled("aten::relu", ()))
    assert any(complaint in v for v in violations("aten::relu", atom, ()))


@pytest.mark.parametrize(
    ("op", "rest"), [case for case in pointwise() if settled(*case.values).kinks]
)
def test_every_missing_kink_is_caught(op: str, rest: tuple[Any, ...]) -> None:
    """A record that forgets its kinks, or the last of several with what follows it."""
    atom = settled(op, rest)
    assert "an unstated kink or jump" in violations(op, evolve(atom, kinks=(), pieces=()), rest)
    if len(atom.kinks) > 1:
        assert violations(op, evolve(atom, kinks=atom.kinks[:-1], pieces=atom.pieces[:-1]), rest)


def test_every_op_of_the_catalogue_exists() -> None:
    missing = []
    for atom in CORE:
        for op in atom.ops:
            try:
                target(op)
            except AttributeError:
                missing.append(op)
    assert missing == []


def test_random_ops_are_known_as_such() -> None:
    """An op that PyTorch tags as drawing numbers stands under `Random` or is unknown."""
    wrong = [
        op
        for atom in CORE
        for op in atom.ops
        if torch.Tag.nondeterministic_seeded in target(op).tags and not isinstance(atom, Random)
    ]
    # attention, recurrent nets and norms draw in training only: their definitions say so
    composite = {op for atom in CORE if isinstance(atom, Composite) for op in atom.ops}
    assert set(wrong) <= composite


SELECTED: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    ("aten::max.dim", (-1,), {}, (4, 6)),
    ("aten::max.dim", (0, True), {}, (4, 6)),
    ("aten::min.dim", (1,), {}, (4, 6, 2)),
    ("aten::median.dim", (-1,), {}, (4, 5)),
    ("aten::kthvalue", (2, -1), {}, (4, 6)),
    ("aten::max", (), {}, (4, 6)),
    ("aten::min", (), {}, (4, 6)),
    ("aten::amax", ([-1],), {}, (4, 6)),
    ("aten::amax", ([0, 2], True), {}, (4, 6, 3)),
    ("aten::amin", (), {}, (4, 6)),
    ("aten::maximum", (torch.zeros(4, 6),), {}, (4, 6)),
    ("aten::minimum", (torch.zeros(4, 6),), {}, (4, 6)),
    ("aten::max.other", (torch.zeros(6),), {}, (4, 6)),
    ("aten::min.other", (torch.zeros(6),), {}, (4, 6)),
    ("aten::fmax", (torch.zeros(6),), {}, (4, 6)),
    ("aten::fmin", (torch.zeros(6),), {}, (4, 6)),
    ("aten::topk", (3,), {}, (4, 6)),
    ("aten::topk", (2, 0, False), {}, (4, 6)),
    ("aten::sort", (), {}, (4, 6)),
    ("aten::sort", (0, True), {}, (4, 6)),
    ("aten::sort.stable", (), {"stable": True, "dim": 0}, (4, 6)),
    ("aten::cummax", (-1,), {}, (4, 6)),
    ("aten::cummin", (0,), {}, (4, 6)),
    ("aten::max_pool1d", ([2],), {}, (2, 3, 8)),
    ("aten::max_pool2d", ([2, 2], [2, 2]), {}, (2, 3, 8, 8)),
    ("aten::max_pool2d", ([3, 3], [2, 2], [1, 1]), {}, (2, 3, 8, 8)),
    ("aten::max_pool3d", ([2, 2, 2],), {}, (2, 3, 4, 4, 4)),
    ("aten::max_pool2d_with_indices", ([2, 2],), {}, (2, 3, 8, 8)),
    ("aten::max_pool3d_with_indices", ([2, 2, 2],), {}, (2, 3, 4, 4, 4)),
    ("aten::adaptive_max_pool1d", ([3],), {}, (2, 3, 8)),
    ("aten::adaptive_max_pool2d", ([3, 2],), {}, (2, 3, 8, 8)),
]


@pytest.mark.parametrize(("op", "rest", "options", "shape"), SELECTED)
def test_a_selection_replays_its_choice(
    op: str, rest: tuple[Any, ...], options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    atom = CATALOGUE.records[op]
    assert isinstance(atom, Selection)
    assert atom.choice is not None
    assert atom.chosen is not None
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    value = target(op)(x, *rest, **options)
    choice = atom.choice((x, *rest), options, value)
    again = atom.chosen(choice, x, *rest, **options)
    for got, expected in zip(_tuple(again), _tuple(value), strict=True):
        assert torch.equal(got, expected)
    moved = atom.chosen(choice, 2.0 * x, *rest, **options)  # linear for a fixed choice
    if not any(isinstance(r, torch.Tensor) for r in rest):
        assert torch.equal(_tuple(moved)[0], 2.0 * _tuple(value)[0])


def test_every_selection_with_a_choice_is_replayed_above() -> None:
    tested = {case[0] for case in SELECTED}
    known = {op for a in CORE if isinstance(a, Selection) and a.choice for op in a.ops}
    assert known == tested


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _composites() -> dict[str, tuple[Any, ...]]:
    g = torch.Generator().manual_seed(0)

    def r(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def recurrent(gates: int) -> list[torch.Tensor]:
        return [r(gates * 4, 3), r(gates * 4, 4), r(gates * 4), r(gates * 4)]

    flags = (True, 1, 0.0, False, False, True)
    x, h = r(2, 5, 3), r(1, 2, 4)
    return {
        "aten::lstm.input": (x, [h, r(1, 2, 4)], recurrent(4), *flags),
        "aten::gru.input": (x, h, recurrent(3), *flags),
        "aten::rnn_tanh.input": (x, h, recurrent(1), *flags),
        "aten::rnn_relu.input": (x, h, recurrent(1), *flags),
        "aten::scaled_dot_product_attention": (r(2, 4, 5, 8), r(2, 4, 5, 8), r(2, 4, 5, 8)),
        "aten::batch_norm": (r(4, 3, 5), r(3), r(3), r(3), r(3).square(), False, 0.1, 1e-5, False),
        "aten::_native_batch_norm_legit_no_training": (
            r(4, 3, 5), r(3), r(3), r(3), r(3).square(), 0.1, 1e-5,
        ),
        "aten::glu": (r(3, 8),),
        "aten::frac": (4 * r(7),),
        "aten::remainder.Scalar": (4 * r(7), 1.5),
        "aten::remainder.Tensor": (4 * r(7), r(7)),
        "aten::fmod.Scalar": (4 * r(7), 1.5),
        "aten::fmod.Tensor": (4 * r(7), r(7)),
    }  # fmt: skip


@pytest.mark.parametrize("op", [op for a in CORE if isinstance(a, Composite) for op in a.ops])
def test_a_definition_is_the_op(op: str) -> None:
    atom = CATALOGUE.records[op]
    assert isinstance(atom, Composite)
    args = _composites()[op]
    for got, expected in zip(
        _tuple(atom.definition(*args)), _tuple(target(op)(*args)), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"is_causal": True},
        {"scale": 0.3},
        {"enable_gqa": True},
        {"attn_mask": torch.arange(25).reshape(5, 5) % 3 > 0},
        {"attn_mask": torch.linspace(-1, 1, 25, dtype=torch.float64).reshape(5, 5)},
    ],
    ids=["causal", "scale", "grouped", "mask", "bias"],
)
def test_attention_definition(options: dict[str, Any]) -> None:
    atom = CATALOGUE.records["aten::scaled_dot_product_attention"]
    assert isinstance(atom, Composite)
    g = torch.Generator().manual_seed(1)
    heads = 2 if options.get("enable_gqa") else 4
    q = torch.randn(2, 4, 5, 8, generator=g, dtype=torch.float64)
    k, v = torch.randn(2, 2, heads, 5, 8, generator=g, dtype=torch.float64)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(atom.definition(q, k, v, **options), expected)


def test_batch_statistics_where_none_are_stored() -> None:
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    atom = CATALOGUE.records["aten::batch_norm"]
    assert isinstance(atom, Composite)
    expected = torch.nn.functional.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(
        atom.definition(x, None, None, None, None, True, 0.1, 1e-5, False), expected
    )


def test_two_records_for_one_op_are_refused() -> None:
    with pytest.raises(PluginError, match="aten::relu"):
        Catalogue.of([Pointwise("aten::relu")])
    with pytest.raises(PluginError, match="known kind"):
        Catalogue.of([Atom("acme::op")])


def test_overloads_are_ops_of_their_own() -> None:
    """view.dtype reinterprets bits, div.Tensor_mode rounds: no record of view or div is theirs."""
    assert CATALOGUE.records.get("aten::view.dtype") is None
    assert type(CATALOGUE.records["aten::div.Tensor_mode"]).__name__ == "Discrete"


def test_a_kink_needs_its_pieces() -> None:
    with pytest.raises(ValueError, match="one piece more"):
        Pointwise("acme::op", kinks=(Kink(0.0),), pieces=(lambda x: x,))


def test_an_unknown_argument_is_not_guessed() -> None:
    """The slope of a leaky relu that another tensor gives: no record speaks for it."""
    assert CATALOGUE.lookup(node("aten::leaky_relu", Ref(0))) is None
    assert CATALOGUE.lookup(node("aten::pow.Tensor_Scalar", INF)) is not None


BOUNDED = [
    (op, rest, u)
    for op, rest, intervals in (
        ("aten::sqrt", (), [(0.3, INF), (2.0, 9.0)]),
        ("aten::rsqrt", (), [(0.3, INF), (1e-3, 1.0)]),
        ("aten::reciprocal", (), [(0.5, INF), (-INF, -0.25), (-3.0, -1.0)]),
        ("aten::log", (), [(0.1, INF), (3.0, 5.0)]),
        ("aten::log2", (), [(0.1, INF)]),
        ("aten::log10", (), [(0.1, 7.0)]),
        ("aten::log1p", (), [(-0.7, INF), (0.5, 2.0)]),
        ("aten::exp", (), [(-INF, 2.0), (-3.0, -1.0)]),
        ("aten::exp2", (), [(-INF, 3.0)]),
        ("aten::expm1", (), [(-INF, -2.0), (-1.0, 2.0)]),
        ("aten::pow.Tensor_Scalar", (0.5,), [(0.2, INF)]),
        ("aten::pow.Tensor_Scalar", (1.5,), [(0.2, 4.0)]),
        ("aten::pow.Tensor_Scalar", (-0.5,), [(0.2, INF)]),
        ("aten::pow.Tensor_Scalar", (-2,), [(0.2, INF), (-5.0, -0.5)]),
    )
    for u in intervals
]


def exceeded(op: str, atom: Pointwise, rest: tuple[Any, ...], u: Interval) -> list[str]:
    """What samples in ``u`` say against the record's bounds there."""
    assert atom.on is not None
    bounds = atom.on(u)
    assert bounds is not None
    (c0, c1), slope, curvature = bounds
    lo, hi = max(u.lo, -60.0), min(u.hi, 60.0)
    x = torch.linspace(lo, hi, 20001, dtype=torch.float64).requires_grad_()
    y = apply(op, x, rest)
    (d1,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (d2,) = torch.autograd.grad(d1.sum(), x)
    return [
        what
        for what, value, bound in (
            ("value", y.abs(), c0 + c1 * x.abs()),
            ("slope", d1.abs(), torch.full_like(x, slope)),
            ("curvature", d2.abs(), torch.full_like(x, curvature)),
        )
        if bool((value > bound * (1 + 1e-9)).any())
    ]


@pytest.mark.parametrize(("op", "rest", "ends"), BOUNDED)
def test_bounds_on_an_interval(op: str, rest: tuple[Any, ...], ends: tuple[float, float]) -> None:
    u = Interval(*ends, ends[0] == -INF, ends[1] == INF)
    assert exceeded(op, settled(op, rest), rest, u) == []


def test_no_bounds_where_there_are_none() -> None:
    for op, rest, u in (
        ("aten::sqrt", (), Interval(0.0, INF)),
        ("aten::log", (), Interval(0.0, 3.0)),
        ("aten::reciprocal", (), Interval(-1.0, 1.0)),
        ("aten::exp", (), Interval()),
        ("aten::pow.Tensor_Scalar", (1.5,), Interval(0.2, INF)),
    ):
        atom = settled(op, rest)
        assert atom.on is not None
        assert atom.on(u) is None


def test_wrong_bounds_on_an_interval_are_caught() -> None:
    atom = evolve(settled("aten::sqrt", ()), on=lambda u: ((0.4, 0.5), 0.4, 0.1))
    u = Interval(0.3, INF, False)
    assert exceeded("aten::sqrt", atom, (), u) == ["value", "slope", "curvature"]


def test_every_record_with_bounds_on_intervals_is_tested() -> None:
    tested = {op for op, *_ in BOUNDED} | {"aten::pow.Scalar"}
    known = {op for a in CORE if isinstance(a, Pointwise) and (a.on or a.at) for op in a.ops}
    with_on = {op for op in known if op not in EXTRA or op == "aten::pow.Tensor_Scalar"}
    assert with_on - {"aten::softplus"} == tested
