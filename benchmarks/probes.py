"""What each probe costs, as a multiple of one gradient.

A probe is observed at an iterate whose loss and gradient are there already, as in a run, and whose
predecessor has been observed; what it asks for beyond them is its cost. What others share counts
for each of them: ``sharpness`` and ``descent`` both include the eigenvalue and the gradient's own
graph, so the table adds up to more than a run with all probes.

Gradients and observations alternate on one thread, and the table has the median of the ratios.
``python benchmarks/probes.py`` prints it; ``--quick`` takes fewer samples. ``tangent`` takes fewer
in any case (`FEWER`), because of its 4096 outputs at most.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from blockframe.dynamics.descent import descend
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.objective import Objective
from blockframe.dynamics.probes import ON_REQUEST, PROBES, Probe, Tangent, Unavailable
from blockframe.problem import Problem

REPEATS, STEPS, LR = 5, 3, 0.05
DEAR = 100.0
"""Gradients from which on a probe is observed fewer times."""
torch.set_num_threads(1)


def mlp(samples: int, activation: type[nn.Module] = nn.Tanh) -> Problem:
    """64-256-256-10, mean squared error."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 256), activation(), nn.Linear(256, 256), activation()]
    module = nn.Sequential(*layers, nn.Linear(256, 10))
    return Problem(module, (torch.randn(samples, 64),), torch.randn(samples, 10))


def relu(samples: int) -> Problem:
    """The same with relu."""
    return mlp(samples, nn.ReLU)


def gpt2(samples: int) -> Problem:
    """GPT-2, two layers of width 64, sequences of 32 tokens of 64 kinds, cross-entropy."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=32, n_embd=64, n_layer=2, n_head=4, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    tokens = torch.randint(0, 64, (samples, 33))
    model = transformers.GPT2LMHeadModel(config)
    keywords = {"use_cache": False}
    return Problem(model, (tokens[:, :-1],), tokens[:, 1:], "ce", keywords, "logits")


Build = Callable[[int], Problem]
NETWORKS: dict[str, tuple[Build, int]] = {
    "MLP, tanh": (mlp, 512), "MLP, relu": (relu, 512), "GPT-2": (gpt2, 16),
}  # fmt: skip
"""Name, network, samples."""
FEWER = {"MLP, tanh": 200, "MLP, relu": 200, "GPT-2": 1}
QUICK = {"MLP, tanh": 32, "MLP, relu": 32, "GPT-2": 1}


def two(problem: Problem) -> tuple[Objective, torch.Tensor, torch.Tensor]:
    """The last two iterates of a short run."""
    thetas = [it.theta for it in descend(problem, lr=LR, steps=STEPS, device="cpu")]
    objective = descend(problem, lr=LR, steps=0, device="cpu").start.objective
    return objective, thetas[-2], thetas[-1]


def seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cost(kind: type[Probe], where: tuple[Objective, torch.Tensor, torch.Tensor]) -> float:
    """The median over repetitions of (observation / gradient).

    Raises:
        Unavailable: the probe does not observe this network.
    """
    objective, before, theta = where
    probe = {kind.name: kind()}
    Iterate(objective, objective.start, lr=LR, probes=probe).observe(kind.name)  # θ_0 is kept
    ratios = []
    while len(ratios) <= (3 if ratios and ratios[0] > DEAR else REPEATS):
        previous = Iterate(objective, before, step=STEPS - 1, lr=LR, probes=probe)
        _ = previous.point if kind.curvature else previous.gradient_norm
        previous.observe(kind.name)
        previous.release()
        it = Iterate(objective, theta, step=STEPS, lr=LR, previous=previous, probes=probe)
        gradient = seconds(lambda it=it: it.gradient_norm)
        ratios.append(seconds(lambda it=it: it.observe(kind.name)) / gradient)
    return statistics.median(ratios[1:])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("names", nargs="*", help="of probes; all by default")
    asked = parser.parse_args()
    quick = asked.quick
    sizes = QUICK if quick else {name: samples for name, (_, samples) in NETWORKS.items()}
    places = {name: two(build(sizes[name])) for name, (build, _) in NETWORKS.items()}
    fewer = QUICK if quick else FEWER
    small = {name: two(build(fewer[name])) for name, (build, _) in NETWORKS.items()}
    print(f"| probe | {' | '.join(places)} |")
    print(f"|---|{'---|' * len(places)}")
    for kind in (*PROBES, *ON_REQUEST):
        if asked.names and kind.name not in asked.names:
            continue
        cells = []
        for where in (small if kind is Tangent else places).values():
            try:
                value = cost(kind, where)
                cells.append("< 0.01" if value < 0.01 else f"{value:.3g}")
            except Unavailable:
                cells.append("–")
        default = "" if kind in PROBES else " (on request)"
        print(f"| `{kind.name}`{default} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
