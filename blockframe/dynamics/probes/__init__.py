"""Quantities that are observed along gradient descent, one small file each."""

from __future__ import annotations

from blockframe.dynamics.probes.block_norms import BlockNorms
from blockframe.dynamics.probes.descent import DescentLemma
from blockframe.dynamics.probes.directional_smoothness import DirectionalSmoothness
from blockframe.dynamics.probes.dissipativity import Dissipativity
from blockframe.dynamics.probes.gradient_norm import GradientNorm
from blockframe.dynamics.probes.loss import LossProbe
from blockframe.dynamics.probes.output_pairing import OutputPairing
from blockframe.dynamics.probes.pl import PLRatio
from blockframe.dynamics.probes.probe import Observation, Probe
from blockframe.dynamics.probes.sharpness import Sharpness
from blockframe.dynamics.probes.tangent import Tangent

PROBES: tuple[type[Probe], ...] = (
    LossProbe,
    GradientNorm,
    Sharpness,
    DirectionalSmoothness,
    PLRatio,
    BlockNorms,
    Dissipativity,
    OutputPairing,
    DescentLemma,
)
"""The core's own; every trajectory observes them. They come in through ``blockframe_probes``."""

ON_REQUEST: tuple[type[Probe], ...] = (Tangent,)
"""The core's own that cost much more than a gradient: observed where they are asked for by name."""

__all__ = [
    "ON_REQUEST", "PROBES", "BlockNorms", "DescentLemma", "DirectionalSmoothness", "Dissipativity",
    "GradientNorm", "LossProbe", "Observation", "OutputPairing", "PLRatio", "Probe", "Sharpness",
    "Tangent",
]  # fmt: skip
