"""Spec → Problem: the user's Python, and the names that plugins know.

``path/file.py:attr`` and ``pkg.module:attr`` name a `Problem`, a tuple ``(module, inputs)`` or
``(module, inputs, targets)``, or a callable that returns one; ``plugin:spec`` asks one plugin;
every other spec is put to all plugins.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve

from blockframe.dynamics.losses import default_loss
from blockframe.errors import InputError, PluginError, SpecError
from blockframe.foreign import foreign
from blockframe.naming import lookup, nearest, suggestion
from blockframe.problem import Problem, Request
from blockframe.supply import supply
from blockframe.userfile import Source, source

if TYPE_CHECKING:
    from blockframe.plugins import Plugin, Registry

_REMEDY = "{} (module, inputs), or a blockframe.Problem."


def as_problem(target: object, request: Request, registry: Registry) -> Problem:
    """The problem that ``target`` is or names, with what ``request`` asks applied to it.

    Args:
        target: a spec, a `Problem`, ``(module, inputs)`` or ``(module, inputs, targets)``.

    Raises:
        SpecError: nothing, or more than one plugin, resolves the spec; a setting does not exist.
        InputError: ``target`` is nothing of this kind; the data does not fit.
        PluginError: a plugin broke off.
    """
    if isinstance(target, str):
        return resolve(target, request, registry)
    if request.settings:
        raise SpecError(
            f"there is nothing to set {', '.join(request.settings)} on", "Settings are for specs."
        )
    problem = _problem(target, "the target is", _REMEDY.format("Give"))
    problem = evolve(problem, spec=problem.spec or type(problem.module).__name__)
    return supply(problem, _prepared(request, registry))


def resolve(spec: str, request: Request, registry: Registry) -> Problem:
    """The problem that ``spec`` names.

    Raises:
        SpecError: nothing, or more than one plugin, resolves it; a setting does not exist; the
            user's code raises.
        InputError: what the user's code returns is no problem; the data does not fit.
        PluginError: a plugin broke off.
    """
    request = _prepared(request, registry)
    prefix, _, rest = spec.partition(":")
    for info in registry.plugins:
        if rest and info.name == prefix and info.error:
            raise SpecError(f"plugin {info} could not be loaded ({info.error})", "Repair it first.")
    chosen = [p for p in registry.loaded if rest and p.info.name == prefix]
    code = None if chosen else source(spec)
    if code is not None:
        # A code that draws its weights need not follow the seed, but may.
        made = f"weights as {code} makes them, torch seeded with {request.seed}"
        problem = supply(_by_code(code, request), request, made)
    else:
        asked = chosen or registry.loaded
        answers = _answers(rest if chosen else spec, request, asked)
        if not answers:
            raise _unknown(spec, asked)
        problem = answers[0]
    return evolve(problem, spec=problem.spec or spec)


def _prepared(request: Request, registry: Registry) -> Request:
    """``request``, its loss looked up, with what its data can name.

    Raises:
        InputError: there is no such loss.
    """
    if request.loss is not None:
        lookup("loss", request.loss, registry.losses())
    return evolve(request, datasets=registry.datasets())


def _answers(spec: str, request: Request, plugins: Sequence[Plugin]) -> list[Problem]:
    """What the plugins say to ``spec``: one problem, or none.

    Raises:
        SpecError: more than one knows it.
        PluginError: an answer is no problem.
    """
    answers: dict[str, Problem] = {}
    for plugin in plugins:
        for problem in plugin.call("blockframe_resolve", spec=spec, request=request):
            if not isinstance(problem, Problem):
                raise PluginError(
                    f"blockframe_resolve of plugin {plugin.info} returned {_a(problem)}",
                    "It must return a blockframe.Problem, or None.",
                )
            answers[plugin.info.name] = problem
    if len(answers) > 1:
        raise SpecError(
            f"{spec!r} is resolved by {' and by '.join(answers)}",
            f"Choose: {' or '.join(f'{name}:{spec}' for name in answers)}.",
        )
    return list(answers.values())


def _unknown(spec: str, asked: Sequence[Plugin]) -> SpecError:
    """That nothing knows ``spec``, with the names that look like it."""
    known = [(plugin.info.name, name) for plugin in asked for name in plugin.specs()]
    if ":" in spec:
        close = nearest(spec, [f"{plugin}:{name}" for plugin, name in known])
    else:
        close = nearest(spec, [name for _, name in known])
    return SpecError(
        f"no plugin resolves {spec!r}",
        f"Did you mean {', '.join(close)}?   (blockframe plugins list)"
        if close
        else "See `blockframe plugins list`; a model of your own is path/file.py:attr.",
    )


def _by_code(code: Source, request: Request) -> Problem:
    """Import the user's code and take, or make, the problem in it."""
    import torch

    # Weights that the code draws follow the seed; the caller's generator is left as it was.
    with torch.random.fork_rng(devices=[]), code.importable():
        torch.manual_seed(request.seed)
        found = code.find()
        if isinstance(found, torch.nn.Module) or not callable(found):
            if request.settings:
                raise SpecError(
                    f"{code} is {_a(found)} and takes no settings",
                    "Make it a function, or omit --set.",
                )
            return _problem(found, f"{code} is", _REMEDY.format("Make it"))
        _check_settings(str(code), found, request.settings)
        with foreign(
            lambda what: SpecError(f"{code} raised {what}", "It must return a problem."),
            file=code.file,
        ):
            made = found(**request.settings)
        return _problem(made, f"{code} returned", _REMEDY.format("Return"))


def _check_settings(name: str, function: Any, settings: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C: nothing is known before the call
        return
    takes = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in settings:
            if key not in takes:
                raise SpecError(f"{name} has no setting {key!r}", suggestion(key, takes))
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in variadic and p.name not in settings
    ]
    if missing:
        raise SpecError(
            f"{name} needs a value for {', '.join(missing)}",
            f"Give it with --set {missing[0]}=..., or give it a default.",
        )


def _problem(found: object, subject: str, remedy: str) -> Problem:
    """``found`` as a problem; ``subject`` begins the sentence that says why it is none."""
    import torch

    if isinstance(found, Problem):
        return found
    if isinstance(found, torch.nn.Module):
        raise InputError(f"{subject} {_a(found)} without inputs", remedy)
    if not isinstance(found, tuple) or len(found) not in (2, 3):
        raise InputError(f"{subject} {_a(found)}", remedy)
    module, inputs, *rest = found
    targets = rest[0] if rest else None
    loss = default_loss(targets) if isinstance(targets, torch.Tensor) else "mse"
    return Problem(module, inputs, targets, loss=loss)


def _a(value: object) -> str:
    """``a Linear``, ``an Embedding``, ``a tuple of 4``, ``None``."""
    if value is None:
        return "None"
    name = type(value).__name__
    many = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}{many}"
