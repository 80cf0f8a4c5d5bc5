"""``blockframe explain``: what a finding code means."""

from __future__ import annotations

import click

from blockframe.cli.options import document_format
from blockframe.cli.output import emit, page


@click.command()
@click.argument("code", required=False)
@document_format
def explain(code: str | None, format_: str) -> None:
    """Say what the finding CODE means, what causes it and what helps; without CODE, list all.

    CODE is what a report shows before a finding, such as A101.
    """
    from blockframe.contract.codes import CODES
    from blockframe.report.codes import document, explanation, overview

    if code is None:
        every = list(CODES.values())
        emit(document(every) if format_ == "json" else overview(every, page()))
        return
    record = CODES.get(code.upper())
    if record is None:
        raise _unknown(code)
    emit(document(record) if format_ == "json" else explanation(record, page()))


def _unknown(code: str) -> click.UsageError:
    from blockframe.contract.codes import CODES
    from blockframe.naming import nearest

    close = nearest(code, CODES)
    hint = f"Did you mean {', '.join(close)}?" if close else "`blockframe explain` lists them all."
    return click.UsageError(f"there is no finding code {code!r}. {hint}")
