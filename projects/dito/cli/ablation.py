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
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction
from rich.table import Column
from rich.table import Table as RichTable

from dito.evaluation.report import print_table
from dito.reports.ablation_runner import Planner, Settings, run_tables
from dito.reports.ablation_tables import DATA_SETS, TABLES, Row, Table
from dito.utils.files import write_text

from .errors import one_sentence_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``ablation.py``."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        'table',
        nargs='+',
        choices=[*TABLES, 'all'],
        metavar='TABLE',
        help=f'one or more of {", ".join(TABLES)}, or all',
    )
    add(
        '--data',
        choices=DATA_SETS,
        default='symbols',
        help='data set (default: %(default)s)',
    )
    add('--seeds', type=int, default=1, help='number of seeds, from 0')
    add('--rows', nargs='+', default=[], help='only these rows')
    add(
        '--iters-scale',
        type=float,
        default=1.0,
        metavar='F',
        help='factor of the lengths of all schedules',
    )
    add(
        '--budget-hours',
        type=float,
        metavar='H',
        help='begin nothing that would end later; 0 only renders',
    )
    add(
        '--own-pretraining',
        action='store_true',
        help='a pretraining for every seed (default: one for all)',
    )
    add(
        '--rep',
        type=Path,
        metavar='CHECKPOINT',
        help='result of the full stage 2, for the rows w/REP: it is not '
        'trained then (Tables 4b and 4c compare it with others, which are '
        'trained by the schedule)',
    )
    add('--gpus', type=int, default=1, help='processes of a run; see above')
    add(
        '--work-dir',
        type=Path,
        help='folder of runs and tables (default: work_dirs/ablation_DATA)',
    )
    add(
        '--dry-run',
        action='store_true',
        help='show the steps and how long they take, and run nothing',
    )
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='settings for every training',
    )
    add('--debug', action='store_true', help='show tracebacks of errors')
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.gpus < 1:
        parser.error('--seeds and --gpus must be at least 1')
    if args.rep and not args.rep.is_file():
        parser.error(f'--rep {args.rep} is not a file')
    return args


def choose_tables(names: Sequence[str], rows: Sequence[str]) -> list[Table]:
    """Tables by name, with the chosen rows only.

    Raises:
        ValueError: If a table lacks one of the rows.
    """
    chosen = list(TABLES) if 'all' in names else list(names)
    return [TABLES[name].select(tuple(rows)) for name in chosen]


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Make the tables."""
    args = parse_args(argv)
    settings = Settings(
        work_dir=args.work_dir or Path(f'work_dirs/ablation_{args.data}'),
        data=args.data,
        seeds=args.seeds,
        factor=args.iters_scale,
        own_pretraining=args.own_pretraining,
        rep=args.rep,
        gpus=args.gpus,
        options=dict(args.cfg_options),
    )
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
    heads = 'step', 'config', 'state', Column('minutes', justify='right')
    drawn = RichTable(*heads, title='Steps')
    for job in planner.jobs(tables):
        state, minutes = 'done', ''
        if not planner.done(job):
            state = 'begun' if planner.half_trained(job) else 'to do'
            seconds = planner.estimate(job)
            unknown += seconds is None
            total += seconds or 0.0
            minutes = '?' if seconds is None else f'{seconds / 60:.1f}'
        drawn.add_row(job.name, job.config, state, minutes)
    drawn.caption = (
        f'{total / 3600:.1f} hours in all, from measured times of one '
        f'iteration; {unknown} steps of unknown length (?): nothing of their '
        'kind was measured yet.'
    )
    return drawn


def cells(table: Table, planner: Planner) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: title, the paper's and our figures, in percent."""
    in_paper = {metric for row in table.rows for metric in row.paper}
    shown = [metric for metric in table.metrics if metric in in_paper]

    def text(row: Row, metric: str) -> str:
        run = planner.shared(row.run), planner.seeds_of(row.run)
        figure = planner.store.figure(*run, table.evaluation, metric)
        # AP is kept as a share, accuracy in percent.
        factor = 1 if metric.startswith('region/') else 100
        return '-' if figure is None else figure.text(factor)

    heads = ['', *(f'{table.metrics[m]} (paper)' for m in shown)]
    rows = []
    for row in table.rows:
        paper = [
            f'{row.paper[m]:.1f}' if m in row.paper else '-' for m in shown
        ]
        measured = [text(row, metric) for metric in table.metrics]
        rows.append([row.title, *paper, *measured])
    return [*heads, *table.metrics.values()], rows


def render_rich(table: Table, planner: Planner) -> RichTable:
    """A table for the terminal."""
    heads, rows = cells(table, planner)
    columns = [Column(head, justify='right') for head in heads[1:]]
    drawn = RichTable('', *columns, title=f'Table {table.name}: {table.title}')
    for row in rows:
        drawn.add_row(*row)
    return drawn


def render_markdown(table: Table, planner: Planner) -> str:
    """A table for a document, with how it was made."""
    heads, rows = cells(table, planner)
    settings = planner.settings
    ruler = ['---', *['---:'] * (len(heads) - 1)]
    lines = [f'| {" | ".join(row)} |' for row in (heads, ruler, *rows)]
    pretraining = 'one for all seeds'
    if settings.own_pretraining:
        pretraining = 'one per seed'
    if settings.rep:
        pretraining = f'of the rows w/REP {settings.rep.name}'
    note = (
        f'On {settings.data}, in percent: mean ± standard deviation of the '
        'sample (number of seeds), or one seed; schedules times '
        f'{settings.factor:g}; pretraining: '
        f'{pretraining}. '
        'The paper: ViT-L/16 on LVIS.'
    )
    title = f'### Table {table.name}: {table.title}'
    notes = [note, table.note] if table.note else [note]
    return '\n'.join([title, '', *lines, '', *notes, ''])
