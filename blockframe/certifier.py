"""From a spec to a certificate: the table of contents of the program."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

from blockframe import checks
from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.blocks import Block, BlockChain
from blockframe.certificate.model import BlockSummary, Certificate, Subject, Trajectory
from blockframe.contract.claim import Claim
from blockframe.contract.contract import Contract
from blockframe.contract.descent import descent_claim, no_descent_claim
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.probes import Probe
from blockframe.dynamics.run import observe, run_options
from blockframe.errors import CaptureError, InputError
from blockframe.plugins import Registry, core_version, load_plugins
from blockframe.problem import Problem, Request
from blockframe.progress import Progress, Silence
from blockframe.resolve import as_problem

TRUST = (
    "PyTorch's trace: torch.export records every operation of the forward (checked against the "
    "module at points: value, gradient, custom backwards, hooks)",
    "the facts of the op catalogue (docs/atoms), about real arithmetic in evaluation mode",
    "buffers hold finite numbers",
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
    lr: float | str = "auto",
    steps: int = 20,
    probes: Iterable[str | Probe | type[Probe]] = (),
    device: str | None = "auto",
    dtype: str | None = None,
    seed: int = 0,
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
        losses=registry.losses(), device=device, dtype=dtype, seed=seed,
    )  # fmt: skip


def certify(
    target: object,
    *,
    static_only: bool = False,
    steps: int = 20,
    lr: float | str = "auto",
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
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Certificate:
    """Decide the contract for ``target`` and observe gradient descent on it.

    Args:
        target: a spec, a `Problem`, (module, inputs) or (module, inputs, targets).
        static_only: leave out gradient descent.
        steps, lr, device, dtype, probes: of gradient descent (`descend`).
        loss, data, init, settings, seed, full, samples: what the spec resolves to (`load`).
        registry: the plugins to use; by default those that are installed.
        progress: told what is being done.

    Raises:
        SpecError, InputError, PluginError: as of `load` and `descend`. A network that cannot be
            traced is no error: its certificate says UNKNOWN, and why.
    """
    progress = _listening(progress)
    registry = _known(registry)
    checks.flag("static_only", static_only)
    options = run_options(
        lr=lr, steps=steps, probes=probes, known=registry.probes(), losses=registry.losses(),
        device=device, dtype=dtype, seed=seed,
    )  # fmt: skip
    progress.stage("resolving")
    problem = load(
        target, settings=settings, data=data, loss=loss, init=init, samples=samples, seed=seed,
        full=full, registry=registry,
    )  # fmt: skip
    contract = Contract.of(registry.clauses())
    observed = not static_only and _has_data(problem)
    if observed:
        options.try_on(_runnable(problem))
    progress.stage("tracing")
    try:
        analysis = Analysis.of(problem, Catalogue.of(registry.atoms()), _cut(registry))
    except CaptureError as refusal:
        subject = _subject(problem, None, settings)
        return _assembled(subject, contract.refused(refusal), None, seed, init)
    progress.stage("deciding the contract")
    claims = contract.decide(analysis)
    run = None
    if not static_only and not observed:
        claims = [*claims, no_descent_claim(problem)]
    if observed:
        measured = analysis.measured or analysis
        run = observe(
            _runnable(problem), options, _parameters(measured.chain),
            scale="full" if problem.has_weights else "proxy", progress=progress,
        )  # fmt: skip
        claims = [*claims, descent_claim(run)]
    return _assembled(_subject(problem, analysis, settings), claims, run, seed, init)


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


def _subject(
    problem: Problem, analysis: Analysis | None, settings: Mapping[str, Any] | None
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
    )


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _assembled(
    subject: Subject, claims: list[Claim], run: Trajectory | None, seed: int, init: str
) -> Certificate:
    environment = {
        "seed": str(seed),
        "init": init,
        "blockframe": core_version(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "platform": platform.platform(),
    }
    if "transformers" in sys.modules:
        environment["transformers"] = version("transformers")
    return Certificate(subject, environment, tuple(claims), run, TRUST)


__all__ = ["certify", "chain", "descend", "load", "summary"]
