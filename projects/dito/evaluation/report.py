# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What an evaluation reports: figures, and the protocol they belong to."""

import io
import os
import shutil
import sys
from collections.abc import Collection, Sequence
from typing import Any

from mmengine.logging import MMLogger
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
    between their words to keep to the width; a table that cannot keep to it is
    wider. Elsewhere, in a pipe or a file, nothing wraps.
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
    """Lay out a table as plain text, of its natural width.

    ``justify`` is 'left' or 'right' by column; by default the first is left.
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
    """Write an AP as in papers: percent ('37.62'), or a dash if it is -1."""
    return '-' if value < 0 else f'{100 * value:.2f}'


def render_scores(
    title: str, scores: dict[str, dict[str, float]], names: Sequence[str]
) -> str:
    """A table of ``names`` with one row a metric."""
    rows = [
        [row, *(percent(values[name]) for name in names)]
        for row, values in scores.items()
    ]
    return render_table(title, ['percent', *names], rows)


def render_categories(title: str, categories: Sequence[dict]) -> str:
    """A table with one row per category, of ``summarize_categories``."""
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


#: Best and worst novel categories that are shown.
NUM_EXTREMES = 10


class ReportMixin:
    """A metric that keeps a report beside its figures.

    After an evaluation ``report`` holds ``protocol`` (what was measured and
    how), ``figures`` and ``per_category``. What only the run knows (weights,
    ensemble, vocabulary) is handed over before it by
    :class:`~dito.engine.hooks.DITOEvaluationReportHook`.

    Args:
        protocol (dict, optional): What the config adds to the protocol, such
            as ``dict(score_thr=0., alpha=0.3)``.
        *args, **kwargs: Of the metric that this is mixed into.
    """

    report: dict[str, Any] | None = None
    _run_facts: dict[str, Any] | None = None

    def __init__(
        self, *args: Any, protocol: dict | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.protocol: dict[str, Any] = dict(protocol or {})

    def note_run(self, facts: dict[str, Any]) -> None:
        """Take what the run knows of the protocol, values for json."""
        self._run_facts = dict(facts)

    @property
    def split(self) -> str | None:
        """Name of the evaluated set, where the run has given it."""
        return (self._run_facts or {}).get('split')

    def with_run(
        self, own: dict[str, Any], leave_out: Collection[str] = ()
    ) -> dict[str, Any]:
        """Complete a metric's protocol with what others know.

        The metric's items come first, then those of the run, but for
        ``leave_out``, then those of the config (``protocol``), which may
        replace the run's. One that the metric itself knows keeps its value;
        the config's is added as 'NAME (given)'.
        """
        whole = dict(own)
        for name, value in {
            **(self._run_facts or {}),
            **self.protocol,
        }.items():
            if name in self.protocol and name in own:
                whole[f'{name} (given)'] = value
            elif name not in own and name not in leave_out:
                whole[name] = value
        return whole

    def publish(
        self,
        title: str,
        protocol: dict[str, Any],
        figures: dict[str, float],
        table: str,
        per_category: dict[str, list[dict]] | None = None,
    ) -> None:
        """Log protocol and figures, and keep them as the report."""
        MMLogger.get_current_instance().info(
            _render_protocol(f'{title}: protocol', protocol) + '\n' + table
        )
        self.report = dict(protocol=protocol, figures=figures)
        if per_category is not None:
            self.report['per_category'] = dict(per_category)


def _render_protocol(title: str, protocol: dict[str, Any]) -> str:
    """A table of the protocol, one line an item that is known."""
    rows = [
        [name, shorten(value, 1000 if name.startswith('note') else 60)]
        for name, value in protocol.items()
        if value is not None
    ]
    return render_table(title, ['protocol', ''], rows, ['left', 'left'])


def shorten(value: Any, length: int = 60) -> str:
    """Write a value in one short line; the report file has all of it."""
    if isinstance(value, float):
        value = f'{value:.4g}'
    if isinstance(value, list) and len(value) > 1:
        value = f'{len(value)}: {value[0]} ...'
    text = str(value)
    return text if len(text) <= length else f'{text[: length - 3]}...'


def _novel_extremes(
    categories: Sequence[dict], number: int = NUM_EXTREMES
) -> dict[str, list[dict]]:
    """The best and the worst novel categories by AP, none in both."""
    novel = [row for row in categories if row['novel'] and row['AP'] >= 0]
    novel.sort(key=lambda row: (-row['AP'], row['id']))
    half = min(number, (len(novel) + 1) // 2)
    return dict(best=novel[:half], worst=novel[half:][::-1][:number])


def render_extremes(title: str, categories: Sequence[dict]) -> str:
    """Tables of the best and worst novel categories; '' without any."""
    chosen = _novel_extremes(categories)
    return '\n'.join(
        render_categories(f'{title}: {name} novel categories', rows)
        for name, rows in chosen.items()
        if rows
    )
