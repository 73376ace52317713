# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tables with the paper's figures beside the measured ones."""

from typing import List, Optional, Sequence, Tuple

from rich.table import Table as RichTable

from .results import Figure
from .runner import Planner
from .spec import Row, Table

NOTHING = '-'


def percent_factor(metric: str) -> float:
    """Factor to percent: AP is kept as a share, accuracy in percent."""
    return 1.0 if metric.startswith('region/') else 100.0


def write_figure(figure: Optional[Figure], metric: str) -> str:
    """Mean and spread as text.

    Args:
        figure (Figure, optional): None for nothing measured.
        metric (str): Its name.

    Returns:
        str: Such as '12.3 ± 0.4 (3)', with the number of seeds; '12.3' of
        one.
    """
    if figure is None:
        return NOTHING
    factor = percent_factor(metric)
    text = f'{factor * figure.mean:.1f}'
    if figure.spread is None:
        return text
    return f'{text} ± {factor * figure.spread:.1f} ({figure.seeds})'


def cells(table: Table, planner: Planner) -> Tuple[List[str],
                                                   List[List[str]]]:
    """Heads and rows of a table as text.

    Args:
        table (Table): The table.
        planner (Planner): Where its results are.

    Returns:
        tuple: Heads, and a list of cells a row: title, the paper's figures,
        the measured ones.
    """
    shown = [m for m in table.metrics if any(m in r.paper
                                             for r in table.rows)]
    heads = ['', *(f'{table.metrics[m]} (paper)' for m in shown),
             *table.metrics.values()]
    return heads, [_cells(row, table, shown, planner) for row in table.rows]


def _cells(row: Row, table: Table, shown: Sequence[str],
           planner: Planner) -> List[str]:
    paper = [f'{row.paper[m]:.1f}' if m in row.paper else NOTHING
             for m in shown]
    measured = [
        write_figure(
            planner.store.figure(
                planner.shared(row.run), planner.seeds_of(row.run),
                table.evaluation, metric), metric)
        for metric in table.metrics
    ]
    return [row.title, *paper, *measured]


def render_rich(table: Table, planner: Planner) -> RichTable:
    """A table for the terminal."""
    heads, rows = cells(table, planner)
    drawn = RichTable(title=f'Table {table.name}: {table.title}')
    for number, head in enumerate(heads):
        drawn.add_column(head, justify='right' if number else 'left')
    for row in rows:
        drawn.add_row(*row)
    return drawn


def render_markdown(table: Table, planner: Planner) -> str:
    """A table for a document, with how it was made."""
    heads, rows = cells(table, planner)
    settings = planner.settings
    lines = [f'### Table {table.name}: {table.title}', '']
    for cols in (heads, ['---', *['---:'] * (len(heads) - 1)], *rows):
        lines.append('| ' + ' | '.join(cols) + ' |')
    pretraining = 'one a seed' if settings.own_pretraining else (
        'one for all seeds')
    lines += [
        '',
        f'On {settings.data}, in percent: mean ± standard deviation of the '
        f'sample (number of seeds), or one seed; schedules times '
        f'{settings.factor:g}; pretraining: {pretraining}. '
        f'The paper: ViT-L/16 on LVIS.', *([table.note] if table.note else [])
    ]
    return '\n'.join(lines) + '\n'
