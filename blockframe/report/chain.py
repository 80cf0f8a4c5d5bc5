"""What ``blockframe chain`` shows: the blocks of one problem, as text or as a JSON document."""

from __future__ import annotations

import json
import math
from typing import Any

from attrs import asdict, frozen

from blockframe.certificate.model import Subject
from blockframe.report import Page
from blockframe.report.blocks import block_table, chain_line
from blockframe.report.sheet import Sheet
from blockframe.report.terminal import headline, replayed
from blockframe.report.widths import norm_document, width_document, write_widths
from blockframe.report.words import number
from blockframe.scaling.xavier import Measured, Widths


@frozen
class ChainReport:
    """The chain of ``subject``, and how exactly it replays the model.

    ``difference``: the largest absolute difference between model and replay on the CPU, or None
    if there are no weights to replay with. ``replayed_on``: "full" or "proxy". ``widths``: of
    every block of the subject, or None where nobody asked; ``measured``: beside them, the norms
    of what has weights.
    """

    subject: Subject
    difference: float | None
    replayed_on: str = "full"
    widths: tuple[Widths, ...] | None = None
    measured: Measured | None = None

    def text(self, page: Page) -> str:
        """One line for the whole chain, and a table of blocks."""
        subject, sheet = self.subject, Sheet(page)
        sheet.line(headline(subject))
        end = "" if subject.proxy else f"     {self._replay()}"
        sheet.labelled("chain", chain_line(subject.blocks) + end)
        if subject.proxy:
            sheet.labelled("proxy", f"{subject.proxy}; {self._replay()}")
        sheet.blank()
        if self.widths is None:
            block_table(sheet, subject.blocks)
        else:
            write_widths(sheet, subject.blocks, self.widths, self.measured)
        return sheet.text()

    def json(self) -> str:
        """The document of docs/cli."""
        subject = self.subject
        document: dict[str, Any] = {
            "subject": {
                "spec": subject.spec,
                "class": subject.class_name,
                "parameters": subject.parameters,
                "scale": subject.scale,
            },
            "blocks": [asdict(block) for block in subject.blocks],
            "replay": {
                "exact": None if self.difference is None else self.difference == 0,
                "max_abs_difference": self.difference if self._finite else None,
                "on": self.replayed_on,
            },
        }
        if self.widths is not None:
            for block, widths in zip(document["blocks"], self.widths, strict=True):
                block["widths"] = width_document(widths)
            document["norms"] = norm_document(self.measured) if self.measured else None
        return json.dumps(document, indent=2, allow_nan=False) + "\n"

    @property
    def _finite(self) -> bool:
        return self.difference is not None and math.isfinite(self.difference)

    def _replay(self) -> str:
        if self.difference:
            return f"replay differs by {number(self.difference)}"
        return replayed(None if self.difference is None else True)
