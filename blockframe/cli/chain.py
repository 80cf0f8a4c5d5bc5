"""``blockframe chain``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from blockframe.cli.options import registry, settings
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
@click.option("--full", is_flag=True, help="Build the weights at full size; use no proxy.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of the output.",
)
def chain(spec: str, format_: str, **options: Any) -> int:
    """Show the blocks of SPEC, their residual forms and parameters, and replay them.

    SPEC is what `blockframe certify` takes.
    """
    plugins = registry()
    # What a user's model prints must not end up in the document on stdout.
    with progress() as working, redirect_stdout(sys.stderr):
        report = _report(spec, plugins, working, options)
    emit(report.json() if format_ == "json" else report.text(page()))
    return Exit.CERTIFIED


def _report(
    spec: str, plugins: Registry, working: Progress, options: Mapping[str, Any]
) -> ChainReport:
    """The chain of the problem, replayed on what has weights: the problem itself or its proxy."""
    import blockframe
    from blockframe.certificate.model import Subject
    from blockframe.certifier import summary
    from blockframe.report.chain import ChainReport

    working.stage("resolving")
    problem = blockframe.load(spec, registry=plugins, **options)
    working.stage("tracing")
    chain = blockframe.chain(problem, registry=plugins)
    runnable = problem.runnable
    on_proxy = runnable is not None and runnable is not problem
    difference = None
    if runnable is not None:
        working.stage("replaying")
        replayed = blockframe.chain(runnable, registry=plugins) if on_proxy else chain
        difference = replayed.replay_difference()
    subject = Subject(
        spec=problem.spec,
        class_name=type(problem.module).__name__,
        parameters=problem.parameters,
        blocks=tuple(map(summary, chain.blocks)),
        proxy=(runnable.note or "reduced") if runnable is not None and on_proxy else "",
    )
    return ChainReport(subject, difference, "proxy" if on_proxy else "full")
