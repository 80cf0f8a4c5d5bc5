"""What the series of a run are called."""

from __future__ import annotations

import re

import torch
from attrs import evolve
from torch import nn

import blockframe
from blockframe.certificate.model import Certificate, Inequality
from blockframe.dynamics.probes import ON_REQUEST, PROBES
from blockframe.report import Page
from blockframe.report.sheet import Sheet
from blockframe.report.terminal import TextRenderer
from blockframe.report.trajectory import _DETAILS, _SERIES, _shown


def test_every_series_of_the_core_has_a_name_and_its_unit() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    target = net, (torch.randn(4, 3),), torch.randn(4, 2)
    certificate = blockframe.certify(
        target, steps=2, lr="linear:0.1:0.05", probes=[p.name for p in ON_REQUEST]
    )
    assert certificate.trajectory is not None
    assert {*certificate.trajectory.series} >= {*_SERIES, *_DETAILS}
    shown = _shown(certificate.trajectory, certificate.subject)
    assert {name.removesuffix("_error") for name in shown} <= {*_SERIES}
    for probe in (*PROBES, *ON_REQUEST):
        title, unit = _SERIES.get(probe.name, ("", probe.unit))
        assert (unit or "1") == probe.unit, title


def test_every_name_can_be_spelled_in_ascii() -> None:
    sheet = Sheet(Page(unicode=False))
    assert not [text for pair in _SERIES.values() for text in pair if "?" in sheet.spell(text)]


def test_what_does_not_exist_at_the_last_iterate_is_not_shown_as_last(
    refuted: Certificate,
) -> None:
    assert refuted.trajectory is not None
    series = {"block_norms": [4.5, 5.5, None], "directional_smoothness": [None, 1.5, 2.5]}
    run = evolve(refuted.trajectory, series=series)
    page = TextRenderer().render(evolve(refuted, trajectory=run), Page())
    assert re.search(r"‖θ‖ +θ +4\.5 → – .*4\.5 to 5\.5\n", page)
    assert "1.5 → 2.5" in page


def test_digits_that_the_network_loses_are_told(refuted: Certificate) -> None:
    assert refuted.trajectory is not None

    def page(units: float) -> str:
        run = evolve(refuted.trajectory, summary={"rounding_units": units})
        return TextRenderer().render(evolve(refuted, trajectory=run), Page())

    assert "digits inside" not in page(64)
    assert "the network loses 1 digit inside, and the noise of the loss counts them" in page(640)
    assert "the network loses 15 digits inside" in page(2.0**53)


def test_numbers_that_differ_in_the_last_digit_are_shown_as_equal(refuted: Certificate) -> None:
    assert refuted.trajectory is not None
    series = {"sharpness": [1.240243411156889, 1.2402434111568887]}
    run = evolve(refuted.trajectory, series=series)
    page = TextRenderer().render(evolve(refuted, trajectory=run), Page())
    assert re.search(r"sharpness λ +L/θ² +1\.24 → 1\.24 ", page)


def test_sides_that_digits_do_not_tell_apart_have_their_difference(refuted: Certificate) -> None:
    left, right = 0.5 + 1e-14, 0.5
    violated = (Inequality("monotone decrease", 2, left, right, False),)
    run = evolve(refuted.trajectory, inequalities=violated)
    page = TextRenderer().render(evolve(refuted, trajectory=run), Page())
    assert "first violated at step 2: 0.5 > 0.5, by 9.99e-15\n" in page


def test_a_plugins_quantity_has_the_unit_of_its_probe(refuted: Certificate) -> None:
    assert refuted.trajectory is not None
    series: dict[str, list[float | None]] = {"largest": [1.5, 0.5], "largest.entry": [3.0, 4.0]}
    run = evolve(refuted.trajectory, series=series, summary={"units": {"largest": "L/θ"}})
    page = TextRenderer().render(evolve(refuted, trajectory=run), Page())
    assert re.search(r"\n    largest +L/θ +1\.5 → 0\.5", page)
    assert re.search(r"\n    largest entry +3 → 4", page)


def test_an_error_stands_below_its_quantity(refuted: Certificate) -> None:
    assert refuted.trajectory is not None
    series = {
        "acme.size_error": [7.0],
        "spectral_density.rms_error": [0.25, 0.5],
        "spectral_density.trace": [3.0, 4.0],
        "spectral_density.rms": [1.5, 2.5],
    }
    run = evolve(refuted.trajectory, series=series)
    page = TextRenderer().render(evolve(refuted, trajectory=run), Page())
    rows = re.findall(r"\n    (\S.*?|  ± \(95 %\))  +(?:L/θ²)?  +(\S+ → \S+)", page)
    assert rows == [
        ("trace of ∇²L", "3 → 4"),
        ("rms eigenvalue of ∇²L", "1.5 → 2.5"),
        ("  ± (95 %)", "0.25 → 0.5"),
        ("acme size error", "7 → 7"),
    ]
