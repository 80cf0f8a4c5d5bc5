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
    "·": "*", "–": "-", "—": "-", "−": "-", "→": "->", "×": "x", "≤": "<=", "≥": ">=", "≈": "~",
    "∞": "inf", "‖": "||", "∥": "||", "⟨": "<", "⟩": ">", "′": "'", "²": "^2", "₀": "_0",
    "½": "1/2", "∇": "grad ", "Σ": "sum ", "∂": "d", "±": "+-", "⇒": "=>", "…": "...", "√": "sqrt",
    "≠": "!=", "Δ": "Delta ", "‘": "'", "’": "'", "“": '"', "”": '"', "∈": "in", "α": "alpha",
    "β": "beta", "ε": "epsilon", "η": "eta", "θ": "theta", "λ": "lambda",
    "Λ": "Lambda", "μ": "mu", "σ": "sigma",
})  # fmt: skip


_GAP, _DEEPER = 3, 2  # blanks between two columns of a table; before the second line of a row
_NARROW = 20  # columns that running text needs


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
        return "\n".join(line.rstrip() for line in lines)

    def spell(self, text: str) -> str:
        """``text`` in characters that the page can show; control characters are dropped."""
        text = "".join(c if c.isprintable() else " " for c in text)
        if self.page.unicode:
            return text
        text = text.replace(" · ", " | ").replace("∇²", "grad^2 ")
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
        """``label  text``, the text wrapping beside the label, or below it where that is narrow."""
        label, text = self.spell(label), self.spell(text)
        room = self._console.width - indent - cell_len(label) - 2
        if room < min(_NARROW, cell_len(text)) and label.strip():
            self._console.print(Padding(Text(label, "dim"), (0, 0, 0, indent)))
            self._console.print(Padding(Text(text), (0, 0, 0, indent + 2)))
            return
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(label, "dim"), Text(text))
        self._console.print(Padding(grid, (0, 0, 0, indent)))

    def table(
        self,
        rows: Iterable[Sequence[str]],
        header: Sequence[str] = (),
        *,
        right: Sequence[int] = (),
        wrap: Sequence[int] = (),
        drop: Sequence[int] = (),
        indent: int = 2,
    ) -> None:
        """Rows of cells without rules; no cell is ever cut.

        Where the page is too narrow, the columns ``drop`` are left out, one after the other; then
        the column ``wrap`` is folded, if it stays wide enough to be read; then every row is cut in
        two lines: the first column, or that of ``wrap``, stands on one of its own.

        Args:
            right: columns that are aligned right.
            wrap: one column at most.
        """
        cells = [[self._part(cell) for cell in row] for row in rows]
        if header:
            cells.insert(0, [Text(self.spell(h), "dim") for h in header])
        widths: list[int] = [max(c.cell_len for c in column) for column in zip(*cells, strict=True)]
        shown = [
            [i for i, width in enumerate(widths) if width and i not in drop[:count]]
            for count in range(len(drop) + 1)
        ]
        room = self._console.width - indent

        def width(columns: Sequence[int]) -> int:
            return sum([widths[i] + _GAP for i in columns], -_GAP)

        whole = [columns for columns in shown if width(columns) <= room]
        title = wrap[0] if wrap else 0
        spare = max(widths[title] - _NARROW, 0) if wrap else 0
        if whole or width(shown[-1]) - spare <= room:
            self._side_by_side(cells, whole[0] if whole else shown[-1], right, title, indent)
            return
        others = [[i for i in columns if i != title] for columns in shown]
        fitting = next((o for o in others if width(o) <= room - _DEEPER), others[-1])
        self._stacked(cells, fitting, right, title, widths, indent)

    def _side_by_side(
        self,
        cells: list[list[Text]],
        columns: Sequence[int],
        right: Sequence[int],
        title: int,
        indent: int,
    ) -> None:
        table = Table.grid(padding=(0, _GAP, 0, 0))
        for i in columns:
            table.add_column(
                justify="right" if i in right else "left",
                no_wrap=i != title,
                overflow="fold",
            )
        for row in cells:
            table.add_row(*(row[i] for i in columns))
        self._console.print(Padding(table, (0, 0, 0, indent)))

    def _stacked(
        self,
        cells: list[list[Text]],
        columns: Sequence[int],
        right: Sequence[int],
        title: int,
        widths: Sequence[int],
        indent: int,
    ) -> None:
        for row in cells:
            rest = Text(" " * _GAP).join(
                _aligned(row[i], widths[i], right=i in right) for i in columns
            )
            own, below = (row[title], rest) if title == 0 else (rest, row[title])
            for text, left in ((own, indent), (below, indent + _DEEPER)):
                if text.plain.strip():
                    self._console.print(Padding(text, (0, 0, 0, left)))

    def _part(self, part: str | Text) -> Text:
        if isinstance(part, Text):
            return part
        return Text(self.spell(part), STYLES.get(part, ""))


def _aligned(cell: Text, width: int, *, right: bool) -> Text:
    """``cell`` filled up with blanks to ``width``."""
    text = cell.copy()
    text.align("right" if right else "left", width)
    return text
