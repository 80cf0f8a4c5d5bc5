"""``blockframe plugins``: what is installed, and whether it works."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from blockframe.cli.output import emit, page

if TYPE_CHECKING:
    from blockframe.plugins import PluginInfo, Registry

_MANY = 24  # names, more of which hide what else the list says


@click.group()
def plugins() -> None:
    """Plugins bring specs, operations, probes, data and more."""


@plugins.command("list")
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="Form of the output.",
)  # fmt: skip
def list_(format_: str) -> None:
    """Name, version, hooks and state of every plugin, and the specs that it resolves."""
    from attrs import asdict

    from blockframe.plugins import load_plugins

    rows = _rows(load_plugins(strict=False))
    if format_ == "json":
        documents = [{**asdict(info), "specs": specs} for info, specs in rows]
        emit(json.dumps(documents, indent=2) + "\n")
    else:
        emit(_table(rows))


def _rows(registry: Registry) -> list[tuple[PluginInfo, list[str]]]:
    """Every plugin with the specs that it resolves."""
    from attrs import evolve

    from blockframe.errors import PluginError

    loaded = {plugin.info: plugin for plugin in registry.loaded}
    rows: list[tuple[PluginInfo, list[str]]] = []
    for info in registry.plugins:
        try:
            rows.append((info, loaded[info].specs() if info in loaded else []))
        except PluginError as error:  # the list is where one looks for what is broken
            rows.append((evolve(info, state="broken", error=error.message), []))
    return rows


def _table(rows: list[tuple[PluginInfo, list[str]]]) -> str:
    from blockframe.report.sheet import Sheet

    sheet = Sheet(page())
    sheet.table(
        [(p.name, f"{p.distribution} {p.version}", p.state, ", ".join(p.hooks)) for p, _ in rows],
        ("plugin", "distribution", "state", "hooks"),
        wrap=(3,),
    )
    for info, specs in rows:
        if info.error or specs:
            sheet.blank()
            text = f"broken: {info.error}" if info.error else f"resolves {_few(specs)}"
            sheet.labelled(info.name, text, indent=2)
    return sheet.text()


def _few(names: list[str]) -> str:
    if len(names) <= _MANY:
        return ", ".join(names)
    return f"{len(names)} names, {names[0]} to {names[-1]} (--format json lists them)"
