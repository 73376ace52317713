# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Train, evaluate and render the paper's ablation tables.

    python tools/analysis_tools/ablation.py 4a --data symbols --seeds 3

Every training and every evaluation is a step with a result file of its own:
what is finished is never made again, also not for another table, and what was
interrupted goes on from its last checkpoint. All rows of a table have one
schedule.

Batches are those of the schedules on any number of processes that divides
them. For others give --cfg-options auto_scale_lr.enable=True.
"""

import argparse
from pathlib import Path
from typing import List, Optional, Sequence

from mmengine.config import DictAction
from rich.table import Table as RichTable

from dito.ablation import TABLES, render_markdown, render_rich, run_tables
from dito.ablation.results import write_text
from dito.ablation.runner import Planner, Settings, half_trained
from dito.ablation.spec import DATA_SETS, Table
from dito.evaluation.result_table import print_table

from .errors import one_sentence_errors


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line of ``ablation.py``."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('table', nargs='+', choices=[*TABLES, 'all'], metavar='TABLE',
        help=f'one or more of {", ".join(TABLES)}, or all')
    add('--data', choices=DATA_SETS, default='symbols',
        help='data set (default: %(default)s)')
    add('--seeds', type=int, default=1, help='number of seeds, from 0')
    add('--rows', nargs='+', default=[], help='only these rows')
    add('--iters-scale', type=float, default=1.0, metavar='F',
        help='factor of the lengths of all schedules')
    add('--budget-hours', type=float, metavar='H',
        help='begin nothing that would end later; 0 only renders')
    add('--own-pretraining', action='store_true',
        help='a pretraining for every seed (default: one for all)')
    add('--gpus', type=int, default=1, help='processes of a run; see above')
    add('--work-dir', type=Path, help='folder of runs and tables (default: '
        'work_dirs/ablation_DATA)')
    add('--dry-run', action='store_true',
        help='show the steps and how long they take, and run nothing')
    add('--cfg-options', nargs='+', action=DictAction, default={},
        help='settings for every training')
    add('--debug', action='store_true', help='show tracebacks of errors')
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.gpus < 1:
        parser.error('--seeds and --gpus must be at least 1')
    return args


def choose_tables(names: Sequence[str], rows: Sequence[str]) -> List[Table]:
    """Tables by name, with the chosen rows only.

    Raises:
        ValueError: If a table lacks one of the rows.
    """
    chosen = list(TABLES) if 'all' in names else list(names)
    return [TABLES[name].select(tuple(rows)) for name in chosen]


@one_sentence_errors
def main(argv: Optional[Sequence[str]] = None) -> int:
    """Make the tables."""
    args = parse_args(argv)
    settings = Settings(
        work_dir=args.work_dir or Path(f'work_dirs/ablation_{args.data}'),
        data=args.data,
        seeds=args.seeds,
        factor=args.iters_scale,
        own_pretraining=args.own_pretraining,
        gpus=args.gpus,
        options=dict(args.cfg_options))
    tables = choose_tables(args.table, args.rows)
    if args.dry_run:
        print_table(plan_table(tables, settings))
        return 0
    run_tables(tables, settings, args.budget_hours)
    planner = Planner(settings)
    for table in tables:
        path = settings.work_dir / f'table_{table.name}.md'
        write_text(path, render_markdown(table, planner))
        print_table(render_rich(table, planner))
        print(f'{path} is written.')
    return 0


def plan_table(tables: Sequence[Table], settings: Settings) -> RichTable:
    """The steps with their state and the time they take."""
    planner = Planner(settings)
    total, unknown = 0.0, 0
    drawn = RichTable(title='Steps')
    for head in ('step', 'config', 'state', 'minutes'):
        drawn.add_column(
            head, justify='right' if head == 'minutes' else 'left')
    for job in planner.jobs(tables):
        state, minutes = 'done', ''
        if not planner.done(job):
            state = 'begun' if half_trained(planner, job) else 'to do'
            seconds = planner.estimate(job)
            unknown += seconds is None
            total += seconds or 0.0
            minutes = '?' if seconds is None else f'{seconds / 60:.1f}'
        drawn.add_row(job.name, job.config, state, minutes)
    drawn.caption = (
        f'{total / 3600:.1f} hours in all, from measured times of one '
        f'iteration; {unknown} steps of unknown length (?): nothing of their '
        'kind was measured yet.')
    return drawn
