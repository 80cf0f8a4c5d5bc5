"""Options that commands share, and how their values are read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from blockframe.cli.output import complain

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


def learning_rate(_context: click.Context, _option: click.Parameter, text: str) -> float | str:
    """``auto``, or a positive number."""
    if text == "auto":
        return text
    try:
        rate = float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither 'auto' nor a number.") from None
    if not (math.isfinite(rate) and rate > 0):
        raise click.BadParameter(f"{text} is not a positive number.")
    return rate


def registry() -> Registry:
    """All plugins, loaded; the broken ones are named on stderr."""
    from blockframe.plugins import load_plugins

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
