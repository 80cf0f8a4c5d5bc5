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
from blockframe.report.words import number


@frozen
class ChainReport:
    """The chain of ``subject``, and how exactly it replays the model.

    ``difference``: the largest absolute difference between model and replay on the CPU, or None
    if there are no weights to replay with. ``replayed_on``: "full" or "proxy".
    """

    subject: Subject
    difference: float | None
    replayed_on: str = "full"

    def text(self, page: Page) -> str:
        """One line for the whole chain, and a table of blocks."""
        subject, sheet = self.subject, Sheet(page)
        sheet.line(headline(subject))
        end = "" if subject.proxy else f"     {self._replay()}"
        sheet.labelled("chain", chain_line(subject.blocks) + end)
        if subject.proxy:
            sheet.labelled("proxy", f"{subject.proxy}; {self._replay()}")
        sheet.blank()
        block_table(sheet, subject.blocks)
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
        return json.dumps(document, indent=2, allow_nan=False) + "\n"

    @property
    def _finite(self) -> bool:
        return self.difference is not None and math.isfinite(self.difference)

    def _replay(self) -> str:
        if self.difference:
            return f"replay differs by {number(self.difference)}"
        return replayed(None if self.difference is None else True)
