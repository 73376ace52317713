# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Result tables for the log and the terminal."""

import io
import os
import shutil
import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from dito.utils.printable import Console

# Cells up to this width stay on one line; longer ones wrap between words.
_SHORT = 24
_UNLIMITED = 1_000_000


def print_table(table: Table) -> None:
    """Print a table with every number, name and path whole.

    On a terminal, and where the environment has ``COLUMNS``, long texts wrap
    between their words to keep to the width; a table that cannot keep to it
    is wider. Elsewhere, in a pipe or a file, nothing wraps.

    Args:
        table (Table): Its columns get fixed widths.
    """
    console = Console()
    natural, least, extra = _widths(table)
    widths = natural
    limit = _columns()
    if limit is not None:
        widths = _shrink(natural, least, limit - extra)
    for column, width in zip(table.columns, widths, strict=True):
        column.width, column.overflow, column.no_wrap = width, 'fold', False
    notes = table.title, table.caption
    table.title = table.caption = None
    console.width = max(sum(widths) + extra, limit or 1)
    for part in (notes[0], table, notes[1]):
        if part is not None:
            console.print(part, soft_wrap=part is not table, crop=False)


def _columns() -> int | None:
    """Width to keep to, None where nobody looks at it."""
    given = os.environ.get('COLUMNS', '')
    if given.isdigit() and int(given):
        return int(given)
    if sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return None


def _widths(table: Table) -> tuple[list[int], list[int], int]:
    """Natural and least width of each column, and width of what is between."""
    console = Console(width=_UNLIMITED)
    natural, least = [], []
    for column in table.columns:
        sizes = [
            Measurement.get(console, console.options, cell)
            for cell in (column.header, column.footer, *column.cells)
        ]
        natural.append(max(1, *(size.maximum for size in sizes)))
        least.append(
            max(
                1,
                *(
                    size.maximum if size.maximum <= _SHORT else size.minimum
                    for size in sizes
                ),
            )
        )
        column.width = natural[-1]
    whole = Measurement.get(console, console.options, table).maximum
    return natural, least, whole - sum(natural)


def _shrink(
    natural: Sequence[int], least: Sequence[int], total: int
) -> list[int]:
    """Take width from the widest columns that can give some."""
    widths = list(natural)
    for _ in range(max(0, sum(widths) - total)):
        able = [i for i, w in enumerate(widths) if w > least[i]]
        if not able:
            break
        widths[max(able, key=widths.__getitem__)] -= 1
    return widths


def render_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    justify: Sequence[str] | None = None,
) -> str:
    """Lay out a table as plain text.

    Args:
        title (str): Line above the table.
        columns (Sequence[str]): Column heads; the first is left-aligned.
        rows (Sequence[Sequence[str]]): Cells as text.
        justify (Sequence[str], optional): 'left' or 'right' by column.
            Defaults to 'right' for all but the first.

    Returns:
        str: The table, without colours, at its natural width.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        side = 'left' if index == 0 else 'right'
        side = side if justify is None else justify[index]
        table.add_column(column, justify=side, no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    stream = io.StringIO()
    Console(file=stream, width=1000, color_system=None).print(table)
    lines = (line.rstrip() for line in stream.getvalue().splitlines())
    return '\n'.join([title, *(line for line in lines if line)])


def percent(value: float) -> str:
    """Write an AP as in papers: percent, or a dash if it is undefined.

    Args:
        value (float): Between 0 and 1, or -1.

    Returns:
        str: Such as '37.62'.
    """
    return '-' if value < 0 else f'{100 * value:.2f}'


def render_scores(
    title: str, scores: dict[str, dict[str, float]], names: Sequence[str]
) -> str:
    """A table with one row a metric.

    Args:
        title (str): Line above the table.
        scores (dict[str, dict[str, float]]): Scores by row and name.
        names (Sequence[str]): Names of the columns.

    Returns:
        str: The table.
    """
    rows = [
        [row, *(percent(values[name]) for name in names)]
        for row, values in scores.items()
    ]
    return render_table(title, ['percent', *names], rows)


def render_categories(title: str, categories: Sequence[dict]) -> str:
    """A table with one row a category.

    Args:
        title (str): Line above the table.
        categories (Sequence[dict]): Output of ``summarize_categories``.

    Returns:
        str: The table.
    """
    rows = [
        [
            row['name'],
            str(row['id']),
            'novel' if row['novel'] else 'base',
            row['frequency'] or '-',
            str(row['objects']),
            percent(row['AP']),
            percent(row['AP50']),
        ]
        for row in categories
    ]
    columns = ['category', 'id', 'group', 'freq', 'objects', 'AP', 'AP50']
    return render_table(title, columns, rows)
