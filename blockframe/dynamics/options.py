"""How a run of gradient descent is to go, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from blockframe import checks
from blockframe.dynamics.arithmetic import Arithmetic
from blockframe.dynamics.chunks import within
from blockframe.dynamics.ending import NetworkError
from blockframe.dynamics.losses import LOSSES, Loss
from blockframe.dynamics.objective import Objective
from blockframe.dynamics.probes import ON_REQUEST, PROBES, Probe
from blockframe.dynamics.schedule import AUTO, Schedule, parse, reach
from blockframe.errors import InputError, PluginError
from blockframe.foreign import foreign, out_of_memory
from blockframe.naming import lookup
from blockframe.problem import Problem

if TYPE_CHECKING:
    from blockframe.analysis import Analysis

RESERVED = ("step", "lr")
"""What a run says of every iterate; no probe can have these names."""

Probes = Iterable[str | Probe | type[Probe]]


@frozen(eq=False)
class Options:
    """What `blockframe.dynamics.descent.descend` is told, beside the problem.

    Attributes:
        lr: η_0, or None to choose it.
        schedule: how η_k goes on from there.
        steps: how many are taken.
        probes: what observes them, by name.
        losses: those that a problem can name.
        memory: bytes that the run may take (`blockframe.dynamics.chunks`); None for no limit.
        analysis: of the problem, where there is one already (`Objective.traced`).
    """

    lr: float | None
    schedule: Schedule
    steps: int
    probes: dict[str, Probe]
    losses: Mapping[str, Loss]
    arithmetic: Arithmetic
    seed: int
    memory: int | None = None
    analysis: Analysis | None = None

    @classmethod
    def of(
        cls,
        *,
        lr: float | str | Sequence[float] = AUTO,
        steps: int = 20,
        probes: Probes = (),
        known: Mapping[str, type[Probe]] | None = None,
        losses: Mapping[str, Loss] | None = None,
        device: str | None = AUTO,
        dtype: str | None = None,
        seed: int = 0,
        memory: int | str | None = None,
    ) -> Options:
        """Arguments are those of `blockframe.dynamics.descent.descend`.

        Raises:
            InputError: one has no meaning.
            PluginError: a probe cannot be made.
        """
        first, schedule = parse(lr)
        steps = checks.whole("steps", steps, 0)
        reach(schedule, first or 1.0, steps)
        return cls(
            lr=first,
            schedule=schedule,
            steps=steps,
            probes=_probes(probes, known or {p.name: p for p in (*PROBES, *ON_REQUEST)}),
            losses=losses or {loss.name: loss for loss in LOSSES},
            arithmetic=Arithmetic.named(device, dtype),
            seed=checks.seed(seed),
            memory=None if memory is None else checks.size("memory", memory),
        )

    @property
    def rate(self) -> float | str | None:
        """What was asked for: η, None to choose it, or the spelling of a schedule."""
        return self.schedule.text or self.lr

    def observed_by(self, probes: Iterable[type[Probe]]) -> Options:
        """Also by ``probes``, first."""
        return evolve(self, probes={**{p.name: p() for p in probes}, **self.probes})

    def objective(
        self, problem: Problem, blocks: Mapping[str, Sequence[str]] | None = None
    ) -> Objective:
        """The loss of ``problem`` as a function of θ.

        Raises:
            InputError: see `Objective.of` and `within`; or there is no such loss.
        """
        loss = lookup("loss", problem.loss, self.losses)
        objective = Objective.of(
            problem, loss, self.arithmetic, blocks=blocks, seed=self.seed, analysis=self.analysis
        )
        return objective if self.memory is None else within(objective, self.memory)

    def try_on(self, problem: Problem) -> None:
        """Evaluate the loss of ``problem`` once, to see that outputs, targets and loss fit.

        That the network itself does not run here, or not in this memory, is no answer to that; the
        run will say so.

        Raises:
            InputError: they do not fit, or there is nothing to train.
            PluginError: a contributed loss fails.
        """
        try:
            objective = self.objective(problem)
            objective(objective.start)
        except NetworkError:
            return
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise


def _probes(probes: Probes, known: Mapping[str, type[Probe]]) -> dict[str, Probe]:
    if isinstance(probes, str) or not isinstance(probes, Iterable):
        raise InputError(f"probes must be a list, not {probes!r}", "Write [name].")
    found: dict[str, Probe] = {}
    for item in probes:
        probe = lookup("probe", item, known) if isinstance(item, str) else item
        instance = _made(probe) if isinstance(probe, type) else probe
        if not isinstance(instance, Probe):
            raise InputError(
                f"{instance!r} is not a probe", "Give a name, a Probe class or a Probe."
            )
        if instance.name in RESERVED:
            raise PluginError(f"a probe cannot be called {instance.name!r}", "Rename it.")
        found[instance.name] = instance
    return found


def _made(probe: type[Probe]) -> Probe:
    with foreign(lambda what: PluginError(f"{probe.__name__}() failed: {what}")):
        return probe()
