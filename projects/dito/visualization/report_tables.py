# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tables of the report: results, times, commands, versions."""

import os
import platform
import shlex
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, Mapping

from dito.utils.env import TESTED
from dito.version import __version__

from .page import table

#: Name in metrics.json -> what it is, what it means. All are shares of 1.
#: What region-centric pretraining (REP) changes stands first.
HEADLINES: Dict[str, tuple] = dict(
    rep_map_hits_before=('Map highest inside the object, before REP',
                         'share of objects where the similarity of picture '
                         'and text is highest inside the object; features of '
                         'the frozen backbone'),
    rep_map_hits_after=('Map highest inside the object, after REP',
                        'the same for the box head of stage 2'),
    rep_box_naming_novel=('Box head names novel objects',
                          'share of annotated novel boxes that the box head '
                          'names right after stage 2 alone'),
    novel_ap50=('Box AP50, novel classes',
                'average precision at an overlap of 50 % on classes without '
                'training boxes'),
    base_ap50=('Box AP50, base classes',
               'the same on classes with training boxes'),
    novel_mask_ap=('Mask AP, novel classes',
                   'masks, mean over overlaps of 50 to 95 % (AP<sub>r</sub> '
                   'of the paper)'),
    base_mask_ap=('Mask AP, base classes', 'the same on base classes'),
    box_ap=('Box AP, all classes', 'boxes, mean over overlaps'),
    mask_ap=('Mask AP, all classes', 'masks, mean over overlaps'),
    zero_shot_top1=('Zero-shot accuracy',
                    'the image tower before detection: share of held-out '
                    'single objects named right among all classes'),
    zero_shot_novel_top1=('Zero-shot accuracy, novel classes',
                          'the same for objects of the novel classes'),
)
_OTHERS = ('seconds', 'stage_seconds', 'commands')


def headline_table(metrics: Mapping[str, Any]) -> str:
    """Results in percent with a line on each; unknown numbers come last.

    Args:
        metrics (dict): Figures by the names of :data:`HEADLINES` and others.

    Returns:
        str: HTML, empty without figures.
    """
    rows = [(label, f'{100 * metrics[key]:.1f} %', meaning)
            for key, (label, meaning) in HEADLINES.items() if key in metrics]
    rows += [(escape(key), f'{value:.4g}', '')
             for key, value in metrics.items()
             if key not in HEADLINES and key not in _OTHERS
             and isinstance(value, (int, float))]
    if not rows:
        return ''
    return table(rows, ('metric', 'value', 'what it is'), numbers=(1, ))


def duration(seconds: float) -> str:
    """Write a time span: '48 s', '3 min 20 s', '1 h 5 min'."""
    seconds = round(seconds)
    if seconds < 60:
        return f'{seconds} s'
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f'{minutes} min {seconds} s'
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes} min'


def time_table(metrics: Mapping[str, Any]) -> str:
    """How long each step took, and all together."""
    steps = metrics.get('stage_seconds') or {}
    rows = [(escape(name), duration(value)) for name, value in steps.items()]
    if 'seconds' in metrics:
        rows.append(('all together', duration(metrics['seconds'])))
    if not rows:
        return ''
    return table(rows, ('step', 'time'), numbers=(1, ))


def command_lines(metrics: Mapping[str, Any]) -> str:
    """The commands that were run, to be run again."""
    lines: List[str] = []
    for name, words in (metrics.get('commands') or {}).items():
        words = [_relative(str(word)) for word in words]
        lines.append(f'# {name}\npython {shlex.join(words)}')
    if not lines:
        return ''
    return f'<pre>{escape(chr(10).join(lines))}</pre>'


def _relative(word: str) -> str:
    """Shorten a path below the current folder, where commands are run."""
    here = f'{Path.cwd()}{os.sep}'
    return word[len(here):] if word.startswith(here) else word


def environment() -> str:
    """Versions of what was used, and the machine."""
    rows = [('DITO for MMDetection', __version__),
            ('Python', platform.python_version())]
    for names in TESTED:
        for name in names:
            try:
                rows.append((name, metadata.version(name)))
                break
            except metadata.PackageNotFoundError:
                continue
    rows.append(('machine', f'{platform.system()} {platform.machine()}, '
                 f'{os.cpu_count()} CPU cores'))
    return table([tuple(map(escape, row)) for row in rows],
                 ('package', 'version'))
