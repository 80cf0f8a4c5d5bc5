"""Ops that draw numbers, and ops that stop the gradient."""

from __future__ import annotations

from blockframe.atoms.facts import Detached, Random, argument
from blockframe.graph.graph import Node


def _drops(node: Node) -> bool:
    """Whether dropout really drops: in training mode, with a positive probability."""
    return argument(node, 2, "train", True) is not False and argument(node, 1, "p", 0.5) != 0


RANDOMS = (
    Random(
        (
            "aten::dropout", "aten::alpha_dropout", "aten::feature_dropout",
            "aten::feature_alpha_dropout", "aten::native_dropout",
        ),
        active=_drops,
    ),
    Random(
        (
            "aten::bernoulli", "aten::bernoulli.p", "aten::multinomial",
            "aten::normal.Tensor_Tensor",
            "aten::normal.Tensor_float", "aten::normal.float_Tensor", "aten::normal_functional",
            "aten::poisson", "aten::rand", "aten::rand.generator", "aten::rand_like",
            "aten::randint", "aten::randint.low", "aten::randint_like", "aten::randn",
            "aten::randn.generator", "aten::randn_like", "aten::randperm", "aten::uniform",
            "aten::exponential", "aten::geometric", "aten::log_normal", "aten::cauchy",
        )
    ),
)  # fmt: skip

DETACHEDS = (
    Detached(("aten::detach", "aten::detach_copy", "aten::item", "aten::_local_scalar_dense")),
)
