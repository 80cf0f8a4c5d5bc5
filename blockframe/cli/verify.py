"""``blockframe verify``."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from blockframe.cli.options import document_format, registry
from blockframe.cli.output import emit, page
from blockframe.cli.progress import progress
from blockframe.errors import Exit


@click.command()
@click.argument("certificate", type=click.Path(path_type=Path), metavar="CERT")
@click.option("--replay", is_flag=True, help="Make it again by its recipe, and compare.")
@click.option(
    "--spec",
    metavar="SPEC",
    help="With --replay: run the Python code SPEC that the certificate names.",
)
@document_format
def verify(certificate: Path, replay: bool, spec: str | None, format_: str) -> int:
    """Re-check the certificate in the file CERT from its own numbers.

    Nothing of the analysis is used, and nothing is run unless --replay asks for it. Exit status: 0
    if all that it asserts follows, 1 if something is contradicted, 2 if it cannot be read.
    """
    from blockframe.certificate.checker import check
    from blockframe.certificate.store import read
    from blockframe.report.verification import VerificationReport

    if spec is not None and not replay:
        raise click.UsageError("--spec is for --replay.")
    found = read(certificate)
    report = check(found, certificate.parent)
    if replay:
        plugins = registry()
        from blockframe.replay import replay as again

        # What a user's model prints must not end up in the document on stdout.
        with progress() as working, redirect_stdout(sys.stderr):
            report = again(found, report, spec=spec, registry=plugins, progress=working)
    shown = VerificationReport(str(certificate), found, report)
    emit(shown.json() if format_ == "json" else shown.text(page()))
    return Exit.CERTIFIED if report.stands else Exit.REFUTED
