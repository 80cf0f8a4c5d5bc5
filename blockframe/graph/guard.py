"""Does the graph say what the module does? Checked on the module itself, with numbers.

A trace shows the forward. A custom backward, a hook or a trick that stops the gradient is
invisible in it, and a forward that draws numbers outside of torch is frozen into it.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen

from blockframe.errors import BlockframeError
from blockframe.foreign import foreign
from blockframe.graph.capture import evaluation_mode, select
from blockframe.graph.evaluate import as_function, evaluate, leaves
from blockframe.graph.graph import Graph, Location
from blockframe.graph.watch import Watch, changed, saved_tensor_hooks, state
from blockframe.problem import Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

VALUE_ULPS, GRADIENT_ULPS = 1e3, 1e5
"""Relative differences, in units of the dtype's eps, that rounding explains: the operations are
the same ones, in the same order; gradients may be accumulated in another."""
SCALE = 2.0**20
"""A gradient is linear in what comes in from above; a hook that clips is not."""


@frozen
class Objection:
    """Why the graph does not stand for the module, or not for its gradient.

    ``op``: what was seen, by its torch name; ``location``: the model's line that did it.
    """

    code: str
    message: str
    module: str = ""
    numbers: dict[str, Any] | None = None
    op: str = ""
    location: Location | None = None


def objections(
    problem: Problem, graph: Graph, *, original: nn.Module | None = None, seed: int = 0
) -> list[Objection]:
    """Everything found, empty if nothing.

    At the problem's own parameters and at a random point near them, module and graph are compared:
    values, and the gradient of a random linear functional of the output. ``original``: the module
    that ``problem`` holds a copy of, if it does (a copied parameter has lost its hooks).
    """
    root = original or problem.module
    found = [*_hooks(root), *_aliases(root, problem, graph), *_overlaps(root)]
    generator = torch.Generator().manual_seed(seed)
    own = [(n, p) for n, p in problem.module.named_parameters() if p.dtype.is_floating_point]
    originals = {name: p.detach().clone() for name, p in own}
    try:
        for scale in (0.0, 0.1):
            with torch.no_grad():
                for name, p in own:
                    noise = torch.randn(p.shape, generator=generator, dtype=p.dtype, device="cpu")
                    spread = float(originals[name].square().mean().sqrt()) or 1.0
                    p.copy_(originals[name] + scale * spread * noise.to(p.device))
            try:
                with _breaks_off("A904", "module and graph could not be compared"):
                    found += _compare(problem, graph, generator)
            except _NotComparable as refusal:
                found.append(Objection(refusal.code, refusal.message))
    finally:
        with torch.no_grad():
            for name, p in own:
                p.copy_(originals[name])
    return list({(o.code, o.message, o.location): o for o in found}.values())


def _aliases(root: nn.Module, problem: Problem, graph: Graph) -> Iterator[Objection]:
    """Parameters that are read through another tensor: their gradient is not followed there."""
    memory = {
        p.untyped_storage().data_ptr(): name
        for module in (root, problem.module)
        for name, p in module.named_parameters()
        if p.requires_grad and p.numel() and not p.is_meta
    }
    fixed = [(n, p) for n, p in root.named_parameters() if not p.requires_grad]
    others = [*root.named_buffers(), *fixed, *graph.tensors.items()]
    for name, tensor in others:
        if tensor.is_meta or tensor.layout is not torch.strided or not tensor.numel():
            continue
        parameter = memory.get(tensor.untyped_storage().data_ptr())
        if parameter is not None or (tensor.requires_grad and tensor.grad_fn is not None):
            yield Objection(
                "A301",
                f"parameter {parameter or '(unknown)'} is also read as a constant ({name}), "
                "where its gradient is not followed",
            )


def _overlaps(root: nn.Module) -> Iterator[Objection]:
    """Parameters in one place of memory: a step of one also moves the other."""
    taken: list[tuple[int, int, int, str]] = []
    for name, p in root.named_parameters():
        if not p.requires_grad or p.is_meta or not p.numel():
            continue
        place = p.untyped_storage().data_ptr()
        first = int(p.storage_offset()) * p.element_size()
        reach = sum((n - 1) * int(s) for n, s in zip(p.shape, p.stride(), strict=True))
        last = first + (reach + 1) * p.element_size()
        for other, start, end, whose in taken:
            if other == place and start < last and first < end:
                yield Objection(
                    "A304",
                    f"parameters {whose} and {name} share memory, and neither's gradient is that "
                    "by what they share",
                    module=name.rpartition(".")[0],
                )
        taken.append((place, first, last, name))


class _NotComparable(BlockframeError):
    """The comparison broke off in code that is not ours."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _breaks_off(code: str, what: str) -> AbstractContextManager[None]:
    return foreign(lambda why: _NotComparable(code, f"{what} ({why})"))


