# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What an evaluation reports: figures, and the protocol they belong to."""

from typing import Any, Dict, List, Optional, Sequence

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

    report: Optional[Dict[str, Any]] = None
    _run_facts: Optional[Dict[str, Any]] = None

    def note_run(self, facts: Dict[str, Any]) -> None:
        """Take what the run knows of the protocol.

        Args:
            facts (dict): Values that json can hold, by name.
        """
        self._run_facts = dict(facts)

    @property
    def run_facts(self) -> Dict[str, Any]:
        """What :meth:`note_run` was given, or nothing."""
        return self._run_facts or {}


def render_protocol(title: str, protocol: Dict[str, Any]) -> str:
    """A table of the protocol, one line an item.

    Args:
        title (str): Line above the table.
        protocol (dict): Texts and numbers by name; those that are None are
            left out.

    Returns:
        str: The table.
    """
    rows = [
        [name, shorten(value)]
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
) -> Dict[str, List[dict]]:
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
