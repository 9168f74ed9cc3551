"""A table of names and numbers that keeps its names on every width of terminal."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

GAP = 3
# Of a longer name this much stays on a narrow terminal; it is also the width of the word "prediction".
SHORTEST_NAME = 10


@dataclass
class TextTable:
    """Rows of names and numbers, one line each. The first `left` columns, and those in `also_names`, hold names.

    Names that are too long for the terminal lose their middle. Where even short names leave too little room, columns
    are left out from the right, and a line says which. A number is never cut.
    """

    names: tuple[str, ...]
    left: int = 1
    also_names: tuple[str, ...] = ("prediction",)
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add_row(self, *cells: str | Text) -> None:
        self.rows.append(tuple(str(cell) for cell in cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        natural = [max(map(cell_len, column)) for column in zip(self.names, *self.rows, strict=True)]
        is_name = [i < self.left or name in self.also_names for i, name in enumerate(self.names)]
        least = [min(width, SHORTEST_NAME) if name else width for width, name in zip(natural, is_name, strict=True)]
        shown = len(natural)
        while shown > self.left and sum(least[:shown]) + GAP * (shown - 1) > options.max_width:
            shown -= 1
        widths, spare = least[:shown], options.max_width - sum(least[:shown]) - GAP * (shown - 1)
        while spare > 0 and widths != natural[:shown]:  # a cell more for the shortest of the names that are cut
            widths[min((i for i in range(shown) if widths[i] < natural[i]), key=widths.__getitem__)] += 1
            spare -= 1
        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
        for i, width in enumerate(widths):
            header = Text(shortened(self.names[i], width))
            table.add_column(header, justify="left" if is_name[i] else "right", no_wrap=True, min_width=width)
        for row in self.rows:
            table.add_row(*(Text(shortened(cell, width)) for cell, width in zip(row, widths, strict=False)))
        yield table
        if shown < len(natural):
            yield Text(f"too narrow for: {', '.join(self.names[shown:])}", style="dim")


def shortened(text: str, width: int) -> str:
    """The text in `width` cells, its middle left out where it is longer: names often differ at the end."""
    if cell_len(text) <= width:
        return text
    head = max(0, width - 3) // 3
    return set_cell_size(text, head) + "..." + set_cell_size(text[::-1], max(0, width - 3 - head))[::-1]
