"""``blockframe lr``."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import click

from blockframe.cli.options import (
    document_format,
    problem_options,
    registry,
    run_options,
    settings,
)
from blockframe.cli.output import emit, page
from blockframe.cli.progress import progress
from blockframe.errors import Exit


@click.command()
@click.argument("spec")
@settings
@problem_options
@run_options
@click.option(
    "--radius",
    type=click.FloatRange(min=0.0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="X",
    help="Of the ball on which a rate is guaranteed, in units of |theta_0|.",
)
@click.option(
    "--centre",
    type=click.Choice(["zero", "start"]),
    default="zero",
    show_default=True,
    help="Of that ball; about zero its radius is at least 1.",
)
@document_format
def lr(spec: str, format_: str, **options: Any) -> int:
    """Show the guaranteed learning rate of SPEC beside the measured one.

    SPEC is what `blockframe certify` takes.
    """
    import blockframe
    from blockframe.report.rates import RatesReport

    plugins = registry()
    # What a user's model prints must not end up in the document on stdout.
    with progress() as working, redirect_stdout(sys.stderr):
        rates = blockframe.learning_rates(spec, registry=plugins, progress=working, **options)
    report = RatesReport(rates)
    emit(report.json() if format_ == "json" else report.text(page()))
    return Exit.CERTIFIED
