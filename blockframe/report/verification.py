"""What ``blockframe verify`` shows: what was re-derived, what was not, what is contradicted."""

from __future__ import annotations

import json

from attrs import asdict, frozen

from blockframe.certificate.checker import CheckReport
from blockframe.certificate.model import Certificate
from blockframe.report import Page
from blockframe.report.sheet import Sheet
from blockframe.report.words import plural

SHOWN = 40
"""Lines of one kind that a page shows; JSON has all."""


@frozen
class VerificationReport:
    """One page about a `CheckReport`."""

    path: str
    certificate: Certificate
    report: CheckReport

    def text(self, page: Page) -> str:
        sheet, report, subject = Sheet(page), self.report, self.certificate.subject
        size = plural(subject.parameters, "parameter")
        sheet.ends(f"{subject.spec} · {subject.class_name} · {size}", self.path)
        for title, lines in (
            ("re-derived from its numbers", report.verified),
            ("not to be seen from its numbers", report.unverifiable),
            ("contradicted", tuple(map(str, report.rejected))),
        ):
            if lines:
                sheet.blank()
                sheet.line(title, indent=2)
                for line in lines[:SHOWN]:
                    sheet.labelled("-", line, indent=4)
                if len(lines) > SHOWN:
                    sheet.line(f"and {len(lines) - SHOWN:,} more; see --format json", indent=6)
        sheet.blank()
        sheet.line(*self._conclusion())
        return sheet.text()

    def _conclusion(self) -> tuple[str, ...]:
        asserted, count = self.certificate.verdict.value, len(self.report.rejected)
        if self.report.stands:
            return (
                "It stands: ",
                asserted,
                " follows from what it says, and nothing contradicts it.",
            )
        number = "one assertion does" if count == 1 else f"{count:,} assertions do"
        return f"REJECTED: {number} not follow. It says ", asserted, "; do not rely on it."

    def json(self) -> str:
        """The document of docs/cli."""
        report = self.report
        document = {
            "certificate": self.path,
            "stands": report.stands,
            "verdict": report.verdict.value,
            "rejected": [asdict(c) for c in report.rejected],
            "verified": list(report.verified),
            "unverifiable": list(report.unverifiable),
        }
        return json.dumps(document, indent=2) + "\n"
