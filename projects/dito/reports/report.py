# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Report of a quickstart that has run, one HTML file with everything in it."""

import base64
import io
import os
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from dito.apis import DITOInferencer
from dito.engine.hooks.evaluation_report_hook import model_facts
from dito.utils.env import TESTED
from dito.utils.files import read_json, write_json, write_text
from dito.version import __version__
from dito.visualization.drawing import draw_heat_map, draw_objects, outline
from dito.visualization.objects import HIT, LEGEND, SHOWN_IOU, WRONG

from .logs import StageLog, read_stage_log
from .samples import (
    SCORE_THR,
    AnnotatedSet,
    DetectionSample,
    PointingGame,
    SimilaritySample,
    detect_samples,
    first_with_novel,
    load_models,
    pointing_game,
    read_annotated,
    similarity_samples,
)

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


NUM_DETECTIONS = 8
NUM_SIMILARITY = 4
NUM_POINTING = 100
# Small pictures are enlarged to about this width, twice that of the page.
_WIDTH = 840
# Legible where two of them share the width of a phone.
_FONT = 32

#: What shares of 1 in metrics.json are; what region-centric pretraining (REP)
#: changes comes first. The page says what they mean.
HEADLINES = dict(
    rep_map_hits_before='Map highest inside the object, before REP',
    rep_map_hits_after='Map highest inside the object, after REP',
    rep_box_naming_novel='Box head names novel objects',
    novel_ap50='Box AP50, novel classes',
    base_ap50='Box AP50, base classes',
    novel_mask_ap='Mask AP, novel classes',
    base_mask_ap='Mask AP, base classes',
    box_ap='Box AP, all classes',
    mask_ap='Mask AP, all classes',
    zero_shot_top1='Zero-shot accuracy',
    zero_shot_novel_top1='Zero-shot accuracy, novel classes',
)
_STAGES = dict(
    rep='Stage 2: region-centric pretraining',
    dito='Stage 3: detection finetuning',
)


@dataclass(frozen=True)
class ReportData:
    """What a report is made of; empty parts are left out of it."""

    #: As in metrics.json: figures by the names of :data:`HEADLINES` and
    #: others, times and commands of the steps.
    metrics: dict[str, Any] = field(default_factory=dict)
    protocol: str = ''  #: How they were measured.
    stages: Sequence[StageLog] = ()
    detections: Sequence[DetectionSample] = ()
    score_thr: float = SCORE_THR  #: Least score of these detections.
    similarity: Sequence[SimilaritySample] = ()
    pointing: PointingGame | None = None


def write_report(data: ReportData, out: Path) -> Path:
    """Write a report into a file, as a whole or not at all, and return it."""
    # Names and commands out of data are foreign text: all is escaped.
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent / 'templates'),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(percent=_percent, data_uri=image_uri)
    text = pages.get_template('report.html').render(
        data=data,
        results=_results(data.metrics),
        legend=LEGEND,
        shown_iou=SHOWN_IOU,
        detections=[_detection(sample) for sample in data.detections],
        similarity=[_similarity(sample) for sample in data.similarity],
        trainings=[(s.title, c) for s in data.stages if (c := _charts(s))],
        times=_times(data.metrics),
        commands=_commands(data.metrics),
        versions=_versions(),
    )
    write_text(out, text)
    return out


def image_uri(image: np.ndarray) -> str:
    """Encode a picture (H, W, 3), RGB, uint8, into ``data:image/jpeg;...``."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 88]
    done, content = cv2.imencode('.jpg', image[..., ::-1], options)
    if not done:
        raise ValueError(
            f'A picture of shape {image.shape} and type {image.dtype} cannot '
            'be written as JPEG.'
        )
    code = base64.b64encode(content.tobytes()).decode()
    return f'data:image/jpeg;base64,{code}'


def _percent(share: float, digits: int = 0) -> str:
    return f'{100 * share:.{digits}f} %'


def _results(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Labels, values and keys of results; unknown numbers come last."""
    found = {key: metrics[key] for key in HEADLINES if key in metrics}
    rows = [(HEADLINES[k], _percent(v, 1), k) for k, v in found.items()]
    known = (*HEADLINES, 'seconds')
    return rows + [
        (key, f'{value:.4g}', '')
        for key, value in metrics.items()
        if key not in known and isinstance(value, (int, float))
    ]


def duration(seconds: float) -> str:
    """Write a time span: '48 s', '3 min 20 s', '1 h 5 min'."""
    minutes, seconds = divmod(round(seconds), 60)
    if not minutes:
        return f'{seconds} s'
    if minutes < 60:
        return f'{minutes} min {seconds} s'
    return f'{minutes // 60} h {minutes % 60} min'


