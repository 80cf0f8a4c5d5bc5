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
from blockframe.cli.output import complain, emit, page
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
@click.option(
    "--stable",
    is_flag=True,
    help="Bracket the largest rate that is stable, by runs of K steps: some 15 of them.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="K",
    help="Of these runs; 50 unless told.",
)
@click.option(
    "--width",
    type=click.FloatRange(1e-6, 1.0),
    metavar="X",
    help="Of the bracket, relative; 0.02 unless told.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Look at N starts, from --seed on.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes for that on the CPU; as many as there are processors unless told.",
)
@document_format
def lr(spec: str, format_: str, jobs: int | None, **options: Any) -> int:
    """Show the guaranteed learning rate of SPEC beside the measured one, and what runs bear.

    SPEC is what `blockframe certify` takes.
    """
    import blockframe
    from blockframe.dynamics.ending import was_interrupted

    given = {name: options.pop(name) for name in ("steps", "width")}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not options["stable"]:
        raise click.UsageError(f"--{next(iter(given))} is an option of --stable; give both.")
    options |= given
    plugins = registry()
    from blockframe.report.rates import RatesReport

    # What a user's model prints must not end up in the document on stdout.
    with progress() as working, redirect_stdout(sys.stderr):
        rates = blockframe.learning_rates(
            spec, registry=plugins, progress=working, jobs=jobs or _processors(options["seeds"]),
            **options,
        )  # fmt: skip
    report = RatesReport(rates)
    emit(report.json() if format_ == "json" else report.text(page()))
    if rates.ended:
        complain(f"{rates.ended}.")
        return Exit.INTERRUPTED if was_interrupted(rates.ended) else Exit.USAGE
    return Exit.CERTIFIED


def _processors(wanted: int) -> int:
    """How many this process may use, ``wanted`` at most."""
    if wanted == 1:
        return 1
    from joblib import cpu_count

    return min(wanted, int(cpu_count()))
