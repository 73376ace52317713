# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Result tables for the log."""

import io
from typing import Dict, Optional, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def render_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    justify: Optional[Sequence[str]] = None,
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
    title: str, scores: Dict[str, Dict[str, float]], names: Sequence[str]
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
