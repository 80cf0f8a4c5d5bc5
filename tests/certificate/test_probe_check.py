"""Series of probes: whose they are, and what their numbers can be."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

import blockframe
from blockframe.certificate.checker import CheckReport, check
from blockframe.certificate.model import Certificate
from blockframe.certificate.probe_check import CHECKS, ENTRIES
from blockframe.certificate.run_theory import ON_REQUEST
from blockframe.dynamics.probes import Probe
from blockframe.plugins import Registry


def judged(document: dict[str, Any]) -> CheckReport:
    plain = {key: value for key, value in document.items() if key != "seal"}
    return check(Certificate.from_json(json.dumps(plain)))


def reasons(document: dict[str, Any]) -> list[str]:
    return [str(c) for c in judged(document).rejected]


@pytest.fixture
def document(ruled: dict[str, Any]) -> dict[str, Any]:
    """A real certificate of a run with all probes on request, to be changed."""
    assert reasons(ruled) == []
    return copy.deepcopy(ruled)


@pytest.fixture
def series(document: dict[str, Any]) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = document["trajectory"]["series"]
    return found


# --- names ----------------------------------------------------------------------------------------


def test_the_entries_of_every_probe_are_known(series: dict[str, list[float | None]]) -> None:
    assert CHECKS.keys() == {*ON_REQUEST} == {*ENTRIES, "block_jacobian"}
    for probe, entries in ENTRIES.items():
        found = [n.removeprefix(probe) for n in series if n.partition(".")[0] == probe]
        assert sorted(found) == sorted(entries)


@pytest.mark.parametrize(
    "name",
    ["tangent.evil", "sharpness.evil", "pl.x", "lr.x", "kinks.margin.x", "block_jacobian.other",
     "spectral_density"],
)  # fmt: skip
def test_an_entry_that_no_probe_has(
    name: str, document: dict[str, Any], series: dict[str, list[float | None]]
) -> None:
    series[name] = [None, 0.5, 0.5]
    assert any(f"asserts {name}," in reason for reason in reasons(document))


@pytest.mark.parametrize(
    "name", ["tangent.change", "kinks", "bottom_eigenvalue.cold", "block_jacobian"]
)
def test_an_entry_that_is_missing(
    name: str, document: dict[str, Any], series: dict[str, list[float | None]]
) -> None:
    del series[name]
    assert any("the probe gives it" in reason for reason in reasons(document))


def test_probes_that_were_not_asked_for(document: dict[str, Any]) -> None:
    document["subject"]["recipe"]["probes"] = []
    assert any("subject.recipe asks for []" in reason for reason in reasons(document))


def test_a_probe_that_was_asked_for_and_is_not_there(
    document: dict[str, Any], series: dict[str, list[float | None]]
) -> None:
    run = document["trajectory"]
    for name in [n for n in series if n.partition(".")[0] == "kinks"]:
        del series[name]
    del run["summary"]["kinks"]
    assert any("no kinks, but subject.recipe" in reason for reason in reasons(document))
    run["summary"]["unavailable"] = {"kinks": "it cannot be traced"}
    assert reasons(document) == []


@pytest.mark.parametrize("name", ["tangent", "loss", "sharpness", "block_norms"])
def test_a_series_that_is_denied(name: str, document: dict[str, Any]) -> None:
    document["trajectory"]["summary"]["unavailable"] = {name: "it was not there"}
    assert any(f"{name}, but summary.unavailable denies" in r for r in reasons(document))


def test_a_checkpoint_that_could_not_be_written_denies_no_series(document: dict[str, Any]) -> None:
    document["trajectory"]["summary"]["unavailable"] = {"checkpoint": "the disk is full"}
    assert reasons(document) == []


def test_a_probe_of_a_plugin_is_as_it_says(registry: Registry) -> None:
    class Own(Probe):
        name = "own"

        def observe(self, it: Any) -> dict[str, float | None]:
            return {"": -1e9, "any.thing": None if it.step else 2.0}

    torch.manual_seed(0)
    target = (nn.Linear(3, 2), (torch.randn(6, 3),), torch.randn(6, 2))
    certificate = blockframe.certify(target, registry=registry, steps=1, probes=[Own])
    document = json.loads(certificate.to_json())
    report = judged(document)
    assert report.stands
    assert any("plugins: own, own.any.thing" in line for line in report.unverifiable)
    document["subject"]["recipe"]["probes"] = ["other"]
    assert any("subject.recipe asks for ['other']" in reason for reason in reasons(document))


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "k", "value", "why"),
    [
        ("tangent", 1, 1e9, "to λ_max"),
        ("tangent", 1, -1e9, "λ_min is from 0"),
        ("tangent.error", 1, -1.0, "an error is not below 0"),
        ("tangent.error", 1, None, "λ_min has one"),
        ("tangent.pl_bound", 1, -1.0, "λ_min less its error gives it"),
        ("tangent.effective_rank", 1, 1e9, "the rank of K, 12 at most"),
        ("tangent.effective_rank", 1, 0.5, "it is from 1"),
        ("tangent.change", 1, -3.0, "it is a norm"),
        ("tangent.change", 0, 5.0, "0 at the first"),
        ("tangent_bound", 1, -1e9, "no larger than λ_max"),
        ("tangent_bound", 1, 1e9, "no larger than λ_max"),
        ("tangent_bound.residual", 1, -1e-9, "not below 0"),
        ("tangent_bound.rounding", 1, -1e-9, "not below 0"),
        ("bottom_eigenvalue", 0, 1e6, "the largest eigenvalue is"),
        ("bottom_eigenvalue", 1, 1e6, "after a leap"),
        ("sharpness", 1, 0.1, "after a leap"),
        ("bottom_eigenvalue.residual", 1, -5.0, "a residual is not below 0"),
        ("bottom_eigenvalue.cold", 1, 7.0, "1 or 0"),
        ("bottom_eigenvalue.cold", 0, 0.0, "1 at the first"),
        ("sharpness.cold", 1, 0.5, "1 or 0"),
        ("sharpness.cold", 0, 0.0, "1 at the first"),
        ("sharpness.cold", 1, None, "1 or 0"),
        ("segment_curvature", 1, -1e9, "the largest is"),
        ("segment_curvature.mean", 2, 1e9, "the largest is"),
        ("segment_curvature", 0, 0.5, "no step led to the first"),
        ("segment_curvature.residual", 1, -1.0, "a residual is not below 0"),
        ("kinks", 1, -3.0, "it is a count"),
        ("kinks", 1, 0.5, "it is a count"),
        ("kinks", 1, None, "it is a count"),
        ("kinks", 0, 1.0, "no step led to the first"),
        ("kinks.margin", 1, -0.1, "it is from 0 to 1"),
        ("kinks.margin", 1, 3.0, "it is from 0 to 1"),
        ("block_jacobian", 1, -1.0, "the least of the blocks"),
        ("block_jacobian", 1, None, "the least of the blocks"),
        ("block_jacobian.1.mlp", 1, -1.0, "it is from 0 to the largest"),
        ("block_jacobian.1.mlp", 1, 1e9, "it is from 0 to the largest"),
        ("block_jacobian.1.mlp.largest", 1, -1.0, "not below 0"),
        ("block_jacobian.1.mlp.bound", 1, 0.999, "σ_min is"),
        ("block_jacobian.1.mlp.bound", 1, 2.0, "1 less a norm"),
        ("spectral_density.trace_error", 1, -1e-3, "a negative error"),
        ("spectral_density.negative", 1, 1.5, "a share is from 0 to 1"),
        ("spectral_density.rms", 1, -0.1, "it is a root"),
        ("spectral_density.rms", 1, 1e-9, "an eigenvalue is"),
        ("spectral_density.median", 1, 1e9, "quantiles rise"),
        ("spectral_density.trace", 1, 1e9, "P·rms at most"),
        ("spectral_density.upper", 1, 1e9, "no eigenvalue is above"),
        ("spectral_density.negative", 1, 0.0, "is negative"),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be(
    name: str,
    k: int,
    value: float | None,
    why: str,
    document: dict[str, Any],
    series: dict[str, list[float | None]],
) -> None:
    assert series[name][k] != value
    series[name][k] = value
    probe = name.partition(".")[0]
    assert any(probe in reason and why in reason for reason in reasons(document)), reasons(document)


def test_a_bound_below_what_it_bounds(
    document: dict[str, Any], series: dict[str, list[float | None]]
) -> None:
    """K of all rows, none merged, has one λ_min; of merged rows it is another K."""
    series["tangent_bound"][1] = -1e3
    assert any("tangent_bound -1000.0 is above λ_min" in reason for reason in reasons(document))
    claims = document["claims"]
    chain = next(c for c in claims if (c["clause"], c["block"]) == ("nondegeneracy", None))
    chain["numbers"]["rows"] -= 1
    assert not any("is above λ_min" in reason for reason in reasons(document))


def test_a_search_that_never_begins_anew(registry: Registry) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    target = (module, (torch.randn(6, 3),), torch.randn(6, 2))
    certificate = blockframe.certify(
        target, registry=registry, steps=12, probes=["bottom_eigenvalue"]
    )
    for probe in ("sharpness", "bottom_eigenvalue"):
        document = json.loads(certificate.to_json())
        cold = document["trajectory"]["series"][f"{probe}.cold"]
        assert reasons(document) == []
        cold[1:] = [0.0] * 12
        assert any(f"{probe}.cold" in reason for reason in reasons(document))


@pytest.mark.parametrize("device", ["cpu:99 quantum", "cuda", "cuda:0", "tpu", "cpu (x)", 3])
def test_a_device_that_is_none(device: Any, document: dict[str, Any]) -> None:
    document["trajectory"]["summary"]["device"] = device
    assert any("summary.device" in reason for reason in reasons(document))


@pytest.mark.parametrize("asked", ["cpu:1", "cuda"])
def test_another_device_than_was_asked_for(asked: str, document: dict[str, Any]) -> None:
    document["subject"]["recipe"]["device"] = asked
    assert any(f"asks for {asked}" in reason for reason in reasons(document))


# --- honest runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [0.05, 50.0, 1e150])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_what_probes_see_stands(lr: float, dtype: str, registry: Registry) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 3)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    target = (module, (torch.cat([x, x]),), torch.randn(6, 2))
    certificate = blockframe.certify(
        target, registry=registry, steps=4, lr=lr, dtype=dtype, probes=ON_REQUEST
    )
    assert certificate.trajectory is not None
    assert certificate.trajectory.series.keys() >= {"loss"}
    assert [str(c) for c in check(certificate).rejected] == []
