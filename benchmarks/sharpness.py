"""The sharpness at each of 20 iterates of gradient descent, beside other curvature tools.

λ_max(∇²L(θ_k)), k = 0 … 19, at the learning rate that ``auto`` chooses, in float64 on one thread,
for three seeds (of weights, data and random vectors). A tool's time is what it takes from θ_k to
the number: ours with the gradient that the step needs anyway and the graph for it, a peer's without
that gradient. Every iterate is handed to ours, to the peer, to ours, in turn, in one process. The
reference is ARPACK at 1e-10 on our Hessian product, which tests/dynamics/test_hvp.py holds against
two others; a peer is given the cheapest of its settings at which its error is at most 1e-3 at every
iterate of every seed. ``warm`` is a plain warm start: ARPACK on our product from the last
eigenvector.

``python benchmarks/sharpness.py PEER`` prints the rows of one peer; it runs in an environment made
from ``benchmarks/peers/PEER.txt``. PEER: pyhessian, hessian-eigenthings, curvlinops, or warm, which
needs only SciPy and transformers. ``--quick`` takes one seed and smaller networks.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse.linalg as arpack
import torch
from torch import Tensor, nn

from blockframe.dynamics.descent import FRACTION
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.objective import Objective
from blockframe.dynamics.options import Options
from blockframe.problem import Problem

ITERATES, SEEDS, ENOUGH = 20, 3, 1e-3
OURS = (1e-3, 1e-6)
torch.set_num_threads(1)


def mlp(seed: int, quick: bool) -> Problem:
    """64-256-256-10, tanh, 512 samples: P = 85,002."""
    torch.manual_seed(seed)
    width, samples = (32, 64) if quick else (256, 512)
    layers = [nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()]
    module = nn.Sequential(*layers, nn.Linear(width, 10))
    return Problem(module, (torch.randn(samples, 64),), torch.randn(samples, 10))


def gpt2(seed: int, quick: bool) -> Problem:
    """Two layers of width 64, 16 × 32 tokens of 64 kinds: P = 106,240."""
    import transformers

    torch.manual_seed(seed)
    width, length = (16, 8) if quick else (64, 32)
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=length, n_embd=width, n_layer=2, n_head=4, bos_token_id=0,
        eos_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    tokens = torch.randint(0, 64, (16, length + 1))
    model = transformers.GPT2LMHeadModel(config)
    keywords = {"use_cache": False}
    return Problem(model, (tokens[:, :-1],), tokens[:, 1:], "ce", keywords, "logits")


class Logits(nn.Module):
    """The problem's module as tensor → tensor, in float64."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.module = problem.module.double().eval()
        self.keywords, self.output = dict(problem.keywords), problem.output

    def forward(self, x: Tensor) -> Tensor:
        returned = self.module(x, **self.keywords)
        found: Tensor = returned if self.output is None else returned[self.output]
        return found


class Loss(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.reduction = name, "mean"

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.name == "ce":
            return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())
        return ((outputs - targets) ** 2).sum(-1).mean() / 2


class Run:
    """θ_k and λ_max there, for one seed."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.seed = seed
        options = Options.of(device="cpu", dtype="float64", seed=seed)
        self.objective: Objective = options.objective(problem)
        it = Iterate(self.objective, self.objective.start, curvature_expected=True)
        self.lr = FRACTION * 2 / it.curvature.value
        self.thetas, self.exact, vector = [], [], None
        for _ in range(ITERATES):
            it = Iterate(self.objective, it.theta, curvature_expected=True)
            value, vector = largest(it.hvp, it.theta.numel(), 1e-10, 40, vector)
            self.thetas.append(it.theta)
            self.exact.append(value)
            it = Iterate(self.objective, it.theta - self.lr * it.gradient)
        self.model = Logits(problem)
        self.loss = Loss(problem.loss)
        x, y = problem.inputs[0], problem.targets
        assert y is not None
        self.x, self.y = (t.double() if t.is_floating_point() else t for t in (x, y))

    def load(self, theta: Tensor) -> nn.Module:
        nn.utils.vector_to_parameters(theta.clone(), self.model.parameters())
        return self.model

    def error(self, k: int, value: float) -> float:
        return abs(value - self.exact[k]) / abs(self.exact[k])


def largest(
    product: Callable[[Tensor], Tensor], size: int, tol: float, ncv: int, start: Any = None
) -> tuple[float, Any]:
    """ARPACK's largest algebraic eigenvalue, and its vector."""

    def multiply(v: Any) -> Any:
        return product(torch.from_numpy(np.array(v).reshape(-1))).numpy()

    matrix = arpack.LinearOperator((size, size), matvec=multiply, dtype=np.float64)
    values, vectors = arpack.eigsh(matrix, k=1, which="LA", v0=start, tol=tol, ncv=ncv)
    return float(values[0]), vectors[:, 0]


class Ours:
    """One search after the other, as along a run."""

    def __init__(self, run: Run, accuracy: float) -> None:
        self.run, self.accuracy, self.products = run, accuracy, 0
        self.last: Iterate | None = None

    def __call__(self, k: int) -> float:
        it = Iterate(
            self.run.objective, self.run.thetas[k], step=k, lr=self.run.lr, previous=self.last,
            curvature_expected=True, accuracy=self.accuracy,
        )  # fmt: skip
        it.gradient  # noqa: B018 - its time counts
        pair = it.curvature
        it.release()
        it.previous, self.last = None, it
        self.products += pair.products
        return pair.value


class Peer:
    """A tool: ``settings`` from the cheapest on, and the number for one of them."""

    name = ""

    def settings(self) -> Iterator[Any]:
        raise NotImplementedError

    def value(self, run: Run, k: int, setting: Any) -> float:
        raise NotImplementedError


