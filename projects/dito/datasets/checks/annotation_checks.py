# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Checks of an annotation file alone."""

import math
from collections import Counter, defaultdict
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from mmdet.datasets import CocoDataset

from .findings import Finding, gather

_ID_LISTS = ('neg_category_ids', 'not_exhaustive_category_ids')
# Rounding puts many boxes of every data set a little over the edge.
_EDGE = 1.0
# Highest category id of COCO, whose 80 ids have gaps.
_COCO_LAST_ID = 90


def check_annotations(content: dict) -> List[Finding]:
    """Look for contradictions inside an annotation file.

    Args:
        content (dict): COCO, LVIS or Objects365 style annotations.

    Returns:
        list[Finding]: Problems and notes; empty if there is nothing to say.
    """
    return [
        *_check_categories(content['categories']),
        *_check_images(content),
        *_check_ids(content),
        *_check_boxes(content),
        *_check_masks(content),
    ]


def name_form(name: str) -> str:
    """Form in which two names are one for a text tower."""
    return ' '.join(name.replace('_', ' ').split()).casefold()


def _check_categories(categories: Sequence[dict]) -> List[Finding]:
    """Names and ids, each once; ids without gaps."""
    good = [
        cat
        for cat in categories
        if isinstance(cat.get('name'), str)
        and cat['name'].strip()
        and isinstance(cat.get('id'), int)
    ]
    bad = [cat for cat in categories if cat not in good]
    by_name: Dict[str, List[dict]] = defaultdict(list)
    for cat in good:
        by_name[name_form(cat['name'])].append(cat)
    twice = [
        ' = '.join(f'{cat["name"]!r} (id {cat["id"]})' for cat in group)
        for group in by_name.values()
        if len(group) > 1
    ]
    ids = Counter(cat['id'] for cat in good)
    twice += [f'id {number}' for number, n in ids.items() if n > 1]
    return [
        *gather('bad_category', bad),
        *gather('duplicate_category', twice),
        *_check_gaps(good),
    ]


def _check_gaps(categories: Sequence[dict]) -> List[Finding]:
    """Gaps between ids; fine in COCO and in LVIS without rare classes."""
    ids = {cat['id'] for cat in categories}
    if not ids:
        return []
    gaps = sorted(set(range(min(ids), max(ids) + 1)) - ids)
    coco = set(CocoDataset.METAINFO['classes'])
    official = all('frequency' in cat for cat in categories) or (
        max(ids) <= _COCO_LAST_ID
        and all(cat['name'] in coco for cat in categories)
    )
    return gather('id_gaps', gaps, note=official)


def _check_images(content: dict) -> List[Finding]:
    """Every image once, with its size and a name."""
    bad = [
        image
        for image in content['images']
        if not isinstance(image.get('width'), (int, float))
        or not isinstance(image.get('height'), (int, float))
        or 'id' not in image
        or not (image.get('file_name') or image.get('coco_url'))
    ]
    ids = Counter(image.get('id') for image in content['images'])
    return [
        *gather('bad_image', bad),
        *gather('duplicate_image', (i for i, n in ids.items() if n > 1)),
    ]


def _check_ids(content: dict) -> List[Finding]:
    """Ids that annotations and LVIS lists refer to."""
    known = {cat.get('id') for cat in content['categories']}
    images = {image.get('id') for image in content['images']}
    used = Counter(ann.get('category_id') for ann in content['annotations'])
    lost = [
        f'category_id {number}: {n} annotations'
        for number, n in used.items()
        if number not in known
    ]
    where = Counter(ann.get('image_id') for ann in content['annotations'])
    nowhere = [f'image_id {i}' for i in where if i not in images]
    ids = Counter(ann.get('id') for ann in content['annotations'])
    listed = [
        f'image {image.get("id")}: {field} has {number}'
        for image in content['images']
        for field in _ID_LISTS
        for number in image.get(field) or ()
        if number not in known
    ]
    return [
        *gather('unknown_category', lost),
        *gather('unknown_image', nowhere),
        *gather('duplicate_annotation', (i for i, n in ids.items() if n > 1)),
        *gather('listed_ids', listed),
    ]


def is_box(box: Any) -> bool:
    """Whether a value is four finite numbers."""
    try:
        return len(box) == 4 and all(map(math.isfinite, box))
    except TypeError:
        return False


def _sized(content: dict) -> Iterator[Tuple[dict, Optional[dict]]]:
    """Annotations with their image, if it is there and has a size."""
    images = {
        image.get('id'): image
        for image in content['images']
        if isinstance(image.get('width'), (int, float))
        and isinstance(image.get('height'), (int, float))
    }
    for ann in content['annotations']:
        yield ann, images.get(ann.get('image_id'))


def _check_boxes(content: dict) -> List[Finding]:
    """Boxes that are broken, empty, outside, or over the edge."""
    found: Dict[str, List[str]] = defaultdict(list)
    for ann, image in _sized(content):
        kind = _box_kind(ann.get('bbox'), image)
        if kind is not None:
            found[kind].append(
                f'annotation {ann.get("id")}: {ann.get("bbox")}'
                + (
                    f' in {image["width"]} x {image["height"]}'
                    if image is not None and kind != 'bad_box'
                    else ''
                )
            )
    return [
        finding
        for kind, items in found.items()
        for finding in gather(kind, items, note=kind == 'box_over_edge')
    ]


def _box_kind(box: Any, image: Optional[dict]) -> Optional[str]:
    """Kind of problem with one box [x, y, w, h], None if it is fine."""
    if not is_box(box):
        return 'bad_box'
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return 'zero_area_box'
    if image is None:
        return None
    if min(x + w, image['width']) <= max(x, 0):
        return 'box_outside_image'
    if min(y + h, image['height']) <= max(y, 0):
        return 'box_outside_image'
    over = max(-x, -y, x + w - image['width'], y + h - image['height'])
    return 'box_over_edge' if over > _EDGE else None


def _check_masks(content: dict) -> List[Finding]:
    """Masks of a form that cannot be read; polygons and RLE together."""
    bad: List[str] = []
    forms: Counter = Counter()
    for ann, image in _sized(content):
        mask = ann.get('segmentation')
        if not mask:
            continue
        form, fault = _mask_form(mask, image)
        forms[form] += 1
        if fault:
            bad.append(f'annotation {ann.get("id")}: {fault}')
    mixed = [f'{n} {form}' for form, n in forms.items()]
    return [
        *gather('bad_mask', bad),
        *gather('mixed_masks', mixed if len(mixed) > 1 else (), note=True),
    ]


def _mask_form(mask: Any, image: Optional[dict]) -> Tuple[str, str]:
    """Form of a mask, and what is wrong with it ('' if nothing)."""
    if isinstance(mask, list):
        parts_are_lists = all(isinstance(part, list) for part in mask)
        if not parts_are_lists:
            return 'polygons', 'segmentation is not a list of polygons'
        if not any(len(p) >= 6 and len(p) % 2 == 0 for p in mask):
            return 'polygons', 'no polygon has three points'
        return 'polygons', ''
    if not isinstance(mask, dict) or not {'counts', 'size'} <= set(mask):
        return 'RLE', 'RLE needs counts and size'
    size = list(mask['size'])
    if image is not None and size != [image['height'], image['width']]:
        wanted = f'{image["height"]} x {image["width"]}'
        return 'RLE', f'RLE of {size} in an image of {wanted}'
    return 'RLE', ''
