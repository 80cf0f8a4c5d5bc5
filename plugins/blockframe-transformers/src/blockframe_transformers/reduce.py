"""The same architecture, small: what the numbers of a certificate are measured on (docs/proxy).

Configurations name their sizes in many ways, but the ways are few and regular, so a size shrinks
by what its name means; a size whose name means nothing here stays as it is. `layers` says which
layers are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from blockframe_transformers.layers import DEPTH, Choice

WIDTH, HEADS, VOCABULARY = 64, 4, 256

CONTROL = [i for i in range(32) if chr(i) not in "\t\n\r"]
"""Token ids that the bytes of a text do not use; special tokens move there."""

HIDDEN = ("hidden_size", "n_embd", "d_model", "dim", "embed_dim", "emb_dim", "embedding_dim")
MAIN = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads")
MAMBA = ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")

STALE = {
    "dtype", "id2label", "label2id", "out_features", "out_indices", "stage_names",
    "transformers_version",
}  # fmt: skip
"""Entries that the small configuration makes anew."""

Sizes = Mapping[str, Any]
Rule = Callable[[int, Sizes], int]


def reduce(values: Sizes, copies: int = 1, outer: Sizes | None = None) -> dict[str, Any]:
    """The entries of a configuration like ``values``, small.

    Args:
        values: the entries of a configuration, or of a part of one.
        copies: how many layers of every kind are kept.
        outer: those of the configuration around it, for what the part does not say itself.
    """
    sizes = {**(outer or {}), **values}
    tokens = _special_tokens(values)
    choice = Choice(values, copies)
    small: dict[str, Any] = {}
    for name in values.keys() - STALE:
        value = choice.entry(name)
        if name in tokens:
            small[name] = tokens[name]
        elif name in DEPTH:
            small[name] = value
        elif isinstance(value, dict):
            small[name] = _rope(value, sizes) if "rope" in name else reduce(value, copies, sizes)
        else:
            small[name] = _apply(_rule(name, value, sizes), value, sizes)
    return small


def _rule(name: str, value: Any, sizes: Sizes) -> Rule:
    """What becomes of the entry ``name``."""
    for pattern, rule in MEANINGS:
        if re.fullmatch(pattern, name):
            return rule
    same = value == _number(sizes, HIDDEN)  # as wide as the stream, whatever its name
    return _width if same and name.endswith(("dim", "size", "channels")) else _keep


def _keep(value: int, sizes: Sizes) -> int:
    return value


def _apply(rule: Rule, value: Any, sizes: Sizes) -> Any:
    if isinstance(value, (list, tuple)):
        return [_apply(rule, v, sizes) for v in value]
    return rule(value, sizes) if type(value) is int and value > 0 else value


def _number(sizes: Sizes, names: tuple[str, ...]) -> int | None:
    return next((v for n in names if type(v := sizes.get(n)) is int and v > 0), None)


def _cap(limit: int) -> Rule:
    return lambda value, sizes: min(value, limit)


def _multiple(value: float, of: int, most: int) -> int:
    """The multiple of ``of`` nearest to ``value``, not 0 and not above ``most``."""
    return min(most, max(of, round(value / of) * of))


def _heads(number: int) -> int:
    """New number of heads: a power of 2, which divides the new width."""
    return next(n for n in (HEADS, 2, 1) if n <= number)


def _shrinkage(sizes: Sizes) -> float:
    """New width / old."""
    old = _number(sizes, HIDDEN) or max(sizes.get("hidden_sizes") or sizes.get("embed_dims") or [0])
    return min(WIDTH / old, 1.0) if old else 1.0


def _width(value: int, sizes: Sizes) -> int:
    return _multiple(value * _shrinkage(sizes), 8, value)


def _head(*heads: str) -> Rule:
    """The size of a head: heads times their size shrinks as the width does."""

    def rule(value: int, sizes: Sizes) -> int:
        number = _number(sizes, heads) or 1
        return _multiple(value * _shrinkage(sizes) * number / _heads(number), 4, value)

    return rule


def _share(*heads: str) -> Rule:
    """The number of groups that share something: a divisor of the number of heads."""

    def rule(value: int, sizes: Sizes) -> int:
        old = _number(sizes, heads) or value
        new = _heads(old)
        divisors = [d for d in range(1, new + 1) if new % d == 0]
        return min(divisors, key=lambda d: abs(d - value * new / old))

    return rule


def _picture(value: int, sizes: Sizes) -> int:
    """Four patches a side; a network that halves pictures stage by stage needs more."""
    staged = "depths" in sizes or type(sizes.get("patch_size")) is not int
    return min(value, 64 if staged else 16)


MEANINGS: tuple[tuple[str, Rule], ...] = (
    # what is cut to a constant
    (r"depths", _cap(1)),
    (r"num_layers_per_stack|(\w+_)?sparse_step", _cap(2)),
    (r"patch_size", _cap(4)),
    (r"image_size", _picture),
    (r"(\w+_)?vocab_size(_\w+)?", _cap(VOCABULARY)),
    (r"(\w+_)?max_(\w+_)?position(s|_embeddings)|n_positions|context_length|n_ctx", _cap(64)),
    (r"(\w+_)?(window(_size)?|chunk_size|block_size|local_attention)", _cap(8)),
    (r"(\w+_)?(state_size|d_state)|index_topk", _cap(8)),
    (r"(\w+_)?experts_per_tok(en)?|((\w+_)?top_?k|moe_k)(_experts)?", _cap(2)),
    (r"n_group|num_expert_groups?", _cap(2)),
    (r"topk_group|(\w+_)?n(um)?_shared_experts?|num_kv_shared_layers", _cap(1)),
    (r"(\w+_)?n(um)?_(\w+_)?experts|zero_expert_num", _cap(4)),
    # what heads share, the size of a head, the number of heads
    (r"(\w+_)?(num_key_value|num_kv|kv_n)_heads|n_head_kv|num_query_groups", _share(*MAIN)),
    (r"linear_num_key_heads", _share("linear_num_value_heads")),
    (r"mamba_n_?groups|n_groups", _share(*MAMBA)),
    (r"mamba_(d_head|head_?dim)", _head(*MAMBA)),
    (r"linear_key_head_dim", _head("linear_num_key_heads")),
    (r"linear_value_head_dim", _head("linear_num_value_heads")),
    (r"index_head_dim", _head("index_n_heads")),
    (r"swa_(\w+_)?head_dim", _head("swa_num_attention_heads")),
    (r"(\w+_)?head_dim|d_kv|d_head|dim_head|kv_channels|rotary_dim", _head(*MAIN)),
    (r"query_pre_attn_scalar", _head(*MAIN)),  # the square of what scores are divided by
    (r"(\w+_)?heads?(_per_layer)?", lambda value, sizes: _heads(value)),
    # everything else that grows with the width
    (r"(\w+_)?(hidden|intermediate|embedding|intra_bottleneck)_size(s|_\w+)?", _width),
    (r"(\w+_)?(ffn|hidden|embed|embedding|emb|inner)_dims?(_\w+)?", _width),
    (r"(\w+_)?(rank|lru_width|d_ssm)|n_embd|n_inner|d_model|d_inner|d_ff|dff|dim|dim_ff", _width),
)


def _rope(value: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Rotary parameters: lists of one number per frequency get as many as there are left."""
    ratio = _shrinkage(sizes) / (_heads(h) / h if (h := _number(sizes, MAIN)) else 1.0)
    small: dict[str, Any] = {}
    for name, entry in value.items():
        if isinstance(entry, dict):
            small[name] = _rope(entry, sizes)
        elif name == "mrope_section":  # lengths of sections, whose sum is the number of frequencies
            ends = [round(sum(entry[: i + 1]) * ratio) for i in range(len(entry))]
            small[name] = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        elif isinstance(entry, (list, tuple)):
            small[name] = list(entry[: max(1, round(len(entry) * ratio))])
        else:
            small[name] = entry
    return small


def _special_tokens(values: Sizes) -> dict[str, Any]:
    """Ids outside of the small vocabulary, moved to control characters; equal ones stay equal."""
    free = iter(CONTROL)
    moved: dict[int, int] = {}
    small = {}
    for name, value in values.items():
        if re.fullmatch(r"\w+_token_(id|index)", name) and value is not None:
            ids = value if isinstance(value, (list, tuple)) else [value]
            for i in ids:
                if i >= VOCABULARY and i not in moved:
                    moved[i] = next(free)
            new = [moved.get(i, i) for i in ids]
            small[name] = new if isinstance(value, (list, tuple)) else new[0]
    return small
