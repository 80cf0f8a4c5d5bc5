"""Certificates of small networks, as the program makes them."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blockframe
from blockframe.certificate.model import Certificate
from blockframe.certificate.run_theory import ON_REQUEST
from blockframe.plugins import Registry, load_plugins

MODELS = """
import torch
from torch import nn

torch.set_num_threads(1)


class Residual(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.norm, self.linear, self.activation = nn.LayerNorm(4), nn.Linear(4, 4), activation

    def forward(self, x):
        return x + self.linear(self.activation(self.norm(x)))


def net(activation: str = "Tanh"):
    g = torch.Generator().manual_seed(5)
    body = nn.Sequential(*[Residual(getattr(nn, activation)()) for _ in range(2)])
    module = nn.Sequential(nn.Linear(3, 4), body, nn.Linear(4, 2))
    return module, (torch.randn(6, 3, generator=g),), torch.randn(6, 2, generator=g)
"""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "models.py"
    path.write_text(MODELS, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The core's own plugin and no other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blockframe.plugins.entry_points", lambda **_: [])
        return load_plugins()


@pytest.fixture(scope="session")
def tanh(models: Path, registry: Registry) -> dict[str, Any]:
    """A network that is analytic, trained for 3 steps."""
    return _document(f"{models}:net", registry=registry, steps=3)


@pytest.fixture(scope="session")
def relu(models: Path, registry: Registry) -> dict[str, Any]:
    """One that is not, and whose run goes up first."""
    return _document(
        f"{models}:net", registry=registry, settings={"activation": "ReLU"}, steps=3, lr=2.0
    )


@pytest.fixture(scope="session")
def diverged(models: Path, registry: Registry) -> dict[str, Any]:
    """A run whose loss overflows."""
    return _document(f"{models}:net", registry=registry, steps=9, lr=1e150)


@pytest.fixture(scope="session")
def ruled(models: Path, registry: Registry) -> dict[str, Any]:
    """A run by a schedule, with all probes that the core has on request."""
    return _document(
        f"{models}:net", registry=registry, steps=2, lr="linear:auto:0.02", probes=ON_REQUEST
    )


@pytest.fixture(scope="session")
def ranked(tanh: dict[str, Any]) -> dict[str, Any]:
    """``tanh`` with a claim that HOLDS on clause N, made by hand."""
    return with_rank(tanh, matrix(5, seed=1))


def with_rank(document: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """``document`` with clause N resting on a matrix of 5 merged rows."""
    claims = [c for c in document["claims"] if c["clause"] != "nondegeneracy"]
    trained = document["trajectory"]["summary"]["parameters"]
    claim = {
        "clause": "nondegeneracy", "verdict": "HOLDS", "statement": "rank 10 = Nc",
        "evidence": "ENCLOSED", "subject": "chain", "block": None, "region": "the data given",
        "numbers": {
            "argument": "linear head", "rows": 5, "unmerged rows": 6, "outputs": 2,
            "parameters": trained, "rank": 10, "residual": 1e-9, "least singular value": 1e-3,
            "matrix": record,
        },
        "findings": [],
    }  # fmt: skip
    return resealed({**document, "verdict": "CERTIFIED", "claims": [*claims, claim]})


def matrix(size: int, *, seed: int, radius: float = 1e-12, dtype: str = "<f8") -> dict[str, Any]:
    """The record of a random matrix, its numbers in the certificate."""
    numbers = np.random.default_rng(seed).standard_normal((size, size))
    raw = numbers.astype(dtype).tobytes()
    return {
        "size": size, "radius": radius, "data": base64.b64encode(raw).decode(), "dtype": dtype,
        "file": None, "sha256": hashlib.sha256(raw).hexdigest(),
    }  # fmt: skip


def resealed(document: dict[str, Any]) -> dict[str, Any]:
    """``document`` with the seal that it must have."""
    plain = {k: v for k, v in document.items() if k != "seal"}
    sealed: dict[str, Any] = json.loads(Certificate.from_json(json.dumps(plain)).to_json())
    return sealed


def _document(spec: str, **options: Any) -> dict[str, Any]:
    certificate = blockframe.certify(spec, **options)
    document: dict[str, Any] = json.loads(certificate.to_json())
    return document
