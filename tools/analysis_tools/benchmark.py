# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Speed and memory of all stages beside other projects, on a CPU or a GPU.

Measures forward passes and training steps of the backbone and of stages 1 to
3, pictures from end to end, and loaders: images/s, the share of the rate that
products of large matrices reach on the same device, and peak memory against
what `dito memory` says. A case, its peer (ViTSAM, open_clip, MMDetection's
Mask R-CNN) and the product of matrices take turns in one process; ratios are
medians over turns. A case for which memory or the budget is missing says so in
its row, and the others go on.

Example:
    python tools/analysis_tools/benchmark.py --json new.json \
        --check docs/benchmarks/cpu.json
"""

import argparse
import platform
import shlex
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any

from benchmark_cases import (
    NO_TIME,
    PROFILES,
    Case,
    Row,
    Setup,
    Worker,
    empty_row,
)
from rich.table import Table

from dito.cli.errors import ExitCode, one_sentence_errors
from dito.evaluation.report import print_table
from dito.utils.files import read_json, write_json, write_text

# What is compared with stored figures: both sides of each in one run.
_RATIOS = ('ratio', 'share', 'peer_share', 'memory_ratio')
_GOALS = dict(forward=0.5, train=0.4)
_PACKAGES = (
    'torch',
    'onedl-mmdetection',
    'onedl-mmcv',
    'onedl-mmpretrain',
    'open_clip_torch',
)
# Of a plan: seconds that a process takes to start, build and count.
_START = 12.0
_HOW = (
    'Ours, the peer and the product of matrices take turns in one process; '
    "shares and ratios are medians over turns, of the processor's time where "
    'one thread of it computes. The share is that of the rate '
    'of the product: operations as in `dito.engine.throughput`, without '
    'second passes. "Forward" of stage 3 ends with boxes and masks, and '
    '"picture" is a call with a picture in memory, in float32. Against '
    '"ViTSAM of mmpretrain" and "open_clip" sizes are equal; open_clip pads '
    'captions to 77 tokens. Mask R-CNN with ResNet-50 is another, smaller '
    'network: there the shares compare, the times do not. The peak is that '
    'over the loaded model. Ratios that differ by 30 % from these are what '
    '`--check` reports.'
)


class Refusal(ValueError):
    """What was asked for cannot be done, in one sentence."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        '--profile',
        choices=list(PROFILES),
        help='cases: those of the device by default',
    )
    add('--only', nargs='+', help='cases whose name holds one of these')
    add('--device', help='a GPU if there is one')
    add(
        '--threads',
        type=int,
        default=0,
        help="CPU threads; 0 for torch's own choice",
    )
    add(
        '--budget',
        type=float,
        default=600,
        help='seconds; cases that do not fit are left out, the last first',
    )
    add('--json', help='file for the figures')
    add('--page', help='file for the figures as a page')
    add(
        '--update',
        help='file of figures of the same device whose other cases are kept',
    )
    add('--read', help='file of figures to show or check instead of measuring')
    add('--check', help='file of figures whose ratios must be met')
    add(
        '--tolerance',
        type=float,
        default=0.3,
        help='relative difference of ratios that --check passes',
    )
    add(
        '--plan',
        type=float,
        metavar='TFLOPS',
        help='count operations only, and say how long a device of this '
        'matrix rate takes',
    )
    add('--note', default='', help='a sentence for the page')
    add('--debug', action='store_true', help='show tracebacks of errors')
    args = parser.parse_args(argv)
    if args.budget <= 0 or not 0 < args.tolerance < 1:
        parser.error('--budget must be above 0, --tolerance between 0 and 1')
    if args.plan is not None and args.plan <= 0:
        parser.error('--plan must be above 0')
    return args


# ------------------------------------------------------------------ all cases


def chosen(profile: str, only: Sequence[str] | None) -> list[Case]:
    """Cases of a profile, or those of them with a name.

    Raises:
        Refusal: If there is none of that name.
    """
    cases = list(PROFILES[profile])
    if only:
        cases = [c for c in cases if any(text in c.name for text in only)]
    if not cases:
        raise Refusal(
            f'No case of the profile {profile} has {" or ".join(only)} in '
            f'its name; there are: '
            f'{"; ".join(c.name for c in PROFILES[profile])}.'
        )
    return cases


