"""Rigorous arithmetic: balls around real numbers, and graphs interpreted in them."""

from blockframe.domains.enclosure.ball import Ball
from blockframe.domains.enclosure.domain import Enclosed, Enclosure, check_arithmetic, enclose

__all__ = ["Ball", "Enclosed", "Enclosure", "check_arithmetic", "enclose"]
