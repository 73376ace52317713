# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Precision and recall of a detector at every score threshold."""

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
from rich.table import Column, Table

from dito.apis import DITOInferencer
from dito.evaluation.report import print_table
from dito.reports.samples import AnnotatedSet, read_annotated
from dito.visualization.objects import HIT, MISSED, from_prediction, judge

from .detect import model_source, plain_result, say_broken
from .options import command

# Thresholds of the table, beside those that are advised.
_GRID = np.arange(0.1, 1.0, 0.1)


class OperatingPoints:
    """Precision and recall of a detector at every threshold.

    ``scores`` and ``hits`` (whether it is right) are of each detection, (N, );
    ``objects`` is the number of annotated ones. ValueError without objects or
    detections.
    """

    def __init__(
        self, scores: np.ndarray, hits: np.ndarray, objects: int
    ) -> None:
        if not objects:
            raise ValueError('The pictures have no annotated object.')
        if not len(scores):
            raise ValueError(
                f'Nothing was found of {objects} objects, whatever the score.'
            )
        order = np.argsort(-scores, kind='stable')
        # A threshold takes all detections of equal scores.
        self.thresholds, counts = np.unique(-scores, return_counts=True)
        self.thresholds, ends = -self.thresholds, counts.cumsum()
        right = hits[order].cumsum()[ends - 1]
        self.precision = right / ends
        self.recall = right / objects
        total = np.maximum(self.precision + self.recall, 1e-12)
        self.f1 = 2 * self.precision * self.recall / total

    @property
    def best(self) -> int:
        """Index of the best F1, of equal ones the highest threshold."""
        return int(self.f1.argmax())

    def reaching(self, precision: float) -> int | None:
        """Index of the best recall among those of so much precision."""
        reached = np.flatnonzero(self.precision >= precision)
        return int(reached[-1]) if len(reached) else None

    def at(self, threshold: float) -> int | None:
        """Index of what a threshold keeps; None if that is nothing."""
        kept = np.flatnonzero(self.thresholds >= threshold)
        return int(kept[-1]) if len(kept) else None


def measure(
    detector: DITOInferencer, data: AnnotatedSet
) -> tuple[OperatingPoints, list[str]]:
    """Detect and judge, as evaluations do at an IoU of 0.5.

    Greedy matching takes the best detection first, so what a threshold drops
    changes nothing above it: one pass gives all thresholds. Returns these and
    a sentence for each picture that could not be read; ValueError if none
    could.
    """
    scores, hits, objects, broken = [], [], 0, []
    found = detector.stream(
        [image.path for image in data.images],
        score_thr=0.0,
        on_error='collect',
    )
    for image, item in zip(data.images, found, strict=True):
        if item.error is not None:
            broken.append(item.error)
            continue
        objects += len(image.objects)
        shown = from_prediction(plain_result(item), data.novel)
        for verdict in judge(shown, image.objects):
            if verdict.verdict != MISSED:
                scores.append(verdict.score)
                hits.append(verdict.verdict == HIT)
    if broken and len(broken) == len(data.images):
        raise ValueError(
            f'None of the {len(broken)} pictures can be read; the first: '
            f'{broken[0]}'
        )
    points = OperatingPoints(np.array(scores), np.array(hits), objects)
    return points, broken


def table(points: OperatingPoints, precision: float) -> Table:
    """Rows of the grid and of the advised thresholds."""
    rows = {f'{t:.2f}': (points.at(t), '') for t in _GRID}
    advised = {points.best: 'best F1'}
    reached = points.reaching(precision)
    if reached is not None:
        text = f'precision {100 * precision:.0f} %'
        advised[reached] = ', '.join(
            [*filter(None, [advised.get(reached)]), text]
        )
    for index, text in advised.items():
        # Rounded down: the detection itself must stay.
        value = np.floor(1000 * points.thresholds[index]) / 1000
        rows[f'{value:.3f}'] = index, text
    heads = [
        Column(h, justify='right')
        for h in ('threshold', 'precision', 'recall', 'F1')
    ]
    drawn = Table(*heads, '', title='In percent, at an IoU of 0.5')
    for value, (index, text) in sorted(rows.items(), key=lambda r: r[0]):
        figures = ['-'] * 3
        if index is not None:
            kept = points.precision, points.recall, points.f1
            figures = [f'{100 * k[index]:.1f}' for k in kept]
        drawn.add_row(value, *figures, text)
    return drawn


@command
def main(args: Namespace) -> int:
    """Print the table."""
    data = read_annotated(Path(args.data), Path(args.images))
    config, weights = model_source(args.config, args.checkpoint)
    detector = DITOInferencer(
        config, weights, data.names, args.device, args.negative_names
    )
    points, broken = measure(detector, data)
    print_table(table(points, args.precision))
    if points.reaching(args.precision) is None:
        print(
            f'No threshold reaches a precision of {args.precision:g}; the '
            f'best is {points.precision.max():.3f}.',
            file=sys.stderr,
        )
    return say_broken(broken, len(data.images))
