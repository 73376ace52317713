# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What an evaluation reports: figures, and the protocol they belong to."""

from collections.abc import Collection, Sequence
from typing import Any

from mmengine.logging import MMLogger

from .result_table import render_categories, render_table

#: Best and worst novel categories that are shown.
NUM_EXTREMES = 10


class ReportMixin:
    """A metric that keeps a report beside its figures.

    After an evaluation ``report`` holds ``protocol`` (what was measured and
    how), ``figures`` and ``per_category``. What only the run knows (weights,
    ensemble, vocabulary) is handed over before it by
    :class:`~dito.engine.hooks.DITOEvaluationReportHook`.
    """

    report: dict[str, Any] | None = None
    #: What the config adds to the protocol.
    protocol: dict[str, Any] = {}
    _run_facts: dict[str, Any] | None = None

    def note_run(self, facts: dict[str, Any]) -> None:
        """Take what the run knows of the protocol.

        Args:
            facts (dict): Values that json can hold, by name.
        """
        self._run_facts = dict(facts)

    @property
    def split(self) -> str | None:
        """Name of the evaluated set, where the run has told it."""
        return (self._run_facts or {}).get('split')

    def with_run(
        self, own: dict[str, Any], leave_out: Collection[str] = ()
    ) -> dict[str, Any]:
        """Complete a metric's protocol with what others know.

        Args:
            own (dict): What the metric has measured.
            leave_out (Collection[str]): Facts that do not bear on it.

        Returns:
            dict: The metric's items, then those of the run, then those of
            the config (``protocol``), which may replace the run's. One that
            the metric itself knows keeps its value; the config's is added
            as 'NAME (given)'.
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
        """Log protocol and figures, and keep them as the report.

        Args:
            title (str): Line above the protocol.
            protocol (dict): See :func:`render_protocol`.
            figures (dict[str, float]): All figures by name.
            table (str): Those that are shown.
            per_category (dict[str, list[dict]], optional): Rows by kind.
        """
        MMLogger.get_current_instance().info(
            render_protocol(f'{title}: protocol', protocol) + '\n' + table
        )
        self.report = dict(protocol=protocol, figures=figures)
        if per_category is not None:
            self.report['per_category'] = dict(per_category)


def render_protocol(title: str, protocol: dict[str, Any]) -> str:
    """A table of the protocol, one line an item.

    Args:
        title (str): Line above the table.
        protocol (dict): Texts and numbers by name; those that are None are
            left out.

    Returns:
        str: The table.
    """
    rows = [
        [name, shorten(value, 1000 if name.startswith('note') else 60)]
        for name, value in protocol.items()
        if value is not None
    ]
    return render_table(title, ['protocol', ''], rows, ['left', 'left'])


def shorten(value: Any, length: int = 60) -> str:
    """Write a value in one short line; the report file has all of it.

    Args:
        value (Any): Value.
        length (int): Most characters.

    Returns:
        str: The text, cut with '...'.
    """
    if isinstance(value, float):
        value = f'{value:.4g}'
    if isinstance(value, list) and len(value) > 1:
        value = f'{len(value)}: {value[0]} ...'
    text = str(value)
    return text if len(text) <= length else f'{text[: length - 3]}...'


def novel_extremes(
    categories: Sequence[dict], number: int = NUM_EXTREMES
) -> dict[str, list[dict]]:
    """The best and the worst novel categories by AP.

    Categories without objects have no AP and are left out. Of fewer than
    twice the number, each is in one of the lists only.

    Args:
        categories (Sequence[dict]): Rows with ``novel`` and ``AP``.
        number (int): How many of each.

    Returns:
        dict[str, list[dict]]: ``best``, best first, and ``worst``, worst
        first.
    """
    novel = [row for row in categories if row['novel'] and row['AP'] >= 0]
    novel.sort(key=lambda row: (-row['AP'], row['id']))
    half = min(number, (len(novel) + 1) // 2)
    return dict(best=novel[:half], worst=novel[half:][::-1][:number])


def render_extremes(title: str, categories: Sequence[dict]) -> str:
    """Tables of the best and worst novel categories.

    Args:
        title (str): Line above them.
        categories (Sequence[dict]): Rows as of :func:`novel_extremes`.

    Returns:
        str: The tables; empty without novel categories.
    """
    chosen = novel_extremes(categories)
    return '\n'.join(
        render_categories(f'{title}: {name} novel categories', rows)
        for name, rows in chosen.items()
        if rows
    )