def _compare(problem: Problem, graph: Graph, generator: torch.Generator) -> Iterator[Objection]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    parameters = {n: p for n, p in problem.module.named_parameters() if p.requires_grad}
    with (
        evaluation_mode(problem.module), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH),
        warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.simplefilter("ignore")  # what the forward warns about is not our finding
        with _breaks_off("A904", "the forward does not run at a point nearby"):
            output = yield from _run(problem, parameters)
            again = select(problem, problem.module(*problem.inputs, **problem.keywords))
        with _breaks_off("A904", "the traced graph cannot be run by itself"):
            values = evaluate(graph, leaves(graph, problem), rule=as_function)[graph.output]
        if not torch.isfinite(output).all():
            yield Objection("A905", "the output is not finite at a point near the given parameters")
            return
        eps = torch.finfo(output.dtype).eps
        difference = float((output - values).detach().abs().max())
        size = max(1.0, float(output.detach().abs().max()))
        if difference > VALUE_ULPS * eps * size or not torch.equal(output, again):
            yield Objection(
                "A902",
                "the traced graph does not give the module's output: "
                "the forward is not a fixed function",
                numbers={"largest difference": difference},
            )
            return
        if not output.requires_grad:
            return
        weights = torch.randn(output.shape, generator=generator, dtype=output.dtype)
        weights = weights.to(output.device)
        with _breaks_off("A304", "autograd does not differentiate the forward"):
            ours = _gradients(values, weights, parameters)
            theirs = _gradients(output, weights, parameters)
            scaled = _gradients(output, weights * SCALE, parameters)
    for name in parameters:
        scale = max(float(theirs[name].abs().max()), float(ours[name].abs().max()), 1e-30)
        gap = float((theirs[name] - ours[name]).abs().max()) / scale
        bend = float((theirs[name] - scaled[name] / SCALE).abs().max()) / scale
        if not max(gap, bend) <= GRADIENT_ULPS * eps:
            yield Objection(
                "A304",
                "the gradient that descent follows is not the derivative of the forward map",
                module=name.rpartition(".")[0],
                numbers={"parameter": name, "relative difference": max(gap, bend)},
            )
            return


def _run(problem: Problem, parameters: Mapping[str, Tensor]) -> Generator[Objection, None, Tensor]:
    """The module's output, and what its forward was seen to do."""
    before = state(problem.module)
    with saved_tensor_hooks() as saved, Watch(parameters.values()) as watch:
        output: Tensor = select(problem, problem.module(*problem.inputs, **problem.keywords))
    custom = [*_custom_functions(output)]
    yield from (
        Objection(
            "A302",
            f"{name} is a custom autograd.Function: "
            "its backward need not be the derivative of its forward",
        )
        for name in custom
    )
    for name, where, within in watch.stopped:
        if within in custom:  # whose forward runs without gradients, and whose backward counts
            continue
        yield Objection(
            "A301",
            f"the gradient of a value that depends on parameters is stopped ({name})",
            op=name,
            location=where,
        )
    for name in watch.taken:
        yield Objection(
            "A902", f"a number is taken out of a value that depends on parameters ({name})"
        )
    yield from left_behind(changed(before, state(problem.module)))
    for name in [*watch.hooks, *saved]:
        yield Objection("A303", f"the forward sets a hook ({name}) that can change the gradient")
    return output


def left_behind(attributes: list[str]) -> Iterator[Objection]:
    """That a forward changed the module, so that the next call is another function."""
    if attributes:
        names = ", ".join(attributes[:3]) + (", …" if len(attributes) > 3 else "")
        yield Objection("A903", f"the forward changes the module's own state ({names})")


def _gradients(
    output: Tensor, weights: Tensor, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    if not output.requires_grad:
        return {n: torch.zeros_like(p) for n, p in parameters.items()}
    grads = torch.autograd.grad(
        (output * weights).sum(), list(parameters.values()), retain_graph=True, allow_unused=True
    )
    return {
        n: torch.zeros_like(p) if g is None else g
        for (n, p), g in zip(parameters.items(), grads, strict=True)
    }


def _custom_functions(output: Tensor) -> Iterator[str]:
    """Names of Python autograd Functions on the way from the output back to the parameters."""
    from torch.autograd.function import BackwardCFunction

    frontier, seen = [output.grad_fn], set()
    while frontier:
        node = frontier.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            yield type(node).__name__.removesuffix("Backward")
        frontier += [parent for parent, _ in node.next_functions]


def _hooks(root: nn.Module) -> Iterator[Objection]:
    """Hooks that exist before the forward runs."""
    for path, module in root.named_modules():
        for attribute in ("_backward_hooks", "_backward_pre_hooks"):
            if getattr(module, attribute, None):
                yield Objection(
                    "A303", f"module {path or '(root)'} has a backward hook", module=path
                )
    for name, p in root.named_parameters():
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
            yield Objection(
                "A303", f"parameter {name} has a gradient hook", module=name.rpartition(".")[0]
            )