def _times(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How long each step took, and all together."""
    times = dict(metrics.get('stage_seconds') or {})
    if 'seconds' in metrics:
        times['all together'] = metrics['seconds']
    return [(name, duration(value)) for name, value in times.items()]


def _commands(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The commands that were run, with paths from the current folder on."""
    here = f'{Path.cwd()}{os.sep}'
    return [
        (name, shlex.join(str(word).removeprefix(here) for word in words))
        for name, words in (metrics.get('commands') or {}).items()
    ]


def _versions() -> list[tuple[str, str]]:
    """Versions of what was used, and the machine."""
    rows = [
        ('DITO for MMDetection', __version__),
        ('Python', platform.python_version()),
    ]
    for names in TESTED:
        for name in names:
            try:
                rows.append((name, metadata.version(name)))
                break
            except metadata.PackageNotFoundError:
                continue
    cores = f'{os.cpu_count()} CPU cores'
    machine = f'{platform.system()} {platform.machine()}, {cores}'
    return [*rows, ('machine', machine)]


def _detection(sample: DetectionSample) -> dict[str, Any]:
    """What the page shows of an image: pictures with texts, and counts."""
    sides, pictures = dict(Annotated=sample.truth, Found=sample.judged), []
    scale = max(1, round(_WIDTH / sample.image.shape[1]))
    for kind, objects in sides.items():
        drawn = draw_objects(sample.image, objects, scale, _FONT)
        spoken = ', '.join(item.label for item in objects) or 'nothing'
        pictures.append((drawn, f'{kind}: {spoken}', kind.lower()))
    verdicts = [item.verdict for item in sides['Found']]
    counts = {kind: verdicts.count(kind) for kind in (HIT, WRONG)}
    return dict(sample=sample, pictures=pictures, **counts)


def _similarity(sample: SimilaritySample) -> dict[str, Any]:
    """What the page shows of a text in an image: pictures with texts."""
    scale = max(1, round(_WIDTH / sample.image.shape[1]))
    image = draw_objects(sample.image, (), scale)
    if sample.box is not None:
        image = outline(image, sample.box, scale)
    pictures = [(image, sample.name, sample.name)]
    for when, values in (('before', sample.before), ('after', sample.after)):
        heat = draw_heat_map(sample.image, values, scale, sample.box)
        low, high = 100 * values.min(), 100 * values.max()
        text = f'Similarity with "{sample.text}" {when} REP'
        pictures.append((heat, text, f'{when}: {low:.0f} to {high:.0f} %'))
    return dict(sample=sample, pictures=pictures)


def _charts(stage: StageLog) -> list[tuple[str, str]]:
    """Charts of a training: title and SVG element."""
    drawn = [(chart.title, chart_svg(chart)) for chart in stage_charts(stage)]
    return [(title, svg) for title, svg in drawn if svg]


def quickstart_report(
    quickstart_dir: Path,
    data_root: Path,
    device: str = 'cpu',
    out: Path | None = None,
) -> Path:
    """Write report.html of a quickstart, and the maps' hits to metrics.json.

    FileNotFoundError if something of a finished quickstart is missing.
    """
    path = quickstart_dir / 'metrics.json'
    if not path.is_file():
        raise FileNotFoundError(
            f'There is no {path}; the report describes a finished quickstart.'
        )
    metrics = read_json(path)
    stages = [
        read_stage_log(quickstart_dir / name, title)
        for name, title in _STAGES.items()
    ]
    data = read_annotated(data_root / 'annotations/val.json', data_root)
    detector, similarity = load_models(quickstart_dir, device)
    pointing = pointing_game(similarity, data.images[:NUM_POINTING])
    if pointing is not None:
        hits = dict(
            rep_map_hits_before=round(pointing.before, 5),
            rep_map_hits_after=round(pointing.after, 5),
        )
        metrics = {**hits, **metrics, **hits}  # They come first.
        write_json(path, metrics, indent=1)
    novel = first_with_novel(data.images)
    content = ReportData(
        metrics,
        _protocol(detector, data),
        stages,
        detect_samples(detector, data, novel[:NUM_DETECTIONS], SCORE_THR),
        SCORE_THR,
        similarity_samples(similarity, novel, NUM_SIMILARITY),
        pointing,
    )
    return write_report(content, out or quickstart_dir / 'report.html')


def _protocol(detector: DITOInferencer, data: AnnotatedSet) -> str:
    """Say in a sentence what the figures of the evaluation count."""
    facts = model_facts(detector.model)
    text = (
        f'{len(data.images)} validation images; {len(data.names)} classes, '
        f'{len(data.novel)} of them novel, looked for at once; LVIS protocol, '
        f'at most {facts["max_per_img"]} detections per image with scores '
        f'above {facts["score_thr"]:g}'
    )
    if {'alpha', 'beta'} <= facts.keys():
        text += (
            f'; exponents of the VLM score {facts["alpha"]:g} (base) and '
            f'{facts["beta"]:g} (novel)'
        )
    return f'{text}.'
