"""How the cost of a trajectory grows with depth, width and the number of samples.

A tanh network with residual blocks (``Linear``, tanh, ``Linear``), mean squared error, float64, one
thread. Each size in a process of its own, at θ_0: the time of one gradient; as multiples of it
those of the sharpness, which is searched for from a random vector to 1e-6, and of the tangent Gram
matrix; the peak of memory over that of the parameters.

``python benchmarks/growth.py`` prints the table of docs/benchmarks.md.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from blockframe.dynamics.descent import start
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.options import Options
from blockframe.problem import Problem

REPEATS = 5
STANDARD = {"depth": 4, "width": 128, "samples": 128}
SIZES = {"depth": (2, 4, 8, 16), "width": (64, 128, 256, 512), "samples": (32, 128, 512, 2048)}
GRAM = 200
"""Samples up to which K is made: it has (10 × samples)² entries."""

torch.set_num_threads(1)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return x + branch


def problem(depth: int, width: int, samples: int) -> Problem:
    """Of ``depth`` residual blocks, 64 inputs and 10 outputs."""
    torch.manual_seed(0)
    blocks = [Residual(width) for _ in range(depth)]
    module = nn.Sequential(nn.Linear(64, width), *blocks, nn.Linear(width, 10))
    return Problem(module, (torch.randn(samples, 64),), torch.randn(samples, 10))


def at(sizes: dict[str, int], ask: Callable[[Iterate], object]) -> float:
    """Least seconds of ``ask`` at a fresh θ_0."""
    options, seconds = Options.of(lr=0.1, device="cpu"), []
    made = problem(**sizes)
    for _ in range(REPEATS):
        it = start(made, options)
        began = time.perf_counter()
        ask(it)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def sharpness(it: Iterate) -> None:
    it.curvature_expected = True  # as in a run: the graph of the gradient is made once
    _ = it.gradient, it.curvature


def measure(sizes: dict[str, int]) -> dict[str, float | None]:
    """In a process of its own."""
    count = sum(p.numel() for p in problem(**sizes).module.parameters())
    at({"depth": 1, "width": 8, "samples": 8}, lambda it: it.curvature)  # what is loaded lazily
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gradient = at(sizes, lambda it: it.gradient)
    curvature = at(sizes, sharpness) - gradient
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (8 * count)
    gram = at(sizes, lambda it: it.tangent_gram) if sizes["samples"] <= GRAM else None
    return {
        "parameters": count, "gradient": gradient, "sharpness": curvature / gradient,
        "tangent": None if gram is None else gram / gradient, "peak": peak,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--one", type=json.loads, help="the sizes of one row, as JSON")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one)))
        return
    show = partial(print, flush=True)
    show("| depth | width | samples | parameters | gradient, ms | sharpness / gradient "
         "| K / gradient | peak / parameters |")  # fmt: skip
    show("|---|---|---|---|---|---|---|---|")
    for name, values in SIZES.items():
        for value in values:
            sizes = {**STANDARD, name: value}
            run = subprocess.run(
                [sys.executable, __file__, "--one", json.dumps(sizes)],
                check=True, capture_output=True,
            )  # fmt: skip
            row = json.loads(run.stdout)
            gram = "–" if row["tangent"] is None else f"{row['tangent']:.1f}"
            show(
                f"| {' | '.join(map(str, sizes.values()))} | {row['parameters']:,} "
                f"| {1e3 * row['gradient']:.2f} | {row['sharpness']:.1f} | {gram} "
                f"| {row['peak']:.1f} |"
            )


if __name__ == "__main__":
    main()