def measure_all(
    cases: Sequence[Case], setup: Setup, budget: float
) -> Iterator[Row]:
    """Measure cases while the budget lasts."""
    end = time.monotonic() + budget
    worker = Worker(setup)
    for case in cases:
        left = end - time.monotonic()
        if left <= 0:
            yield empty_row(case, NO_TIME)
            continue
        print(f'{case.name} ...', file=sys.stderr, flush=True)
        yield from worker.measure(case, left)
    worker.close()


def plan(cases: Sequence[Case], tflops: float, budget: float) -> list[Row]:
    """Say what will be measured and how long it should take.

    Args:
        cases (sequence[Case]): In order.
        tflops (float): Matrix rate of the device.
        budget (float): Seconds.

    Returns:
        list[dict]: A row for each part, with ``tflop`` of a call and
        ``planned_seconds`` of all calls at the goals, both sides.
    """
    from benchmark_sides import operations

    rows, total = [], 0.0
    for case in cases:
        parts = operations(case) or {'': 0}
        for number, (part, flops) in enumerate(parts.items()):
            one = flops / (1e12 * tflops * _GOALS.get(part, 1))
            # Both sides, an untimed turn, and one for memory.
            seconds = (2 * (case.repeat + 1) + 1) * one
            seconds += 0 if number else _START
            total += seconds
            row = empty_row(case, 'planned' if total < budget else 'no time')
            rows.append(
                dict(
                    row,
                    part=part,
                    tflop=flops / 1e12,
                    planned_seconds=round(seconds, 1),
                )
            )
    return rows


