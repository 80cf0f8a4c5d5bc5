"""From a spec to a certificate: the table of contents of the program."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attrs import asdict, evolve

from blockframe import checks
from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.blocks import Block, BlockChain
from blockframe.certificate.model import BlockSummary, Certificate, Recipe, Subject, Trajectory
from blockframe.certificate.store import prepare
from blockframe.contract.claim import Claim
from blockframe.contract.contract import Contract
from blockframe.contract.descent import descent_claim, no_descent_claim
from blockframe.digests import digests
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.place import Place
from blockframe.dynamics.probes import PROBES, Probe
from blockframe.dynamics.run import observe, run_options, thinned
from blockframe.errors import CaptureError, InputError
from blockframe.heap import give_back
from blockframe.plugins import Registry, core_version, load_plugins
from blockframe.problem import Problem, Request
from blockframe.progress import Progress, Silence
from blockframe.resolve import as_problem
from blockframe.scaling.rates import (
    Guarantee,
    LearningRates,
    Region,
    guaranteed,
    start_norm,
)
from blockframe.scaling.stable import Search, Start, each, look

TRUST = (
    "PyTorch's trace: torch.export records every operation of the forward (checked against the "
    "module at points: value, gradient, custom backwards, hooks)",
    "the facts of the op catalogue (docs/atoms), about real arithmetic in evaluation mode",
    "buffers hold finite numbers",
    "an attention mask of -1e30 or below counts as minus infinity (rows of clause N are merged on "
    "that ground; docs/theory section 3)",
    "PyTorch's derivatives of single operations, of which the graph of a Jacobian is made",
    "IEEE double precision, sums in any order, elementary functions within a few units in the "
    "last place (docs/theory, Rigorous arithmetic): enclosures and ranks rest on it",
    "measured numbers: IEEE arithmetic of the device, no bound on rounding",
)


def load(
    target: object,
    *,
    settings: Mapping[str, Any] | None = None,
    data: str | None = None,
    loss: str | None = None,
    init: str = "default",
    samples: int | None = None,
    seed: int = 0,
    full: bool = False,
    registry: Registry | None = None,
) -> Problem:
    """What ``target`` names: a spec, a `Problem`, (module, inputs) or (module, inputs, targets).

    Arguments are those of the command line's options (docs/cli).

    Raises:
        SpecError: nothing resolves the spec, or a setting does not exist.
        InputError: data, loss or target do not fit.
        PluginError: a plugin broke off.
    """
    registry = _known(registry)
    request = Request(
        settings={} if settings is None else settings,
        data=data,
        loss=loss,
        init=init,
        samples=samples,
        seed=seed,
        full=full,
    )
    return as_problem(target, request, registry)


def chain(target: object, *, registry: Registry | None = None, **options: Any) -> BlockChain:
    """The block chain of ``target``; ``options`` as for `load`.

    Raises:
        CaptureError: the forward is not one traced function.
        SpecError, InputError, PluginError: see `load`.
    """
    registry = _known(registry)
    problem = load(target, registry=registry, **options)
    return _cut(registry)(BlockChain.of(problem, Catalogue.of(registry.atoms())))


def descend(
    target: object,
    *,
    lr: float | str | Sequence[float] = "auto",
    steps: int = 20,
    probes: Iterable[str | Probe | type[Probe]] = (),
    device: str | None = "auto",
    dtype: str | None = None,
    seed: int = 0,
    memory: int | str | None = None,
    registry: Registry | None = None,
    **options: Any,
) -> Iterator[Iterate]:
    """Gradient descent on ``target``, iterate by iterate; ``options`` as for `load`.

    The trajectory runs on the proxy where the target has no numbers of its own. See
    `blockframe.dynamics.descent.descend` for the arguments.

    Raises:
        InputError: an option has no meaning, or there are no targets to descend on.
        SpecError, PluginError: see `load`.
    """
    from blockframe.dynamics.descent import descend as run

    registry = _known(registry)
    problem = load(target, seed=seed, registry=registry, **options)
    return run(
        _runnable(problem), lr=lr, steps=steps, probes=probes, known=registry.probes(),
        losses=registry.losses(), device=device, dtype=dtype, seed=seed, memory=memory,
    )  # fmt: skip


def learning_rates(
    target: object,
    *,
    radius: float = 2.0,
    centre: str = "zero",
    stable: bool = False,
    steps: int = 50,
    width: float = 0.02,
    seeds: int = 1,
    jobs: int = 1,
    device: str | None = "auto",
    dtype: str | None = None,
    seed: int = 0,
    memory: int | str | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> LearningRates:
    """The guaranteed learning rate of ``target`` and the measured one; ``options`` as for `load`.

    Both are of the problem whose parameters hold numbers: of the proxy, where the target has none.

    Args:
        radius: of the ball on which a rate is guaranteed, in units of |θ_0|.
        centre: of that ball: ``zero``, or ``start`` for θ_0.
        stable: also bracket the largest rate that is stable over ``steps`` steps, by runs, to the
            relative ``width`` (`blockframe.scaling.stable`).
        seeds: how many starts to look at, of ``seed`` and the seeds that follow it; the guaranteed
            rate is that of the first.
        jobs: processes for that, on the CPU. Where there are several, each resolves a ``target``
            that must be a spec, with the plugins that are installed.
        device, dtype, memory: of what is measured; the bound is about real numbers.

    Raises:
        CaptureError: the forward is not one traced function.
        InputError: there are no targets, or the ball is none that θ_0 lies in; ``seeds`` make no
            difference.
        SpecError, PluginError: see `load`.
    """
    progress, known = _listening(progress), _known(registry)
    if centre not in ("zero", "start"):
        raise InputError(f"centre is {centre!r}", "Give zero or start.")
    factor = checks.positive(radius)
    if factor is None or (factor < 1.0 and centre == "zero"):
        raise InputError(
            f"radius must be a number of at least 1 about zero, positive about the start; it is "
            f"{radius!r}", "It counts in units of |θ_0|, and θ_0 must lie in the ball.",
        )  # fmt: skip
    narrow = checks.positive(width)
    if narrow is None or not _NARROWEST <= narrow <= 1:
        raise InputError(f"width must be from {_NARROWEST} to 1, not {width!r}", "Try 0.02.")
    asked = Search(checks.whole("steps", steps, 1), narrow)
    search = asked if checks.flag("stable", stable) else None
    run = run_options(
        lr="auto", steps=0, known=known.probes(), losses=known.losses(), device=device,
        dtype=dtype, seed=seed, memory=memory,
    )  # fmt: skip
    last = checks.seed(run.seed + checks.whole("seeds", seeds, 1) - 1)
    aside = min(checks.whole("jobs", jobs, 1), seeds)
    if aside > 1 and not isinstance(target, str):
        raise InputError("several jobs cannot share a target given in Python", "Leave out jobs.")
    progress.stage("resolving")
    problem = load(target, seed=seed, registry=known, **options)
    runnable = _runnable(problem)
    run.try_on(runnable)
    progress.stage("tracing")
    analysis = Analysis.of(runnable, Catalogue.of(known.atoms()), _cut(known))
    loss = run.losses[runnable.loss]
    progress.stage("bounding the Hessian")
    norm = start_norm(analysis)
    ball = Region(factor * norm, about_start=centre == "start")
    if ball.radius:
        guarantee = guaranteed(analysis, loss, ball)
    else:
        guarantee = Guarantee(ball, why_not="θ₀ = 0, and a ball in units of |θ₀| is one point")
    at_start = guaranteed(analysis, loss, Region(0.0, about_start=True))
    progress.stage("looking for stable rates" if stable else "measuring the Hessian")
    aside = aside if run.arithmetic.device.type == "cpu" else 1
    starts = each(
        partial(
            _start, target, registry=None if aside > 1 else known, device=device, dtype=dtype,
            memory=memory, options=options, search=search,
        ),
        range(run.seed, last + 1), aside, progress,
    )  # fmt: skip
    subject = _subject(problem, analysis, options.get("settings"))
    return LearningRates(
        subject, norm, guarantee, at_start, starts.found[0].measured, starts.found, search,
        starts.ended,
    )  # fmt: skip


_NARROWEST = 1e-6
"""Relative width of a bracket of rates: below it rounding decides what is stable."""


def _start(
    target: object,
    seed: int,
    *,
    registry: Registry | None,
    device: str | None,
    dtype: str | None,
    memory: int | str | None,
    options: Mapping[str, Any],
    search: Search | None,
) -> Start:
    """What is to be known of the start that belongs to one seed; also in a process of its own."""
    registry = _known(registry)
    run = run_options(
        lr="auto", steps=0, known=registry.probes(), losses=registry.losses(), device=device,
        dtype=dtype, seed=seed, memory=memory,
    )  # fmt: skip
    problem = load(target, seed=seed, registry=registry, **options)
    return look(_runnable(problem), run, seed, search)


def certify(
    target: object,
    *,
    static_only: bool = False,
    steps: int = 20,
    lr: float | str | Sequence[float] = "auto",
    loss: str | None = None,
    data: str | None = None,
    init: str = "default",
    settings: Mapping[str, Any] | None = None,
    device: str | None = "auto",
    dtype: str | None = None,
    seed: int = 0,
    full: bool = False,
    probes: Iterable[str | Probe | type[Probe]] = (),
    samples: int | None = None,
    memory: int | str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Certificate:
    """Decide the contract for ``target`` and observe gradient descent on it.

    Args:
        target: a spec, a `Problem`, (module, inputs) or (module, inputs, targets).
        static_only: leave out gradient descent.
        steps, lr, device, dtype, probes, memory: of gradient descent (`descend`).
        loss, data, init, settings, seed, full, samples: what the spec resolves to (`load`).
        out: a directory in which the run is kept while it goes (docs/cli, Long runs); the
            certificate itself is not written.
        resume: go on with the run in ``out``, if there is one.
        registry: the plugins to use; by default those that are installed.
        progress: told what is being done.

    Raises:
        SpecError, InputError, PluginError: as of `load` and `descend`; or the run in ``out`` is
            another one, or would be lost. A network that cannot be traced is no error: its
            certificate says UNKNOWN, and why.
    """
    progress = _listening(progress)
    registry = _known(registry)
    checks.flag("static_only", static_only)
    options = run_options(
        lr=lr, steps=steps, probes=probes, known=registry.probes(), losses=registry.losses(),
        device=device, dtype=dtype, seed=seed, memory=memory,
    )  # fmt: skip
    progress.stage("resolving")
    problem = load(
        target, settings=settings, data=data, loss=loss, init=init, samples=samples, seed=seed,
        full=full, registry=registry,
    )  # fmt: skip
    core = {probe.name for probe in PROBES}
    recipe = Recipe(
        spec=target if isinstance(target, str) else None,
        settings={k: v if _json(v) else str(v) for k, v in (settings or {}).items()},
        data=None if data is None else str(data),
        samples=None if samples is None else int(samples),
        loss=loss, init=init, seed=options.seed, full=full, static_only=static_only,
        steps=options.steps, lr=options.rate, device=str(device or "auto"),
        dtype=None if dtype is None else str(dtype).removeprefix("torch."),
        probes=tuple(name for name in options.probes if name not in core),
        memory=options.memory,
    )  # fmt: skip
    contract = Contract.of(registry.clauses())
    observed = not static_only and _has_data(problem)
    place = _place(out, resume, _name(target, problem)) if observed else None
    if observed:
        options.try_on(_runnable(problem))
    progress.stage("tracing")
    try:
        analysis = Analysis.of(
            problem, Catalogue.of(registry.atoms()), _cut(registry), registry.losses()
        )
    except CaptureError as refusal:
        subject = _subject(problem, None, settings, recipe)
        claims = contract.refused(refusal)
        if not static_only:
            claims.append(no_descent_claim(problem, refused=True))
        return _assembled(subject, claims, None, recipe)
    progress.stage("deciding the contract")
    claims = contract.decide(analysis)
    run, subject = None, _subject(problem, analysis, settings, recipe)
    if not static_only and not observed:
        claims = [*claims, no_descent_claim(problem)]
    if observed:
        give_back()
        measured = analysis.measured or analysis
        if place is not None:
            place = evolve(place, about={"recipe": asdict(recipe), "digests": subject.digests})
        run = observe(
            _runnable(problem), evolve(options, analysis=measured), _parameters(measured.chain),
            scale="full" if problem.has_weights else "proxy", progress=progress, place=place,
        )  # fmt: skip
        claims = contract.observe(analysis, claims, run)
        chain = (c for c in claims if (c.clause, c.subject) == ("analyticity", "chain"))
        claims.append(descent_claim(run, (f for c in chain for f in c.findings)))
        run = thinned(run)
    return _assembled(subject, claims, run, recipe)


def _place(out: str | Path | None, resume: bool, name: str) -> Place | None:
    """Where the run is kept.

    Raises:
        InputError: nowhere, and it is to be resumed; or what is there would be lost.
    """
    checks.flag("resume", resume)
    if out is None:
        if resume:
            raise InputError(
                "there is nothing to resume", "Give out, the directory in which the run is kept."
            )
        return None
    if not isinstance(out, str | Path):
        raise InputError(f"out is {out!r}", "Give the name of a directory, or None.")
    place = Place.of(prepare(Path(out)), name, resume=resume)
    place.check()
    return place


def _known(registry: Registry | None) -> Registry:
    """The plugins to use.

    Raises:
        InputError: ``registry`` is none.
    """
    if registry is None:
        return load_plugins()
    if not isinstance(registry, Registry):
        raise InputError(f"registry is {registry!r}", "Give what load_plugins() returns, or None.")
    return registry


def _listening(progress: Progress | None) -> Progress:
    """``progress``, or silence.

    Raises:
        InputError: it has not the methods of `Progress`.
    """
    if progress is None:
        return Silence()
    if not all(callable(getattr(progress, method, None)) for method in ("stage", "step")):
        raise InputError(
            f"progress is {progress!r}", "Give an object with stage() and step(), or None."
        )
    return progress


def _cut(registry: Registry) -> Callable[[BlockChain], BlockChain]:
    """What makes a chain into the chain that the plugins want."""
    return lambda chain: registry.chain(chain.problem, chain).checked_against(chain)


def _has_data(problem: Problem) -> bool:
    return problem.runnable is not None and problem.runnable.targets is not None


def _runnable(problem: Problem) -> Problem:
    if problem.runnable is None:
        raise InputError(
            f"{problem.spec or 'the model'} is on the meta device and has no proxy",
            "Give a Problem(proxy=...) with real weights, or certify with static_only.",
        )
    return problem.runnable


def _parameters(chain: BlockChain) -> dict[str, tuple[str, ...]]:
    return {b.name: b.parameter_names for b in chain.blocks if b.parameter_names}


def summary(block: Block) -> BlockSummary:
    """``block`` as certificates and listings show it."""
    residual = None
    if block.residual is not None:
        residual = {
            "placement": str(block.residual.placement),
            "branches": len(block.residual.branches),
        }
    state = tuple(shape or () for shape in block.state)
    return BlockSummary(block.name, block.role, block.parameters, residual, state)


def _name(target: object, problem: Problem) -> str:
    """What the files of ``target`` are called after."""
    return target if isinstance(target, str) else problem.spec or type(problem.module).__name__


def _subject(
    problem: Problem,
    analysis: Analysis | None,
    settings: Mapping[str, Any] | None,
    recipe: Recipe | None = None,
) -> Subject:
    runnable = problem.runnable
    measured = analysis.measured if analysis else None
    return Subject(
        spec=problem.spec or type(problem.module).__name__,
        settings={k: v if _plain(v) else str(v) for k, v in (settings or {}).items()},
        class_name=type(problem.module).__name__,
        parameters=problem.parameters,
        scale="full",
        blocks=tuple(summary(b) for b in analysis.chain.blocks) if analysis else (),
        data=runnable.data if runnable else "",
        loss=runnable.loss if runnable else "",
        proxy=(runnable.note or "reduced") if runnable not in (None, problem) else "",
        replay_exact=measured.replay_exact if measured else None,
        recipe=recipe,
        digests=digests(runnable) if recipe else {},
    )


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _json(value: Any) -> bool:
    """Whether JSON has a form for ``value`` that is read back as the same."""
    if isinstance(value, list):
        return all(map(_json, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) and _json(v) for k, v in value.items())
    return _plain(value)


def _assembled(
    subject: Subject, claims: list[Claim], run: Trajectory | None, recipe: Recipe
) -> Certificate:
    environment = {
        "seed": str(recipe.seed),
        "init": recipe.init,
        "blockframe": core_version(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "platform": platform.platform(),
    }
    if "transformers" in sys.modules:
        environment["transformers"] = version("transformers")
    return Certificate(subject, environment, tuple(claims), run, TRUST)


__all__ = ["certify", "chain", "descend", "learning_rates", "load", "summary"]
