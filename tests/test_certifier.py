"""From a target to a certificate, as a library user sees it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blockframe
from blockframe.contract.claim import Outcome
from blockframe.errors import InputError, PluginError, SpecError
from blockframe.plugins import Registry, load_plugins


def net(activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 3))


def data() -> tuple[tuple[Tensor, ...], Tensor]:
    g = torch.Generator().manual_seed(1)
    return (torch.randn(10, 6, generator=g),), torch.randn(10, 3, generator=g)


def test_a_tuple_with_targets() -> None:
    inputs, targets = data()
    module = net()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    cert = blockframe.certify((module, inputs, targets), steps=4)
    assert cert.claim("analyticity").verdict == "HOLDS"
    assert cert.claim("analyticity").evidence == "PROVED"
    assert cert.claim("analyticity", block="0").verdict == "HOLDS"
    assert cert.claim("descent").verdict == "HOLDS"
    assert cert.claim("descent").evidence == "MEASURED"
    assert cert.subject.class_name == "Sequential"
    assert cert.subject.scale == "full"
    assert cert.subject.replay_exact
    assert [b.parameters for b in cert.subject.blocks] == [56, 27]
    assert cert.trajectory is not None
    assert len(cert.trajectory.series["loss"]) == 5
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    again = blockframe.Certificate.from_json(cert.to_json())
    assert again == cert


def test_a_smooth_network_is_certified_each_clause_on_its_own_evidence() -> None:
    inputs, targets = data()
    cert = blockframe.certify((net(), inputs, targets), steps=1)
    evidence = {
        "analyticity": "PROVED",
        "smoothness": "PROVED",
        "dissipativity": "MEASURED",
        "nondegeneracy": "ENCLOSED",
        "descent": "MEASURED",
    }
    for clause, known in evidence.items():
        claim = cert.claim(clause)
        assert (claim.verdict, claim.evidence) == ("HOLDS", known)
    assert cert.verdict is Outcome.CERTIFIED


def test_without_targets_there_is_no_trajectory() -> None:
    inputs, _ = data()
    cert = blockframe.certify((net(nn.ReLU), inputs))
    assert cert.trajectory is None
    assert cert.verdict is Outcome.REFUTED
    assert cert.claim("descent").verdict == "UNKNOWN"
    assert "no targets" in cert.claim("descent").statement
    assert cert.environment["seed"] == "0"


def test_static_only() -> None:
    inputs, targets = data()
    assert blockframe.certify((net(), inputs, targets), static_only=True).trajectory is None


def test_a_diverging_run_is_refuted_and_kept() -> None:
    inputs, targets = data()
    cert = blockframe.certify((net(), inputs, targets), lr=1e9, steps=10)
    claim = cert.claim("descent")
    assert claim.verdict == "FAILS"
    assert claim.findings[0].witness is not None
    assert "step" in claim.findings[0].witness
    assert cert.trajectory is not None
    assert cert.trajectory.series["loss"][0] is not None
    assert cert.verdict is Outcome.REFUTED
    assert cert.claim("analyticity").verdict == "HOLDS"


def test_a_network_that_cannot_be_traced_is_unknown() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x)
            return y if y.sum() > 0 else -y

    inputs, targets = data()
    cert = blockframe.certify((Branching(), inputs, targets))
    assert cert.claim("analyticity").verdict == "UNKNOWN"
    finding = cert.claim("analyticity").findings[0]
    assert finding.code == "A901"
    assert finding.location.startswith("test_certifier.py:")
    assert finding.help
    assert cert.verdict is Outcome.INCONCLUSIVE
    assert "no gradient descent: the network could not be traced" in cert.claim("descent").statement
    static = blockframe.certify((Branching(), inputs, targets), static_only=True)
    assert "descent" not in {c.clause for c in static.claims}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ((net(), (torch.randn(4, 5),)), "does not run on inputs of shape"),
        ((net(), torch.randn(4, 6)), "tuple of tensors"),
        ((torch.tanh, (torch.randn(4, 6),)), "not a torch.nn.Module"),
        ((nn.Tanh(), (torch.randn(4, 6),)), "no trainable parameter"),
        ((nn.LSTM(6, 3), (torch.randn(4, 2, 6),)), "not one tensor"),
        (net(), "without inputs"),
        (42, "an int"),
    ],
)
def test_targets_that_make_no_sense(target: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        blockframe.certify(target)


def test_options_that_make_no_sense() -> None:
    inputs, targets = data()
    with pytest.raises(InputError, match=r"lr cannot be -1\.0: it must be positive"):
        blockframe.certify((net(), inputs, targets), lr=-1.0)
    with pytest.raises(InputError, match="steps must be"):
        blockframe.certify((net(), inputs, targets), steps=-1)
    with pytest.raises(SpecError, match="nothing to set"):
        blockframe.certify((net(), inputs, targets), settings={"width": 3})
    with pytest.raises(SpecError, match="no plugin resolves"):
        blockframe.certify("nosuchmodel")
    with pytest.raises(InputError):
        blockframe.certify((net(), inputs, targets[:5]))


def test_chain_and_replay() -> None:
    inputs, _ = data()
    module = net()
    chain = blockframe.chain((module, inputs))
    assert [b.name for b in chain.blocks] == ["0", "2"]
    with torch.no_grad():
        assert torch.equal(chain.replay(*inputs), module(*inputs))


def test_descend_yields_iterates() -> None:
    inputs, targets = data()
    run = blockframe.descend((net(), inputs, targets), lr=0.1, steps=3, probes=["sharpness"])
    seen = [(it.step, it.loss, it["sharpness"]) for it in run]
    assert [s for s, _, _ in seen] == [0, 1, 2, 3]
    assert seen[-1][1] < seen[0][1]
    assert all(sharpness > 0 for *_, sharpness in seen)


class _Merging:
    """A plugin that takes all blocks as one, or breaks the rule of the hook."""

    def __init__(self, honest: bool) -> None:
        self.honest = honest

    @blockframe.hookimpl
    def blockframe_chain(self, problem: Any, chain: blockframe.BlockChain) -> Any:
        from attrs import evolve

        nodes = tuple(i for b in chain.blocks for i in b.nodes)
        kept = nodes if self.honest else nodes[1:]
        block = evolve(chain.blocks[0], name="whole", nodes=kept, exit=(), parameters=0)
        return evolve(chain, blocks=(block,))


def _with(plugin: Any) -> Registry:
    registry = load_plugins()
    registry.add("mine", plugin)
    return registry


def test_a_plugin_may_cut_otherwise_but_not_cheat() -> None:
    inputs, _ = data()
    cert = blockframe.certify((net(nn.ReLU), inputs), registry=_with(_Merging(honest=True)))
    assert [b.name for b in cert.subject.blocks] == ["whole"]
    assert cert.subject.blocks[0].parameters == 83
    assert cert.claim("analyticity", block="whole").verdict == "FAILS"
    with pytest.raises(PluginError, match="traced nodes"):
        blockframe.certify((net(), inputs), registry=_with(_Merging(honest=False)))


class _Teaching:
    @blockframe.hookimpl
    def blockframe_atoms(self) -> list[blockframe.Atom]:
        return [blockframe.Pointwise("aten::special_i0e")]


def test_what_rests_on_a_plugins_word_is_declared() -> None:
    class Bessel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i0e(x)

    inputs, _ = data()
    module = nn.Sequential(nn.Linear(6, 8), Bessel(), nn.Linear(8, 3))
    cert = blockframe.certify((module, inputs), registry=_with(_Teaching()))
    assert cert.claim("analyticity").verdict == "HOLDS"
    assert cert.claim("analyticity").evidence == "DECLARED"
    assert cert.claim("analyticity", block="2").evidence == "PROVED"


def test_public_names_and_a_light_import() -> None:
    assert set(blockframe.__all__) <= set(dir(blockframe))
    assert all(getattr(blockframe, name) for name in blockframe.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        blockframe.nonsense  # noqa: B018
    code = "import sys, blockframe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
