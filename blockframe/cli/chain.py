"""``blockframe chain``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from blockframe.cli.options import document_format, registry, settings, weight_options
from blockframe.cli.output import emit, page
from blockframe.cli.progress import progress
from blockframe.errors import Exit

if TYPE_CHECKING:
    from blockframe.plugins import Registry
    from blockframe.progress import Progress
    from blockframe.report.chain import ChainReport


@click.command()
@click.argument("spec")
@settings
@click.option(
    "--widths",
    "with_widths",
    is_flag=True,
    help="Add the sides of the weight matrices, effective bottlenecks, and norms.",
)
@weight_options
@document_format
def chain(spec: str, format_: str, with_widths: bool, **options: Any) -> int:
    """Show the blocks of SPEC, their residual forms and parameters, and replay them.

    SPEC is what `blockframe certify` takes.
    """
    plugins = registry()
    # What a user's model prints must not end up in the document on stdout.
    with progress() as working, redirect_stdout(sys.stderr):
        report = _report(spec, plugins, working, options, with_widths)
    emit(report.json() if format_ == "json" else report.text(page()))
    return Exit.CERTIFIED


def _report(
    spec: str, plugins: Registry, working: Progress, options: Mapping[str, Any], with_widths: bool
) -> ChainReport:
    """The chain of the problem, replayed on what has weights: the problem itself or its proxy."""
    import blockframe
    from blockframe.certificate.model import Subject
    from blockframe.certifier import summary
    from blockframe.report.chain import ChainReport
    from blockframe.scaling.xavier import Measured, widths

    working.stage("resolving")
    problem = blockframe.load(spec, registry=plugins, **options)
    working.stage("tracing")
    chain = blockframe.chain(problem, registry=plugins)
    runnable = problem.runnable
    on_proxy = runnable is not None and runnable is not problem
    scale = "proxy" if on_proxy else "full"
    difference = measured = None
    if runnable is not None:
        working.stage("replaying")
        replayed = blockframe.chain(runnable, registry=plugins) if on_proxy else chain
        difference = replayed.replay_difference()
        if with_widths:
            working.stage("measuring weights")
            measured = Measured.of(replayed, scale, options["init"])
    subject = Subject(
        spec=problem.spec,
        class_name=type(problem.module).__name__,
        parameters=problem.parameters,
        blocks=tuple(map(summary, chain.blocks)),
        proxy=(runnable.note or "reduced") if runnable is not None and on_proxy else "",
    )
    found = widths(chain) if with_widths else None
    return ChainReport(subject, difference, scale, found, measured)
