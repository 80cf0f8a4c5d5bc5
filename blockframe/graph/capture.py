"""From a module to a `Graph`, by ``torch.export`` (non-strict, on meta or real tensors)."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve
from torch._subclasses.fake_tensor import FakeTensor
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import GraphModule
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from blockframe.errors import CaptureError, InputError
from blockframe.graph.graph import Graph, Node, NodeKind, Ref, substitute
from blockframe.graph.location import from_exception, from_trace
from blockframe.problem import Problem

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

_NO_GRAD = torch.ops.higher_order.wrap_with_set_grad_enabled
_AUTOCAST = torch.ops.higher_order.wrap_with_autocast
_ASSERTIONS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range",
               "sym_constrain_range_for_size")  # fmt: skip


_UNKNOWN_OUTPUT = re.compile(r"Found <class '([\w.]+)'> in output, which is not a known type")
_CACHE = (
    "Set config.use_cache = False, or give keywords={'use_cache': False} to the Problem: training "
    "needs no cache."
)


def capture(problem: Problem) -> Graph:
    """The network of ``problem`` as a flat functional graph, in evaluation mode.

    Regions under ``no_grad`` are inlined; what leaves them passes through a ``detach`` node.

    Raises:
        InputError: the forward itself does not run on these inputs, or what it returns is not
            one tensor and ``problem.output`` does not say which.
        CaptureError: the forward runs, but is not one traced function.
    """
    program = _export(problem)
    _refuse_autocast(program.graph_module)
    if _mutates(program.graph_module):
        with _quiet():
            program = program.run_decompositions({})
    _refuse_state(program)
    return _Builder(problem, program).build()


def _export(problem: Problem) -> ExportedProgram:
    inputs, keywords = problem.arguments
    with evaluation_mode(problem.module), _quiet(), torch.enable_grad():
        try:
            return torch.export.export(problem.module, inputs, keywords, strict=False)
        # The forward is foreign code and the tracer runs it: anything can come out of it. It is
        # turned into a refusal here, and never into an answer.
        except (Exception, SystemExit) as error:
            run_forward(problem, grad=True)
            raise _refusal(error) from error


def run_forward(problem: Problem, *, grad: bool = False) -> Any:
    """What the module returns in evaluation mode, with or without recording gradients.

    Raises:
        InputError: the forward raises; with the line of the model where it did.
    """
    inputs, keywords = problem.arguments
    with evaluation_mode(problem.module), torch.set_grad_enabled(grad):
        try:
            return problem.module(*inputs, **keywords)
        except (Exception, SystemExit) as error:  # foreign code again
            where = from_exception(error)
            shapes = ", ".join(str(tuple(x.shape)) for x in problem.inputs)
            raise InputError(
                f"the forward does not run on inputs of shape {shapes}: "
                f"{type(error).__name__}: {_first_line(error)}" + (f" ({where})" if where else ""),
                "Give inputs that the module accepts.",
            ) from error


def _refusal(error: BaseException) -> CaptureError:
    where = from_exception(error)
    text = "" if _first_line(error) == "no message" else str(error)
    listed = from_trace(text)  # data-dependent guards name the user's call in their message
    where = listed or where
    kind = type(error).__name__
    if kind.startswith("GuardOnDataDependent") or "data-dependent" in text:
        message = "the forward branches on the value of a tensor, so it is not one function"
        remedy = "Choose with torch.where, or certify each branch as a model of its own."
    elif "fake tensor" in text or "numpy" in text or "FakeTensor" in text:
        message = (
            "a value leaves the graph here (.data, .numpy() or the like), "
            "so what follows is not traced"
        )
        remedy = "Keep the computation in torch, without .data."
    elif unknown := _UNKNOWN_OUTPUT.match(text):
        name = unknown[1].rpartition(".")[2]
        message = f"the forward returns a {name}, which torch.export does not know"
        remedy = _CACHE if "Cache" in name else "Return tensors only, in tuples, lists or dicts."
    else:
        message = f"torch.export cannot trace the forward ({kind}: {_first_line(error)})"
        remedy = "Rewrite that line with traceable tensor operations."
    return CaptureError(
        message,
        remedy,
        location=str(where) if where else "",
        excerpt=where.text if where else "",
    )


def _first_line(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 (a message of foreign code that cannot be read is none)
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else "no message"


def _refuse_state(program: ExportedProgram) -> None:
    changed = [
        spec.target or getattr(spec.arg, "name", "?")
        for spec in program.graph_signature.output_specs
        if spec.kind
        in (
            OutputKind.BUFFER_MUTATION,
            OutputKind.USER_INPUT_MUTATION,
            OutputKind.PARAMETER_MUTATION,
        )
    ]
    if changed:
        raise CaptureError(
            f"the forward changes {', '.join(changed)}, "
            "so it is not a function of parameters and inputs",
            "Make it stateless in evaluation mode.",
            code="A903",
        )


def _refuse_autocast(module: GraphModule) -> None:
    for node in module.graph.nodes:
        if node.target is _AUTOCAST and node.args[2]:
            raise CaptureError(
                "the forward computes under torch.autocast, which rounds between operations",
                "Certify the model without autocast.",
            )
        inner = getattr(module, node.target, None) if node.op == "get_attr" else None
        if isinstance(inner, GraphModule):
            _refuse_autocast(inner)


def _mutates(module: GraphModule) -> bool:
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema is not None and schema.is_mutable:
            return True
        if node.op == "get_attr":
            inner = getattr(module, node.target)
            if isinstance(inner, GraphModule) and _mutates(inner):
                return True
    return False


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Every submodule in evaluation mode, and back afterwards."""
    were = [(m, m.training) for m in module.modules()]
    try:
        for m, _ in were:
            m.training = False
        yield
    finally:
        for m, training in were:
            m.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export explains itself at length; what matters of it is in the exception."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        stack.enter_context(redirect_stderr(io.StringIO()))
        yield


