"""Does this network satisfy the assumptions under which gradient descent provably converges?

    >>> import blockframe
    >>> certificate = blockframe.certify("gpt2")
    >>> certificate.claim("analyticity").verdict

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockframe.atoms.facts import (
        Atom as Atom,
    )  # fmt: skip
    from blockframe.atoms.facts import (
        Bilinear as Bilinear,
    )
    from blockframe.atoms.facts import (
        Composite as Composite,
    )
    from blockframe.atoms.facts import (
        Detached as Detached,
    )
    from blockframe.atoms.facts import (
        Discrete as Discrete,
    )
    from blockframe.atoms.facts import (
        Kink as Kink,
    )
    from blockframe.atoms.facts import (
        Layout as Layout,
    )
    from blockframe.atoms.facts import (
        Linear as Linear,
    )
    from blockframe.atoms.facts import (
        Pairs as Pairs,
    )
    from blockframe.atoms.facts import (
        Pointwise as Pointwise,
    )
    from blockframe.atoms.facts import (
        Random as Random,
    )
    from blockframe.atoms.facts import (
        Rowwise as Rowwise,
    )
    from blockframe.atoms.facts import (
        Selection as Selection,
    )
    from blockframe.atoms.facts import (
        Source as Source,
    )
    from blockframe.blocks import Block as Block
    from blockframe.blocks import BlockChain as BlockChain
    from blockframe.certificate.checker import check as check
    from blockframe.certificate.model import Certificate as Certificate
    from blockframe.certifier import certify as certify
    from blockframe.certifier import chain as chain
    from blockframe.certifier import descend as descend
    from blockframe.certifier import learning_rates as learning_rates
    from blockframe.certifier import load as load
    from blockframe.contract.claim import Claim as Claim
    from blockframe.contract.claim import Evidence as Evidence
    from blockframe.contract.claim import Finding as Finding
    from blockframe.contract.claim import Verdict as Verdict
    from blockframe.contract.contract import Contract as Contract
    from blockframe.dynamics.probes import Probe as Probe
    from blockframe.hookspecs import hookimpl as hookimpl
    from blockframe.problem import Problem as Problem
    from blockframe.problem import Request as Request

_HOMES = {
    "blockframe.atoms.facts": (
        "Atom", "Bilinear", "Composite", "Detached", "Discrete", "Kink", "Layout", "Linear",
        "Pairs", "Pointwise", "Random", "Rowwise", "Selection", "Source",
    ),
    "blockframe.blocks": ("Block", "BlockChain"),
    "blockframe.certificate.checker": ("check",),
    "blockframe.certificate.model": ("Certificate",),
    "blockframe.certifier": ("certify", "chain", "descend", "learning_rates", "load"),
    "blockframe.contract.claim": ("Claim", "Evidence", "Finding", "Verdict"),
    "blockframe.contract.contract": ("Contract",),
    "blockframe.dynamics.probes": ("Probe",),
    "blockframe.hookspecs": ("hookimpl",),
    "blockframe.problem": ("Problem", "Request"),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'blockframe' has no attribute {name!r}")
    from blockframe.interrupts import held

    with held():  # Ctrl-C would leave half of torch, which cannot be imported again, or be lost
        value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__]
