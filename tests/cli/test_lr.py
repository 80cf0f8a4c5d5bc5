"""``blockframe lr`` on small models in a file, as a user meets it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from blockframe.cli.program import program

MODELS = """
import torch
from torch import nn


def net(activation="Tanh", targets=True):
    print("the model prints")
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), getattr(nn, activation)(), nn.Linear(4, 2))
    return (layers, (torch.randn(6, 3),)) + (targets and (torch.randint(2, (6,)),) or ())


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        y = self.linear(x)
        return y if y.sum() > 0 else -y


def branch():
    return Branch(), (torch.randn(6, 3),), torch.randn(6, 2)


def meta():
    with torch.device("meta"):
        return nn.Linear(3, 2), (torch.empty(6, 3),), torch.empty(6, 2)


def broken():
    layers, (x,), y = net()
    with torch.no_grad():
        layers[0].weight[0, 0] = float("nan")
    return layers, (x,), y


def frozen():
    layers, x, y = net()
    return layers.requires_grad_(False), x, y


def fewer(error):
    from pathlib import Path
    made = Path("made")
    made.write_text(made.read_text() + "x" if made.exists() else "x")
    if len(made.read_text()) > 3:  # the first is of no start
        raise error
    return net()


def raising():
    return fewer(ValueError("no luck"))


def interrupted():
    return fewer(KeyboardInterrupt())
"""

Run = Callable[..., Result]

REAL, WORD = (int, float), (str,)
BOUND: dict[str, Any] = {
    "log10_hessian_bound": REAL,
    "dominant": {
        "block": WORD, "log10_factor": REAL, "op": WORD, "module": WORD, "location": WORD,
    },
}  # fmt: skip
DOCUMENT: dict[str, Any] = {
    "subject": {
        "spec": WORD, "class": WORD, "parameters": REAL, "scale": WORD, "data": WORD, "loss": WORD,
        "norm": REAL,
    },
    "measured": {
        "lr": REAL, "sharpness": REAL, "residual": REAL, "products": REAL, "converged": (bool,),
        "why_not": WORD,
    },
    "guaranteed": {
        "log10_lr": REAL, "centre": WORD, "radius": REAL, "declared": (bool,), "why_not": WORD,
        "findings": (list,), **BOUND,
    },
    "bound_at_start": BOUND,
    "stable": (dict,),
    "starts": (dict,),
}  # fmt: skip
"""Keys and types; null may stand for any value but a part of the document."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "models.py").write_text(MODELS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("blockframe.plugins.entry_points", lambda **_: [])
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *arguments: CliRunner().invoke(program, ["lr", *arguments])


def check(found: Any, expected: Any, path: str = "") -> None:
    if isinstance(expected, dict):
        if found is None and path.endswith("dominant"):
            return
        assert set(found) == set(expected), path
        for key, value in found.items():
            check(value, expected[key], f"{path}.{key}")
    else:
        assert found is None or isinstance(found, expected), path


def test_both_rates(run: Run) -> None:
    result = run("models.py:net")
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    rates = {w[0]: w[1] for w in lines if w and w[0] in ("measured", "guaranteed")}
    assert set(rates) == {"measured", "guaranteed"}
    assert 0 < float(rates["guaranteed"]) < float(rates["measured"])
    assert "the model prints" in result.stderr
    assert "the model prints" not in result.stdout


@pytest.mark.parametrize(
    ("attr", "code", "why"),
    [
        ("raising", 2, "after 2 of 5 starts, at seed 2: .*no luck.*"),
        ("interrupted", 130, "interrupted by the user after 2 of 5 starts"),
    ],
)
def test_seeds_that_end_early_leave_what_was_found(
    run: Run, attr: str, code: int, why: str
) -> None:
    options = (f"models.py:{attr}", "--init", "xavier", "--seeds", "5", "--jobs", "1")
    result = run(*options)
    assert result.exit_code == code, result.output
    assert re.search(f"blockframe: {why}", result.stderr)
    assert "Over 2 starts, seeds 0 to 1:" in result.stdout
    assert "Not all starts were looked at" in result.stdout
    Path("made").unlink()
    result = run(*options, "--format", "json")
    assert result.exit_code == code
    starts = json.loads(result.stdout)["starts"]
    assert starts["seeds"] == [0, 1]
    assert re.fullmatch(why, starts["ended"])