class _Builder:
    """Copies an exported program into nodes of our own, inlining sub-graphs."""

    def __init__(self, problem: Problem, program: ExportedProgram) -> None:
        self.problem = problem
        self.program = program
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}
        self.ungraded: set[int] = set()  # made where gradients are off
        self.detached: dict[int, int] = {}
        self.trainable: dict[int, str] = {
            id(p): name for name, p in problem.module.named_parameters() if p.requires_grad
        }
        self.leaves: dict[object, int] = {}

    def build(self) -> Graph:
        values = self._inputs()
        outputs = self._inline(self.program.graph_module, values, grad=True)
        output = self._choose(outputs)
        return pruned(self.nodes, output, self.tensors)[0]

    # --- leaves ---------------------------------------------------------------------------------

    def _inputs(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        metas = {
            n.name: n.meta.get("val") for n in self.program.graph.nodes if n.op == "placeholder"
        }
        position = 0
        for spec in self.program.graph_signature.input_specs:
            name = spec.arg.name
            match spec.kind:
                case InputKind.PARAMETER | InputKind.BUFFER:
                    values[name] = self._state(str(spec.target), metas[name])
                case InputKind.CONSTANT_TENSOR:
                    tensor = self.program.constants[str(spec.target)]
                    values[name] = self._constant(str(spec.target), tensor)
                case InputKind.USER_INPUT if isinstance(metas.get(name), torch.Tensor):
                    values[name] = Ref(self._leaf(NodeKind.INPUT, name, position, metas[name]))
                    position += 1
                case InputKind.USER_INPUT:
                    values[name] = getattr(spec.arg, "value", None)
                case _:
                    kind = spec.kind.name.lower().replace("_", " ")
                    raise CaptureError(
                        f"the traced program needs {kind} {name}",
                        "Certify a model that is made of tensor operations alone.",
                    )
        return values

    def _state(self, target: str, meta: Any) -> Ref:
        owner, _, leaf = target.rpartition(".")
        tensor = getattr(self.problem.module.get_submodule(owner), leaf)
        name = self.trainable.get(id(tensor))
        kind = NodeKind.BUFFER if name is None else NodeKind.PARAMETER
        key = (kind, name or target)
        if key not in self.leaves:
            self.leaves[key] = self._leaf(kind, name or target, name or target, meta)
        return Ref(self.leaves[key])

    def _constant(self, name: str, tensor: Tensor) -> Ref:
        found = self.trainable.get(id(tensor))
        if found is not None:
            raise CaptureError(
                f"parameter {found} is read as a constant",
                "Register it on the module that uses it.",
            )
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        if wrapped or isinstance(tensor, FakeTensor):  # what torch.func or a cache left behind
            raise CaptureError(
                "a value of the forward became a constant of the traced program",
                "Write it without torch.func inside the forward, and without a cache of tensors.",
            )
        self.tensors[name] = tensor
        return Ref(self._leaf(NodeKind.CONSTANT, name, name, tensor))

    def _leaf(self, kind: NodeKind, name: str, target: Any, meta: Any) -> int:
        return self._append(kind, name, target, meta=meta)

    # --- calls ----------------------------------------------------------------------------------

    def _inline(self, module: GraphModule, values: dict[str, Any], *, grad: bool) -> Any:
        """Append the nodes of ``module``; its outputs, references instead of tensors."""
        made: dict[FxNode, Any] = {}

        def value(fx: FxNode) -> Any:
            return self._graded(made[fx]) if grad else made[fx]

        for fx in module.graph.nodes:
            if fx.op == "placeholder":
                made[fx] = values[fx.name]
            elif fx.op == "get_attr":
                made[fx] = self._attribute(module, str(fx.target))
            elif fx.op == "output":
                return torch.fx.map_arg(fx.args[0], lambda n: made[n])
            elif not _is_assertion(fx):
                args = torch.fx.map_arg(fx.args, value)
                kwargs = torch.fx.map_arg(fx.kwargs, value)
                made[fx] = self._call(fx, _plain(args), _plain(kwargs), grad=grad)
        raise CaptureError("the traced program has no output")

    def _attribute(self, module: GraphModule, target: str) -> Any:
        found: Any = module
        for part in target.split("."):
            found = getattr(found, part)
        return self._constant(target, found) if isinstance(found, torch.Tensor) else found

    def _call(self, fx: FxNode, args: Any, kwargs: Any, *, grad: bool) -> Any:
        if fx.target is _NO_GRAD:
            enabled, inner, *operands = args
            return self._subgraph(inner, operands, grad=bool(enabled))
        if fx.target is _AUTOCAST:
            _, _, _, _, inner, *operands = args  # switched off, or it was refused
            return self._subgraph(inner, operands, grad=grad)
        if str(fx.target) == "<built-in function getitem>" and isinstance(args[0], (tuple, list)):
            return args[0][args[1]]  # of an inlined sub-graph's outputs
        schema = getattr(fx.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            raise CaptureError(
                f"{schema.name} writes in place to a tensor in a way that could not be undone",
                "Write it without an in-place operation.",
                location=str(from_trace(fx.meta.get("stack_trace")) or ""),
            )
        target, args, kwargs = self._plainer(*of_shape_alone(fx, args, kwargs))
        index = self._append(
            NodeKind.CALL, fx.name, target, args, kwargs, meta=fx.meta.get("val"), fx=fx
        )
        if not grad:
            self.ungraded.add(index)
        return Ref(index)

    def _plainer(self, target: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """The same value by an op that says more clearly what it is."""
        if target in _DIVISIONS and kwargs.get("rounding_mode") is None:
            return _DIVISIONS[target], args[:2], {}
        if target is torch.ops.aten.copy.default and isinstance(args[1], Ref):
            # What an in-place copy becomes; autograd does not know its derivative.
            over, source = self.nodes[args[0].index], self.nodes[args[1].index]
            if over.shape is not None and over.dtype == source.dtype:
                return torch.ops.aten.expand.default, (args[1], list(over.shape)), {}
        return target, args, kwargs

    def _subgraph(self, inner: GraphModule, operands: list[Any], *, grad: bool) -> Any:
        names = [n.name for n in inner.graph.nodes if n.op == "placeholder"]
        if grad:
            operands = [self._graded(o) for o in operands]
        return self._inline(inner, dict(zip(names, operands, strict=True)), grad=grad)

    def _graded(self, value: Any) -> Any:
        """``value`` as code that records gradients sees it."""
        if isinstance(value, (tuple, list)):
            return type(value)(self._graded(v) for v in value)
        if not isinstance(value, Ref) or value.index not in self.ungraded:
            return value
        node = self.nodes[value.index]
        if node.dtype is None or not (node.dtype.is_floating_point or node.dtype.is_complex):
            return value
        if value.index not in self.detached:
            self.detached[value.index] = self._append(
                NodeKind.CALL, f"{node.name}_detached", torch.ops.aten.detach.default, (value,),
                like=node,
            )  # fmt: skip
        return Ref(self.detached[value.index])

    def _append(
        self,
        kind: NodeKind,
        name: str,
        target: Any,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        meta: Any = None,
        fx: FxNode | None = None,
        like: Node | None = None,
    ) -> int:
        index = len(self.nodes)
        tensor = isinstance(meta, torch.Tensor)
        stack = list((fx.meta.get("nn_module_stack") or {}).values()) if fx is not None else []
        node = Node(
            index=index,
            kind=kind,
            name=name,
            target=target,
            args=tuple(args),
            kwargs=dict(kwargs or {}),
            shape=_static(meta.shape) if tensor else None,
            dtype=meta.dtype if tensor else None,
            module=stack[-1][0].partition("@")[0] if stack else "",
            calls=tuple(path for path, _ in stack),
            classes=tuple(_class_name(c) for _, c in stack),
            location=from_trace(fx.meta.get("stack_trace")) if fx is not None else None,
        )
        if like is not None:
            node = evolve(
                node, shape=like.shape, dtype=like.dtype, module=like.module, calls=like.calls,
                classes=like.classes, location=like.location,
            )  # fmt: skip
        self.nodes.append(node)
        return index

    # --- output ---------------------------------------------------------------------------------

    def _choose(self, outputs: Any) -> int:
        """Index of the network's output f among what forward returns."""
        kinds = (OutputKind.USER_OUTPUT,)
        specs = self.program.graph_signature.output_specs
        flat = [self._graded(o) for o, s in zip(outputs, specs, strict=True) if s.kind in kinds]
        assert self.program.call_spec.out_spec is not None
        returned = pytree.tree_unflatten(flat, self.program.call_spec.out_spec)
        chosen = select(self.problem, returned)
        if not isinstance(chosen, Ref):
            raise InputError(
                "the network's output is a plain number or None, not a tensor",
                "Return a tensor that depends on the parameters.",
            )
        return int(chosen.index)


def select(problem: Problem, returned: Any) -> Any:
    """The network's output among what its forward returned.

    Raises:
        InputError: ``problem.output`` names no part, or there are several and it names none.
    """
    if problem.output is None:
        if isinstance(returned, (tuple, list, Mapping)):
            what = (
                f"keys {', '.join(map(str, returned))}"
                if isinstance(returned, Mapping)
                else f"{len(returned)} parts"
            )
            raise InputError(
                f"the forward returns a {type(returned).__name__} ({what}), not one tensor",
                "Say which part is the network's output: Problem(..., output=key or index).",
            )
        return returned
    try:
        if isinstance(problem.output, str) and not isinstance(returned, Mapping):
            return getattr(returned, problem.output)
        return returned[problem.output]
    except (KeyError, IndexError, AttributeError, TypeError):
        raise InputError(
            f"the forward returns no part {problem.output!r}", "Check Problem(output=...)."
        ) from None


_FILLED = {
    torch.ops.aten.zeros_like.default: torch.ops.aten.zeros.default,
    torch.ops.aten.ones_like.default: torch.ops.aten.ones.default,
    torch.ops.aten.full_like.default: torch.ops.aten.full.default,
    torch.ops.aten.empty_like.default: torch.ops.aten.empty.memory_format,
    torch.ops.aten.new_zeros.default: torch.ops.aten.zeros.default,
    torch.ops.aten.new_ones.default: torch.ops.aten.ones.default,
    torch.ops.aten.new_full.default: torch.ops.aten.full.default,
    torch.ops.aten.new_empty.default: torch.ops.aten.empty.memory_format,
}


def of_shape_alone(fx: FxNode, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """``zeros_like(x)`` and its kin, which use only the shape of x, as ops without an operand."""
    called: Any = fx.target
    target = _FILLED.get(called)
    value = fx.meta.get("val")
    if target is None or not isinstance(value, torch.Tensor):
        return called, args, kwargs
    shape = _static(value.shape)
    if shape is None:
        return called, args, kwargs
    filled: tuple[Any, ...] = (list(shape),)
    if target is torch.ops.aten.full.default:
        at = 1 if called is torch.ops.aten.full_like.default else 2
        filled += (args[at] if len(args) > at else kwargs["fill_value"],)
    return target, filled, {"dtype": value.dtype, "device": value.device}


_DIVISIONS = {
    torch.ops.aten.div.Tensor_mode: torch.ops.aten.div.Tensor,
    torch.ops.aten.div.Scalar_mode: torch.ops.aten.div.Scalar,
}


def pruned(
    nodes: Sequence[Node], output: int, tensors: Mapping[str, Tensor], keep: Iterable[int] = ()
) -> tuple[Graph, Mapping[int, int]]:
    """Only what the output and ``keep`` depend on, leaves first; and the new indices."""
    live = {output, *keep}
    for node in reversed(nodes):
        if node.index in live:
            live.update(node.operands)
    kept = [n for n in nodes if n.index in live]
    kept.sort(key=lambda n: n.kind is NodeKind.CALL)
    new = {n.index: i for i, n in enumerate(kept)}
    renumbered = tuple(renumber(n, i, new) for i, n in enumerate(kept))
    return Graph(renumbered, new[output], dict(tensors)), new


def renumber(node: Node, index: int, new: Mapping[int, Any]) -> Node:
    """``node`` at another place, its operands found through ``new`` (an index, or a value)."""

    def of(i: int) -> Any:
        return Ref(new[i]) if isinstance(new[i], int) else new[i]

    return evolve(
        node, index=index, args=substitute(node.args, of), kwargs=substitute(node.kwargs, of),
        origin=index,
    )  # fmt: skip


def _static(shape: Any) -> tuple[int, ...] | None:
    return tuple(shape) if all(type(n) is int for n in shape) else None


def _plain(value: Any) -> Any:
    """fx's immutable containers as ordinary ones."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return value


def _class_name(cls: Any) -> str:
    return cls.rpartition(".")[2] if isinstance(cls, str) else cls.__name__


def _is_assertion(fx: FxNode) -> bool:
    schema = getattr(fx.target, "_schema", None)
    return schema is not None and schema.name.removeprefix("aten::") in _ASSERTIONS
