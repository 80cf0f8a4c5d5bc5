"""A page of text: lines and tables, laid out by rich, in characters that the page can show."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from blockframe.report import Page

STYLES = {
    "HOLDS": "green", "FAILS": "bold red", "UNKNOWN": "yellow",
    "CERTIFIED": "bold green", "REFUTED": "bold red", "INCONCLUSIVE": "bold yellow",
}  # fmt: skip

_ASCII = str.maketrans({
    "·": "|", "–": "-", "—": "-", "−": "-", "→": "->", "×": "x", "≤": "<=", "≥": ">=", "≈": "~",
    "∞": "inf", "‖": "||", "∥": "||", "⟨": "<", "⟩": ">", "′": "'", "²": "^2", "₀": "_0",
    "½": "1/2", "∇": "grad ", "Σ": "sum ", "∂": "d", "±": "+-", "⇒": "=>", "…": "...", "√": "sqrt",
    "‘": "'", "’": "'", "“": '"', "”": '"', "∈": "in", "α": "alpha", "β": "beta", "ε": "epsilon",
    "η": "eta", "θ": "theta", "λ": "lambda", "Λ": "Lambda", "μ": "mu", "σ": "sigma",
})  # fmt: skip


class Sheet:
    """Collects what is printed; `text` is the page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._console = Console(
            file=io.StringIO(),
            width=max(page.width, 40),
            force_terminal=page.color,
            no_color=not page.color,
            color_system="standard" if page.color else None,
            legacy_windows=False,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def text(self) -> str:
        """Everything so far, without blanks at line ends."""
        assert isinstance(self._console.file, io.StringIO)
        lines = self._console.file.getvalue().split("\n")
        text = "\n".join(line.rstrip() for line in lines)
        return text if self.page.unicode else text.replace("…", "~")  # where rich cut a cell

    def spell(self, text: str) -> str:
        """``text`` in characters that the page can show; control characters are dropped."""
        text = "".join(c if c.isprintable() else " " for c in text)
        if self.page.unicode:
            return text
        return text.translate(_ASCII).encode("ascii", "replace").decode()

    def strong(self, text: str) -> Text:
        """``text`` to begin a paragraph with."""
        return Text(self.spell(text), "bold")

    def line(self, *parts: str | Text, indent: int = 0) -> None:
        """One paragraph; what does not fit goes on under its own beginning."""
        text = Text.assemble(*(self._part(p) for p in parts))
        self._console.print(Padding(text, (0, 0, 0, indent)))

    def whole(self, text: str, indent: int = 0) -> None:
        """One line that is never broken, for a path to copy."""
        self._console.print(Text(" " * indent + self.spell(text)), soft_wrap=True)

    def blank(self) -> None:
        self._console.print()

    def ends(self, left: str, right: str) -> None:
        """``left`` and, at the right margin of the same line if there is room, ``right``."""
        left, right = self.spell(left), self.spell(right)
        gap = self._console.width - cell_len(left) - cell_len(right)
        if gap < 2 and right:
            self.line(left)
            self.line(right, indent=2)
        else:
            self.line(left + (" " * gap + right if right else ""))

    def labelled(self, label: str, text: str, indent: int = 0) -> None:
        """``label  text``, the text wrapping beside the label."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(self.spell(label), "dim"), Text(self.spell(text)))
        self._console.print(Padding(grid, (0, 0, 0, indent)))

    def table(
        self,
        rows: Iterable[Sequence[str]],
        header: Sequence[str] = (),
        right: Sequence[int] = (),
        wrap: Sequence[int] = (),
    ) -> None:
        """Rows of cells without rules; columns ``right`` are aligned right, ``wrap`` may wrap."""
        rows = [list(row) for row in rows]
        table = Table.grid(padding=(0, 3, 0, 0))
        for i in range(len(header or rows[0])):
            table.add_column(
                justify="right" if i in right else "left",
                no_wrap=i not in wrap,
                overflow="fold" if i in wrap else "ellipsis",
            )
        if header:
            table.add_row(*(Text(self.spell(h), "dim") for h in header))
        for row in rows:
            table.add_row(*(self._part(cell) for cell in row))
        self._console.print(Padding(table, (0, 0, 0, 2)))

    def _part(self, part: str | Text) -> Text:
        if isinstance(part, Text):
            return part
        return Text(self.spell(part), STYLES.get(part, ""))
