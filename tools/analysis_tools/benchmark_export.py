# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Size, time and average precision of exported files.

Runs each file by export/runner.py, a picture at a time, and evaluates it as
``dito test`` does: LVIS AP of boxes and masks. Prints a JSON line each: MB,
median milliseconds of the graph alone, and the figures. ``--detector`` times
the detector itself in PyTorch first.

Example:
    dito build-text-embeddings dito_symbols_long symbols.safetensors \
        --names data/symbols/annotations/val.json --out names.safetensors
    python tools/analysis_tools/benchmark_export.py float32.onnx int8.onnx \
        --vocabulary names.safetensors --images data/symbols \
        --data data/symbols/annotations/val.json
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import MMLogger

from dito.apis import DITOInferencer
from dito.evaluation import DITOLVISMetric
from dito.export.runner import Runner, load_picture
from dito.export.self_test import detect
from dito.export.torch_file import load_compiled, load_program
from dito.models.text import Vocabulary


def first_images(data: Path, number: int | None, folder: str) -> Path:
    """The annotations of the first images of a file, as a file."""
    content = json.loads(data.read_text(encoding='utf-8'))
    content['images'] = content['images'][:number]
    kept = {image['id'] for image in content['images']}
    content['annotations'] = [
        entry for entry in content['annotations'] if entry['image_id'] in kept
    ]
    path = Path(folder, 'first.json')
    path.write_text(json.dumps(content), encoding='utf-8')
    return path


def evaluate(runner: Runner, data: Path, images: Path) -> dict[str, float]:
    """AP of what a file finds in the images of an annotation file."""
    metric = DITOLVISMetric(str(data), metric=['bbox', 'segm'])
    metric.dataset_meta = dict(classes=runner.names)
    listed = json.loads(data.read_text(encoding='utf-8'))['images']
    for image in listed:
        found = runner(images / image['file_name'], score_thr=0)
        found['bboxes'] = np.reshape(found['bboxes'], (-1, 4))
        for key in ('scores', 'labels'):
            found[key] = np.array(found[key])
        metric.process({}, [dict(img_id=image['id'], pred_instances=found)])
    figures = metric.evaluate(len(listed))
    return {
        key.rpartition('/')[2]: round(100 * value, 1)
        for key, value in figures.items()
        if key.endswith(('bbox_AP', 'bbox_novel_AP', 'segm_AP'))
    }


def engine_of(file: str, engine: str) -> Any:
    """What runs a file: for ``.pt2`` PyTorch, as its entries tell."""
    if Path(file).suffix != '.pt2':
        return engine
    with zipfile.ZipFile(file) as archive:
        compiled = any('/aotinductor/' in x for x in archive.namelist())
    return load_compiled if compiled else load_program


def milliseconds(call: Callable[[], Any], times: int) -> float:
    """Median time of a call, after a first one."""
    taken = []
    for _ in range(times + 1):
        start = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(taken[1:]), 1)


def time_detector(
    detector: str, runner: Runner, image: np.ndarray, names: str, times: int
) -> float:
    """The same of a detector in PyTorch, on what a file is given."""
    model = DITOInferencer(detector, device='cpu').model
    vocabulary, step = Vocabulary.load(names), runner.meta['step']
    return milliseconds(
        lambda: list(detect(model, [image], step, vocabulary)), times
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    add = parser.add_argument
    add('files', nargs='+', help='files of dito export')
    add('--vocabulary', help='vocabulary file, where files take names')
    add('--data', type=Path, required=True, help='LVIS annotations')
    add('--images', type=Path, required=True, help='folder of its images')
    add('--number', type=int, help='of images (default: all)')
    add('--times', type=int, default=20, help='calls that are timed')
    add('--no-ap', action='store_true', help='size and time only')
    add('--engine', default='onnxruntime', help='of .onnx files')
    add('--detector', help='what the files were made of; needs --vocabulary')
    args = parser.parse_args()
    MMLogger.get_instance('benchmark', log_level='ERROR')
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        data = first_images(args.data, args.number, folder)
        picture = next(iter(json.loads(data.read_text())['images']))
        picture = load_picture(args.images / picture['file_name'])
        for number, file in enumerate(args.files):
            engine = engine_of(file, args.engine)
            runner = Runner(file, args.vocabulary, engine)
            image = runner.prepare(picture)
            if args.detector and not number:
                own = (runner, image, args.vocabulary, args.times)
                taken = time_detector(args.detector, *own)
                print(json.dumps(dict(detector=args.detector, ms=taken)))
            line: dict[str, Any] = dict(
                file=file,
                mb=round(Path(file).stat().st_size / 1e6, 1),
                ms=milliseconds(
                    lambda r=runner, i=image: r.run([i]), args.times
                ),
            )
            if not args.no_ap:
                line.update(evaluate(runner, data, args.images))
            print(json.dumps(line), flush=True)


if __name__ == '__main__':
    main()
