# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Line charts of trainings, for a page in light or dark colours."""

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .logs import StageLog

_LEVEL = re.compile(r'_p(\d)$')
_NAMES = {
    'loss_rpn': 'objectness loss (L1)',
    'rpn_target': 'mean target (cosine)',
    'loss_rpn_center': 'centerness',
    'loss_rpn_bbox': 'proposal boxes',
    'loss_cls': 'classes',
    'loss_bbox': 'boxes',
    'loss_mask': 'masks',
    'loss_distill': 'distillation',
}
# Middle tones: legible on a white and on a black page.
_GREY = '#8a8f98'
_COLORS = ['#3b82f6', '#ea580c', '#10a37f', '#a855f7', '#dc2680', _GREY]
# Text stays text, and black text has no colour in the SVG: it gets the page's.
_STYLE = {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'dito',
    'text.parse_math': False,
    'font.size': 11,
    'legend.frameon': False,
    'axes.edgecolor': _GREY,
    'axes.grid': True,
    'axes.grid.axis': 'y',
    'axes.prop_cycle': matplotlib.cycler(linestyle=['-', '--', ':'])
    * matplotlib.cycler(color=_COLORS),
    'axes.spines.right': False,
    'axes.spines.top': False,
    'grid.alpha': 0.4,
    'grid.color': _GREY,
    'lines.linewidth': 2,
    'lines.markersize': 5,
    'xtick.color': _GREY,
    'xtick.labelcolor': 'black',
    'ytick.color': _GREY,
    'ytick.labelcolor': 'black',
}
_NO_METADATA = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))


class Series(NamedTuple):
    """A line through points (x, y), broken where y is not finite."""

    name: str
    points: Sequence[tuple[float, float]]


class Chart(NamedTuple):
    """Some lines with one pair of axes."""

    title: str
    series: Sequence[Series]
    from_zero: bool = False  #: Whether the vertical axis begins at 0.


def draw_chart(chart: Chart) -> Figure | None:
    """Draw the lines of a chart, the title is left to the page.

    Lines without a finite value are left out; None if no line is left. The
    legend gives each line's last finite value.
    """
    figure = Figure((6.1, 3.9), layout='constrained')
    axes = figure.subplots()
    for item in chart.series:
        x, y = np.asarray(item.points, float).reshape(-1, 2).T
        finite = np.isfinite(y)
        if not finite.any():
            continue
        y = np.where(finite, y, np.nan)
        # A value between two that are missing makes no line.
        left, right = np.r_[False, finite[:-1]], np.r_[finite[1:], False]
        alone = np.flatnonzero(finite & ~left & ~right)
        label = f'{item.name}: {y[finite][-1]:.3g}'
        # A line at 0 lies over the axis, not half below it.
        above = dict(clip_on=False, zorder=3)
        axes.plot(x, y, label=label, marker='o', markevery=alone, **above)
    if not axes.lines:
        return None
    if chart.from_zero and axes.dataLim.ymin >= 0:
        axes.set_ylim(bottom=0)
    axes.set_xlabel('iteration')
    figure.legend(loc='outside lower left', ncols=2, markerscale=0)
    return figure


def chart_svg(chart: Chart) -> str:
    """A chart as an ``<svg>`` element, empty if there is nothing to draw.

    Names out of a log are escaped; text has the colour of the page.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = draw_chart(chart)
        if figure is None:
            return ''
        stream = io.StringIO()
        figure.savefig(
            stream, format='svg', transparent=True, metadata=_NO_METADATA
        )
    text = stream.getvalue()
    return text[text.index('<svg') :]


def stage_charts(log: StageLog) -> list[Chart]:
    """Charts of a training of any stage, each with at least one line."""
    losses, recalls = log.keys('loss_'), log.keys('recall_')
    rpn = [k for k in losses if 'rpn' in k]
    contrastive = [k for k in losses if f'recall_{k[5:]}' in recalls]
    groups = {
        'Contrastive loss': contrastive,
        'R@1 within the batch': recalls,
        'Proposal head': rpn + log.keys('rpn_target'),
        'Box and mask head, distillation': [
            k for k in losses if k not in rpn + contrastive
        ],
    }
    charts = []
    for title, keys in groups.items():
        lines = [Series(_name(key), log.curve(key)) for key in keys]
        charts.append(Chart(title, lines, title != 'Contrastive loss'))
    return [chart for chart in charts if chart.series]


def _name(key: str) -> str:
    level = _LEVEL.search(key)
    if level:
        return f'level P{level[1]}'
    return _NAMES.get(key, key.removeprefix('loss_').replace('_', ' '))
