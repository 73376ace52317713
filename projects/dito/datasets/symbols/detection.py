# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detection pictures of ``symbols``: which objects, and their annotations."""

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_utils

from .config import Purpose, rng_for
from .glyphs import Glyph
from .rasterizer import GlyphAtlas
from .renderer import COLOUR_NAMES, Placed, render_scene
from .shards import with_article

#: Objects with a smaller visible share are not annotated.
MIN_VISIBLE = 0.3
#: How often a category of each frequency group is drawn.
TRAIN_WEIGHTS: dict[str, float] = dict(r=0.1, c=0.4, f=1.0)
VAL_WEIGHTS: dict[str, float] = dict(r=1.0, c=1.0, f=1.0)
# Objects in a picture: least, and most plus one.
_OBJECTS = (2, 7)
#: Splits: purpose of the plan, of the pictures, weights of the groups. In
#: 'val_drawings' are the held-out drawings of the names that have one.
SPLITS: dict[str, tuple[Purpose, Purpose, dict[str, float]]] = dict(
    train=(Purpose.TRAIN_PLAN, Purpose.TRAIN, TRAIN_WEIGHTS),
    val=(Purpose.VAL_PLAN, Purpose.VAL, VAL_WEIGHTS),
    val_drawings=(
        Purpose.VAL_DRAWINGS_PLAN,
        Purpose.VAL_DRAWINGS,
        VAL_WEIGHTS,
    ),
)
#: Sides of the objects as shares of the picture: 22 to 80 pixels of 192.
SIDES = (22 / 192, 80 / 192)

Record = dict[str, object]


def _apportion(weights: np.ndarray, total: int) -> np.ndarray:
    """Split ``total`` by weights, largest remainders, at least 1 if it can."""
    floor = 1 if total >= len(weights) else 0
    share = weights / weights.sum() * (total - floor * len(weights))
    counts = np.floor(share).astype(int)
    missing = total - floor * len(weights) - int(counts.sum())
    order = np.argsort(-(share - counts), kind='stable')
    counts[order[:missing]] += 1
    return counts + floor


def plan_scenes(
    glyphs: Sequence[Glyph],
    num_images: int,
    weights: dict[str, float],
    rng: np.random.Generator,
) -> list[list[int]]:
    """Deal two to six categories to each picture in fixed proportions.

    Counts, relative to the ``weights`` of frequency groups, are apportioned
    rather than drawn, so every category appears whenever there are as many
    objects as categories.
    """
    if not num_images:
        return []
    sizes = rng.integers(*_OBJECTS, size=num_images)
    per_glyph = np.array([weights[glyph.frequency] for glyph in glyphs])
    counts = _apportion(per_glyph, int(sizes.sum()))
    deck = rng.permutation(np.repeat(np.arange(len(glyphs)), counts))
    ends = np.cumsum(sizes)[:-1]
    return [part.tolist() for part in np.split(deck, ends)]


def _annotate(placed: Placed) -> Record:
    mask = np.asfortranarray(placed.mask.astype(np.uint8))
    rle = mask_utils.encode(mask)
    return dict(
        category_id=placed.index + 1,
        bbox=[float(value) for value in placed.bbox()],
        area=float(placed.mask.sum()),
        segmentation=dict(
            size=[int(side) for side in rle['size']],
            counts=rle['counts'].decode('ascii'),
        ),
    )


