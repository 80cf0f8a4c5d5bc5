"""Certificates on disk: whole or not at all."""

from __future__ import annotations

import errno
import os
import sys
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


def test_a_directory_in_its_place(tmp_path: Path, refuted: Certificate) -> None:
    (tmp_path / "c.cert.json").mkdir()
    with pytest.raises(CertificateError, match=r"could not write .*Put that right, or use"):
        store.write(refuted, tmp_path / "c.cert.json")
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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"schema": "blockframe.certificate/1"', "not JSON"),
        (b"\xff\xfe\x00", "not a text file"),
        (b'{"schema": NaN}', "NaN is not a JSON number"),
        (b'{"schema": 1e400}', "1e400 is too large"),
        (b"[" * 200_000, "nested too deeply"),
        (b"[" * 400 + b"]" * 400, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b'{"schema": "' + b"x" * 100_000 + b'"}', "schema is"),
        (b'{"' + b"k" * 100_000 + b'": 1, "' + b"k" * 100_000 + b'": 2}', "stands twice"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_hostile_files(content: bytes, says: str, tmp_path: Path) -> None:
    """One error, and a short one."""
    path = tmp_path / "c.cert.json"
    path.write_bytes(content)
    with pytest.raises(CertificateError, match=says) as error:
        store.read(path)
    assert len(str(error.value)) < 600


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "c.cert.json"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(CertificateError, match="has 1,073,741,824 bytes, and 67,108,864"):
        store.read(path)


def test_a_huge_text_is_refused_unparsed() -> None:
    with pytest.raises(CertificateError, match="67,108,865 characters, and 67,108,864"):
        Certificate.from_json("[" + " " * (1 << 26))


@pytest.mark.skipif(sys.platform == "win32", reason="no links and pipes")
def test_what_is_no_regular_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")  # nobody writes: reading it would wait for ever
    for path in (tmp_path / "loop", tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(CertificateError, match="cannot read"):
            store.read(path)


def test_a_path_with_a_null_character(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="cannot read"):
        store.read(tmp_path / "a\0b")
