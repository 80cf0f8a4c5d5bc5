"""Guaranteed learning rates of tiny models: no Hessian found in the ball exceeds its bound."""

import pytest
import torch
import transformers

import blockframe
from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.dynamics.losses import LOSSES
from blockframe.problem import Problem
from blockframe.scaling.rates import Region, guaranteed, start_norm
from blockframe.testing.hessian import sampled_hessian_norm

# the first forward-mode derivative of a process warns about something inside of torch
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

PLAIN = {
    "vocab_size": 5, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    "attn_implementation": "eager",
}  # fmt: skip
TOKENS = torch.tensor([[3, 1, 4], [3, 3, 0]])


def gpt2() -> transformers.PreTrainedModel:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=4, n_inner=5, n_layer=1, n_head=2, n_positions=4, **PLAIN)
    )


def llama() -> transformers.PreTrainedModel:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=8, intermediate_size=5, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=4, **PLAIN,
        )
    )  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("build", [gpt2, llama])
def test_no_hessian_in_a_ball_exceeds_its_bound(build, loss):
    torch.manual_seed(0)
    targets = torch.randn(2, 3, 5) if loss.name == "mse" else torch.tensor([[1, 4, 1], [3, 0, 2]])
    problem = Problem(
        build(), (TOKENS,), targets, loss=loss.name, keywords={"use_cache": False}, output="logits"
    )
    analysis = Analysis.of(problem, Catalogue.of())
    norm = start_norm(analysis)
    for region in (Region(0.0, about_start=True), Region(2.0 * norm)):
        bound = guaranteed(analysis, loss, region)
        assert bound.bound.bounded, bound.findings
        found = sampled_hessian_norm(
            problem, region.radius, 4, about_start=region.about_start, turns=6, steps=4
        )
        assert 0.0 < found <= float(bound.bound) * (1 + 1e-9)


def test_a_spec_has_both_rates_on_its_proxy():
    rates = blockframe.learning_rates("gpt2")
    assert rates.subject.proxy
    assert rates.measured.rate > 0
    assert rates.guarantee.log10_rate < rates.guarantee.region.radius
    assert rates.guarantee.dominant.location.startswith("modeling_gpt2.py:")


def test_relu_is_what_keeps_a_rate_from_being_guaranteed():
    rates = blockframe.learning_rates("opt")
    assert rates.guarantee.log10_rate is None
    assert rates.measured.rate > 0
    assert {(f.code, f.op) for f in rates.guarantee.findings} == {("A101", "aten::relu")}
