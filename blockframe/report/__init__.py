"""What a certificate looks like to a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import frozen

if TYPE_CHECKING:
    from blockframe.certificate.model import Certificate


@frozen
class Page:
    """What a report is written on.

    Attributes:
        width: in columns.
        color: whether ANSI colours are understood.
        unicode: whether characters beyond ASCII can be shown.
        saved: where the certificate was written; "" if it was not.
    """

    width: int = 100
    color: bool = False
    unicode: bool = True
    saved: str = ""


class Renderer(Protocol):
    """A form of the report; a plugin contributes one by ``blockframe_renderers``."""

    @property
    def name(self) -> str:
        """What ``--format`` calls it."""
        ...

    def render(self, certificate: Certificate, page: Page) -> str:
        """The whole report, ending in a newline."""
        ...
