# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Report and picture of a quickstart that has run."""

import json
from pathlib import Path
from typing import List, Optional

from .annotated import AnnotatedSet, first_with_novel, read_annotated
from .readme_figure import readme_figure, write_png
from .report import ReportData, write_report
from .samples import (
    DetectionSample,
    SimilaritySample,
    detect_samples,
    pointing_game,
    similarity_samples,
)
from .similarity import TextSimilarity
from .training_log import read_stage_log, stage_files

NUM_DETECTIONS = 8
NUM_SIMILARITY = 4
NUM_POINTING = 100
SCORE_THR = 0.3


def quickstart_report(quickstart_dir: Path,
                      data_root: Path,
                      device: str = 'cpu',
                      out: Optional[Path] = None) -> Path:
    """Write report.html of a quickstart.

    Args:
        quickstart_dir (Path): Holds metrics.json and the work folders
            ``rep`` and ``dito``.
        data_root (Path): The data set, with annotations/val.json.
        device (str): Where the models run. Defaults to 'cpu'.
        out (Path, optional): Defaults to report.html in that folder.

    Returns:
        Path: The report.

    Raises:
        FileNotFoundError: If something of a finished quickstart is missing.
    """
    quickstart_dir, data_root = Path(quickstart_dir), Path(data_root)
    metrics = _read_metrics(quickstart_dir / 'metrics.json')
    stages = [
        read_stage_log(quickstart_dir / 'rep',
                       'Stage 2: region-centric pretraining'),
        read_stage_log(quickstart_dir / 'dito',
                       'Stage 3: detection finetuning'),
    ]
    data = read_annotated(data_root / 'annotations/val.json', data_root)
    similarity = load_similarity(quickstart_dir, device)
    content = ReportData(
        metrics, stages,
        quickstart_detections(quickstart_dir, data, device), SCORE_THR,
        similarity_samples(similarity,
                           first_with_novel(data.images, len(data.images)),
                           NUM_SIMILARITY),
        pointing_game(similarity, data.images[:NUM_POINTING]))
    return write_report(content, out or quickstart_dir / 'report.html')


def quickstart_figure(quickstart_dir: Path, data_root: Path, out: Path,
                      device: str = 'cpu') -> Path:
    """Write the picture of the README from a quickstart.

    Args:
        quickstart_dir (Path): As of :func:`quickstart_report`.
        data_root (Path): The data set.
        out (Path): PNG file to write.
        device (str): Where the models run. Defaults to 'cpu'.

    Returns:
        Path: ``out``.
    """
    data_root = Path(data_root)
    data = read_annotated(data_root / 'annotations/val.json', data_root)
    images = first_with_novel(data.images, len(data.images))
    detections: List[DetectionSample] = quickstart_detections(
        Path(quickstart_dir), data, device, 4)
    maps: List[SimilaritySample] = similarity_samples(
        load_similarity(Path(quickstart_dir), device), images, 2)
    return write_png(readme_figure(detections, maps), Path(out))


def quickstart_detections(quickstart_dir: Path, data: AnnotatedSet,
                          device: str, count: int = NUM_DETECTIONS
                          ) -> List[DetectionSample]:
    """Detections on the first images with novel objects."""
    # Imports MMDetection's whole programming interface, which `import dito`
    # does without.
    from dito.apis import DITOInferencer
    config, checkpoint = stage_files(quickstart_dir / 'dito')
    inferencer = DITOInferencer(config, checkpoint, device=device)
    images = first_with_novel(data.images, count)
    return detect_samples(inferencer, data, images, SCORE_THR)


def load_similarity(quickstart_dir: Path, device: str) -> TextSimilarity:
    """The model of stage 2, which holds the frozen tower too."""
    return TextSimilarity.from_files(*stage_files(quickstart_dir / 'rep'),
                                     device)


def _read_metrics(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f'There is no {path}; the report describes a '
                                'finished quickstart.')
    return json.loads(path.read_text(encoding='utf-8'))
