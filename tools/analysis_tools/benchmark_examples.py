# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""AP of novel classes by their names and by pictures of them.

Examples are annotated boxes of the training pictures. Pictures of the test are
encoded once; each query then has all classes of the test, the novel ones by
names, by examples or by both, the others by names. Prints a JSON line each.

Example:
    python tools/analysis_tools/benchmark_examples.py data/symbols \
        --pictures 150 --examples 1 5
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
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


def read(folder: Path, file: str) -> dict[str, Any]:
    """Annotations of the set; objects by picture are added."""
    content = json.loads((folder / 'annotations' / file).read_text())
    content['of'] = defaultdict(list)
    for one in content['annotations']:
        content['of'][one['image_id']].append(one)
    return content


def corners(one: dict[str, Any]) -> tuple[float, ...]:
    """x1, y1, x2, y2 of an annotation."""
    x, y, width, height = one['bbox']
    return x, y, x + width, y + height


def queries(
    detector: DITOInferencer,
    folder: Path,
    counts: list[int],
    seed: int,
) -> Iterator[tuple[str, Vocabulary]]:
    """All classes, with the novel ones named in several ways."""
    content = read(folder, 'train_all.json')
    names = {c['id']: c['name'] for c in content['categories']}
    files = {i['id']: i['file_name'] for i in content['images']}
    by_names = detector.embed(list(names.values()))
    yield 'names', by_names
    novel = {
        name
        for name, new in zip(
            by_names.names, by_names.novel.tolist(), strict=True
        )
        if new
    }
    pool = defaultdict(list)
    for one in content['annotations']:
        name = names[one['category_id']]
        if name in novel:
            path = str(folder / files[one['image_id']])
            pool[name].append((path, corners(one)))
    rng = np.random.default_rng(seed)
    order = {name: rng.permutation(len(pool[name])) for name in sorted(pool)}
    base = by_names.subset([n for n in names.values() if n not in pool])
    for count in counts:
        examples = {
            name: [pool[name][i] for i in places[:count]]
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
    add('data', type=Path, help='folder of make_symbols.py')
    add('--pictures', type=int, default=150, help='of the test')
    add('--examples', type=int, nargs='+', default=[1, 5])
    add('--seed', type=int, default=0, help='of the choice of examples')
    add('--checkpoint', default=config_root() / 'symbols/assets/dito_symbols')
    args = parser.parse_args()
    detector = DITOInferencer(args.checkpoint)
    test = read(args.data, 'val.json')
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
        detector, args.data, args.examples, args.seed
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
