# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Draw the twenty images of docs/finetune_own_data.md, once.

python tests/data/twenty/draw.py
"""

from pathlib import Path
from typing import Dict, List

import numpy as np

from dito.utils.files import write_json
from dito.datasets.symbols.detection import draw_detection_image, plan_scenes
from dito.datasets.symbols.glyphs import load_glyphs
from dito.datasets.symbols.rasterizer import GlyphAtlas

FOLDER = Path(__file__).parent
#: Categories with boxes for training, and without.
BOXED = ('airplane', 'anchor', 'cat', 'coffee cup', 'flower', 'heart',
         'house', 'key')
UNBOXED = ('scissors', 'snowflake', 'snowman', 'umbrella')
TRAIN, SIZE = 14, 192


def coco(records: List[dict], first: int, names: List[str],
         kept: List[str]) -> dict:
    """Annotations in COCO's format, boxes of some categories only."""
    ids: Dict[int, int] = {names.index(n) + 1: i + 1
                           for i, n in enumerate(kept)}
    content: dict = dict(
        images=[], annotations=[],
        categories=[dict(id=i + 1, name=n) for i, n in enumerate(kept)])
    for number, record in enumerate(records, first):
        content['images'].append(
            dict(id=number, file_name=Path(record['file_name']).name,
                 width=SIZE, height=SIZE))
        for item in record['objects']:
            if item['category_id'] in ids:
                content['annotations'].append(
                    dict(id=len(content['annotations']) + 1,
                         image_id=number,
                         category_id=ids[item['category_id']],
                         bbox=item['bbox'],
                         area=item['bbox'][2] * item['bbox'][3],
                         iscrowd=0))
    return content


def main() -> None:
    """Draw the images and write train.json and val.json."""
    (FOLDER / 'images').mkdir(exist_ok=True)
    names = [*BOXED, *UNBOXED]
    by_name = {glyph.name: glyph for glyph in load_glyphs()}
    glyphs = [by_name[name] for name in names]
    atlas = GlyphAtlas(glyphs)
    weights = dict.fromkeys('rcf', 1.0)
    rng = np.random.default_rng(20)
    scenes = plan_scenes(glyphs, TRAIN, weights, rng)
    scenes += plan_scenes(glyphs, 20 - TRAIN, weights, rng)
    records = [
        draw_detection_image(atlas, scene, str(FOLDER),
                             f'images/{i + 1:02d}.jpg', SIZE, rng)
        for i, scene in enumerate(scenes)
    ]
    write_json(FOLDER / 'train.json',
               coco(records[:TRAIN], 1, names, list(BOXED)))
    write_json(FOLDER / 'val.json',
               coco(records[TRAIN:], TRAIN + 1, names, names))


if __name__ == '__main__':
    main()
