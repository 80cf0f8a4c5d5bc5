"""Two learning rates that are never confused (docs/theory sections 6 and 7).

The *guaranteed* one follows from a bound of the Hessian on a whole region, by the calculus of
section 2; the *measured* one from the largest eigenvalue of the Hessian at one point. What real
runs bear is a third one, found in `blockframe.scaling.stable`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from blockframe.contract.finding import doubts, finding
from blockframe.contract.smoothness import no_bound, not_twice_differentiable
from blockframe.domains.growth import Growth, Jet
from blockframe.domains.interpreter import interpret
from blockframe.domains.magnitude import Magnitude
from blockframe.domains.norms import frobenius, largest, spectral
from blockframe.dynamics.losses import LOSSES, SmoothLoss, Smoothness
from blockframe.dynamics.probes.probe import Unavailable
from blockframe.errors import InputError, PluginError
from blockframe.foreign import foreign, out_of_memory
from blockframe.graph.evaluate import leaves
from blockframe.graph.graph import Node

if TYPE_CHECKING:
    from torch import Tensor

    from blockframe.analysis import Analysis
    from blockframe.certificate.model import Subject
    from blockframe.contract.claim import Finding
    from blockframe.dynamics.iterate import Iterate
    from blockframe.dynamics.losses import Loss
    from blockframe.scaling.stable import Search, Start

NO_BOUND = Magnitude(math.inf)


@frozen
class Region:
    """The ball of ``radius`` (in the norm of what is trained) about 0, or about the start θ_0."""

    radius: float
    about_start: bool = False


@frozen
class Dominant:
    """What makes a bound large: the block whose factor in the first derivative is the largest, and
    in it the operation that contributes most."""

    block: str
    factor: Magnitude
    op: str
    module: str
    location: str


@frozen
class Guarantee:
    """Λ >= sup ‖∇²L‖ over ``region``, or why there is none.

    With η < 2/Λ every step of gradient descent that stays in the region descends (section 6).

    Attributes:
        bound: Λ.
        dominant: what makes it large; None where nothing varies.
        findings: what in the network keeps it from being found.
        why_not: what else does, in words.
        declared: whether a plugin's word is part of it.
    """

    region: Region
    bound: Magnitude = NO_BOUND
    dominant: Dominant | None = None
    findings: tuple[Finding, ...] = ()
    why_not: str = ""
    declared: bool = False

    @property
    def log10_rate(self) -> float | None:
        """log10 of 2/Λ, rounded down; None where there is no bound, or Λ = 0."""
        return -self.bound.times(0.5).log10 if math.isfinite(self.bound.log) else None


def guaranteed(analysis: Analysis, loss: Loss, region: Region) -> Guarantee:
    """A bound of the Hessian norm of the loss on ``region``, for the data of the problem.

    Args:
        analysis: of a problem with weights (`Analysis.measured`) and targets.
        loss: a `SmoothLoss`; of another one there is no bound.

    Raises:
        InputError: there are no targets.
        PluginError: the loss is asked how smooth it is, and fails.
    """
    graph = analysis.graph
    if not math.isfinite(region.radius):
        return Guarantee(region, why_not="the parameters are not finite at θ₀")
    objections = _objections(analysis)
    if objections:
        return Guarantee(region, findings=tuple(objections))
    facts = _facts(analysis, loss)
    if facts is None:
        return Guarantee(region, why_not=f"loss {loss.name} states no smoothness (docs/plugins)")
    jets, reasons = _jets(analysis, region)
    output = jets[graph.output]
    if reasons or not output.bounded:
        index, why = next(iter(reasons), (graph.output, "a norm that it needs is not finite"))
        return Guarantee(region, findings=(no_bound(analysis, index, why),))
    constant, linear = facts.slope
    slope = Magnitude.constant(constant) + output.value.times(linear)
    bound = output.first.power(2).times(facts.curvature) + slope * output.second
    if not bound.bounded:
        return Guarantee(region, why_not=f"loss {loss.name} has no finite slope for these targets")
    return Guarantee(
        region, bound, _dominant(analysis, jets), declared=_by_word(analysis, jets, loss)
    )


@frozen
class Measured:
    """The largest Hessian eigenvalue λ at θ_0, with the residual that Lanczos left (an eigenvalue
    lies within it), or why there is none."""

    sharpness: float | None = None
    residual: float | None = None
    products: int = 0
    converged: bool = False
    why_not: str = ""

    @property
    def rate(self) -> float | None:
        """2/λ; None where λ is not positive, or so small that 2/λ is no number: it bounds no step
        then."""
        if self.sharpness is None or self.sharpness <= 0:
            return None
        rate = 2.0 / self.sharpness
        return rate if math.isfinite(rate) else None


@frozen
class LearningRates:
    """What ``blockframe lr`` shows.

    Attributes:
        norm: ‖θ_0‖, rounded up; infinity where θ_0 is not finite.
        guarantee: on a ball that holds more than θ_0.
        at_start: the same bound on θ_0 alone. It guarantees nothing; held against the measured λ it
            shows how loose the calculus is, and against the bound on the ball what the ball costs.
        measured: at θ_0.
        starts: what was found at θ_0, and at those of further seeds.
        ended: why those of some seeds are missing; "" if none are.
        search: how the largest stable rates were looked for; None if they were not.
    """

    subject: Subject
    norm: float
    guarantee: Guarantee
    at_start: Guarantee
    measured: Measured
    starts: tuple[Start, ...] = ()
    search: Search | None = None
    ended: str = ""


def measured_at(it: Iterate) -> Measured:
    """The curvature at one θ, or why there is none."""
    try:
        if not it.finite:
            return Measured(why_not="loss or gradient are not finite at θ₀")
        pair = it.curvature
    except Unavailable as error:
        return Measured(why_not=f"{error.message}; --stable needs none of that")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return Measured(why_not="memory ran out; fewer --samples or --memory may help")
    if not math.isfinite(pair.value):
        return Measured(why_not="the Hessian is not finite at θ₀")
    return Measured(pair.value, pair.residual, pair.products, pair.converged)


def start_norm(analysis: Analysis) -> float:
    """‖θ_0‖ over everything that is trained, rounded up."""
    total = Magnitude(-math.inf)
    for parameter in analysis.chain.problem.module.parameters():
        if parameter.requires_grad:
            total = total + Magnitude.constant(frobenius(parameter)).power(2)
    return float(total.root())


# --- what keeps a bound from being found -------------------------------------------------------


def _objections(analysis: Analysis) -> list[Finding]:
    """What speaks against the gradient being that of a twice differentiable function.

    A gradient that is stopped somewhere (A301) does no harm to clause S, but descent does not
    follow the gradient of the function then.
    """
    kinks = not_twice_differentiable(analysis)
    issues = [
        finding(analysis, issue.node, issue.code, issue.message, None)
        for issue in analysis.analyticity.reaching(analysis.graph.output)
        if issue.node in kinks or issue.code == "A301"
    ]
    known = {(f.code, f.location) for f in issues}
    return [*issues, *(f for f in doubts(analysis) if (f.code, f.location) not in known)]


def _facts(analysis: Analysis, loss: Loss) -> Smoothness | None:
    """How the derivatives of the loss grow for the targets of the problem."""
    targets = analysis.chain.problem.targets
    if not isinstance(loss, SmoothLoss):
        return None
    if targets is None:
        raise InputError("the problem has no targets", "Give (module, inputs, targets).")
    with foreign(lambda what: PluginError(f"the smoothness of loss {loss.name!r} failed: {what}")):
        facts = loss.smoothness(targets)
        numbers = tuple(map(float, (*facts.slope, facts.curvature)))
    if len(numbers) != 3 or not all(x >= 0.0 for x in numbers):
        raise PluginError(
            f"the smoothness of loss {loss.name!r} is {numbers}",
            "Return Smoothness((c0, c1), curvature), none of them negative.",
        )
    return Smoothness(numbers[:2], numbers[2])


def _by_word(analysis: Analysis, jets: Sequence[Jet[Magnitude]], loss: Loss) -> bool:
    """Whether a plugin's record or loss was used."""
    graph, declared = analysis.graph, analysis.chain.catalogue.declared
    records = any(graph[i].op in declared for i in graph.live if analysis.varies[i])
    return records or not any(type(loss) is type(known) for known in LOSSES)


