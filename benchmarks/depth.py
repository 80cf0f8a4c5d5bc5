"""How the envelopes of clause S compose with depth: pre-norm, post-norm, no norm.

Bounds of the state and of its derivative after 1, 2, 4, … residual layers, each composed of the
layers' own envelopes at Xavier initialization. ``python benchmarks/depth.py`` prints the tables of
docs/envelopes.md.
"""

import math

import torch
from attrs import frozen
from torch import Tensor, nn

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.contract.smoothness import envelope
from blockframe.initialize import initialize
from blockframe.problem import Problem
from blockframe.testing.sampling import BlockMap

DEPTHS = (1, 2, 4, 8, 16, 32)
PLACEMENTS = ("pre", "post", "none")
WIDTH, STEPS, SAMPLES = 16, 4, 2


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, z: Tensor) -> Tensor:
        return self.down(nn.functional.gelu(self.up(z)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        parts = [nn.Linear(WIDTH, WIDTH) for _ in range(4)]
        self.query, self.key, self.value, self.project = parts

    def forward(self, z: Tensor) -> Tensor:
        q, k, v = self.query(z), self.key(z), self.value(z)
        return self.project((q @ k.mT / WIDTH**0.5).softmax(-1) @ v)


class Layer(nn.Module):
    """z + F(norm(z)), norm(z + F(z)) or z + F(z)."""

    def __init__(self, branch: type[nn.Module], placement: str) -> None:
        super().__init__()
        self.branch = branch()
        self.before = nn.LayerNorm(WIDTH) if placement == "pre" else nn.Identity()
        self.after = nn.LayerNorm(WIDTH) if placement == "post" else nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        return self.after(z + self.branch(self.before(z)))


@frozen
class Growth:
    """Natural logarithms, for depth 1, 2, …: of the bounds of |z_D| and of |D z_D| (D in all
    parameters jointly), and of |z_D| itself."""

    state: tuple[float, ...]
    derivative: tuple[float, ...]
    measured: tuple[float, ...]


def growth(branch: type[nn.Module], placement: str, depth: int) -> Growth:
    """Of a chain of an embedding and ``depth`` layers that all start from the same weights."""
    torch.manual_seed(0)
    layers = [Layer(branch, placement) for _ in range(depth)]
    initialize(layers[0], "xavier", 0)
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    embed = nn.Linear(WIDTH, WIDTH)
    initialize(embed, "xavier", 1)
    module = nn.Sequential(embed, *layers)
    analysis = Analysis.of(Problem(module, (torch.randn(SAMPLES, STEPS, WIDTH),)), Catalogue.of())
    r, slope, states, slopes, norms = -math.inf, -math.inf, [], [], []
    for block in analysis.chain.blocks:
        f, jet = BlockMap(analysis, block), envelope(analysis, block).jet
        s = math.log(f.norms(f.start)[0])
        # z_l depends on theta_l and, through z_{l-1}, on the parameters before.
        slope = jet.first.log_at(s, r) + max(0.0, slope)
        r = jet.value.log_at(s, r)
        states.append(r)
        slopes.append(slope)
        norms.append(math.log(float(f(f.start).norm())))
    return Growth(tuple(states[1:]), tuple(slopes[1:]), tuple(norms[1:]))


def main() -> None:
    torch.set_num_threads(1)
    chains = {
        (branch, placement): growth(branch, placement, max(DEPTHS))
        for branch in (MLP, Attention)
        for placement in PLACEMENTS
    }
    heads = [
        f"{b.__name__}, {'no' if p == 'none' else p + '-'} norm".replace("- norm", "-norm")
        for b, p in chains
    ]
    for title, part in (
        ("bound of |z_D|", "state"),
        ("|z_D| at the initialization", "measured"),
        ("bound of |D z_D|", "derivative"),
    ):
        print(f"\nlog10 of the {title}:\n")
        print(f"| depth | {' | '.join(heads)} |")
        print(f"|{'---|' * (len(heads) + 1)}")
        for depth in DEPTHS:
            sizes = [getattr(g, part)[depth - 1] / math.log(10.0) for g in chains.values()]
            print(f"| {depth} | {' | '.join(f'{x:.1f}' for x in sizes)} |")


if __name__ == "__main__":
    main()
