"""From a spec and what the user asked to a problem: full size on meta, and a proxy with numbers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from attrs import evolve
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as their_logging

from blockframe.errors import SpecError
from blockframe.foreign import foreign
from blockframe.initialize import DEFAULT, drawn, initialize
from blockframe.problem import Problem, Request
from blockframe_transformers import build, tasks
from blockframe_transformers.build import Architecture
from blockframe_transformers.configs import configuration
from blockframe_transformers.reduce import reduce

SMALL = 1_000_000
"""Parameters of a proxy at most; a model that has no more itself is run as it is."""
COPIES = (1, 2, 1000)
"""Layers of each kind, tried in turn: some models share weights between two of a kind, or count."""


def resolve(spec: str, request: Request) -> Problem:
    """The problem of ``spec``, a model type or a directory with a ``config.json``.

    Raises:
        SpecError: a setting that there is not, or a configuration that makes no model.
        InputError: data or weights that do not fit.
    """
    with _quiet():
        return _resolve(spec, request)


def _resolve(spec: str, request: Request) -> Problem:
    arch = build.architecture(configuration(spec, request.settings), spec, _remedy(spec, request))
    full = build.on_meta(arch, spec)
    tasks.check(full, arch.task)
    if request.full or sum(p.numel() for p in full.parameters()) <= SMALL:
        build.check_memory(full, spec)
        model, weights = _weights(spec, arch, request)
        return _problem(spec, arch, model, weights, request)
    proxy, note = _proxy(spec, arch, _kinds(full), request)
    data = tasks.batch(arch.task, arch.config, request, targets=False)
    return Problem(
        full,
        data.inputs,
        loss=request.loss or "ce",
        keywords={**data.keywords, **tasks.constants(full)},
        output="logits",
        spec=spec,
        note=note,
        proxy=proxy,
        buffers=build.buffers(full),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log and the progress bars of transformers; ours are elsewhere."""
    verbosity, bars = their_logging.get_verbosity(), their_logging.is_progress_bar_enabled()
    their_logging.set_verbosity(logging.ERROR)
    their_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        their_logging.set_verbosity(verbosity)
        if bars:
            their_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _remedy(spec: str, request: Request) -> str:
    """What to do where the configuration makes no model."""
    if request.settings:
        return "Look at the values given with --set."
    if Path(spec).is_dir():
        return "Look at its config.json, or put it right with --set."
    return "Put it right with --set; the defaults of some types alone make no model."


def _weights(spec: str, arch: Architecture, request: Request) -> tuple[PreTrainedModel, str]:
    """The model at full size, and where its weights are from, in words.

    Raises:
        SpecError: weights are stored, and others are asked for.
        InputError: what is stored does not fit, or cannot be read.
    """
    directory = Path(spec)
    if not directory.is_dir() or not (request.full or build.has_safetensors(directory)):
        return build.random(arch, request.seed, spec), drawn(request.init, request.seed)
    if request.init != DEFAULT:
        raise SpecError(
            f"{spec} has weights of its own, and --init {request.init} would draw others",
            "Leave out --init, or give a directory with nothing but the config.json.",
        )
    model, unused = build.stored(arch, directory, spec)
    return model, f"weights of {spec}" + (f" without {build.first(unused)}" if unused else "")


def _proxy(
    spec: str, arch: Architecture, kinds: set[str], request: Request
) -> tuple[Problem | None, str]:
    """A small model of the same kind that runs, and how it differs, or why there is none.

    ``kinds``: those of the full model's parameters; all of them must occur, and no others.
    """
    why = ""
    for copies in COPIES:
        try:
            config = _small(spec, arch, copies)
            if arch.task == "image":
                config.num_labels = tasks.pictures(request)[0].classes or 1
            small = evolve(arch, config=config)
            shapes = build.on_meta(small, spec)
            if shapes.num_parameters() > SMALL:
                why = why or f"its smallest form has more than {SMALL:,} parameters"
                break
            if other := sorted(_kinds(shapes) ^ kinds):
                why = why or f"its small form differs from it in {other[0]}"
                continue
            model = build.random(small, request.seed, spec)
            note = _differences(arch.config, config)
            weights = drawn(request.init, request.seed)
            return _problem(spec, small, model, weights, request, note), note
        except SpecError as error:
            why = why or error.message
    return None, f"no proxy: {why}"


