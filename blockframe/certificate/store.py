"""Certificates as files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from blockframe.certificate.model import Certificate
from blockframe.errors import CertificateError, InputError


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
    """Write the JSON document, whole or not at all.

    Raises:
        CertificateError: the file system refuses (no permission, no space).
    """
    text = certificate.to_json()
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with part.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise CertificateError(
            f"could not write {path}: {error.strerror or error}", "Free some space, or use --out."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> Certificate:
    """The certificate in the file ``path``.

    Raises:
        CertificateError: there is no such file, or it is no certificate.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CertificateError(f"{path} is not a text file", "Give a .cert.json file.") from error
    return Certificate.from_json(text)