class PyHessian(Peer):
    """Power iteration; its graph is kept over the iterations."""

    name = "pyhessian"

    def settings(self) -> Iterator[float]:
        yield from (10.0**-e for e in np.arange(3, 8.1, 0.5))

    def value(self, run: Run, k: int, setting: float) -> float:
        from pyhessian import hessian

        torch.manual_seed(run.seed + k)
        torch.set_default_dtype(torch.float64)  # what its random vectors are made in
        model = run.load(run.thetas[k])
        model.zero_grad()
        try:
            found = hessian(model, run.loss, data=(run.x, run.y), cuda=False)
            values, _ = found.eigenvalues(maxIter=2000, tol=setting, top_n=1)
        finally:
            torch.set_default_dtype(torch.float32)
            model.zero_grad()
        return float(values[0])


class HessianEigenthings(Peer):
    """Lanczos with full re-orthogonalisation, from a random vector, of a given length."""

    name = "hessian-eigenthings"

    def settings(self) -> Iterator[int]:
        yield from range(6, 50, 2)

    def value(self, run: Run, k: int, setting: int) -> float:
        from hessian_eigenthings import HessianOperator, lanczos

        model = run.load(run.thetas[k])
        operator = HessianOperator(
            model, [(run.x, run.y)], lambda m, batch: run.loss(m(batch[0]), batch[1])
        )
        found = lanczos(operator, k=1, max_iter=setting, which="LA", seed=run.seed + k)
        return float(found.eigenvalues[0])


class Curvlinops(Peer):
    """Its operator under SciPy's ARPACK, as its documentation does it."""

    name = "curvlinops"

    def settings(self) -> Iterator[tuple[float, int]]:
        yield from ((tol, ncv) for tol in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3) for ncv in (8, 12, 20))

    def value(self, run: Run, k: int, setting: tuple[float, int]) -> float:
        from curvlinops import HessianLinearOperator

        model = run.load(run.thetas[k])
        operator = HessianLinearOperator(
            model, run.loss, list(model.parameters()), [(run.x, run.y)], check_deterministic=False
        )
        tol, ncv = setting
        start = np.random.default_rng(run.seed + k).standard_normal(operator.shape[0])
        return largest(lambda v: operator @ v, operator.shape[0], tol, ncv, start)[0]


class Warm(Peer):
    """ARPACK on our product, from the eigenvector of the iterate before."""

    name = "warm"

    def __init__(self) -> None:
        self.vector: Any = None

    def settings(self) -> Iterator[tuple[float, int]]:
        yield from ((tol, ncv) for tol in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3) for ncv in (4, 6, 8, 12))

    def value(self, run: Run, k: int, setting: tuple[float, int]) -> float:
        it = Iterate(run.objective, run.thetas[k], curvature_expected=True)
        if k == 0:
            self.vector = np.random.default_rng(run.seed).standard_normal(it.theta.numel())
        value, self.vector = largest(it.hvp, it.theta.numel(), *setting, self.vector)
        return value


PEERS = {peer.name: peer for peer in (PyHessian, HessianEigenthings, Curvlinops, Warm)}
WORK = {"mlp": mlp, "gpt2": gpt2}


def first_good(peer: Peer, runs: list[Run]) -> Any:
    """The cheapest setting that is good enough at every iterate; None if none is.

    By the time for the first run, of those that are good enough on all; a tool whose settings are
    one number gets the first of them.
    """
    best, least = None, math.inf
    for setting in peer.settings():
        start = time.perf_counter()
        for n, run in enumerate(runs):
            for k in range(ITERATES):
                if run.error(k, peer.value(run, k, setting)) > ENOUGH:
                    break
                if n == 0 and time.perf_counter() - start > least:
                    break
            else:
                if n == 0:
                    seconds = time.perf_counter() - start
                continue
            break
        else:
            if not isinstance(setting, tuple):
                return setting
            best, least = setting, seconds
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--work", choices=WORK, action="append")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    peer = PEERS[asked.peer]()
    print(f"{'':6s}{'tool':21s}{'setting':>16s}{'seconds':>9s}{'× ours':>8s}{'worst error':>13s}")
    for name in asked.work or WORK:
        seeds = range(1 if asked.quick else SEEDS)
        runs = [Run(WORK[name](seed, asked.quick), seed) for seed in seeds]
        setting = first_good(peer, runs)
        tools = [f"blockframe {a:g}" for a in OURS] + [peer.name] * (setting is not None)
        seconds, worst, products = (dict.fromkeys(tools, 0.0) for _ in range(3))
        for run in runs:
            ours = {t: Ours(run, a) for t, a in zip(tools, OURS, strict=False)}
            for k in range(ITERATES):
                for tool in tools:
                    start = time.perf_counter()
                    value = ours[tool](k) if tool in ours else peer.value(run, k, setting)
                    seconds[tool] += time.perf_counter() - start
                    worst[tool] = max(worst[tool], run.error(k, value))
            for tool, search in ours.items():
                products[tool] += search.products
        for tool in tools:
            shown = f"{products[tool]:.0f} products" if products.get(tool) else ""
            shown = shown or "/".join(f"{x:.3g}" for x in np.atleast_1d(setting))
            times = seconds[tool] / seconds[tools[0]]
            print(f"{name:6s}{tool:21s}{shown:>16s}{seconds[tool]:9.2f}{times:8.2f}"
                  f"{worst[tool]:13.1e}", flush=True)  # fmt: skip
        if setting is None:
            print(f"{name:6s}{peer.name:21s} does not reach {ENOUGH:g}", flush=True)


if __name__ == "__main__":
    main()