def _kinds(model: PreTrainedModel) -> set[str]:
    """Names of the parameters without the numbers of layers, and their dimensions."""
    named = model.named_parameters()
    return {f"{re.sub('[0-9]+', '*', name)} ({p.dim()}d)" for name, p in named}


def _small(spec: str, arch: Architecture, copies: int) -> PreTrainedConfig:
    with foreign(lambda why: SpecError(f"{spec} cannot be reduced ({why})")):
        return type(arch.config).from_dict(reduce(arch.config.to_dict(), copies))


def _problem(
    spec: str,
    arch: Architecture,
    model: PreTrainedModel,
    weights: str,
    request: Request,
    note: str = "",
) -> Problem:
    """The problem of a model that has weights; ``weights``: which, in words.

    Raises:
        SpecError: it does not run, or does not answer with finite logits for every target.
    """
    batch = tasks.batch(arch.task, model.config, request)
    keywords = {**batch.keywords, **tasks.constants(model)}
    # A mixer's decay rates (A_log) form a matrix that multiplies nothing.
    turned: tuple[type[nn.Module], ...] = (Conv1D, *_turned_experts(model))
    initialize(model, request.init, request.seed, transposed=turned, keep=("A_log",))
    with foreign(lambda why: SpecError(f"{spec} cannot be run ({why})")), torch.no_grad():
        logits = model(*batch.inputs, **keywords)["logits"]
    if batch.targets is None or logits.shape[:-1] != batch.targets.shape:
        raise SpecError(f"{spec} answers with logits of shape {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise SpecError(f"{spec} answers with logits that are not finite")
    targets = batch.targets
    if request.loss == "mse":
        targets = torch.nn.functional.one_hot(targets, logits.shape[-1]).to(logits.dtype)
    return Problem(
        model,
        batch.inputs,
        targets,
        loss=request.loss or "ce",
        keywords=keywords,
        output="logits",
        spec=spec,
        data=f"{batch.words}; {weights}",
        note=note,
    )


def _turned_experts(model: PreTrainedModel) -> tuple[type[nn.Module], ...]:
    """Classes of layers that hold their experts as (experts, inputs, outputs).

    Transformers says so of the layers that its own kernels can run (`use_experts_implementation`);
    Llama 4 multiplies batched matrices by itself.
    """
    kinds = {
        type(layer)
        for layer in model.modules()
        if getattr(layer, "is_transposed", False) or type(layer).__name__ == "Llama4TextExperts"
    }
    return tuple(kinds)


def _differences(large: PreTrainedConfig, small: PreTrainedConfig) -> str:
    """``2 of 12 layers, width 64 of 768, 4 of 12 heads, vocabulary 256 of 50,257``."""
    said = []
    for text, names in (
        ("{} of {} layers", ("num_hidden_layers", "encoder_layers")),
        ("width {} of {}", ("hidden_size", "d_model")),
        ("{} of {} heads", ("num_attention_heads",)),
        ("{} of {} experts", ("num_experts", "num_local_experts", "n_routed_experts")),
        ("vocabulary {} of {}", ("vocab_size",)),
        ("pictures of {} of {} pixels a side", ("image_size",)),
        ("{} labels instead of {}", ("num_labels",)),
    ):
        for name in names:
            old, new = (getattr(_part(c), name, None) for c in (large, small))
            if isinstance(old, int) and isinstance(new, int) and old != new:
                said.append(text.format(f"{new:,}", f"{old:,}"))
                break
    return ", ".join(said)


def _part(config: PreTrainedConfig) -> PreTrainedConfig:
    return config.get_text_config(decoder=True)
