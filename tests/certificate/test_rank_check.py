"""The rank of a matrix, proved again: never of a singular one, nearly always of another."""

from __future__ import annotations

import base64
import copy
import hashlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blockframe.certificate import rank_check
from blockframe.certificate.checker import CheckReport, check
from blockframe.certificate.model import Certificate
from blockframe.certificate.rank_check import PRIME, prove

Array = NDArray[np.float64]

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(params=["Arb", "doubles"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With python-flint, and as if it were not installed."""
    if request.param == "Arb":
        pytest.importorskip("flint")
    else:
        monkeypatch.setattr(rank_check, "_flint", lambda: None)
    name: str = request.param
    return name


def conditioned(size: int, exponent: float, seed: int) -> Array:
    """A random matrix whose least singular value is 10^-exponent, its largest 1."""
    generator = np.random.default_rng(seed)
    left, _ = np.linalg.qr(generator.standard_normal((size, size)))
    right, _ = np.linalg.qr(generator.standard_normal((size, size)))
    product: Array = left * np.logspace(0, -exponent, size) @ right
    return product


def singular(size: int, seed: int) -> Array:
    """A singular matrix, in doubles exactly: integers, the last row a sum of two others."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(-(2**20), 2**20, (size, size)).astype(float)
    rows[-1] = rows[0] + rows[size // 2] if size > 2 else 2 * rows[0]
    scaled: Array = rows * 2.0 ** generator.integers(-30, 30)
    return generator.permutation(scaled)


def test_well_conditioned_matrices_are_nonsingular(arithmetic: str) -> None:
    for seed in range(200):
        size = 2 + seed % 12
        proof = prove(conditioned(size, (seed % 13), seed), 0.0)
        assert proof is not None
        assert proof.least > 0.2 * 10.0 ** -(seed % 13) / size
        assert arithmetic[:3] in proof.method or "doubles" in proof.method


@pytest.mark.parametrize("size", [2, 3, 7, 20])
def test_a_singular_matrix_is_never_proved_to_be_none(size: int, arithmetic: str) -> None:
    for seed in range(25):
        assert prove(singular(size, seed), 0.0) is None
    assert prove(np.zeros((size, size)), 0.0) is None


def test_nearly_singular_matrices_by_exact_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far beyond what doubles can tell: condition 10^20, and 1 added to an integer."""
    monkeypatch.setattr(rank_check, "_flint", lambda: None)
    for seed in range(20):
        near = singular(8, seed)
        unit = float(np.abs(near[near != 0]).min()) * 2.0**-40
        near[3, 3] += unit
        if Fraction(near[3, 3]) == Fraction(singular(8, seed)[3, 3]):
            continue  # lost in rounding
        proof = prove(near, 0.0)
        assert (proof is not None) == (_determinant(near) != 0)


def _determinant(matrix: Array) -> Fraction:
    rows = [[Fraction(x) for x in row] for row in matrix]
    product = Fraction(1)
    for k in range(len(rows)):
        pivot = next((i for i in range(k, len(rows)) if rows[i][k]), None)
        if pivot is None:
            return Fraction(0)
        rows[k], rows[pivot] = rows[pivot], rows[k]
        product *= rows[k][k] if pivot == k else -rows[k][k]
        for row in rows[k + 1 :]:
            factor = row[k] / rows[k][k]
            row[k:] = [a - factor * b for a, b in zip(row[k:], rows[k][k:], strict=True)]
    return product


@settings(max_examples=150, deadline=None)
@given(size=st.integers(1, 6), seed=seeds, exponents=st.integers(0, 60))
def test_residues_are_right(size: int, seed: int, exponents: int) -> None:
    """Full rank modulo the prime is what exact fractions say of the determinant's numerator."""
    generator = np.random.default_rng(seed)
    scale = 2.0 ** generator.integers(-exponents, exponents + 1, (size, size))
    matrix = generator.integers(-3, 4, (size, size)) * scale
    determinant = _determinant(matrix)
    expected = determinant.numerator % PRIME != 0
    assert rank_check._exactly(matrix) == expected


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 8), seed=seeds, exponent=st.floats(0, 15), radius=st.floats(0, 1e-2))
def test_doubles_agree_with_arb(size: int, seed: int, exponent: float, radius: float) -> None:
    """What doubles prove of a ball, Arb finds too: at its middle and at corners of the ball."""
    flint = pytest.importorskip("flint")
    matrix = conditioned(size, exponent, seed)
    proof = rank_check._by_doubles(matrix, radius)
    if proof is None:
        return
    least = float(np.linalg.svd(matrix, compute_uv=False)[-1])
    assert least * (1 - 1e-9) - 1e-15 <= proof.most <= least * 1.5 + 1e-14
    generator = np.random.default_rng(seed)
    for _ in range(4):
        inside = matrix + radius * generator.choice([-1.0, 1.0], matrix.shape) * (1 - 1e-12)
        with flint.ctx.workprec(256):
            exact = flint.arb_mat(size, size, [flint.arb(float(x)) for x in inside.ravel()])
            assert not exact.det().contains(0)
            inverse = exact.inv()
            square = sum((x * x for x in inverse.entries()), flint.arb(0))
            # σ_min >= 1/‖M^-1‖_F, and at most √n times it.
            assert float((1 / square.sqrt()).upper()) * size**0.5 * (1 + 1e-9) >= proof.least


def test_a_ball_that_reaches_a_singular_matrix(arithmetic: str) -> None:
    for seed in range(30):
        matrix = conditioned(6, 3, seed)
        least = float(np.linalg.svd(matrix, compute_uv=False)[-1])
        assert prove(matrix, least) is None  # the nearest singular matrix is as near as that
        assert prove(matrix, least / 1e3) is not None


@pytest.mark.parametrize("value", [1e200, 1e-200, 5e-324])
def test_extreme_sizes(value: float, arithmetic: str) -> None:
    assert prove(value * np.eye(3), 0.0) is not None
    assert prove(np.eye(3), 1e300) is None


def test_large_matrices_take_no_arb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_check, "LARGEST_ARB", 10)
    proof = prove(conditioned(40, 2, 0), 1e-6)
    assert proof is not None
    assert proof.method == "outward rounded doubles"


