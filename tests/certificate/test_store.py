"""Certificates on disk: whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from blockframe.certificate import store
from blockframe.certificate.model import Certificate
from blockframe.errors import CertificateError, InputError


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("gpt2", "gpt2.cert.json"),
        ("models/net.py:make", "models-net.py-make.cert.json"),
        ("../../etc/passwd", "etc-passwd.cert.json"),
        ("transformers:org/model", "transformers-org-model.cert.json"),
        ("..", "model.cert.json"),
        ("x" * 500, "x" * 150 + ".cert.json"),
    ],
)
def test_file_name(spec: str, name: str) -> None:
    assert store.file_name(spec) == name


def test_write_and_read(tmp_path: Path, refuted: Certificate) -> None:
    path = tmp_path / "c.cert.json"
    path.write_text("old", encoding="utf-8")
    store.write(refuted, path)
    assert store.read(path) == refuted
    assert [p.name for p in tmp_path.iterdir()] == ["c.cert.json"]


def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, refuted: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "c.cert.json"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CertificateError, match="No space left on device"):
        store.write(refuted, path)
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["c.cert.json"]


def test_prepare_makes_the_directory(tmp_path: Path) -> None:
    directory = store.prepare(tmp_path / "a" / "b")
    assert list(directory.iterdir()) == []


def test_prepare_refuses_what_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match=r"cannot write to .*file"):
        store.prepare(file)
    with pytest.raises(InputError, match=r"cannot write to .*file/below"):
        store.prepare(file / "below")


def test_read_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="No such file"):
        store.read(tmp_path / "none.cert.json")
    with pytest.raises(CertificateError, match="cannot read"):
        store.read(tmp_path)


def test_read_what_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CertificateError, match="not a text file"):
        store.read(path)
