"""What rigour costs: an enclosed forward pass over a plain one, runs alternating.

A stack of linear layers, gelu and layer norm, 512 rows of 512 entries, in float64; both passes run
the same graph and keep every value. ``python benchmarks/enclosure.py`` prints ratios of medians.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from blockframe.atoms.catalogue import Catalogue
from blockframe.domains.enclosure import Ball, enclose
from blockframe.graph.capture import capture
from blockframe.graph.evaluate import evaluate, leaves
from blockframe.problem import Problem

SIZE, LAYERS, REPEATS = 512, 3, 15
torch.set_num_threads(1)  # on a busy machine a second thread only waits


def seconds(work: Callable[[], object]) -> float:
    """Time of the processor: a busy machine does not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def medians(*works: Callable[[], object]) -> list[float]:
    """Median time of each, after one warm-up, runs alternating."""
    times = [[seconds(work) for work in works] for _ in range(REPEATS + 1)][1:]
    return [statistics.median(column) for column in zip(*times, strict=True)]


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    layers = [
        layer
        for _ in range(LAYERS)
        for layer in (nn.Linear(SIZE, SIZE), nn.GELU(), nn.LayerNorm(SIZE))
    ]
    module = nn.Sequential(*layers).double().eval()
    problem = Problem(module, (torch.randn(SIZE, SIZE, dtype=torch.float64),))
    graph, catalogue = capture(problem), Catalogue.of()
    exact = leaves(graph, problem)
    thick = {i: Ball(v, torch.full_like(v, 1e-9)) for i, v in exact.items()}
    plain, points, boxes = medians(
        lambda: evaluate(graph, dict(exact)),
        lambda: enclose(graph, exact, catalogue),
        lambda: enclose(graph, thick, catalogue),
    )
    print(f"plain forward                               {1e3 * plain:8.1f} ms")
    print(f"enclosed / plain, exact parameters and data {points / plain:8.2f}")
    print(f"enclosed / plain, all in balls              {boxes / plain:8.2f}")


if __name__ == "__main__":
    main()