# --- in a certificate -----------------------------------------------------------------------------


def judge(document: dict[str, Any], folder: Path | None = None, **changes: Any) -> CheckReport:
    """The report on ``document`` with a changed record of its matrix, without a seal."""
    import json

    changed = copy.deepcopy(document)
    record = changed["claims"][-1]["numbers"]["matrix"]
    record.update(changes)
    del changed["seal"]
    return check(Certificate.from_json(json.dumps(changed)), folder)


def recorded(numbers: Array, dtype: str = "<f8") -> dict[str, Any]:
    raw = numbers.astype(dtype).tobytes()
    digest = hashlib.sha256(raw).hexdigest()
    return {"data": base64.b64encode(raw).decode(), "sha256": digest, "dtype": dtype}


def where(report: CheckReport) -> Iterator[str]:
    return (c.where.partition("), ")[2] for c in report.rejected)


def test_a_matrix_that_is_proved(ranked: dict[str, Any], arithmetic: str) -> None:
    report = judge(ranked)
    assert report.stands
    assert any("5 × 5 matrices" in line for line in report.verified)


def test_single_precision(ranked: dict[str, Any]) -> None:
    assert judge(ranked, **recorded(conditioned(5, 1, 0), "<f4")).stands


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"size": 4}, "matrix.size"),
        ({"radius": -1.0}, "matrix.radius"),
        ({"radius": "NaN"}, "matrix.radius"),
        ({"radius": 10.0}, "matrix"),
        ({"dtype": ">f8"}, "matrix.dtype"),
        ({"dtype": "O"}, "matrix.dtype"),
        ({"dtype": ["<f8"]}, "matrix.dtype"),
        ({"data": "AAAA"}, "matrix.data"),
        ({"data": "!" * 268}, "matrix.data"),
        ({"data": None}, "matrix"),
        ({"data": 3}, "matrix.file"),
        ({"file": "also.npy"}, "matrix"),
        ({"sha256": "0" * 64}, "matrix.sha256"),
        ({"sha256": "x"}, "matrix.sha256"),
        (recorded(singular(5, 3)), "matrix"),
        (recorded(np.full((5, 5), np.nan)), "matrix"),
        (recorded(np.full((5, 5), np.inf)), "matrix"),
    ],
)
def test_a_record_that_is_false(
    ranked: dict[str, Any], changes: dict[str, Any], place: str, arithmetic: str
) -> None:
    assert set(where(judge(ranked, **changes))) == {place}


