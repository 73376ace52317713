# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The quickstart's report: one HTML file with everything in it."""

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .colors import css_color
from .curves import chart_svg
from .detections import draw_objects
from .heat_map import draw_heat_map, outline
from .page import figure, page, picture, table, write_page
from .report_tables import (
    command_lines,
    environment,
    headline_table,
    time_table,
)
from .samples import DetectionSample, PointingGame, SimilaritySample
from .shown_object import HIT, LEGEND, SHOWN_IOU, WRONG, ShownObject
from .stage_charts import stage_charts
from .training_log import StageLog

# Small pictures are enlarged to about this width, twice that of the page.
_WIDTH = 840
# Legible where two of them share the width of a phone.
_FONT = 32


@dataclass(frozen=True)
class ReportData:
    """What a report is made of; empty parts are left out of it.

    Attributes:
        metrics (dict): As in metrics.json, see :func:`headline_table`.
        protocol (str): How they were measured, plain text.
        stages (list[StageLog]): Logs of the trainings.
        detections (list[DetectionSample]): Images with detections.
        score_thr (float): Least score of these detections.
        similarity (list[SimilaritySample]): Text-similarity maps.
        pointing (PointingGame, optional): Their figures.
    """

    metrics: Dict[str, Any] = field(default_factory=dict)
    protocol: str = ''
    stages: List[StageLog] = field(default_factory=list)
    detections: List[DetectionSample] = field(default_factory=list)
    score_thr: float = 0.3
    similarity: List[SimilaritySample] = field(default_factory=list)
    pointing: Optional[PointingGame] = None


def write_report(data: ReportData, out: Path) -> Path:
    """Write a report.

    Args:
        data (ReportData): Its parts.
        out (Path): File to write; there is no half-written one.

    Returns:
        Path: The file.
    """
    sections = [
        ('', _intro()),
        ('Results', _results(data)),
        ('Detections', _detections(data.detections, data.score_thr)),
        ('Similarity of picture and text',
         _similarity(data.similarity, data.pointing)),
        ('Training', _curves(data.stages)),
        ('Time and commands',
         time_table(data.metrics) + command_lines(data.metrics)),
        ('Versions', environment()),
    ]
    return write_page(page('DITO on symbols: quickstart report', sections),
                      out)


def _intro() -> str:
    return ('<p>Region-centric pretraining and open-vocabulary detection on '
            'the embedded data set of pictographs. The detector has seen '
            'boxes of the base classes only; of the novel classes it knows '
            'the names.</p>')


def _results(data: ReportData) -> str:
    figures = headline_table(data.metrics)
    if not figures or not data.protocol:
        return figures
    return f'{figures}<p class="soft">{escape(data.protocol)}</p>'


def _scale(width: int) -> int:
    return max(1, round(_WIDTH / width))


def _spoken(objects: Sequence[ShownObject]) -> str:
    return ', '.join(item.label for item in objects) or 'nothing'


def _detections(samples: Sequence[DetectionSample], score_thr: float) -> str:
    if not samples:
        return ''
    key = ' '.join(
        f'<span class="key" style="background:{css_color(color)}">{sign}'
        f'</span>{text}' for sign, color, text in LEGEND)
    text = (f'<p>Left what is annotated, right what the detector found: the '
            f'first {len(samples)} validation images that contain a novel '
            'object, in the order of the file, not chosen by result. All '
            'classes are searched for at once; shown are detections with a '
            f'score of {100 * score_thr:.0f} % or more, of those that overlap '
            f'by more than {100 * SHOWN_IOU:.0f} % (IoU) the best.</p>'
            f'<p class="legend">{key}</p>')
    figures = []
    for sample in samples:
        scale = _scale(sample.image.shape[1])
        figures.append(
            figure([
                picture(
                    draw_objects(sample.image, sample.truth, scale, _FONT),
                    f'Annotated: {_spoken(sample.truth)}', 'annotated'),
                picture(
                    draw_objects(sample.image, sample.judged, scale, _FONT),
                    f'Found: {_spoken(sample.judged)}', 'found'),
            ], _detection_caption(sample)))
    return text + f'<div class="grid-of">{"".join(figures)}</div>'


def _detection_caption(sample: DetectionSample) -> str:
    counts = [sum(item.verdict == kind for item in sample.judged)
              for kind in (HIT, WRONG)]
    return (f'{escape(sample.name)}: of {len(sample.truth)} annotated '
            f'objects {counts[0]} found by their name; {counts[1]} '
            'detections wrong.')


def _similarity(samples: Sequence[SimilaritySample],
                pointing: Optional[PointingGame]) -> str:
    if not samples:
        return ''
    text = (
        '<p>Where a picture resembles a text, before and after stage 2: '
        'cosine in percent, place by place (figure 3 of the paper). Before '
        'region-centric pretraining (REP): features of the frozen backbone, '
        'token by token. After: the box head slides '
        "over pyramid level 4, which has the backbone's resolution, with a "
        'window of 7 &times; 7 cells about each. The first validation '
        'images with a novel object; the text asks for the first object that '
        'is alone of its class, outlined in white. In each map the colours '
        'run from dark at its least to pale yellow at its greatest value; '
        'both values stand above it.</p>')
    figures = []
    for sample in samples:
        scale = _scale(sample.image.shape[1])
        image = draw_objects(sample.image, (), scale)
        if sample.box is not None:
            image = outline(image, sample.box, scale)
        maps = [
            picture(
                draw_heat_map(sample.image, values, scale, sample.box),
                f'Similarity with "{sample.text}" {when} REP',
                f'{when}: {100 * values.min():.0f} to '
                f'{100 * values.max():.0f} %')
            for when, values in (('before', sample.before), ('after',
                                                             sample.after))
        ]
        figures.append(
            figure([picture(image, sample.name, sample.name), *maps],
                   f'&ldquo;{escape(sample.text)}&rdquo;'))
    return (text + _pointing(pointing) +
            f'<div class="grid-of">{"".join(figures)}</div>')


def _pointing(game: Optional[PointingGame]) -> str:
    if game is None:
        return ''
    rows = [(name, f'{100 * value:.1f} %')
            for name, value in (('before REP', game.before),
                                ('after REP', game.after),
                                ('a random place', game.chance))]
    return (f'<p>How often a map is highest inside the object, over '
            f'{game.queries} objects of the first {game.images} validation '
            'images:</p>' +
            table(rows, ('map', 'hits'), numbers=(1, )))


def _curves(stages: Sequence[StageLog]) -> str:
    parts = []
    for stage in stages:
        charts: List[Tuple[str, str]] = [(chart.title, chart_svg(chart))
                                         for chart in stage_charts(stage)]
        figures = ''.join(
            f'<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>'
            for title, svg in charts if svg)
        if figures:
            parts.append(f'<h3>{escape(stage.title)}</h3>'
                         f'<div class="grid-of">{figures}</div>')
    if not parts:
        return ''
    return ('<p>How the losses fell: values against iterations, as logged '
            '(means of recent iterations); the legend gives the last value.'
            f'</p>{"".join(parts)}')
