"""The certificate itself as the report: ``--format json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from blockframe.certificate.model import Certificate
    from blockframe.report import Page


@frozen
class JsonRenderer:
    """One JSON document (docs/certificate)."""

    name: str = "json"

    def render(self, certificate: Certificate, page: Page) -> str:
        return certificate.to_json()
