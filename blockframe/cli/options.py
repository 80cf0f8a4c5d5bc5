"""Options that commands share, and how their values are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from blockframe import checks
from blockframe.cli.output import complain
from blockframe.errors import InputError
from blockframe.interrupts import held

if TYPE_CHECKING:
    from blockframe.plugins import Registry

F = TypeVar("F", bound=Callable[..., Any])


def settings(function: F) -> F:
    """``--set k=v``, repeatable; the command gets ``settings``, a dict."""
    return click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        callback=lambda context, parameter, value: _pairs(value),
        help="A setting of the model; VALUE is read as JSON where it can be. Repeatable.",
    )(function)


def output_format(function: F) -> F:
    """``--format``."""
    return click.option(
        "--format", "format_", metavar="NAME", default="text", show_default=True,
        help="Form of the output: text, json, or what a plugin adds.",
    )(function)  # fmt: skip


def problem_options(function: F) -> F:
    """What a spec resolves to, as `blockframe.load` takes it."""
    options = (
        click.option(
            "--data", metavar="NAME|FILE", help="A data set, a file (.npz, text), or random."
        ),
        click.option(
            "--samples", type=click.IntRange(min=1), metavar="N", help="How many samples to use."
        ),
        click.option("--loss", metavar="NAME", help="mse, ce, or what a plugin adds."),
    )
    return _stacked(weight_options(function), options)


def weight_options(function: F) -> F:
    """Which weights a spec resolves to: how they are drawn, and at which size."""
    options = (
        click.option(
            "--init",
            metavar="NAME[:SCALE]",
            callback=initialization,
            default="default",
            show_default=True,
            help="How weights are drawn: default, xavier, he, lecun or orthogonal; SCALE "
            "multiplies the matrices.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**32 - 1),
            default=0,
            show_default=True,
            metavar="N",
            help="Of everything drawn at random.",
        ),
        click.option("--full", is_flag=True, help="Build the weights at full size; use no proxy."),
    )
    return _stacked(function, options)


def run_options(function: F) -> F:
    """Where and in which precision numbers are computed."""
    options = (
        click.option(
            "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."
        ),
        click.option(
            "--dtype",
            type=click.Choice(["float64", "float32", "bfloat16", "float16"]),
            help="Precision of the network in the run; float64 on the CPU, float32 on CUDA unless "
            "told. Half precision seldom decides the descent claim.",
        ),
        click.option(
            "--memory",
            metavar="SIZE",
            callback=memory,
            help="What the run may take, such as 4GiB or 800MB: samples are taken in chunks.",
        ),
    )
    return _stacked(function, options)


def _stacked(function: F, options: Sequence[Callable[[F], F]]) -> F:
    """``function`` with ``options``, which --help shows in this order."""
    for option in reversed(options):
        function = option(function)
    return function


def document_format(function: F) -> F:
    """``--format`` of a command that shows no certificate."""
    return click.option(
        "--format", "format_", type=click.Choice(["text", "json"]), default="text",
        show_default=True, help="Form of the output.",
    )(function)  # fmt: skip


def initialization(_context: click.Context, _option: click.Parameter, text: str) -> str:
    """A scheme, and its scale if it has one."""
    from blockframe.initialize import Scheme

    try:
        Scheme.of(text)
    except InputError as error:
        raise click.BadParameter(str(error)) from None
    return text


def memory(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    """A size in bytes."""
    if text is None:
        return None
    try:
        return checks.size("memory", text)
    except InputError as error:
        raise click.BadParameter(str(error)) from None


def learning_rate(_context: click.Context, _option: click.Parameter, text: str) -> float | str:
    """A positive number, or the text of a rule."""
    from blockframe.dynamics.schedule import parse

    try:
        first, schedule = parse(text)
    except InputError as error:
        raise click.BadParameter(str(error)) from None
    return first if first is not None and schedule.constant else text


def registry() -> Registry:
    """All plugins, loaded; the broken ones are named on stderr. Of what a command needs the first.

    It comes with torch, whole. An interrupt that cuts the import of torch short is lost in it, or
    leaves a half that crashes when anything imports torch again.
    """
    from blockframe.plugins import load_plugins

    with held():
        import blockframe.certifier  # noqa: F401
    loaded = load_plugins()
    for plugin in loaded.plugins:
        if plugin.error:
            complain(plugin.warning)
    return loaded


def _pairs(texts: Sequence[str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{text!r} is not of the form KEY=VALUE.")
        if key in pairs:
            raise click.BadParameter(f"{key!r} is given twice.")
        pairs[key] = _value(value)
    return pairs


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
