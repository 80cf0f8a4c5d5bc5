"""The tangent Gram matrix beside the dense Jacobian that it is the square of.

Time and peak memory of K = DF DFᵀ as `blockframe.dynamics.tangent` makes it, over those of
``vmap(jacrev)`` with JJᵀ (docs/theory section 4), both in float64, each in a process of its own,
on one thread, the least of three times. ``everything`` is K with the contraction for linear layers
left out: columns of DF, in blocks, for all parameters.

``python benchmarks/tangent.py`` prints the table; ``--quick`` takes smaller networks.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch import nn

from blockframe.dynamics import tangent
from blockframe.dynamics.objective import Objective
from blockframe.dynamics.options import Options
from blockframe.problem import Problem

REPEATS = 3
torch.set_num_threads(1)


def mlp(samples: int) -> Problem:
    """64-256-256-10, tanh: Nc = 10 × samples."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10)]
    return Problem(nn.Sequential(*layers), (torch.randn(samples, 64),), torch.randn(samples, 10))


def cnn(samples: int) -> Problem:
    """Two convolutions of 8 and 16 channels on 12 × 12 images: Nc = 10 × samples."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Conv2d(8, 16, 3, 2), nn.Tanh(), nn.Flatten()]
    module = nn.Sequential(*layers, nn.Linear(256, 10))
    return Problem(module, (torch.randn(samples, 1, 12, 12),), torch.randn(samples, 10))


def gpt2(samples: int) -> Problem:
    """GPT-2, two layers of width 64, 8 tokens of 16 kinds: Nc = 128 × samples."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=16, n_positions=8, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    tokens = torch.randint(0, 16, (samples, 9))
    model = transformers.GPT2LMHeadModel(config)
    keywords = {"use_cache": False}
    return Problem(model, (tokens[:, :-1],), tokens[:, 1:], "ce", keywords, "logits")


WORK = {"mlp": (mlp, 200, 20), "cnn": (cnn, 40, 8), "gpt2": (gpt2, 4, 2)}


def jacobian(objective: Objective) -> torch.Tensor:
    """``vmap(jacrev)`` and its square; what `torch.func.jacrev` does is batched over outputs."""
    leaves = objective.parameters(objective.start)
    with objective.arithmetic.kernels():
        found = torch.func.jacrev(lambda p: objective.outputs(p).flatten())(leaves)
    j = torch.cat([x.flatten(1) for x in found.values()], 1)
    return j @ j.T


def contracted(objective: Objective) -> torch.Tensor:
    return tangent.tangent_gram(objective, objective.start)


def everything(objective: Objective) -> torch.Tensor:
    linear, tangent._Use.linear = tangent._Use.linear, None  # type: ignore[assignment]
    try:
        return tangent.tangent_gram(objective, objective.start)
    finally:
        tangent._Use.linear = linear  # type: ignore[method-assign]


WAYS = {"jacrev": jacobian, "everything": everything, "contracted": contracted}


def measure(name: str, samples: int, way: str) -> None:
    """In a process of its own: seconds (least), peak MB beyond what the imports took, λ_min."""
    build, _, _ = WORK[name]
    objective = Options.of(device="cpu").objective(build(samples))
    objective(objective.start)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        gram = WAYS[way](objective)
        seconds.append(time.perf_counter() - start)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    least = float(torch.linalg.eigvalsh(gram)[0])
    print(json.dumps([min(seconds), peak, least, float(gram.norm()), len(gram)]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "SAMPLES", "WAY"))
    asked = parser.parse_args()
    if asked.one:
        measure(asked.one[0], int(asked.one[1]), asked.one[2])
        return
    print(f"{'':6s}{'Nc':>6s}  {'way':12s}{'seconds':>9s}{'× less':>9s}{'MB':>8s}{'× less':>9s}"
          f"{'‖K‖':>12s}{'λ_min':>12s}")  # fmt: skip
    for name, (_, full, quick) in WORK.items():
        base = None
        for way in WAYS:
            one = [name, str(quick if asked.quick else full), way]
            run = subprocess.run(
                [sys.executable, __file__, "--one", *one], check=True, capture_output=True
            )
            seconds, peak, least, norm, size = json.loads(run.stdout)
            base = base or (seconds, peak)
            times, less = base[0] / seconds, base[1] / max(peak, 1.0)
            print(
                f"{name:6s}{size:6d}  {way:12s}{seconds:9.3f}{times:9.1f}{peak:8.0f}"
                f"{less:9.1f}{norm:12.5g}{least:12.4g}",
                flush=True,
            )


if __name__ == "__main__":
    main()