@pytest.mark.parametrize("spec", ["net", "broken"])
def test_the_document_has_its_keys(run: Run, spec: str) -> None:
    result = run(f"models.py:{spec}", "--format", "json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout, parse_constant=pytest.fail)
    check(document, DOCUMENT)
    if spec == "net":
        assert document["guaranteed"]["log10_lr"] < 0 < document["measured"]["lr"]
        assert document["guaranteed"]["radius"] == 2 * document["subject"]["norm"]
        start, ball = document["bound_at_start"], document["guaranteed"]
        assert start["log10_hessian_bound"] < ball["log10_hessian_bound"]
    else:
        assert document["guaranteed"]["log10_lr"] is document["measured"]["lr"] is None


def test_a_smaller_ball_guarantees_more(run: Run) -> None:
    def rate(*options: str) -> float:
        result = run("models.py:net", "--format", "json", *options)
        found: float = json.loads(result.stdout)["guaranteed"]["log10_lr"]
        return found

    rates = [rate("--radius", "4"), rate(), rate("--radius", "1")]
    rates += [rate("--centre", "start", "--radius", r) for r in ("0.3", "0.01")]
    assert rates == sorted(rates)
    assert len(set(rates)) == len(rates)


def test_what_runs_bear_stands_beside_it(run: Run) -> None:
    options = ("--stable", "--steps", "6", "--width", "0.1")
    result = run("models.py:net", *options)
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    rates = {w[0]: float(w[1]) for w in lines if w and w[0] in ("measured", "stable", "monotone")}
    assert 0 < rates["monotone"] <= rates["stable"]
    assert "L after 6 steps <= L at" in result.stdout
    document = json.loads(run("models.py:net", *options, "--format", "json").stdout)
    check(document, DOCUMENT)
    found = document["stable"]
    assert (found["steps"], found["width"], document["starts"]) == (6, 0.1, None)
    trains = found["trains"]
    assert trains["below"] == pytest.approx(rates["stable"], rel=1e-3)
    assert trains["below"] < trains["above"] <= 1.1 * trains["below"]
    assert trains["to_measured"] == trains["below"] / document["measured"]["lr"]
    excess = math.log10(trains["below"]) - document["guaranteed"]["log10_lr"]
    assert trains["log10_to_guaranteed"] == pytest.approx(excess)
    plain = json.loads(run("models.py:net", "--format", "json").stdout)
    assert plain["stable"] is plain["starts"] is None


def test_several_starts(run: Run) -> None:
    options = ("--init", "xavier:2", "--seeds", "3", "--jobs", "1", "--seed", "4")
    result = run("models.py:net", *options)
    assert result.exit_code == 0, result.stderr
    assert "Over 3 starts, seeds 4 to 6:" in result.stdout
    assert "fewer parameters than outputs): 0 of 3." in " ".join(result.stdout.split())
    assert "full rank: at 3 of 3 starts" in " ".join(result.stdout.split())
    document = json.loads(run("models.py:net", *options, "--format", "json").stdout)
    starts = document["starts"]
    assert starts["seeds"] == [4, 5, 6]
    assert (starts["degenerate"], starts["rank_looked_at"]) == (0, 3)
    sharpness = sorted(one["sharpness"] for one in starts["each"])
    assert len(set(sharpness)) == 3
    assert starts["quantiles"]["sharpness"][::2] == [sharpness[0], sharpness[1], sharpness[2]]
    assert starts["each"][0]["sharpness"] == document["measured"]["sharpness"]
    assert "trains" not in starts["quantiles"]


def test_no_rate_is_no_error_and_says_why(run: Run) -> None:
    result = run("models.py:net", "--set", "activation=ReLU")
    assert result.exit_code == 0
    assert "A101 relu has a kink where its input crosses 0" in result.stdout
    assert "No rate is guaranteed." in result.stdout
    document = json.loads(
        run("models.py:net", "--set", "activation=ReLU", "--format", "json").stdout
    )
    check(document, DOCUMENT)
    assert [f["code"] for f in document["guaranteed"]["findings"]] == ["A101"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nosuch"], "no plugin resolves 'nosuch'"),
        (["models.py:net", "--set", "targets=false"], "the problem has no targets"),
        (["models.py:meta"], "is on the meta device and has no proxy"),
        (["models.py:frozen"], "no parameter of the module requires a gradient"),
        (["models.py:branch"], "the forward branches on the value of a tensor"),
        (["models.py:net", "--loss", "nosuch"], "there is no loss 'nosuch'"),
        (["models.py:net", "--loss", "mse"], "targets of shape (6,)"),
        (["models.py:net", "--radius", "0.5"], "radius must be a number of at least 1"),
        (["models.py:net", "--radius", "nan"], "radius must be a number of at least 1"),
        (["models.py:net", "--radius", "inf"], "radius must be a number of at least 1"),
        (["models.py:net", "--radius", "-2"], "-2"),
        (["models.py:net", "--radius", "two"], "two"),
        (["models.py:net", "--centre", "middle"], "middle"),
        (["models.py:net", "--device", "nosuch"], "nosuch"),
        (["models.py:net", "--steps", "3"], "--steps is an option of --stable; give both"),
        (["models.py:net", "--width", "0.1"], "--width is an option of --stable; give both"),
        (["models.py:net", "--stable", "--width", "0"], "0"),
        (["models.py:net", "--seeds", "2", "--jobs", "1"], "the start is the same for all 2 seeds"),
        (["models.py:net", "--init", "he:0"], "the scale '0' of initialization 'he:0'"),
        (["models.py:net", "--memory", "much"], "memory must be a size such as 4GiB"),
        (["models.py:net", "--memory", "1kB"], "Give --memory"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], says: str, run: Run) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    *before, last = result.stderr.splitlines()
    assert last.startswith("blockframe: ")
    assert says in last
    assert not any("Traceback" in line for line in before)
    assert result.stdout == ""


def test_help_is_ascii_and_names_the_options() -> None:
    result = CliRunner().invoke(program, ["lr", "--help"])
    assert result.exit_code == 0
    assert result.stdout.isascii()
    options = ("--radius", "--centre", "--loss", "--device", "--format", "--stable", "--steps")
    for option in (*options, "--width", "--seeds", "--jobs", "--memory", "--init"):
        assert option in result.stdout
