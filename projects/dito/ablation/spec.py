# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What a table of ablations is made of."""

from dataclasses import dataclass, field
from typing import Dict, Mapping, Optional, Tuple

#: Data sets that the tables can be made on: the one drawn by this project,
#: and the paper's.
DATA_SETS = ('symbols', 'lvis')


@dataclass(frozen=True)
class Run:
    """A training, which rows of several tables may share.

    Args:
        configs (dict[str, str]): Config by data set, without ``.py``.
        pretraining (dict[str, str], optional): Config of stage 2 by data set
            whose result the training starts from. None: the ``load_from`` of
            the config.
        trained (bool): False evaluates what the training would start from.
        start_anew (tuple[str]): Modules that the pretraining did not train,
            and that therefore start from random weights.
    """

    configs: Mapping[str, str]
    pretraining: Optional[Mapping[str, str]] = None
    trained: bool = True
    start_anew: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        name (str): Short name, for ``--rows``.
        title (str): As the paper has it.
        run (str): Key of the training it shows.
        paper (dict[str, float]): The paper's figures by metric.
        group (str): Which of its table's columns of figures it belongs to,
            where the paper has two side by side.
    """

    name: str
    title: str
    run: str
    paper: Mapping[str, float] = field(default_factory=dict)
    group: str = ''


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Args:
        name (str): Such as '4a'.
        title (str): As the paper has it.
        evaluation (str): 'detection', or 'regions' for given boxes.
        metrics (dict[str, str]): Column head by metric, in order.
        rows (tuple[Row]): The rows.
        note (str): What differs from the paper.
    """

    name: str
    title: str
    evaluation: str
    metrics: Mapping[str, str]
    rows: Tuple[Row, ...]
    note: str = ''

    def select(self, names: Tuple[str, ...]) -> 'Table':
        """Keep some rows.

        Args:
            names (tuple[str]): Their names; empty keeps all.

        Raises:
            ValueError: If the table has no such row.
        """
        known = [row.name for row in self.rows]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f'Table {self.name} has no row {unknown[0]!r}; '
                             f'its rows are {", ".join(known)}.')
        kept = tuple(r for r in self.rows if not names or r.name in names)
        return Table(self.name, self.title, self.evaluation, self.metrics,
                     kept, self.note)


Paper = Dict[str, float]