def draw_detection_image(
    atlas: GlyphAtlas,
    indices: Sequence[int],
    root: str,
    file_name: str,
    size: int,
    rng: np.random.Generator,
) -> Record:
    """Draw one detection picture, write it below ``root``, and describe it.

    Boxes, areas and masks (compressed RLE, holes kept) are those of the
    visible pixels. An object less than 30 % visible has no annotation; its
    category is then marked as not exhaustively annotated in the picture.

    Gives 'file_name', 'size', 'objects' (annotations without ids) and 'hidden'
    (category ids of objects without annotation).
    """
    picks = rng.integers(len(COLOUR_NAMES), size=len(indices))
    colours = [COLOUR_NAMES[int(pick)] for pick in picks]
    sides = (size * SIDES[0], size * SIDES[1])
    picture = render_scene(atlas, indices, colours, size, sides, rng)
    with open(os.path.join(root, file_name), 'wb') as file:
        file.write(picture.jpeg())
    shown = [p for p in picture.objects if p.visible >= MIN_VISIBLE]
    hidden = [p for p in picture.objects if p.visible < MIN_VISIBLE]
    return dict(
        file_name=file_name,
        size=size,
        objects=[_annotate(placed) for placed in shown],
        hidden=sorted({placed.index + 1 for placed in hidden}),
    )


def split_plan(
    glyphs: Sequence[Glyph], split: str, num_images: int, seed: int
) -> list[list[int]]:
    """Plan one split: skewed by frequency in train, even otherwise."""
    purpose, _, weights = SPLITS[split]
    rng = rng_for(seed, purpose)
    shown = list(range(len(glyphs)))
    if split == 'val_drawings':
        shown = [i for i in shown if glyphs[i].held_out]
    plan = plan_scenes([glyphs[i] for i in shown], num_images, weights, rng)
    return [[shown[place] for place in scene] for scene in plan]


def image_rng(seed: int, split: str, number: int) -> np.random.Generator:
    """Return the random stream of one detection picture."""
    return rng_for(seed, SPLITS[split][1], number)


def count_instances(records: Sequence[Record]) -> dict[str, Counter]:
    """'image_count' and 'instance_count' by category id."""
    images: Counter = Counter()
    instances: Counter = Counter()
    for record in records:
        ids = [item['category_id'] for item in record['objects']]
        instances.update(ids)
        images.update(set(ids))
    return dict(image_count=images, instance_count=instances)


def _category(glyph: Glyph, counts: dict[str, Counter]) -> dict:
    number = glyph.category_id
    entry = glyph.as_category()
    del entry['drawings'], entry['held_out_drawing']
    entry['def'] = f'a drawing of {with_article(glyph.name)}'
    entry['synset'] = f'{glyph.name.replace(" ", "_")}.symbol'
    entry['image_count'] = counts['image_count'][number]
    entry['instance_count'] = counts['instance_count'][number]
    return entry


def _image(number: int, record: Record, category_ids: Sequence[int]) -> dict:
    present = {item['category_id'] for item in record['objects']}
    hidden = set(record['hidden'])
    return dict(
        id=number,
        width=record['size'],
        height=record['size'],
        file_name=record['file_name'],
        # LVIS loaders derive the path from this field.
        coco_url=record['file_name'],
        neg_category_ids=[
            i for i in category_ids if i not in present and i not in hidden
        ],
        not_exhaustive_category_ids=[i for i in category_ids if i in hidden],
    )


def lvis_annotations(
    records: Sequence[Record],
    glyphs: Sequence[Glyph],
    counts: dict[str, Counter],
    split: str,
) -> dict:
    """Assemble one annotation file, image ids 1, 2, ... in order.

    Only the given categories exist in it: their boxes, their ids in the lists
    of absent categories, their counts (of the training split). A category
    outside leaves no trace (its objects stay in the pictures as unlabelled
    pixels, as in LVIS). Unlike in LVIS, whose lists are samples, every
    category that is absent from a picture is listed as absent, because that is
    known.
    """
    kept = [glyph.category_id for glyph in glyphs]
    allowed = set(kept)
    images: list[dict] = []
    annotations: list[dict] = []
    for number, record in enumerate(records, 1):
        images.append(_image(number, record, kept))
        for item in record['objects']:
            if item['category_id'] in allowed:
                annotations.append(
                    dict(
                        item,
                        id=len(annotations) + 1,
                        image_id=number,
                        iscrowd=0,
                    )
                )
    return dict(
        info=dict(description=f'symbols, {split}', version='1.0'),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=[_category(glyph, counts) for glyph in glyphs],
    )
