"""``blockframe plugins``: what is installed, and whether it works."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from blockframe.cli.output import emit, page

if TYPE_CHECKING:
    from blockframe.plugins import PluginInfo

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

    registry = load_plugins(strict=False)
    specs = {p.info.name: p.specs() for p in registry.loaded}
    if format_ == "json":
        rows = [{**asdict(p), "specs": specs.get(p.name, [])} for p in registry.plugins]
        emit(json.dumps(rows, indent=2) + "\n")
    else:
        emit(_table(registry.plugins, specs))


def _table(infos: list[PluginInfo], specs: dict[str, list[str]]) -> str:
    from blockframe.report.sheet import Sheet

    sheet = Sheet(page())
    sheet.table(
        [(p.name, f"{p.distribution} {p.version}", p.state, ", ".join(p.hooks)) for p in infos],
        ("plugin", "distribution", "state", "hooks"),
        wrap=(3,),
    )
    for plugin in infos:
        if plugin.error:
            sheet.blank()
            sheet.labelled(plugin.name, f"broken: {plugin.error}", indent=2)
        elif specs[plugin.name]:
            sheet.blank()
            sheet.labelled(plugin.name, f"resolves {_few(specs[plugin.name])}", indent=2)
    return sheet.text()


def _few(names: list[str]) -> str:
    if len(names) <= _MANY:
        return ", ".join(names)
    return f"{len(names)} names, {names[0]} to {names[-1]} (--format json lists them)"
