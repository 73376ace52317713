# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The paper's ablation tables."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.table import Column
from rich.table import Table as RichTable

from dito.evaluation.report import print_table
from dito.reports.ablation_runner import Planner, Settings, run_tables
from dito.reports.ablation_tables import TABLES, Row, Table
from dito.utils.files import write_text

from .options import command


def choose_tables(names: Sequence[str], rows: Sequence[str]) -> list[Table]:
    """Tables by name, with the chosen rows only, else a ValueError."""
    chosen = list(TABLES) if 'all' in names else list(names)
    return [TABLES[name].select(tuple(rows)) for name in chosen]


@command
def main(args: Namespace) -> int:
    """Make the tables."""
    settings = Settings(
        work_dir=Path(args.work_dir or f'work_dirs/ablation_{args.dataset}'),
        data=args.dataset,
        seeds=args.seeds,
        factor=args.iters_scale,
        own_pretraining=args.own_pretraining,
        rep=args.rep_checkpoint,
        gpus=args.gpus,
        options=dict(args.cfg_options or {}),
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
