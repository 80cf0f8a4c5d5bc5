"""Certificates as files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from blockframe.certificate.codec import LONGEST
from blockframe.certificate.files import read_regular
from blockframe.certificate.model import Certificate
from blockframe.errors import CertificateError, InputError
from blockframe.writing import remedy, replacing


def file_name(spec: str) -> str:
    """``gpt2.cert.json``; for ``models/net.py:make``, ``models-net.py-make.cert.json``."""
    return (re.sub(r"[^\w.-]+", "-", spec).strip("-.")[:150] or "model") + ".cert.json"


def prepare(directory: Path) -> Path:
    """Make ``directory`` and see that a file can be written there, before work begins.

    Raises:
        InputError: it cannot be made or written to.
    """
    probe = directory / f".blockframe-{os.getpid()}.tmp"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to {directory}: {error.strerror or error}",
            "Give --out a directory that you may write to.",
        ) from error
    return directory


def write(certificate: Certificate, path: Path) -> None:
    """Write the files of the claims beside ``path``, then the JSON document, each whole or not at
    all.

    Raises:
        CertificateError: the file system refuses (no permission, no space).
    """
    text = certificate.to_json()
    for claim in certificate.claims:
        for name, content in claim.files.items():
            _put(path.with_name(name), content)
    _put(path, text.encode("utf-8"))


def _put(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # several processes may write it
    try:
        with replacing(path, part) as file:
            file.write(content)
    except OSError as error:
        raise CertificateError(
            f"could not write {path}: {error.strerror or error}",
            f"{remedy(error)}, or use another --out.",
        ) from error


def read(path: Path) -> Certificate:
    """The certificate in the file ``path``.

    Raises:
        CertificateError: there is no such file, or it is no certificate.
    """
    try:
        content = read_regular(path, LONGEST)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CertificateError(f"cannot read {path}: {why}", "Give a .cert.json file.") from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CertificateError(f"{path} is not a text file", "Give a .cert.json file.") from error
    return Certificate.from_json(text)
