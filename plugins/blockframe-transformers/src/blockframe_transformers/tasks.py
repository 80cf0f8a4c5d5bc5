"""What a model of each task reads, and what it shall answer.

Text is tokenised by bytes, which every vocabulary of 256 tokens can hold; a smaller one gets the
byte modulo its size. Shapes: N sequences, T tokens, V tokens in the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from attrs import field, frozen
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from blockframe.data import (
    RANDOM,
    TEXT,
    Samples,
    find,
    random_samples,
    random_sequences,
    sequences,
)
from blockframe.errors import InputError, SpecError
from blockframe.problem import Request

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEQUENCES, TOKENS = 8, 16
"""N and T of text that a model is run on."""
PICTURES = 32
MASKED = 0.15
"""Share of the tokens that a masked language model has to guess (Devlin et al. 2019)."""


@frozen(eq=False)
class Batch:
    """Arguments of ``forward`` and the targets that go with them."""

    inputs: tuple[Tensor, ...]
    targets: Tensor | None = None
    keywords: Mapping[str, Tensor] = field(factory=dict)
    words: str = ""


def check(model: PreTrainedModel, task: str) -> None:
    """Raises:
    SpecError: the model reads neither tokens nor pictures.
    """
    wanted = "pixel_values" if task == "image" else "input_ids"
    if model.main_input_name != wanted:
        raise SpecError(
            f"{type(model).__name__} reads {model.main_input_name}, not {wanted}",
            "blockframe feeds language models tokens and image classifiers pictures.",
        )


def batch(task: str, config: PreTrainedConfig, request: Request, *, targets: bool = True) -> Batch:
    """Real inputs and targets, the data that ``request`` asks for.

    ``targets``: whether the model is trained on them, so that it must have as many labels.

    Raises:
        InputError: the data does not fit.
    """
    if task == "image" and not targets:
        return _image(config, request, labelled=False)
    return BATCHES[task](config, request)


def picture(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Channels, height and width of the pictures that a classifier reads."""
    own = getattr(config, "vision_config", config)
    size = getattr(own, "image_size", 224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return getattr(own, "num_channels", 3), height, width


def pictures(request: Request) -> tuple[Samples, str]:
    """Pictures of shape (N, H, W) or (N, C, H, W) with classes, and what they are in words."""
    if request.data == RANDOM or (request.data is None and "digits" not in request.datasets):
        count = max(PICTURES, request.samples or 0)
        samples, words = random_samples((8, 8), count, 10, request.seed), "random pictures"
    else:
        dataset = find(request.data or "digits", request.datasets)
        samples, words = dataset.samples(), dataset.words
    if samples.classes is None or samples.x.ndim not in (3, 4):
        raise InputError(
            f"'{request.data}' holds no pictures with classes",
            "x must have shape (N, H, W) or (N, C, H, W), and y must hold class numbers.",
        )
    return samples, words


def _causal(config: PreTrainedConfig, request: Request) -> Batch:
    """Every token is asked for from those before it: targets (N, T)."""
    tokens, words = _tokens(config, request, TOKENS + 1)
    return Batch((tokens[:, :-1],), tokens[:, 1:], words=words)


def _masked(config: PreTrainedConfig, request: Request) -> Batch:
    """Some tokens are replaced by a mask; the targets (N, T) are what stood there before."""
    tokens, words = _tokens(config, request, TOKENS)
    mask = 255 if _vocabulary(config) > 255 else getattr(config, "mask_token_id", None) or 0
    generator = torch.Generator().manual_seed(request.seed)
    order = torch.rand(tokens.shape, generator=generator).argsort(dim=1)
    hidden = order < round(MASKED * TOKENS)
    return Batch((tokens.masked_fill(hidden, mask),), tokens, words=f"{words}, 15 % masked")


def _seq2seq(config: PreTrainedConfig, request: Request) -> Batch:
    """The first half of a passage is read and the second, (N, T), asked for token by token."""
    tokens, words = _tokens(config, request, 2 * TOKENS)
    source, target = tokens[:, :TOKENS], tokens[:, TOKENS:]
    decoder = config.get_text_config(decoder=True)
    start = getattr(config, "decoder_start_token_id", None)
    start = getattr(decoder, "decoder_start_token_id", None) if start is None else start
    shifted = torch.cat([torch.full_like(target[:, :1], start or 0), target[:, :-1]], dim=1)
    return Batch((source,), target, {"decoder_input_ids": shifted}, words)


def _image(config: PreTrainedConfig, request: Request, *, labelled: bool = True) -> Batch:
    """Pictures enlarged to the model's size, targets (N,)."""
    samples, words = pictures(request)
    if labelled and (config.num_labels or 0) < (samples.classes or 0):
        raise InputError(
            f"the data has {samples.classes} classes and the model {config.num_labels}",
            f"Give --set num_labels={samples.classes}.",
        )
    count = min(PICTURES, len(samples.x)) if request.samples is None else request.samples
    words = f"{words}, {count} of {len(samples.x)} samples"
    samples = samples.first(count)
    channels, *size = picture(config)
    x = torch.from_numpy(samples.x).float()
    x = x.unsqueeze(1) if x.dim() == 3 else x
    x = torch.nn.functional.interpolate(x, size=size, mode="nearest")
    if x.shape[1] not in (1, channels):
        raise InputError(
            f"the pictures have {x.shape[1]} channels and the model reads {channels}",
            "Give pictures with one channel, or with as many.",
        )
    return Batch(
        (x.expand(-1, channels, -1, -1).clone(),), torch.from_numpy(samples.y), words=words
    )


def _vocabulary(config: PreTrainedConfig) -> int:
    """V; the smaller one where a model reads and writes with different vocabularies."""
    ends = (config, config.get_text_config(decoder=True), config.get_text_config(encoder=True))
    return min((v for end in ends if (v := getattr(end, "vocab_size", None))), default=256)


def _tokens(config: PreTrainedConfig, request: Request, length: int) -> tuple[Tensor, str]:
    vocabulary = _vocabulary(config)
    count = SEQUENCES if request.samples is None else request.samples
    tokens: NDArray[Any]
    if request.data == RANDOM:
        tokens = random_sequences(vocabulary, count, length, request.seed)
        words = "random tokens"
    else:
        dataset = find(request.data or TEXT.name, {TEXT.name: TEXT, **request.datasets})
        tokens = sequences(dataset.text(), vocabulary, count, length)
        words = dataset.words + f", bytes modulo {vocabulary}" * (vocabulary < 256)
    return torch.from_numpy(tokens), f"{words}, {len(tokens)} sequences of {length} tokens"


BATCHES: dict[str, Callable[[PreTrainedConfig, Request], Batch]] = {
    "causal": _causal,
    "masked": _masked,
    "seq2seq": _seq2seq,
    "image": _image,
}


def constants(model: PreTrainedModel) -> dict[str, Any]:
    """Keyword arguments that switch the cache off where ``forward`` has one."""
    names = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in names else {}
