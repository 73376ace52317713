# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Annotation files of ``symbols`` in the format of LVIS v1."""

from collections import Counter
from collections.abc import Sequence

from .captions import with_article
from .detection import Record
from .glyphs import Glyph


def count_instances(records: Sequence[Record]) -> dict[str, Counter]:
    """Count images and boxes of every category id.

    Args:
        records (Sequence[dict]): Of ``draw_detection_image``.

    Returns:
        dict[str, Counter]: 'image_count' and 'instance_count' by id.
    """
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
    """Assemble one annotation file.

    Only the given categories exist in it: their boxes, their ids in the
    lists of absent categories, their counts. A category outside leaves no
    trace (its objects stay in the pictures as unlabelled pixels, as in
    LVIS). Unlike in LVIS, whose lists are samples, every category that is
    absent from a picture is listed as absent, because that is known.

    Args:
        records (Sequence[dict]): Of ``draw_detection_image``, in the order
            of the image ids 1, 2, ...
        glyphs (Sequence[Glyph]): The categories to keep.
        counts (dict[str, Counter]): Of the training split.
        split (str): Written into the description.

    Returns:
        dict: 'info', 'licenses', 'images', 'annotations', 'categories'.
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
