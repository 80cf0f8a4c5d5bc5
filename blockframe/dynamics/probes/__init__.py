"""Quantities that are observed along gradient descent, one small file each."""

from __future__ import annotations

from blockframe.dynamics.probes.block_jacobian import BlockJacobian
from blockframe.dynamics.probes.block_norms import BlockNorms
from blockframe.dynamics.probes.bottom_eigenvalue import BottomEigenvalue
from blockframe.dynamics.probes.descent import DescentLemma
from blockframe.dynamics.probes.directional_smoothness import DirectionalSmoothness
from blockframe.dynamics.probes.dissipativity import Dissipativity
from blockframe.dynamics.probes.distance import Distance
from blockframe.dynamics.probes.gradient_lipschitz import GradientLipschitz
from blockframe.dynamics.probes.gradient_norm import GradientNorm
from blockframe.dynamics.probes.kinks import Kinks
from blockframe.dynamics.probes.loss import LossProbe
from blockframe.dynamics.probes.loss_floor import LossFloor
from blockframe.dynamics.probes.output_pairing import OutputPairing
from blockframe.dynamics.probes.pl import PLRatio
from blockframe.dynamics.probes.probe import Observation, Probe, Unavailable
from blockframe.dynamics.probes.segment_curvature import SegmentCurvature
from blockframe.dynamics.probes.sharpness import Sharpness
from blockframe.dynamics.probes.spectral_density import SpectralDensity
from blockframe.dynamics.probes.tangent import Tangent
from blockframe.dynamics.probes.tangent_bound import TangentBound
from blockframe.dynamics.probes.update_size import UpdateSize

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
    GradientLipschitz,
    UpdateSize,
    Distance,
    LossFloor,
)
"""The core's own; every trajectory observes them. They come in through ``blockframe_probes``."""

ON_REQUEST: tuple[type[Probe], ...] = (
    Tangent,
    TangentBound,
    BlockJacobian,
    Kinks,
    BottomEigenvalue,
    SegmentCurvature,
    SpectralDensity,
)
"""The core's own that cost much more than a gradient: observed where they are asked for by name."""

__all__ = [
    "ON_REQUEST", "PROBES", "BlockJacobian", "BlockNorms", "BottomEigenvalue", "DescentLemma",
    "DirectionalSmoothness",
    "Dissipativity", "Distance", "GradientLipschitz", "GradientNorm", "Kinks", "LossFloor",
    "LossProbe", "Observation", "OutputPairing", "PLRatio", "Probe", "SegmentCurvature",
    "Sharpness", "SpectralDensity", "Tangent",
    "TangentBound", "Unavailable", "UpdateSize",
]  # fmt: skip
