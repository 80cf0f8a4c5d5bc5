"""``blockframe chain``."""

from __future__ import annotations

import click


@click.command()
def chain() -> None:
    """x"""