# --- the jets of a region ----------------------------------------------------------------------


@frozen(eq=False)
class _Numbers:
    """Leaves of `Growth`: the norms that tensors can have in a region."""

    region: Region
    tensors: Mapping[int, Tensor]  # of the leaves, by node

    def constant(self, c: float) -> Magnitude:
        return Magnitude.constant(c)

    def number(self, size: Magnitude) -> float:
        return float(size)

    def parameter(self, node: Node) -> Jet[Magnitude]:
        """A part of θ; it is moved by at most the radius."""
        radius, one = Magnitude.constant(self.region.radius), Magnitude.constant(1.0)
        none = Magnitude.constant(0.0)
        if not self.region.about_start:
            return Jet(radius, one, none, float(radius))
        tensor = self.tensors[node.index]
        return Jet(
            Magnitude.constant(frobenius(tensor)) + radius,
            one,
            none,
            float(Magnitude.constant(largest(tensor)) + radius),
            Magnitude.constant(spectral(tensor)) + radius if tensor.ndim == 2 else None,
        )

    def data(self, node: Node) -> Magnitude | None:
        return Magnitude.constant(frobenius(self.tensors[node.index]))


def _jets(
    analysis: Analysis, region: Region
) -> tuple[Sequence[Jet[Magnitude]], list[tuple[int, str]]]:
    """The jet of every node, and where the bound of what the output depends on was lost."""
    graph = analysis.graph
    values = leaves(graph, analysis.chain.problem)
    domain = Growth(
        graph, analysis.varies, analysis.ranges, analysis.constants,
        not_twice_differentiable(analysis), _Numbers(region, values),
    )  # fmt: skip
    jets = interpret(graph, domain, analysis.chain.catalogue)
    return jets, [reason for reason in domain.reasons if reason[0] in graph.live]


def _dominant(analysis: Analysis, jets: Sequence[Jet[Magnitude]]) -> Dominant | None:
    """The block in which the bound of the first derivative grows most."""

    def first(indices: Sequence[int]) -> float:
        return max((jets[i].first.log for i in indices if analysis.varies[i]), default=-math.inf)

    def gain(index: int) -> float:
        return first([index]) - max(first(analysis.graph[index].operands), 0.0)

    blocks = [
        (first(analysis.exits(b)) - max(first(analysis.entries(b)), 0.0), b)
        for b in analysis.chain.blocks
        if analysis.owned(b)
    ]
    factor, block = max(blocks, key=lambda pair: pair[0], default=(-math.inf, None))
    if block is None or not math.isfinite(factor):
        return None
    node = analysis.graph[max(analysis.owned(block), key=gain)]
    return Dominant(
        block.name, Magnitude(factor), node.short, node.module, str(node.location or "")
    )


__all__ = [
    "Dominant", "Guarantee", "LearningRates", "Measured", "Region", "guaranteed",
    "measured_at", "start_norm",
]  # fmt: skip
