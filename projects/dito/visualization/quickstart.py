# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Report and picture of a quickstart that has run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from .annotated import AnnotatedSet, first_with_novel, read_annotated
from .page import write_page
from .readme_figure import readme_figure, write_figure
from .report import ReportData, write_report
from .samples import (
    detect_samples,
    pointing_game,
    similarity_samples,
    single_objects,
)
from .similarity import TextSimilarity
from .training_log import read_stage_log, stage_files

if TYPE_CHECKING:
    from dito.apis import DITOInferencer

NUM_DETECTIONS = 8
NUM_SIMILARITY = 4
NUM_FIGURE = 4
NUM_POINTING = 100
SCORE_THR = 0.3


def quickstart_report(quickstart_dir: Path,
                      data_root: Path,
                      device: str = 'cpu',
                      out: Optional[Path] = None) -> Path:
    """Write report.html of a quickstart, and the maps' hits to metrics.json.

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
    detector = load_detector(quickstart_dir, device)
    similarity = load_similarity(quickstart_dir, device)
    pointing = pointing_game(similarity, data.images[:NUM_POINTING])
    if pointing is not None:
        hits = pointing.metrics()
        metrics = {**hits, **metrics, **hits}  # They stand first.
        write_page(json.dumps(metrics, indent=1) + '\n',
                   quickstart_dir / 'metrics.json')
    novel = first_with_novel(data.images, len(data.images))
    content = ReportData(
        metrics=metrics,
        protocol=protocol(detector, data),
        stages=stages,
        detections=detect_samples(detector, data, novel[:NUM_DETECTIONS],
                                  SCORE_THR),
        score_thr=SCORE_THR,
        similarity=similarity_samples(similarity, novel, NUM_SIMILARITY),
        pointing=pointing)
    return write_report(content, out or quickstart_dir / 'report.html')


def quickstart_figure(quickstart_dir: Path, data_root: Path, out: Path,
                      device: str = 'cpu', count: int = NUM_FIGURE) -> Path:
    """Write the picture of the README from a quickstart.

    Args:
        quickstart_dir (Path): As of :func:`quickstart_report`.
        data_root (Path): The data set.
        out (Path): PNG or JPEG file to write.
        device (str): Where the models run. Defaults to 'cpu'.
        count (int): Number of pictures. Defaults to ``NUM_FIGURE``.

    Returns:
        Path: ``out``.
    """
    quickstart_dir = Path(quickstart_dir)
    return held_out_figure(
        load_detector(quickstart_dir, device),
        load_similarity(quickstart_dir, device), Path(data_root), Path(out),
        count)


def held_out_figure(detector: 'DITOInferencer',
                    similarity: Optional[TextSimilarity],
                    data_root: Path,
                    out: Path,
                    count: int = NUM_FIGURE) -> Path:
    """Draw what models make of held-out pictures.

    The pictures are the first of the validation file that have a novel
    object alone of its class, whatever is found in them.

    Args:
        detector (DITOInferencer): Looks for all classes.
        similarity (TextSimilarity, optional): A model with a box head, for
            maps of the novel object before and after stage 2.
        data_root (Path): The data set, with annotations/val.json.
        out (Path): PNG or JPEG file to write.
        count (int): Number of pictures. Defaults to ``NUM_FIGURE``.

    Returns:
        Path: ``out``.

    Raises:
        ValueError: If no picture has such an object, or count is below 1.
    """
    if count < 1:
        raise ValueError(f'The figure needs a picture or more, got {count}.')
    data = read_annotated(data_root / 'annotations/val.json', data_root)
    images = [i for i in data.images
              if any(o.novel for o in single_objects(i))][:count]
    maps = [] if similarity is None else similarity_samples(
        similarity, images, count)
    samples = detect_samples(detector, data, images, SCORE_THR)
    return write_figure(readme_figure(samples, maps), out)


def protocol(detector: 'DITOInferencer', data: AnnotatedSet) -> str:
    """Say in a sentence what the figures of the evaluation count."""
    head = detector.model.roi_head
    return (f'{len(data.images)} validation images; {len(data.names)} '
            f'classes, {len(data.novel)} of them novel, looked for at once; '
            f'LVIS protocol, at most {head.test_cfg["max_per_img"]} '
            'detections an image with scores above '
            f'{head.test_cfg["score_thr"]:g}; exponents of the VLM score '
            f'{head.ensemble.alpha:g} (base) and '
            f'{head.ensemble.beta:g} (novel).')


def load_detector(quickstart_dir: Path, device: str) -> 'DITOInferencer':
    """The model of stage 3."""
    # Imports MMDetection's whole programming interface, which `import dito`
    # does without.
    from dito.apis import DITOInferencer
    return DITOInferencer(*stage_files(quickstart_dir / 'dito'),
                          device=device)


def load_similarity(quickstart_dir: Path, device: str) -> TextSimilarity:
    """The model of stage 2, which holds the frozen tower too."""
    return TextSimilarity.from_files(*stage_files(quickstart_dir / 'rep'),
                                     device)


def _read_metrics(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f'There is no {path}; the report describes a '
                                'finished quickstart.')
    return json.loads(path.read_text(encoding='utf-8'))
