"""The loss as a function of one flat vector θ."""

from __future__ import annotations

import copy
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve, frozen
from torch import Tensor, nn
from torch.func import functional_call

from blockframe.dynamics.arithmetic import Arithmetic, IdentityCasts
from blockframe.dynamics.ending import NetworkError
from blockframe.dynamics.losses import Loss
from blockframe.errors import InputError, PluginError
from blockframe.foreign import foreign
from blockframe.problem import Problem

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.dynamics.chunks import Budget
    from blockframe.dynamics.traced import Traced

REST = "rest"
"""The block of the parameters that no block names."""


@frozen(eq=False)
class Objective:
    """L(θ) of one problem, the network in evaluation mode.

    θ is what requires a gradient, flat, in the order of ``module.named_parameters()``, always in
    float64; the network is evaluated in ``arithmetic.dtype``. The problem's module is not touched:
    ``module`` is a copy of its structure, and θ and the buffers are put in call by call.

    Attributes:
        names, shapes: of the parameters that make up θ.
        start: θ_0, (P,), float64.
        blocks: block name → positions in ``names``; only blocks with a part in θ.
        constants: buffers and parameters that require no gradient, in ``arithmetic.dtype``.
        infimum: L_inf, a known lower bound of the loss.
        analysis: of this network with these inputs, where there is one already; see `traced`.
        budget: what a run may take, and the chunks of samples that fit; None for no limit.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    keywords: Mapping[str, Any]
    output: str | int | None
    targets: Tensor
    loss: Loss
    arithmetic: Arithmetic
    seed: int
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    start: Tensor
    blocks: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Tensor]
    infimum: float
    analysis: Analysis | None = None
    budget: Budget | None = None

    @classmethod
    def of(
        cls,
        problem: Problem,
        loss: Loss,
        arithmetic: Arithmetic,
        *,
        blocks: Mapping[str, Sequence[str]] | None = None,
        seed: int = 0,
        analysis: Analysis | None = None,
    ) -> Objective:
        """
        Raises:
            InputError: no targets, no weights, nothing to train, or blocks that do not fit.
            PluginError: a contributed loss knows no lower bound.
        """
        if problem.targets is None:
            raise InputError(
                "there is nothing to descend on: the problem has no targets",
                "Give (module, inputs, targets), or a Problem with targets.",
            )
        if not problem.has_weights:
            raise InputError(
                "the parameters are on the meta device and hold no numbers",
                "Give a module with weights, or the problem's proxy.",
            )
        theta = {n: p for n, p in problem.module.named_parameters() if p.requires_grad}
        if not any(p.numel() for p in theta.values()):
            raise InputError(
                "no parameter of the module requires a gradient", "Set requires_grad on some."
            )
        if any(not p.is_floating_point() for p in theta.values()):
            raise InputError("θ must be real floating point", "Give a module with real weights.")

        def place(value: Any, real: torch.dtype = arithmetic.dtype) -> Any:
            if not isinstance(value, Tensor):
                return value
            dtype = real if value.is_floating_point() else value.dtype
            return value.detach().to(arithmetic.device, dtype, copy=True)

        targets = place(problem.targets, torch.float32 if arithmetic.half else arithmetic.dtype)
        named = {**dict(problem.module.named_parameters()), **dict(problem.module.named_buffers())}
        flat = [p.detach().to(arithmetic.device, torch.float64).flatten() for p in theta.values()]
        return cls(
            module=_structure(problem.module),
            inputs=tuple(place(x) for x in problem.inputs),
            keywords={k: place(v) for k, v in problem.keywords.items()},
            output=problem.output,
            targets=targets,
            loss=loss,
            arithmetic=arithmetic,
            seed=seed,
            names=tuple(theta),
            shapes=tuple(p.shape for p in theta.values()),
            start=torch.cat(flat),
            blocks=_blocks(tuple(theta), frozenset(named), blocks or {}),
            constants={n: place(t) for n, t in named.items() if n not in theta},
            infimum=_infimum(loss, targets),
            analysis=analysis,
        )

    @property
    def sizes(self) -> list[int]:
        return [shape.numel() for shape in self.shapes]

    @cached_property
    def traced(self) -> Traced:
        """The network as its graph; made when it is first asked for.

        Raises:
            Unavailable: see `blockframe.dynamics.traced.Traced.of`.
        """
        from blockframe.dynamics.traced import Traced

        return Traced.of(self)

    def __call__(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and loss (scalar) at θ (P,), with a graph if θ requires a gradient.

        Where samples are taken in chunks, the outputs have no graph, and the loss has one that is
        made anew when it is differentiated.

        Raises:
            NetworkError: the forward raises.
            InputError: its outputs do not fit the targets, or are no tensor.
            PluginError: a contributed loss fails.
        """
        if self.budget is not None and self.budget.parts:
            return self.budget.evaluate(theta)
        outputs = self.outputs(self.parameters(theta))
        return outputs, self.value(outputs)

    def in_dtype(self, dtype: torch.dtype) -> Objective:
        """The same evaluated in ``dtype``, its data rounded to that; without a budget.

        By a copy of the module: one that keeps a table in the dtype of its input would change it.
        """
        arithmetic = Arithmetic(self.arithmetic.device, dtype)

        def cast(value: Any, real: torch.dtype = dtype) -> Any:
            floating = isinstance(value, Tensor) and value.is_floating_point()
            return value.to(real) if floating else value

        return evolve(
            self,
            module=_structure(self.module),
            inputs=tuple(cast(x) for x in self.inputs),
            keywords={k: cast(v) for k, v in self.keywords.items()},
            targets=cast(self.targets, torch.float32 if arithmetic.half else dtype),
            arithmetic=arithmetic,
            constants={n: cast(t) for n, t in self.constants.items()},
            budget=None,
        )

    def beside(self, theta: Tensor, share: float, generator: torch.Generator) -> Tensor:
        """A random point near ``theta``, (P,), at which no parameter is 0: of every tensor the
        entries are moved by ``share`` of their root mean square, of one of zeros by ``share``."""
        pieces = []
        for piece in torch.split(theta, self.sizes):
            noise = torch.randn(piece.shape, generator=generator, dtype=torch.float64)
            size = float(piece.square().mean().sqrt()) if piece.numel() else 0.0
            pieces.append(piece + share * (size or 1.0) * noise.to(piece.device))
        return torch.cat(pieces)

    def value(self, outputs: Tensor) -> Tensor:
        """The loss (scalar) of the outputs of all samples, in float32 at least.

        Raises:
            InputError: they do not fit the targets.
            PluginError: a contributed loss fails.
        """
        outputs = self.arithmetic.widened(outputs)
        with foreign(lambda what: PluginError(f"the loss {self.loss.name!r} failed: {what}")):
            self.loss.check(outputs, self.targets)
            loss = self.loss(outputs, self.targets)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise PluginError(f"the loss {self.loss.name!r} returned shape {shape}")
        return loss

    def parameters(self, theta: Tensor) -> dict[str, Tensor]:
        """θ (P,) as the tensors that the network is evaluated with: views, by name."""
        parts = torch.split(theta.to(self.arithmetic.dtype), self.sizes)
        return {n: p.view(s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}

    def outputs(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """f(θ; x) for all samples, θ as the tensors of `parameters`, with their graph.

        Raises:
            NetworkError: the forward raises.
            InputError: what it returns has no such output, or that is no tensor.
        """
        # Clones: a buffer that the forward updates in place must not carry over to the next θ.
        constants = {n: c.clone() for n, c in self.constants.items()}
        with (
            foreign(self._forward_error, file=_file(self.module)),
            self.arithmetic.randomness(self.seed),
            IdentityCasts(self.arithmetic.dtype),
        ):
            returned = functional_call(
                self.module, {**parameters, **constants}, self.inputs, dict(self.keywords)
            )
        return _select(returned, self.output, type(self.module).__name__)

    def output_gradient(self, outputs: Tensor) -> Tensor:
        """∇_F L at these outputs, of their shape; 0 if the loss does not depend on them.

        Raises:
            PluginError: a contributed loss fails.
        """
        leaf = self.arithmetic.widened(outputs.detach()).clone().requires_grad_()
        with foreign(lambda what: PluginError(f"the loss {self.loss.name!r} failed: {what}")):
            loss = self.loss(leaf, self.targets)
            (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True, materialize_grads=True)
        return gradient

    def output_pairing(self, outputs: Tensor) -> tuple[float, float]:
        """⟨F, ∇_F L⟩ at these outputs, in float64 (docs/theory section 5), and Σ|F_j ∂L/∂F_j|.

        Raises:
            PluginError: a contributed loss fails.
        """
        if self.budget is not None and self.budget.parts:
            pieces = self.budget.split(outputs)
            found = [(share, part.output_pairing(piece)) for part, share, piece in pieces]
            pairing, size = (math.fsum(share * pair[i] for share, pair in found) for i in (0, 1))
            return pairing, size
        products = outputs.double() * self.output_gradient(outputs).double()
        return float(products.sum()), float(products.abs().sum())

    def differentiate(
        self, of: Tensor, by: Tensor, vector: Tensor | None = None, **graph: bool
    ) -> Tensor:
        """∇ of a scalar, or the product of a Jacobian's transpose with ``vector``; 0 if unused.

        Raises:
            NetworkError: the backward raises.
        """
        with foreign(self._backward_error, file=_file(self.module)), self.arithmetic.kernels():
            (gradient,) = torch.autograd.grad(
                of, by, vector, allow_unused=True, materialize_grads=True, **graph
            )
        return gradient

    def pull_back(
        self, outputs: Tensor, by: Sequence[Any], cotangents: Tensor
    ) -> tuple[Tensor | None, ...]:
        """For each of ``by``, tensors or gradient edges, the products of the transposed Jacobian
        with each of the ``cotangents`` (k, *outputs.shape): (k, *shape), or None if unused.

        In one batched backward, or one by one where an operation has no batching rule. The graph
        is kept.

        Raises:
            NetworkError: the backward raises.
        """

        def gradients(vector: Tensor, batched: bool) -> tuple[Tensor | None, ...]:
            with foreign(self._backward_error, file=_file(self.module)), self.arithmetic.kernels():
                found: tuple[Tensor | None, ...] = torch.autograd.grad(
                    outputs, by, vector, retain_graph=True, allow_unused=True,
                    is_grads_batched=batched,
                )  # fmt: skip
            return found

        try:
            return gradients(cotangents, batched=True)
        except NetworkError:
            rows = [gradients(vector, batched=False) for vector in cotangents]
        columns = zip(*rows, strict=True)
        return tuple(
            None if column[0] is None else torch.stack([g for g in column if g is not None])
            for column in columns
        )

    def by_block(self, vector: Tensor) -> dict[str, Tensor]:
        """The parts of a vector (P,) that belong to each block, flat; views where that goes."""
        parts = torch.split(vector, self.sizes)
        ends = [0, *itertools.accumulate(self.sizes)]

        def block(where: tuple[int, ...]) -> Tensor:
            if where == tuple(range(where[0], where[-1] + 1)):
                return vector[ends[where[0]] : ends[where[-1] + 1]]
            return torch.cat([parts[i] for i in where])

        return {b: block(where) for b, where in self.blocks.items()}

    def norms(self, vector: Tensor) -> dict[str, float]:
        """Of a vector (P,): its norm, at ``""``, and of the part that belongs to each block."""
        parts = torch.split(vector, self.sizes)
        squares = torch.stack([(p * p).sum() for p in parts]).tolist()
        by_block = {b: sum(squares[i] for i in where) for b, where in self.blocks.items()}
        return {b: math.sqrt(x) for b, x in {"": sum(squares), **by_block}.items()}

    @cached_property
    def start_norms(self) -> dict[str, float]:
        """`norms` of θ_0."""
        return self.norms(self.start)

    def _forward_error(self, what: str) -> NetworkError:
        shapes = ", ".join(str(tuple(x.shape)) for x in self.inputs) or "none"
        return NetworkError(
            f"{type(self.module).__name__} failed on inputs of shape {shapes}: {what}",
            "Give inputs that the module accepts.",
            reason=f"the forward raised {what}",
        )

    def _backward_error(self, what: str) -> NetworkError:
        return NetworkError(
            f"the backward of {type(self.module).__name__} failed: {what}",
            "Correct the backward of its custom operation.",
            reason=f"the backward raised {what}",
        )


def _structure(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares the tensors, so that it costs no memory."""
    tensors = [*module.parameters(), *module.buffers()]
    name = type(module).__name__
    with foreign(
        lambda what: InputError(f"{name} cannot be copied: {what}", "Make copy.deepcopy work."),
        file=_file(module),
    ):
        return copy.deepcopy(module, {id(t): t for t in tensors}).eval()


def _infimum(loss: Loss, targets: Tensor) -> float:
    with foreign(lambda what: PluginError(f"the infimum of loss {loss.name!r} failed: {what}")):
        bound = float(loss.infimum(targets))
    if math.isnan(bound):
        raise PluginError(
            f"the infimum of loss {loss.name!r} is NaN", "Return -inf where no bound is known."
        )
    return bound


def _file(module: nn.Module) -> str:
    return getattr(sys.modules.get(type(module).__module__), "__file__", None) or ""


def _blocks(
    theta: tuple[str, ...], known: frozenset[str], blocks: Mapping[str, Sequence[str]]
) -> dict[str, tuple[int, ...]]:
    position = {name: i for i, name in enumerate(theta)}
    found: dict[str, tuple[int, ...]] = {}
    owner: dict[str, str] = {}
    for block, names in blocks.items():
        for name in names:
            if name not in known:
                raise InputError(
                    f"block {block!r} has a parameter {name!r} that the module has not",
                    "Use the names of module.named_parameters().",
                )
            if name in owner:
                raise InputError(
                    f"parameter {name!r} is in block {owner[name]!r} and in block {block!r}",
                    "Give each parameter to one block.",
                )
            owner[name] = block
        inside = tuple(position[n] for n in names if n in position)
        if inside:
            found[block] = inside
    rest = tuple(i for name, i in position.items() if name not in owner)
    if rest:
        found[REST if REST not in found else f"({REST})"] = rest
    return found


def _select(returned: Any, output: str | int | None, name: str) -> Tensor:
    value = returned
    if isinstance(output, str) and not isinstance(returned, Mapping):
        value = getattr(returned, output, None)
    elif output is not None:
        try:
            value = returned[output]
        except (KeyError, IndexError, TypeError):
            value = None
    if not isinstance(value, Tensor):
        what = "the module" if output is None else f"output {output!r} of the module"
        raise InputError(
            f"{what} is a {type(value).__name__}, not a tensor ({name} returned "
            f"a {type(returned).__name__})",
            "Say which part of what it returns is its output: Problem(..., output=...).",
        )
    if not value.is_floating_point():
        raise InputError(
            f"{name} returned {value.dtype}", "The output must be real floating point numbers."
        )
    return value
