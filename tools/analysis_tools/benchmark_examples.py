# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""AP of novel classes by their names and by pictures of them.

Examples are annotated boxes of the training pictures, or of --pool. The
pictures of the test are encoded once; each query then has all its classes, the
novel ones by names, by examples or by both, the others by names. Prints a JSON
line each.

Example:
    dito make-symbols --out-dir data/symbols_1 --seed 1 --pictures 10 600
    python tools/analysis_tools/benchmark_examples.py data/symbols \
        --pictures 150 --examples 1 5 10 \
        --pool data/symbols_1/annotations/val.json
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dito.apis import DITOInferencer
from dito.apis.results import to_dict
from dito.evaluation.average_precision import evaluate_lvis, summarize
from dito.evaluation.detections import LVISDetections
from dito.evaluation.ground_truth import LVISGroundTruth
from dito.models.text import Vocabulary
from dito.utils.configs import config_root


def read(file: Path) -> dict[str, Any]:
    """Annotations; objects by picture are added."""
    content = json.loads(file.read_text())
    content['of'] = defaultdict(list)
    for one in content['annotations']:
        content['of'][one['image_id']].append(one)
    return content


def corners(one: dict[str, Any]) -> tuple[float, ...]:
    """x1, y1, x2, y2 of an annotation."""
    x, y, width, height = one['bbox']
    return x, y, x + width, y + height


def objects_of(
    files: Sequence[Path], names: Collection[str]
) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Pictures and boxes of some classes, by name."""
    found = defaultdict(list)
    for file in files:
        content = read(file)
        name_of = {c['id']: c['name'] for c in content['categories']}
        path_of = {i['id']: i['file_name'] for i in content['images']}
        for one in content['annotations']:
            name = name_of[one['category_id']]
            if name in names:
                # Paths are from the folder that annotations/ is in.
                path = str(file.parents[1] / path_of[one['image_id']])
                found[name].append((path, corners(one)))
    return found


def queries(
    detector: DITOInferencer,
    names: list[str],
    pool: Sequence[Path],
    counts: list[int],
    seed: int,
) -> Iterator[tuple[str, Vocabulary]]:
    """All classes, with the novel ones named in several ways."""
    by_names = detector.embed(names)
    yield 'names', by_names
    novel = {
        name
        for name, new in zip(
            by_names.names, by_names.novel.tolist(), strict=True
        )
        if new
    }
    shown = objects_of(pool, novel)
    least = min(len(shown[name]) for name in novel)
    if least < max(counts):
        raise SystemExit(
            f'Some novel class has only {least} objects in the pool, of which '
            f'{max(counts)} examples cannot be taken; give a larger --pool.'
        )
    rng = np.random.default_rng(seed)
    order = {name: rng.permutation(len(shown[name])) for name in sorted(shown)}
    base = by_names.subset([n for n in names if n not in shown])
    for count in counts:
        examples = {
            name: [shown[name][i] for i in places[:count]]
            for name, places in order.items()
        }
        yield (
            f'{count} examples',
            base.mix(detector.embed(examples=examples)).subset(by_names.names),
        )
        yield f'names and {count}', detector.embed(by_names, examples=examples)


def main() -> None:
    """Detect and evaluate."""
    parser = argparse.ArgumentParser(description='AP by examples.')
    add = parser.add_argument
    add('data', type=Path, help='folder of `dito make-symbols`')
    add('--pictures', type=int, default=150, help='of the test')
    add('--examples', type=int, nargs='+', default=[1, 5])
    add(
        '--pool',
        type=Path,
        nargs='+',
        help='annotations that examples are taken of (default: those of the '
        'training pictures)',
    )
    add('--seed', type=int, default=0, help='of the choice of examples')
    add('--checkpoint', default=config_root() / 'symbols/assets/dito_symbols')
    args = parser.parse_args()
    detector = DITOInferencer(args.checkpoint)
    folder = args.data / 'annotations'
    test = read(folder / 'val.json')
    images = test['images'][: args.pictures]
    scenes = list(
        detector.encode_each(
            [str(args.data / i['file_name']) for i in images], maps=False
        )
    )
    kept = [one for i in images for one in test['of'][i['id']]]
    truth = LVISGroundTruth(dict(test, images=images, annotations=kept))
    ids = {c['name']: c['id'] for c in test['categories']}
    for title, vocabulary in queries(
        detector,
        [c['name'] for c in test['categories']],
        args.pool or [folder / 'train_all.json'],
        args.examples,
        args.seed,
    ):
        start = time.perf_counter()
        results = []
        query = detector.query(vocabulary)
        for image, scene in zip(images, scenes, strict=True):
            item = scene.detect(query, 0.0, None, masks=False)
            found = to_dict(item.every, item.names)
            for name, score, box in zip(
                found['names'], found['scores'], found['bboxes'], strict=True
            ):
                x1, y1, x2, y2 = box
                results.append(
                    dict(
                        image_id=image['id'],
                        category_id=ids[name],
                        score=score,
                        bbox=[x1, y1, x2 - x1, y2 - y1],
                    )
                )
        seconds = time.perf_counter() - start
        measured = evaluate_lvis(truth, LVISDetections.from_results(results))
        novel = np.array(
            [
                bool(vocabulary.novel[vocabulary.names.index(c['name'])])
                for c in sorted(test['categories'], key=lambda c: c['id'])
            ]
        )
        figures = summarize(
            np.ascontiguousarray(measured.precision[..., 0]), novel
        )
        print(
            json.dumps(
                dict(
                    query=title,
                    seconds_a_picture=round(seconds / len(images), 4),
                    **{
                        key: round(100 * figures[key], 1)
                        for key in (
                            'novel_AP',
                            'novel_AP50',
                            'base_AP',
                            'base_AP50',
                        )
                    },
                )
            ),
            flush=True,
        )


if __name__ == '__main__':
    main()
