"""Commands on small models in a file: what works, and every way in which a user can go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from blockframe.certificate import store
from blockframe.cli.program import program

MODELS = """
import torch
from torch import nn
import torch.nn.functional as F


def net(width: int = 4, activation: str = "Tanh"):
    print("the model prints")
    layers = nn.Sequential(nn.Linear(3, width), getattr(nn, activation)(), nn.Linear(width, 2))
    return layers, (torch.randn(6, 3),), torch.randint(2, (6,))


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        y = self.linear(x)
        if y.sum() > 0:
            return y
        return -y


def branch():
    return Branch(), (torch.randn(6, 3),)


def shape():
    return nn.Linear(5, 2), (torch.randn(6, 3),)


def fails():
    raise RuntimeError("no luck")


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x):
        return x + torch.tanh(self.linear(self.norm(x)))


def residual():
    layers = nn.Sequential(*[Residual() for _ in range(3)])
    return nn.Sequential(nn.Linear(3, 4), layers, nn.Linear(4, 2)), (torch.randn(6, 3),)
"""


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the program in a directory that holds ``models.py``; no plugins are installed."""
    (tmp_path / "models.py").write_text(MODELS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("blockframe.plugins.entry_points", lambda **_: [])
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *arguments: CliRunner().invoke(program, list(arguments))


def claims(document: dict[str, Any], clause: str) -> dict[str, Any]:
    """The chain's (or the run's) claim on ``clause``."""
    return next(c for c in document["claims"] if c["clause"] == clause and c["block"] is None)


def test_certify(run: Run, tmp_path: Path) -> None:
    result = run("certify", "models.py:net", "--steps", "3", "--lr", "0.01", "--out", "out")
    assert result.exit_code == 0, result.stderr
    assert "A analyticity     HOLDS     proved" in result.stdout
    assert "descent         HOLDS     measured" in result.stdout
    certificate = store.read(tmp_path / "out" / "models.py-net.cert.json")
    assert certificate.trajectory is not None
    assert len(certificate.trajectory.series["loss"]) == 4


def test_certify_json(run: Run) -> None:
    result = run("certify", "models.py:net", "--static-only", "--format", "json")
    document = json.loads(result.stdout)
    assert document["trajectory"] is None
    assert "the model prints" in result.stderr


def test_settings_reach_the_factory(run: Run) -> None:
    result = run(
        "certify", "models.py:net", "--set", "activation=ReLU", "--set", "width=5",
        "--static-only", "--format", "json",
    )  # fmt: skip
    assert result.exit_code == 1
    claim = claims(json.loads(result.stdout), "analyticity")
    assert claim["verdict"] == "FAILS"
    assert claim["findings"][0]["witness"]


def test_a_run_that_diverges_keeps_what_it_measured(run: Run) -> None:
    result = run("certify", "models.py:net", "--lr", "1e9", "--format", "json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    claim = claims(document, "descent")
    assert claim["verdict"] == "FAILS"
    assert claim["findings"][0]["witness"]["step"] == 0
    assert document["trajectory"]["series"]["loss"][0] > 0
    assert document["trajectory"]["ended"] != "completed"


def test_ctrl_c_in_the_middle_keeps_what_was_measured(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: object, done: int, total: int, detail: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("blockframe.cli.progress.Lines.step", step)
    result = run("certify", "models.py:net", "--steps", "9", "--out", ".")
    assert result.exit_code == 130
    assert "interrupted" in result.stdout
    certificate = store.read(tmp_path / "models.py-net.cert.json")
    assert certificate.trajectory is not None
    assert certificate.trajectory.completed == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nosuch"], "no plugin resolves 'nosuch'"),
        (["models.py:nosuch"], "models.py has no 'nosuch'. It has net, branch, shape, fa"),
        (["models.py:fails"], "models.py:fails raised RuntimeError: no luck, at models.py:"),
        (["models.py:shape"], "does not run on inputs of shape (6, 3)"),
        (["models.py:net", "--set", "nosuch=1"], "has no setting 'nosuch'"),
        (["models.py:net", "--set", "activation=Nosuch"], "has no attribute 'Nosuch', at m"),
        (["models.py:net", "--loss", "nosuch"], "there is no loss 'nosuch'"),
        (["models.py:net", "--data", "nosuch"], "'nosuch'"),
        (["models.py:net", "--samples", "7"], "7 samples asked for, 6 there are"),
        (["models.py:net", "--device", "nosuch"], "nosuch"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(arguments: list[str], says: str, run: Run) -> None:
    result = run("certify", *arguments)
    assert result.exit_code == 2
    *before, last = result.stderr.splitlines()
    assert last.startswith("blockframe: ")
    assert says in last
    assert not any("Traceback" in line for line in before)
    assert result.stdout == ""


def test_a_branch_on_data_is_named_with_its_line(run: Run) -> None:
    result = run("certify", "models.py:branch", "--static-only")
    line = 1 + MODELS[: MODELS.index("if y.sum()")].count("\n")
    assert result.exit_code == 3
    assert f"models.py:{line}" in result.stdout
    assert "analyticity     UNKNOWN" in result.stdout
    chain = run("chain", "models.py:branch")
    assert chain.exit_code == 2
    assert f"models.py:{line}" in chain.stderr.splitlines()[-1]


def test_chain(run: Run) -> None:
    result = run("chain", "models.py:residual")
    assert result.exit_code == 0, result.stderr
    assert "3 × pre-norm mlp" in result.stdout.lower() or "3 × pre-norm layer" in result.stdout
    assert "replay exact" in result.stdout


def test_chain_json(run: Run) -> None:
    result = run("chain", "models.py:net", "--set", "width=7", "--format", "json")
    document = json.loads(result.stdout)
    assert set(document) == {"subject", "blocks", "replay"}
    assert document["subject"]["parameters"] == 44
    assert sum(b["parameters"] for b in document["blocks"]) == 44
    assert document["replay"] == {"exact": True, "max_abs_difference": 0.0, "on": "full"}
    assert set(document["blocks"][0]) == {"name", "role", "residual", "parameters", "state"}


def test_chain_widths(run: Run) -> None:
    result = run("chain", "models.py:net", "--set", "width=7", "--widths", "--init", "xavier")
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert "bottleneck   n_eff" in result.stdout
    assert "norms measured, weights drawn by --init xavier" in result.stdout
    (row,) = (cells for cells in lines if cells[1:4] == ["7", "×", "3"])
    n_eff, at_xavier, frobenius, spectral = map(float, row[4:])
    assert (n_eff, at_xavier) == (4.2, 2.049)
    assert 0 < spectral <= frobenius <= 3 * spectral  # of rank 3


def test_chain_widths_json(run: Run) -> None:
    command = ("chain", "models.py:net", "--set", "width=7", "--format", "json")
    plain = json.loads(run(*command).stdout)
    document = json.loads(run(*command, "--widths").stdout)
    norms = document.pop("norms")
    weights = [w for b in document["blocks"] for w in b.pop("widths")["weights"]]
    assert document == plain
    assert [(w["name"], w["outputs"], w["inputs"], w["n_eff"]) for w in weights] == [
        ("0.weight", 7, 3, 4.2), ("2.weight", 2, 7, pytest.approx(28 / 9)),
    ]  # fmt: skip
    assert (norms["on"], norms["init"]) == ("full", "default")
    for weight, measured in zip(weights, norms["weights"], strict=True):
        assert measured.items() >= weight.items()
        assert 0 < measured["spectral"] <= measured["frobenius"]


def test_chain_of_nothing(run: Run) -> None:
    result = run("chain", "nosuch")
    assert result.exit_code == 2
    assert "no plugin resolves 'nosuch'" in result.stderr


def test_a_proxy_replays_for_a_model_without_weights(run: Run, tmp_path: Path) -> None:
    (tmp_path / "meta.py").write_text(
        "import torch, blockframe\n"
        "from torch import nn\n"
        "def build(n, device): return nn.Sequential(nn.Linear(3, n, device=device), nn.Tanh())\n"
        "small = blockframe.Problem(build(4, 'cpu'), (torch.ones(2, 3),), note='width 4')\n"
        "inputs = (torch.ones(2, 3, device='meta'),)\n"
        "big = blockframe.Problem(build(9, 'meta'), inputs, proxy=small)\n"
        "bare = blockframe.Problem(build(9, 'meta'), inputs)\n",
        encoding="utf-8",
    )
    result = run("chain", "meta.py:big", "--format", "json")
    document = json.loads(result.stdout)
    assert document["subject"]["parameters"] == 36
    assert document["replay"] == {"exact": True, "max_abs_difference": 0.0, "on": "proxy"}
    assert "proxy  width 4; replay exact" in run("chain", "meta.py:big").stdout
    assert "replay not run" in run("chain", "meta.py:bare").stdout
    document = json.loads(run("chain", "meta.py:big", "--widths", "--format", "json").stdout)
    (shapes,) = document["blocks"][0]["widths"]["weights"]
    assert (shapes["outputs"], "frobenius" in shapes) == (9, False)
    assert document["norms"]["on"] == "proxy"
    (measured,) = document["norms"]["weights"]
    assert (measured["outputs"], measured["frobenius"] > 0) == (4, True)
    text = run("chain", "meta.py:big", "--widths").stdout
    shown, _, proxied = text.partition("matrices of the proxy: norms measured")
    assert "9 × 3" in shown
    assert "4 × 3" in proxied
    document = json.loads(run("chain", "meta.py:bare", "--widths", "--format", "json").stdout)
    assert document["norms"] is None
    assert "measured" not in run("chain", "meta.py:bare", "--widths").stdout
