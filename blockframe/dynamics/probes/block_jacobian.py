from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Observation, Probe, existing

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class BlockJacobian(Probe):
    """σ_min of the input Jacobian of every block at the data: docs/theory sections 1 and 3.

    J = ∂z_l/∂z_{l−1} of the whole batch; where samples (or positions) do not mix, its singular
    values are those of the Jacobians of all samples. Of each block that a state enters:

    ``BLOCK``: the least of the min(rows, columns) singular values; above 0 the block is
        nondegenerate here. Below about 1e-15 × size × ``largest`` it is not told from 0. None
        where the matrices are too large (`blockframe.dynamics.jacobian`);
    ``BLOCK.largest``: the largest;
    ``BLOCK.bound``: of residual blocks, 1 − ‖J − I‖ <= σ_min; J − I = DF where the block is
        z + F(z). Above 0 it shows the block nondegenerate without the least singular value.

    The entry of its own name is the least σ_min of all blocks; None unless all are known.
    """

    name = "block_jacobian"

    def observe(self, it: Iterate) -> Observation:
        found = it.block_jacobians
        least = [s.least for s in found.values()]
        known = [x for x in least if x is not None]
        seen: dict[str, float | None] = {
            "": min(known) if known and len(known) == len(least) else None
        }
        for block, singular in found.items():
            seen[block] = singular.least
            seen[f"{block}.largest"] = singular.largest
            if singular.excess is not None:
                seen[f"{block}.bound"] = singular.bound
        return seen

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        blocks = [key.removesuffix(".largest") for key in series if key.endswith(".largest")]
        return {
            "least": min(existing(series[""]), default=None),
            "blocks": {b: min(existing(series[b]), default=None) for b in blocks},
        }
