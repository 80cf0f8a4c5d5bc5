"""Clause S on tiny models of real architectures: every block stays below its envelope."""

from collections.abc import Callable

import pytest
import torch
import transformers

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.contract.claim import Verdict
from blockframe.contract.smoothness import SmoothnessClause
from blockframe.problem import Problem
from blockframe.testing.sampling import violations

# the first forward-mode derivative of a process warns about something inside of torch
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

EAGER = {"attn_implementation": "eager"}
PLAIN = {"vocab_size": 5, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, **EAGER}


def gpt2(**changes) -> transformers.PreTrainedModel:
    sizes = {"n_embd": 4, "n_inner": 5, "n_layer": 1, "n_head": 2, "n_positions": 4}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**PLAIN | sizes | changes))


def llama() -> transformers.PreTrainedModel:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=8,
            intermediate_size=5,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4,
            **PLAIN,
        )
    )


def bert() -> transformers.PreTrainedModel:
    return transformers.BertForMaskedLM(
        transformers.BertConfig(
            hidden_size=4,
            intermediate_size=5,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=4,
            **PLAIN,
        )
    )


def opt(activation: str) -> transformers.PreTrainedModel:
    return transformers.OPTForCausalLM(
        transformers.OPTConfig(
            hidden_size=4,
            word_embed_proj_dim=4,
            ffn_dim=5,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=4,
            activation_function=activation,
            **PLAIN,
        )
    )


def vit() -> transformers.PreTrainedModel:
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=4,
            intermediate_size=5,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=4,
            patch_size=2,
            num_channels=1,
            num_labels=3,
            **EAGER,
        )
    )


def analysed(build: Callable[[], transformers.PreTrainedModel], inputs: torch.Tensor) -> Analysis:
    torch.manual_seed(0)
    model = build()
    keywords = {"use_cache": False} if getattr(model.config, "use_cache", False) else {}
    problem = Problem(model, (inputs,), keywords=keywords, output="logits")
    return Analysis.of(problem, Catalogue.of())


TOKENS, PICTURE = torch.tensor([[3, 1, 4]]), torch.linspace(-1.0, 1.0, 16).reshape(1, 1, 4, 4)
MODELS = {
    "gpt2": (gpt2, TOKENS),
    "gpt2, scaled_dot_product_attention": (
        lambda: gpt2(attn_implementation="sdpa"),
        TOKENS,
    ),
    "llama": (llama, TOKENS),
    "bert": (bert, TOKENS),
    "opt with gelu": (lambda: opt("gelu"), TOKENS),
    "vit": (vit, PICTURE),
}


@pytest.mark.parametrize(("build", "inputs"), MODELS.values(), ids=MODELS.keys())
def test_every_block_stays_below_its_envelope(build, inputs):
    analysis = analysed(build, inputs)
    claims = SmoothnessClause().decide(analysis)
    assert {c.verdict for c in claims} == {Verdict.HOLDS}
    points = [(0.3, 1.0), (2.0, 0.02), (0.02, 30.0)]
    for scale, start in zip(points, ("normal", "flat", "uneven"), strict=True):
        assert violations(analysis, [scale], [start], turns=3, steps=4) == []


@pytest.mark.parametrize("build", [gpt2, llama, lambda: opt("gelu")], ids=["gpt2", "llama", "opt"])
def test_pre_norm_branches_are_bounded_independently_of_their_input(build):
    chain, *_ = SmoothnessClause().decide(analysed(build, TOKENS))
    assert "additive in depth" in chain.statement


def test_relu_has_no_envelope():
    chain, *blocks = SmoothnessClause().decide(analysed(lambda: opt("relu"), TOKENS))
    assert chain.verdict is Verdict.UNKNOWN
    assert [c.block.endswith("mlp") for c in blocks if c.verdict is not Verdict.HOLDS] == [True]
    assert chain.findings[0].op == "aten::relu"
