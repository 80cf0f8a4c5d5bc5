"""Options of the library calls: a value of the wrong kind is one error, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blockframe
from blockframe.checks import positive
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.probes import Probe
from blockframe.errors import BlockframeError, InputError, PluginError
from blockframe.problem import Request


def target(module: nn.Module | None = None, width: int = 2) -> tuple[Any, ...]:
    torch.manual_seed(0)
    return module or nn.Linear(3, 2), (torch.ones(4, 3),), torch.zeros(4, width)


class Listener:
    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def step(self, done: int, total: int, detail: str) -> None:
        pass


LOADING: list[tuple[dict[str, Any], str]] = [
    ({"loss": 5}, "loss must be a string, not 5"),
    ({"data": 5}, "data must be a string, not 5"),
    ({"init": None}, "init must be a string, not None"),
    ({"init": "lucky"}, "there is no initialization 'lucky'"),
    ({"init": "he:-1"}, "the scale '-1' of initialization 'he:-1' is not a positive number"),
    ({"settings": 5}, "settings must be a mapping, not 5"),
    ({"settings": {1: 2}}, "settings has the key 1"),
    ({"samples": "x"}, "samples must be a whole number from 1 on, not 'x'"),
    ({"samples": 2.5}, "samples must be .* not 2.5"),
    ({"samples": True}, "samples must be .* not True"),
    ({"samples": 0}, "samples must be .* not 0"),
    ({"seed": 1.5}, "seed must be a whole number from 0 to 4294967295, not 1.5"),
    ({"seed": None}, "seed must be .* not None"),
    ({"seed": "a"}, "seed must be .* not 'a'"),
    ({"seed": 2**70}, "seed must be .* not 1180591620717411303424"),
    ({"seed": -1}, "seed must be .* not -1"),
    ({"full": "yes"}, "full must be True or False, not 'yes'"),
    ({"registry": 5}, "registry is 5"),
]
RUNNING: list[tuple[dict[str, Any], str]] = [
    ({"memory": "much"}, "memory must be a size such as 4GiB or 800MB, not 'much'"),
    ({"memory": 0}, "memory must be a whole number from 1"),
    ({"probes": 5}, "probes must be a list, not 5"),
    ({"probes": "loss"}, "probes must be a list, not 'loss'"),
    ({"probes": ["nosuch"]}, "no probe 'nosuch'"),
    ({"device": 5}, "no trajectory runs on device 5"),
    ({"device": "bogus"}, "no trajectory runs on device 'bogus'"),
    ({"dtype": 5}, "no trajectory runs in dtype '5'"),
    ({"dtype": ""}, "no trajectory runs in dtype ''"),
    ({"steps": "x"}, "steps must be a whole number"),
    ({"steps": True}, "steps must be a whole number"),
    ({"lr": None}, "lr cannot be None"),
    ({"lr": 10**400}, "it must be positive and finite"),
    ({"lr": torch.ones(2)}, "it must be positive and finite"),
]
CERTIFYING: list[tuple[dict[str, Any], str]] = [
    ({"progress": 5}, "progress is 5"),
    ({"static_only": "no"}, "static_only must be True or False"),
]


@pytest.mark.parametrize(("options", "says"), LOADING)
def test_loading(options: dict[str, Any], says: str) -> None:
    for call in (blockframe.load, blockframe.chain, blockframe.descend, blockframe.certify):
        with pytest.raises(InputError, match=says):
            call(target(), **options)


@pytest.mark.parametrize(("options", "says"), RUNNING)
def test_running(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        blockframe.descend(target(), **options)


@pytest.mark.parametrize(("options", "says"), [*RUNNING, *CERTIFYING])
def test_certifying_refuses_before_it_begins(options: dict[str, Any], says: str) -> None:
    listener = Listener()
    with pytest.raises(InputError, match=says):
        blockframe.certify(target(), **{"progress": listener, **options})
    assert listener.stages == []


def test_a_request_is_checked_by_itself() -> None:
    assert Request(data=Path("a.npz")).data == "a.npz"  # type: ignore[arg-type]
    with pytest.raises(InputError, match="seed must be"):
        Request(seed="a")


def test_no_device_is_any_device() -> None:
    run = blockframe.descend(target(), device=None, steps=0)
    assert next(run).loss >= 0


def test_numbers_of_numpy_are_numbers() -> None:
    np = pytest.importorskip("numpy")
    assert Request(seed=np.int64(3), samples=np.int32(2)).seed == 3
    assert positive(np.float32(0.5)) == 0.5


class NeedsMore(Probe):
    name = "needs"

    def __init__(self, more: int) -> None:
        self.more = more

    def observe(self, it: Iterate) -> float:
        return 0.0


def test_a_probe_that_cannot_be_made() -> None:
    with pytest.raises(PluginError, match=r"NeedsMore\(\) failed: TypeError"):
        blockframe.descend(target(), probes=[NeedsMore])


def test_probes_may_come_from_a_generator() -> None:
    def probes() -> Iterator[Probe]:
        yield NeedsMore(1)

    certificate = blockframe.certify(target(), probes=probes(), steps=1, lr=0.1)
    assert certificate.trajectory is not None
    assert certificate.trajectory.series["needs"] == [0.0, 0.0]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x), x


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: target(width=3), "mse compares outputs"),
        (lambda: (*target()[:2], torch.full((4,), 7)), "the targets reach from 7 to 7"),
        (lambda: blockframe.Problem(*target(), loss="hinge"), "no loss 'hinge'"),
        (lambda: target(nn.Linear(3, 2).requires_grad_(False)), "no parameter of the module"),
        (lambda: target(Pair()), "the module is a tuple, not a tensor"),
    ],
)
def test_what_does_not_fit_is_refused_before_tracing(make: Callable[[], object], says: str) -> None:
    listener = Listener()
    with pytest.raises(BlockframeError, match=says):
        blockframe.certify(make(), progress=listener)
    assert listener.stages == ["resolving"]


class OwnPrecision(nn.Module):
    """Runs in float32 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        if self.w.dtype is not torch.float32:
            raise TypeError("float32 only")
        return x @ self.w


def test_a_network_that_does_not_run_in_the_precision_of_the_run_keeps_its_claims() -> None:
    certificate = blockframe.certify(target(OwnPrecision()), dtype="float64", device="cpu")
    assert certificate.claim("analyticity").verdict == "HOLDS"
    descent = certificate.claim("descent")
    assert descent.verdict == "UNKNOWN"
    assert "the forward raised TypeError: float32 only" in descent.statement
    assert "at step 0" in descent.statement
