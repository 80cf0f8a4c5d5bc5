"""Certificates made by hand: they need neither torch nor a model."""

from __future__ import annotations

import pytest

from blockframe.certificate.model import BlockSummary, Certificate, Inequality, Subject, Trajectory
from blockframe.contract.claim import Claim, Evidence, Finding, Verdict


def _blocks(layers: int) -> tuple[BlockSummary, ...]:
    pre = {"placement": "pre"}
    state = ((4, 8, 16),)
    layer = [
        BlockSummary(f"h.{i}.{part}", part, count, pre, state)
        for i in range(layers)
        for part, count in (("attention", 1088), ("mlp", 2144))
    ]
    return (
        BlockSummary("wte", "embed", 4096, None, state),
        *layer,
        BlockSummary("ln_f", "norm", 32, None, state),
        BlockSummary("lm_head", "head", 0, None, ((4, 8, 256),)),
    )


def _kink(layer: int) -> Finding:
    return Finding(
        code="A101",
        message="relu has a kink where its input crosses 0",
        op="aten::relu",
        module=f"h.{layer}.mlp.act",
        location="net.py:17",
        excerpt="        h = torch.relu(h)",
        witness={"t": 0.31792, "order": 1, "left": 0.0, "right": 0.4187, "block": f"h.{layer}.mlp"},
        help="the theory needs an analytic activation: `--set activation=gelu`",
    )


@pytest.fixture
def refuted() -> Certificate:
    """relu in all of 3 layers; a short run on the proxy."""
    blocks = _blocks(3)
    fails = [
        Claim(
            "analyticity", Verdict.FAILS, "relu", Evidence.MEASURED, "block", b.name,
            findings=(_kink(int(b.name.split(".")[1])),),
        )
        if b.role == "mlp"
        else Claim("analyticity", Verdict.HOLDS, "analytic", Evidence.PROVED, "block", b.name)
        for b in blocks
    ]  # fmt: skip
    chain = Claim(
        "analyticity", Verdict.FAILS, "relu in 3 of 9 blocks", Evidence.MEASURED,
        findings=tuple(_kink(i) for i in range(3)),
    )  # fmt: skip
    undecided = [
        Claim(clause, Verdict.UNKNOWN, "not decided by this version")
        for clause in ("smoothness", "dissipativity", "nondegeneracy")
    ]
    descent = Claim(
        "descent", Verdict.HOLDS, "4 steps", Evidence.MEASURED, "trajectory", region="4 iterates"
    )
    trajectory = Trajectory(
        lr=0.118,
        steps=4,
        scale="proxy",
        loss="ce",
        data="text, 4 sequences of 8 tokens",
        ended="completed",
        lr_rule="0.9 × 2/λ(θ₀)",
        series={
            "loss": [5.62, 4.8, 4.1, 3.5, 3.07],
            "directional_smoothness": [None, 15.1, 15.2, 15.0, 14.9],
            "block_norms.wte": [1.0, 1.1, 1.2, 1.3, 1.4],
            "block_norms.ln_f": [2.0, 2.0, 2.0, 2.0, 2.5],
        },
        inequalities=tuple(
            Inequality("descent lemma", k, 5.0 - k, 5.5 - k, None if k == 3 else True)
            for k in range(4)
        ),
        summary={"pl_ratio": {"least": 0.0031}},
    )
    return Certificate(
        Subject(
            "toy", "ToyModel", 13_824, blocks=blocks, data="text", loss="ce",
            proxy="3 layers × 16", replay_exact=True,
        ),
        {"blockframe": "0.5.0", "python": "3.11.4", "torch": "2.13.0+cpu", "device": "cpu"},
        (chain, *fails, *undecided, descent),
        trajectory,
        ("IEEE double precision",),
    )  # fmt: skip


@pytest.fixture
def certified() -> Certificate:
    """Everything holds; no trajectory."""
    claims = [
        Claim(clause, Verdict.HOLDS, "by hand", Evidence.PROVED)
        for clause in ("analyticity", "smoothness", "dissipativity", "nondegeneracy")
    ]
    return Certificate(Subject("toy", "ToyModel", 12), {"torch": "2.13.0"}, tuple(claims))


@pytest.fixture
def inconclusive() -> Certificate:
    """One clause holds, the others are not decided."""
    holds = Claim("analyticity", Verdict.HOLDS, "4 blocks, no kink", Evidence.PROVED)
    others = [
        Claim(clause, Verdict.UNKNOWN, "not decided by this version")
        for clause in ("smoothness", "dissipativity", "nondegeneracy")
    ]
    return Certificate(Subject("toy", "ToyModel", 12), {"torch": "2.13.0"}, (holds, *others))
