"""Numbers, names and courses in few characters."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockframe.report.words import apart, comma, number, one_name, pattern, plural, sparkline


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (124_439_808, "124,439,808"), (True, "yes"), (None, "–"), ("gelu", "gelu"),
        (0.0, "0"), (-0.0, "0"), (5.62, "5.62"), (0.41871234, "0.4187"), (0.001, "0.001"),
        (9999.6, "10,000"), (12345.6, "12,346"),
        (0.0009994, "0.000999"), (3.1e-7, "3.1e-07"), (1e5, "100,000"), (1.5e7, "1.5e+07"),
        (-2.5e-41, "-2.5e-41"),
        (math.inf, "∞"), (-math.inf, "−∞"), (math.nan, "NaN"),
    ],
)  # fmt: skip
def test_number(value: object, text: str) -> None:
    assert number(value) == text


@given(st.floats(-1e300, 1e300))
def test_number_keeps_three_digits(value: float) -> None:
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=5e-3, abs=0)


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([7.0, None, 0.0]) == "█ ▁"
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([]) == sparkline([None]) == ""
    assert sparkline([0.0, 1.0], unicode=False).isascii()


@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=300))
def test_sparkline_of_anything(values: list[float | None]) -> None:
    line = sparkline(values, width=16)
    assert len(line) <= 16
    present = [v for v in values if v is not None]
    if len(values) <= 16 and present and min(present) < max(present):
        assert line[values.index(min(present))] == "▁"
        assert line[values.index(max(present))] == "█"


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (["wte"], "wte"),
        (["h.0.mlp", "h.1.mlp", "h.2.mlp"], "h.0-2.mlp"),
        (["h.9.mlp", "h.10.mlp"], "h.9-10.mlp"),
        (["h.0.mlp", "h.2.mlp"], "h.*.mlp"),
        (["s.0.b.0", "s.0.b.1", "s.1.b.0"], "s.*.b.*"),
        (["a", "b"], "a, b"),
        (["a", "b.1", "c", "d"], "a, b.1, … d"),
        (["h.0.mlp", "h.0.mlp"], "h.0.mlp"),
    ],
)
def test_one_name(names: list[str], one: str) -> None:
    assert one_name(names) == one


def test_small_words() -> None:
    assert pattern("h.11.mlp.0") == "h.*.mlp.*"
    assert plural(1, "step") == "1 step"
    assert plural(1200, "step") == "1,200 steps"
    assert comma(["a"]) == "a"
    assert comma(["a", "b", "c"]) == "a, b and c"


@pytest.mark.parametrize(
    ("a", "b", "texts"),
    [
        (5.0, 4.0, ("5", "4")),
        (1.0003, 1.0, ("1.0003", "1")),
        (1.0 + 2**-52, 1.0, ("1.0000000000000002", "1.0")),
        (1.0, 1.0, ("1", "1")),
    ],
)
def test_apart(a: float, b: float, texts: tuple[str, str]) -> None:
    assert apart(a, b) == texts
