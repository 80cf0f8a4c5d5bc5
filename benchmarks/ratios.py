"""What things cost beside what they cannot do without, as ratios measured side by side.

Ratios of alternating runs vary much less between machines than seconds do. The functions are those
that asv collects (``track_*``); ``python benchmarks/ratios.py`` prints them all.
"""

import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

import blockframe

REPEATS = 5
torch.set_num_threads(1)  # small matrices: on a busy machine a second thread only waits


def ratio(numerator: Callable[[], object], denominator: Callable[[], object]) -> float:
    """Least time of the one over least time of the other, runs alternating, one warm-up each."""
    best = {numerator: float("inf"), denominator: float("inf")}
    for repeat in range(REPEATS + 1):
        for work in best:
            start = time.perf_counter()
            work()
            if repeat:
                best[work] = min(best[work], time.perf_counter() - start)
    return best[numerator] / best[denominator]


def python(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


HELP = python(
    "-c", "import sys; from blockframe.cli import main; sys.argv[1:] = ['--help']; main()"
)


def network() -> tuple[nn.Module, tuple[torch.Tensor, ...], torch.Tensor]:
    """A tanh network with 4,353 parameters and 64 samples, in float64."""
    torch.manual_seed(0)
    layers = [nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)]
    module = nn.Sequential(*layers).double()
    x = torch.randn(64, 1, dtype=torch.float64)
    return module, (x,), torch.sin(x)


def descend(*probes: str) -> Callable[[], object]:
    target = network()
    return lambda: list(blockframe.descend(target, lr=1e-3, steps=10, probes=list(probes)))


def track_help_over_bare_python() -> float:
    """``blockframe --help`` over an interpreter that does nothing. Grows when imports creep in."""
    return ratio(HELP, python("-c", "pass"))


def track_import_torch_over_help() -> float:
    """How much the help saves by not importing torch."""
    return ratio(python("-c", "import torch"), HELP)


def track_chain_over_export() -> float:
    """Capture and cutting into blocks over PyTorch's own capture alone."""
    module, inputs, _ = network()
    module.eval()
    return ratio(
        lambda: blockframe.chain((module, inputs)),
        lambda: torch.export.export(module, inputs, strict=False),
    )


def track_sharpness_over_gradient() -> float:
    """Ten steps that observe the sharpness over ten steps that do not."""
    return ratio(descend("sharpness"), descend())


if __name__ == "__main__":
    for name, track in list(globals().items()):
        if name.startswith("track_"):
            print(f"{name.removeprefix('track_'):32s} {track():8.1f}")
