"""Data, loss, weights and sample count for problems that the user brings as Python objects.

A plugin does this for its own specs; here it is done for ``(module, inputs, targets)``.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from attrs import evolve

from blockframe.data import RANDOM, Samples, find
from blockframe.errors import InputError
from blockframe.foreign import foreign
from blockframe.initialize import DEFAULT, Scheme, initialize
from blockframe.problem import Problem, Request

if TYPE_CHECKING:
    from torch import Tensor


def supply(problem: Problem, request: Request, weights: str = "") -> Problem:
    """``problem`` with the data, loss, initialization and sample count of ``request``.

    Where the module has no weights, its proxy gets them. The user's module is never changed.
    `Problem.data` says what was done.

    Args:
        weights: where those of the module are from, in words.

    Raises:
        InputError: there is no such data or initialization, or it does not fit.
    """
    if not problem.has_weights and problem.proxy is not None:
        proxy = supply(problem.proxy, request, weights)
        return evolve(problem, proxy=proxy, loss=proxy.loss)
    if request.loss is not None:
        problem = evolve(problem, loss=request.loss)
    if request.init != DEFAULT:
        name = type(problem.module).__name__
        with foreign(
            lambda what: InputError(f"{name} cannot be copied: {what}", "Make copy.deepcopy work.")
        ):
            module = copy.deepcopy(problem.module)
        if initialize(module, request.init, request.seed):
            weights = _of_scheme(request)
        problem = evolve(problem, module=module)
    if request.data == RANDOM:
        own = evolve(problem, data="own inputs")
        problem = _random_targets(_first(own, request.samples), request)
    elif request.data is not None:
        samples = find(request.data, request.datasets)
        problem = _with_samples(problem, samples.samples(), samples.words, request)
    else:
        problem = _first(problem, request.samples)
    return _saying(problem, weights)


def _of_scheme(request: Request) -> str:
    scheme = Scheme.of(request.init)
    if scheme.name == DEFAULT:
        return f"weight matrices times {scheme.scale:g}"
    return f"weight matrices drawn at random ({request.init}, seed {request.seed})"


def _saying(problem: Problem, words: str) -> Problem:
    """``words`` added to those about the data."""
    return evolve(problem, data="; ".join(filter(None, [problem.data, words])))


def _first(problem: Problem, count: int | None) -> Problem:
    """The first ``count`` samples of a problem's own data."""
    if count is None:
        return problem
    tensors = [*problem.inputs, *([] if problem.targets is None else [problem.targets])]
    there = min((len(t) for t in tensors if t.dim()), default=0)
    if not 1 <= count <= there:
        raise InputError(
            f"{count} samples asked for, {there} there are",
            f"Give --samples a number from 1 to {there}.",
        )
    targets = None if problem.targets is None else problem.targets[:count]
    inputs = tuple(x[:count] for x in problem.inputs)
    problem = evolve(problem, inputs=inputs, targets=targets)
    return _saying(problem, f"{count:,} of {there:,} samples")


def _with_samples(problem: Problem, samples: Samples, words: str, request: Request) -> Problem:
    """A problem on other data than its own."""
    import torch

    if len(problem.inputs) != 1 or not problem.inputs[0].is_floating_point():
        raise InputError(
            f"{words} cannot replace the inputs of this model",
            "That takes a model with one input of real numbers; give --data random.",
        )
    if request.samples is not None:
        words += f", {request.samples:,} of {len(samples.x):,} samples"
        samples = samples.first(request.samples)
    example = problem.inputs[0]
    x = torch.as_tensor(samples.x, dtype=example.dtype, device=example.device)
    if x[0].numel() != example[0].numel():
        raise InputError(
            f"a sample of {words} has shape {tuple(x.shape[1:])}, "
            f"the model's example input {tuple(example.shape[1:])}",
            "Give data with as many numbers per sample as the model reads.",
        )
    problem = evolve(problem, inputs=(x.reshape(-1, *example.shape[1:]),), data=words)
    y = torch.as_tensor(samples.y, device=example.device)
    if samples.classes is None:
        return evolve(problem, targets=y.to(example.dtype), loss=request.loss or "mse")
    shape = _output(problem).shape
    if samples.classes > shape[-1]:
        raise InputError(
            f"{words} has {samples.classes} classes, the model has {shape[-1]} outputs",
            "Give the model one output per class.",
        )
    if request.loss == "mse":
        y = torch.nn.functional.one_hot(y, shape[-1]).to(example.dtype)
    return evolve(problem, targets=y, loss=request.loss or "ce")


def _random_targets(problem: Problem, request: Request) -> Problem:
    """Targets drawn under the seed: standard normal, or classes for cross-entropy."""
    import torch

    output = _output(problem)
    generator = torch.Generator().manual_seed(request.seed)
    if problem.loss == "ce":
        targets = torch.randint(output.shape[-1], output.shape[:-1], generator=generator)
    else:
        targets = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    problem = evolve(problem, targets=targets.to(output.device))
    return _saying(problem, f"random targets (seed {request.seed})")


def _output(problem: Problem) -> Tensor:
    """What the module gives for the problem's inputs.

    Raises:
        InputError: its forward raises, or the output is not one tensor.
    """
    import torch

    from blockframe.graph.capture import run_forward, select

    name = type(problem.module).__name__
    with foreign(  # what is no Exception: SystemExit
        lambda what: InputError(f"the forward of {name} raised {what}", "It must return a tensor.")
    ):
        output = select(problem, run_forward(problem, grad=True))
    if not isinstance(output, torch.Tensor):
        raise InputError(
            f"the output of {name} is a {type(output).__name__}, not a tensor",
            "Say which part of what forward returns is its output: Problem(..., output=...).",
        )
    return output.detach()
