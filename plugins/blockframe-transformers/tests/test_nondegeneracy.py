"""Clause N of language models: equal prefixes are one row (docs/theory section 3)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.contract.claim import Verdict
from blockframe.contract.nondegeneracy import NondegeneracyClause
from blockframe.contract.rows import rows
from blockframe.problem import Problem

WORDS = 13
TEXT = torch.tensor(
    [[1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8, 9], [1, 10, 3, 4, 5, 6], [11, 2, 3, 4, 5, 12]]
)
PREFIXES = [tuple(line[: k + 1]) for line in TEXT.tolist() for k in range(6)]
"""Of 24, 21 differ."""
SIZES: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 40, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 16, "pad_token_id": 0,
}  # fmt: skip


def made(kind: str, tied: bool, layers: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_hidden_layers": layers, "tie_word_embeddings": tied}
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=WORDS,
                n_embd=40,
                n_layer=layers,
                n_head=2,
                n_positions=16,
                tie_word_embeddings=tied,
                attn_implementation="eager",
            )
        )
    if kind == "llama":
        return LlamaForCausalLM(
            LlamaConfig(**sizes, num_key_value_heads=1, attn_implementation="eager")
        )
    if kind == "gemma2":
        return Gemma2ForCausalLM(
            Gemma2Config(**sizes, num_key_value_heads=1, head_dim=8, attn_implementation="eager")
        )
    return BertForMaskedLM(BertConfig(**sizes, attn_implementation="eager"))


def analysed(module: torch.nn.Module, text: Tensor = TEXT) -> Analysis:
    keywords = {} if isinstance(module, BertForMaskedLM) else {"use_cache": False}
    problem = Problem(module.eval(), (text,), output="logits", keywords=keywords)
    return Analysis.of(problem, Catalogue.of())


def jacobian(module: torch.nn.Module) -> Tensor:
    """DF of all rows at the given parameters, by PyTorch alone."""
    module = module.double().eval()
    values = {n: p.detach() for n, p in module.named_parameters()}

    def f(values: dict[str, Tensor]) -> Tensor:
        found = torch.func.functional_call(module, values, (TEXT,), {"use_cache": False})
        return found.logits.reshape(-1)

    parts = torch.func.jacrev(f, chunk_size=64)(values)
    return torch.cat([part.reshape(len(part), -1) for part in parts.values()], 1)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_merged_rows_are_independent_and_all_rows_are_not(kind: str, tied: bool) -> None:
    module = made(kind, tied)
    claim = NondegeneracyClause().decide(analysed(module))[0]
    merged = len(set(PREFIXES))
    assert claim.verdict is Verdict.HOLDS
    assert (claim.numbers["rows"], claim.numbers["unmerged rows"]) == (merged, 24)
    assert claim.numbers["rank"] == merged * WORDS

    full = jacobian(module)
    kept = [PREFIXES.index(p) for p in dict.fromkeys(PREFIXES)]
    part = full.reshape(24, WORDS, -1)[kept].flatten(0, 1)
    for matrix in (full, part):
        values = torch.linalg.svdvals(matrix / matrix.norm(dim=1, keepdim=True))
        assert int((values > 1e-10 * values[0]).sum()) == merged * WORDS


def test_what_looks_both_ways_is_not_merged() -> None:
    counted = rows(analysed(made("bert", True)))
    assert counted is not None
    assert counted.count == counted.total == 24


@pytest.mark.parametrize("kind", ["bert", "gemma2"])
def test_depth_costs_nothing(kind: str) -> None:
    """Norms of norms, and norms at the ends of branches."""
    claim, *blocks = NondegeneracyClause().decide(analysed(made(kind, True, layers=10)))
    assert claim.verdict is Verdict.HOLDS
    assert len(blocks) == (20 if kind == "gemma2" else 0)


def test_a_word_said_twice_at_the_beginning_is_said_once() -> None:
    """Without positions of their own, equal words are all that the second row sees."""
    text = torch.tensor([[2, 2, 3], [4, 5, 6]])
    analysis = analysed(made("llama", False, layers=1), text)
    assert NondegeneracyClause().decide(analysis)[0].verdict is Verdict.UNKNOWN
    with_positions = analysed(made("gpt2", False, layers=1), text)
    assert NondegeneracyClause().decide(with_positions)[0].verdict is Verdict.HOLDS