def device_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the figures belong to."""
    import torch

    from dito.cli import common

    device = common.device_of(args)
    kind = torch.device(device).type
    name = platform.machine() + ' CPU'
    if kind == 'cuda':
        name = torch.cuda.get_device_name(device)
    if args.threads:
        torch.set_num_threads(args.threads)
    return dict(
        device=device,
        name=name,
        dtype='bfloat16' if kind == 'cuda' else 'float32',
        threads=torch.get_num_threads(),
        versions=_versions(),
        python=platform.python_version(),
    )


def _versions() -> dict[str, str]:
    """Versions of the packages that are there."""
    found = {}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def run(args: argparse.Namespace, given: Sequence[str]) -> dict[str, Any]:
    """Measure, plan or read."""
    if args.read:
        return read_json(args.read)
    where = device_of(args)
    profile = args.profile or (
        'gpu' if where['dtype'] == 'bfloat16' or args.plan else 'cpu'
    )
    cases = chosen(profile, args.only)
    kept = [word for word in given if word != '--debug']
    result = dict(
        command=shlex.join(
            ['python', 'tools/analysis_tools/benchmark.py', *kept]
        ),
        profile=profile,
        budget=args.budget,
        note=args.note,
    )
    if args.plan:
        result['planned_tflops'] = args.plan
        result['rows'] = plan(cases, args.plan, args.budget)
        return result
    setup = Setup(
        where['device'], where['dtype'] == 'bfloat16', where['threads']
    )
    start = time.monotonic()
    result.update(where)
    result['rows'] = list(measure_all(cases, setup, args.budget))
    result['seconds'] = round(time.monotonic() - start, 1)
    return _updated(result, read_json(args.update)) if args.update else result


def _updated(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """Keep the cases of older figures that were not measured again."""
    for key in ('profile', 'name', 'dtype', 'threads', 'versions'):
        if new[key] != old.get(key):
            raise Refusal(
                f'The figures to update have the {key} {old.get(key)!r}, the '
                f'new ones {new[key]!r}; measure all anew.'
            )
    rows: dict[str, list[Row]] = {}
    for row in old['rows']:
        rows.setdefault(row['name'], []).append(row)
    for name in {row['name'] for row in new['rows']}:
        rows[name] = [row for row in new['rows'] if row['name'] == name]
    kept: list[Row] = []
    for case in PROFILES[new['profile']]:
        kept += rows.get(case.name) or [empty_row(case, 'not measured')]
    return dict(
        new,
        rows=kept,
        seconds=old['seconds'] + new['seconds'],
        command=old['command'],
        note=new['note'] or old['note'],
    )


# ---------------------------------------------------------------- comparing


def differences(
    new: dict[str, Any], old: dict[str, Any], tolerance: float
) -> list[str]:
    """Say which ratios differ from stored ones.

    Args:
        new (dict): Figures.
        old (dict): Stored figures, of the same profile.
        tolerance (float): Relative difference that passes.

    Returns:
        list[str]: A sentence for each ratio, and for each case that was
        measured and no longer is.

    Raises:
        Refusal: If they are of different profiles or none.
    """
    if new.get('profile') != old.get('profile') or 'rows' not in old:
        raise Refusal(
            f'The stored figures are of the profile {old.get("profile")!r}, '
            f'the new ones of {new.get("profile")!r}; compare equal ones.'
        )
    now = {(row['name'], row['part']): row for row in new['rows']}
    status = {row['name']: row['status'] for row in new['rows']}
    found = []
    for row in old['rows']:
        title = f'{row["name"]}, {row["part"]}'
        got = now.get((row['name'], row['part']))
        if row['status'] != 'done' or row['name'] not in status:
            continue
        if got is None or got['status'] != 'done':
            found.append(
                f'{title}: measured before, now {status[row["name"]]}'
            )
            continue
        found += _differing(title, got, row, tolerance)
    return found


def _differing(title: str, new: Row, old: Row, tolerance: float) -> list[str]:
    """Sentences on the ratios of one row."""
    found = []
    for key in _RATIOS:
        if key not in old:
            continue
        if key not in new:
            found.append(f'{title}: {key} is missing, was {old[key]:.2f}')
        elif abs(new[key] / old[key] - 1) > tolerance:
            found.append(
                f'{title}: {key} is {new[key]:.3g}, was {old[key]:.3g}'
            )
    return found


# ------------------------------------------------------------------- showing


_HEADS = (
    'case',
    'part',
    'images/s',
    'share of matrix rate',
    'peer',
    'its share',
    'times as fast',
    'peak, MiB',
    'of the peer',
    '`dito memory` says',
)


def cells(row: Row) -> list[str]:
    """A row as texts."""
    if row['status'] != 'done':
        return [row['name'], row['part'] or '-', row['status']] + ['-'] * 7

    def text(key: str, form: str) -> str:
        return form.format(row[key]) if row.get(key) is not None else '-'

    share = text('share', '{:.0%}')
    goal = _GOALS.get(row['part'])
    if 'share' in row and goal:
        share += f' (goal {goal:.0%})'
    return [
        row['name'],
        row['part'],
        f'{row["images_per_second"]:,.3g}',
        share,
        text('peer', '{}'),
        text('peer_share', '{:.0%}'),
        text('ratio', '{:.2f}'),
        text('memory_mib', '{:,.0f}'),
        text('peer_memory_mib', '{:,.0f}'),
        text('memory_said_mib', '{:,.0f}'),
    ]


def needs(rows: Sequence[Row]) -> list[list[str]]:
    """Workers of a loader that each training step needs."""
    rates = {
        row['size']: row['images_per_second']
        for row in rows
        if row['stage'] == 'loader' and row['status'] == 'done'
    }
    found = []
    for row in rows:
        kind = 'boxes' if row['stage'] == 'stage 3' else 'pairs'
        if row['part'] == 'train' and row['stage'][:5] == 'stage':
            if kind in rates and row['status'] == 'done':
                wanted, rate = row['images_per_second'], rates[kind]
                found.append(
                    [
                        row['name'],
                        f'{wanted:,.3g}',
                        f'{rate:,.3g}',
                        f'{wanted / rate:.2g}',
                    ]
                )
    return found


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of a page."""
    lines = [heads, ['---'] * len(heads), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def page(result: dict[str, Any]) -> str:
    """Write figures as a page.

    Args:
        result (dict): As of the json.

    Returns:
        str: Markdown.
    """
    planned = 'planned_tflops' in result
    title = 'a GPU' if result['profile'] == 'gpu' else 'a CPU'
    parts = [f'# Speed and memory on {title}']
    parts += _plan_page(result) if planned else _figures_page(result)
    return '\n\n'.join(part.rstrip('\n') for part in parts) + '\n'


def _figures_page(result: dict[str, Any]) -> Iterator[str]:
    """Parts of a page of figures."""
    versions = ', '.join(f'{k} {v}' for k, v in result['versions'].items())
    yield _wrapped(
        f'Written by the command below in {result["seconds"]:.0f} s: '
        f'{result["name"]}, threads: {result["threads"]}, {result["dtype"]}, '
        f'Python {result["python"]}, {versions}. {result["note"]}'
    )
    yield f'```bash\n{_in_lines(result["command"])}\n```'
    yield _wrapped(_HOW)
    rows = [r for r in result['rows'] if r.get('part') != 'load']
    yield markdown(_HEADS, [cells(row) for row in rows])
    loads = [r for r in result['rows'] if r.get('part') == 'load']
    if loads:
        yield '## Loaders'
        yield _wrapped(
            'Images per second of one worker, and workers that a training '
            'step of the rate above needs.'
        )
        yield markdown(
            ('loader', 'images/s', 'peer', 'times as fast'),
            [[c[0], c[2], c[4], c[6]] for c in (cells(row) for row in loads)],
        )
        yield markdown(
            ('step', 'images/s', 'of a worker', 'workers'),
            needs(result['rows']),
        )


def _plan_page(result: dict[str, Any]) -> Iterator[str]:
    """Parts of a page of what will be measured."""
    rows = result['rows']
    total = sum(row['planned_seconds'] for row in rows)
    late = [row['name'] for row in rows if row['status'] != 'planned']
    yield _wrapped(
        f'**Not measured: there was no GPU.** {result["note"]} The command '
        'below measures all of it on one GPU and writes this page anew, with '
        'images/s, the share of the measured matrix rate in bfloat16 (goals: '
        f'{_GOALS["forward"]:.0%} of it forward, {_GOALS["train"]:.0%} in '
        'training), peak memory against what `dito memory` says, rates of '
        'the loaders, and the same of the peers, as on the '
        '[page of a CPU](cpu.md).'
    )
    yield (
        '```bash\npython tools/analysis_tools/benchmark.py --budget '
        f'{result["budget"]:.0f} \\\n    --json docs/benchmarks/gpu.json '
        '--page docs/benchmarks/gpu.md\n```'
    )
    yield _wrapped(
        f'By its operations it takes {total:.0f} s of the '
        f'{result["budget"]:.0f} s it may, on a GPU whose products of large '
        f'matrices reach {result["planned_tflops"]:.0f} TFLOP/s and if the '
        'goals are met, peers as slow as ours; '
        f'{_START:.0f} s a case are reckoned for starting, building and '
        'counting. '
        + (
            f'Left out for want of time would be: {"; ".join(late)}.'
            if late
            else 'Cases that do not fit are left out, the last first, and '
            'named.'
        )
    )
    yield markdown(
        ('case', 'part', 'TFLOP a call', 'seconds'),
        [
            [
                row['name'],
                row['part'] or 'all',
                f'{row["tflop"]:.3g}' if row['tflop'] else '-',
                f'{row["planned_seconds"]:.1f}',
            ]
            for row in rows
        ],
    )
    yield 'The plan is written by:'
    yield f'```bash\n{_in_lines(result["command"])}\n```'


def _wrapped(text: str) -> str:
    return textwrap.fill(' '.join(text.split()), 88, break_on_hyphens=False)


def _in_lines(command: str) -> str:
    """A command in lines of a page."""
    lines = textwrap.wrap(
        command, 84, break_on_hyphens=False, break_long_words=False
    )
    return ' \\\n    '.join(lines)


def show(result: dict[str, Any]) -> Table:
    """The figures for the terminal."""
    planned = 'planned_tflops' in result
    heads = ('case', 'part', 'TFLOP', 'seconds') if planned else _HEADS
    table = Table(title=f'Profile {result["profile"]}')
    for head in heads:
        table.add_column(head.replace('`', ''))
    for row in result['rows']:
        line = cells(row)
        if planned:
            line = [*line[:2], f'{row["tflop"]:.3g}']
            line.append(f'{row["planned_seconds"]:.1f}')
        table.add_row(*line)
    return table


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show, write and compare."""
    args = parse_args(argv)
    # Before the work: what cannot be compared is not worth it.
    old = read_json(args.check) if args.check else None
    try:
        result = run(args, sys.argv[1:] if argv is None else argv)
        found = differences(result, old, args.tolerance) if old else []
    except Refusal as error:
        print(f'error: {error}', file=sys.stderr)
        return ExitCode.USAGE
    print_table(show(result))
    if args.json:
        write_json(args.json, result, indent=1)
    if args.page:
        write_text(args.page, page(result))
    for sentence in found:
        print(sentence)
    if old:
        print(
            f'{len(found)} ratios differ by more than {args.tolerance:.0%} '
            f'from {args.check}.'
        )
    return ExitCode.FINDINGS if found else ExitCode.RIGHT


if __name__ == '__main__':
    raise SystemExit(main())
