"""Tables and links of the pages in docs/."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a ``|`` in a cell is only a character."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *cells])


def linked(text: str) -> str:
    """``docs/theory section 2`` as ``[theory](theory.md), section 2``: links from inside docs/."""
    return re.sub(
        r"\bdocs/(\w+)( section)?",
        lambda m: f"[{m[1]}]({m[1]}.md)" + (", section" if m[2] else ""),
        text,
    )