def test_the_least_singular_value(ranked: dict[str, Any]) -> None:
    document = copy.deepcopy(ranked)
    numbers = document["claims"][-1]["numbers"]
    record = recorded(conditioned(5, 2, 1))
    numbers["least singular value"] = 0.02
    assert [*where(judge(document, **record))] == ["matrix"]
    numbers["least singular value"] = 0.001
    assert judge(document, **record).stands
    numbers["least singular value"] = 0.0099999
    report = judge(document, **record)  # true, and more than is proved here
    assert report.stands
    assert any("0.01" in line for line in report.unverifiable)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"parameters": 9}, "parameters"),
        ({"parameters": 10**9}, "parameters"),
        ({"unmerged rows": 4}, "rows"),
        ({"residual": 1.0}, "residual"),
        ({"residual": -0.1}, "residual"),
        ({"least singular value": 0.0}, "least singular value"),
        ({"argument": "hope"}, "argument"),
        ({"argument": "Jacobian"}, "matrix.size"),
        ({"rows": 10**400}, "rows"),
        ({"outputs": True}, "outputs"),
        ({"matrix": None}, "matrix"),
    ],
)
def test_counts_that_do_not_fit(
    ranked: dict[str, Any], changes: dict[str, Any], place: str
) -> None:
    import json

    document = copy.deepcopy(ranked)
    document["claims"][-1]["numbers"].update(changes)
    del document["seal"]
    report = check(Certificate.from_json(json.dumps(document)))
    assert place in set(where(report))


def test_too_large_to_check(ranked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockframe.certificate.nondegeneracy_check.LARGEST", 4)
    report = judge(ranked)
    assert report.stands
    assert any("5 rows, and 4 are checked" in line for line in report.unverifiable)


# --- side files -----------------------------------------------------------------------------------


@pytest.fixture
def beside(ranked: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The record of a matrix in the file ``rank.bin``."""
    raw = base64.b64decode(ranked["claims"][-1]["numbers"]["matrix"]["data"])
    (tmp_path / "rank.bin").write_bytes(raw)
    return {"data": None, "file": "rank.bin"}


def test_a_side_file(ranked: dict[str, Any], beside: dict[str, Any], tmp_path: Path) -> None:
    report = judge(ranked, tmp_path, **beside)
    assert report.stands
    assert any("nonsingular" in line for line in report.verified)


@pytest.mark.parametrize("folder", [None, Path("/nowhere")])
def test_a_side_file_that_is_not_there(
    ranked: dict[str, Any], beside: dict[str, Any], folder: Path | None
) -> None:
    report = judge(ranked, folder, **beside)
    assert report.stands
    assert any("side file" in line for line in report.unverifiable)
    assert not any("nonsingular" in line for line in report.verified)


def test_another_side_file(ranked: dict[str, Any], beside: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rank.bin").write_bytes(bytes(200))
    assert [*where(judge(ranked, tmp_path, **beside))] == ["matrix.sha256"]
    (tmp_path / "rank.bin").write_bytes(bytes(100))
    assert [*where(judge(ranked, tmp_path, **beside))] == ["matrix.sha256"]
    (tmp_path / "rank.bin").write_bytes(bytes(201))
    assert [*where(judge(ranked, tmp_path, **beside))] == ["matrix.file"]


@pytest.mark.parametrize(
    "name",
    [
        "../rank.bin", "/etc/passwd", "sub/rank.bin", "..", ".", "", "a\0b", "C:\\x", "\\\\host\\x",
        ".hidden", "x" * 300, "rank.bin\n", "rænk.bin", 3, ["rank.bin"],
    ],
)  # fmt: skip
def test_side_files_have_plain_names(
    name: Any, ranked: dict[str, Any], beside: dict[str, Any], tmp_path: Path
) -> None:
    assert [*where(judge(ranked, tmp_path, **{**beside, "file": name}))] == ["matrix.file"]


def test_a_side_file_is_a_regular_file(
    ranked: dict[str, Any], beside: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("rank.bin")
    os.mkfifo(tmp_path / "pipe")
    for name in ("directory", "loop", "link", "pipe"):
        report = judge(ranked, tmp_path, **{**beside, "file": name})
        assert [*where(report)] == ["matrix.file"], name
