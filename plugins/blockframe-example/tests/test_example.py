"""The example as its readers meet it: it loads, resolves, teaches an operation, watches a run."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import torch

import blockframe
from blockframe.plugins import load_plugins


@pytest.fixture
def registry(monkeypatch):
    entry = EntryPoint("example", "blockframe_example", "blockframe")
    monkeypatch.setattr("blockframe.plugins.entry_points", lambda group: [entry])
    return load_plugins(strict=True)


def test_it_loads_with_four_hooks(registry):
    plugin = registry.plugins[-1]
    assert plugin.hooks == ("atoms", "probes", "resolve", "specs")


def test_its_spec_is_certified_with_its_atom_and_its_probe(registry):
    certificate = blockframe.certify("probit", steps=3, registry=registry, probes=["largest_entry"])
    assert certificate.claim("analyticity").verdict == "HOLDS"
    assert len(certificate.trajectory.series["largest_entry"]) == 4


def test_without_the_atom_nothing_is_guessed(registry, monkeypatch):
    monkeypatch.setattr(type(registry), "atoms", lambda self: [])
    claim = blockframe.certify("probit", static_only=True, registry=registry).claim("analyticity")
    assert claim.verdict == "UNKNOWN"
    assert claim.findings[0].op == "aten::special_log_ndtr"


def test_the_facts_of_the_atom(registry):
    (atom,) = (a for a in registry.atoms() if "aten::special_log_ndtr" in a.ops)
    t = torch.linspace(-30, 8, 2001, dtype=torch.float64, requires_grad=True)
    value = torch.special.log_ndtr(t)
    (slope,) = torch.autograd.grad(value.sum(), t, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), t)
    assert bend.abs().max() <= atom.curvature
    assert all(v in atom.range for v in value.tolist())


def test_loading_it_does_not_load_torch():
    code = "import sys, blockframe_example; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
