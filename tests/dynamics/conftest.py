"""Small problems to descend on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from blockframe.problem import Problem


@pytest.fixture
def mlp() -> Problem:
    """5 → 6 → 3, tanh, 8 samples, MSE."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    return Problem(module, (torch.randn(8, 5),), torch.randn(8, 3))


@pytest.fixture
def gpt2() -> Problem:
    """GPT-2, 2 layers × 16 wide, 17 tokens, cross-entropy; skipped without transformers."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=17,
        n_positions=6,
        n_embd=16,
        n_inner=32,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    tokens = torch.randint(0, 17, (3, 7))
    return Problem(
        transformers.GPT2LMHeadModel(config),
        (tokens[:, :-1],),
        tokens[:, 1:],
        loss="ce",
        keywords={"use_cache": False},
        output="logits",
    )


@pytest.fixture
def direct() -> Callable[[Problem], tuple[Callable[[Tensor], Tensor], Tensor]]:
    """(L, θ_0): the loss of a problem as a function of the flat parameters, by torch alone."""

    def build(problem: Problem) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        module = problem.module
        names = [n for n, p in module.named_parameters() if p.requires_grad]
        shapes = [module.get_parameter(n).shape for n in names]
        start = nn.utils.parameters_to_vector([module.get_parameter(n) for n in names])

        def cast(x: Tensor) -> Tensor:
            return x.double() if x.is_floating_point() else x

        def loss(theta: Tensor) -> Tensor:
            parts = torch.split(theta, [s.numel() for s in shapes])
            state = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
            buffers = {n: cast(b) for n, b in module.named_buffers()}
            out = torch.func.functional_call(
                module,
                {**state, **buffers},
                tuple(cast(x) for x in problem.inputs),
                dict(problem.keywords),
            )
            out = out if problem.output is None else out[problem.output]
            assert problem.targets is not None
            if problem.loss == "ce":
                flat = problem.targets.flatten()
                return nn.functional.cross_entropy(out.flatten(0, -2), flat)
            squares: Tensor = ((out - problem.targets.double()) ** 2).sum(-1)
            return squares.mean() / 2

        module.eval()
        return loss, start.detach().double()

    return build
