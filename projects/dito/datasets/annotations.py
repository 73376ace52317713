# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Read COCO and LVIS annotation files, by one set of rules for all.

Data sets, the check, metrics, test on other data and converters read files
here and nowhere else, so that what one of them takes, all take.

==================== =======================================================
what                 rule
==================== =======================================================
``null``, ``NaN``    like a field that is not there
numbers              digits in text ('12.5') and whole floats (3.0) count;
                     true and false are no numbers, except as flags
ids                  whole numbers, 0 and negative ones too, or text;
                     '15' is 15, but '015' and 'scan-15' stay text; numbers
                     of over 18 digits are text
images               id (once), width and height (whole, from 1 to 2^20 a
                     side, at most 2^30 pixels), file_name or coco_url
categories           id (once) and a name in text (once); frequency is kept
annotations          id (once), image_id and category_id that are there
bbox                 four finite numbers x, y, width, height within 10^7
area                 above 0, at most 10^10 (larger objects are not
                     evaluated); the area of the box otherwise
iscrowd, ignore      0 or 1, '0' or '1', true or false; nothing means 0
segmentation         polygons, one flat polygon, RLE with run lengths as a
                     list or as COCO's text; [], {} and [[]] mean no mask
polygons             those of an odd number of coordinates or under three
                     points are dropped, the others count
vertices             finite, and no farther outside than the longer side of
                     the image is long
RLE                  of the size of the image, its runs adding up to it
lists of LVIS        ids, once each; an id without category is a fault
==================== =======================================================

What breaks a rule is a fault: the check reports it by its kind, and who
needs the field refuses the file in one sentence. Left out of training,
counted by :func:`left_out`, are objects marked with ``ignore``, boxes
narrower than a pixel and boxes outside their image.
"""

import os
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from dito.utils.files import collector_paused, read_json

from .annotation_content import (
    FREQUENCIES,
    ID_LISTS,
    Annotations,
    Faults,
    Id,
    IdNumbers,
    as_flag,
    as_id,
    as_number,
    as_side,
    is_absent,
    is_text,
    require_federated,
    require_masks,
    show,
    sort_key,
)
from .masks import read_mask

__all__ = [
    'FREQUENCIES', 'ID_LISTS', 'Annotations', 'Id', 'IdNumbers', 'as_id',
    'image_file', 'left_out', 'normalise', 'read_annotations',
    'require_federated', 'require_masks', 'show', 'sort_key',
]  # fmt: skip

_MAX_PIXELS = 1 << 30  # what OpenCV decodes
_MAX_PATH = 4096  # what Linux opens
# COCO's and LVIS' evaluations leave larger objects out.
_MAX_AREA = 1e10


def image_file(image: dict) -> str | None:
    """Path of an image: ``file_name``, or the path part of ``coco_url``.

    LVIS v1 has no ``file_name``: its images are COCO's, spread over train2017
    and val2017 whatever the split, as ``coco_url`` tells. A ``file_name`` that
    is an address would be fetched: it is none, as is one too long to be
    opened.
    """
    name, url = image.get('file_name'), image.get('coco_url')
    if is_text(name) and '://' not in name and len(name) <= _MAX_PATH:
        return name
    if not is_text(url) or len(url) > _MAX_PATH:
        return None
    return urlsplit(url).path.lstrip('/') or None


def left_out(ann: dict, image: dict) -> str | None:
    """Why an object is left out of training, as by MMDetection's loader."""
    if ann.get('ignore'):
        return 'marked as ignored'
    x, y, w, h = ann['bbox']
    if w < 1 or h < 1:
        return 'narrower than a pixel'
    if min(x + w, image['width']) <= max(x, 0) or min(
        y + h, image['height']
    ) <= max(y, 0):
        return 'outside the image'
    return None


def read_annotations(
    path: 'str | os.PathLike', backend_args: dict | None = None
) -> Annotations:
    """Read an annotation file in the form of COCO, LVIS or Objects365.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no annotation file at all.
    """
    source = os.fspath(path)
    try:
        content = read_json(source, backend_args)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'annotation file {source} does not exist; check the path '
            '(data_root and ann_file of a data set)'
        ) from error
    with collector_paused():
        return normalise(content, source)


def normalise(content: Any, source: str) -> Annotations:
    """Bring the content of an annotation file, unchanged, into its one form.

    ValueError if it is no annotation file at all.
    """
    parts = ('images', 'categories', 'annotations')
    given = content if isinstance(content, dict) else {}
    lost = [key for key in parts[:2] if not isinstance(given.get(key), list)]
    if not lost and not isinstance(given.get(parts[2]) or [], list):
        lost = [parts[2]]
    if lost:
        raise ValueError(
            f'{source} has no {lost}; a COCO or LVIS style detection file is '
            'expected'
        )
    read = Annotations(source)
    read.others = {k: v for k, v in given.items() if k not in parts}
    categories = _read_categories(given['categories'], read)
    images = _read_images(given['images'], categories, read)
    _read_objects(given.get('annotations') or [], images, categories, read)
    return read


def _read_categories(items: list[Any], read: Annotations) -> set:
    """Fill ``categories``; return all ids, also of faulty ones."""
    ids: set = set()
    names: set = set()
    for item in items:
        item = item if isinstance(item, dict) else dict(id=item)
        number = as_id(item.get('id'))
        name = item.get('name')
        if number is None or not is_text(name):
            read.faults.add(
                'bad_category',
                f'the category {show(item)} needs an id and a name in text',
            )
        elif number in ids or name in names:
            read.faults.add(
                'duplicate_category',
                f'category {show(name)} (id {show(number)}) appears twice in '
                'the annotation file',
            )
        else:
            item = {k: v for k, v in item.items() if not is_absent(v)}
            _note_spelling('categories', item['id'], number, read)
            read.categories.append(dict(item, id=number))
            names.add(name)
        ids.add(number)
    return ids - {None}


def _note_spelling(
    kind: str, given: Any, number: Id, read: Annotations
) -> None:
    """Keep an id that became a number or became text, for results."""
    if isinstance(given, str) is not isinstance(number, str):
        read.spelling[kind][number] = given


def _read_images(
    items: list[Any], categories: set, read: Annotations
) -> dict[Id, dict | None]:
    """Fill ``images``; return them by id, None for a faulty one."""
    known: dict[Id, dict | None] = {}
    for item in items:
        item = item if isinstance(item, dict) else dict(id=item)
        number = as_id(item.get('id'))
        width, height = map(as_side, (item.get('width'), item.get('height')))
        lost = [
            key
            for key, value in zip(
                ('id', 'width', 'height'), (number, width, height), strict=True
            )
            if value is None
        ]
        if lost or width * height > _MAX_PIXELS:
            read.faults.add(
                'bad_image',
                f'an image has no {lost}: {show(item)}'
                if lost
                else f'image {show(number)} of {width} x {height} is too '
                'large to be decoded',
            )
            known.setdefault(number, None)
            continue
        if number in known:
            read.faults.add(
                'duplicate_image', f'image id {show(number)} appears twice'
            )
            continue
        image = dict(item, id=number, width=width, height=height)
        _note_spelling('images', item['id'], number, read)
        _read_lists(image, categories, read)
        if image_file(image) is None:
            read.faults.add(
                'no_file',
                f'image {show(number)} has neither file_name nor coco_url'
                + (
                    f' (its file_name {show(image["file_name"])} is no path)'
                    if image.get('file_name')
                    else ''
                ),
            )
        known[number] = image
        read.images.append(image)
    known.pop(None, None)
    return known


def _read_lists(image: dict, categories: set, read: Annotations) -> None:
    """The lists of category ids that LVIS has for each image."""
    for name in ID_LISTS:
        given = image.get(name)
        if is_absent(given):
            image.pop(name, None)
            continue
        ids = [as_id(i) for i in given] if isinstance(given, list) else [None]
        if not categories.issuperset(ids):
            wrong = (
                given
                if ids == [None]
                else [i for i in ids if i not in categories]
            )
            read.faults.add(
                'listed_ids',
                f'image {show(image["id"])}: {name} has {show(wrong)}, '
                'which is not in categories',
            )
        image[name] = list(dict.fromkeys(i for i in ids if i in categories))


def _read_objects(
    items: list[Any],
    images: dict[Id, dict | None],
    categories: set,
    read: Annotations,
) -> None:
    """Fill ``annotations``."""
    read.number = len(items)
    faults = read.faults
    sound = {category['id'] for category in read.categories}
    seen: set = set()
    lost: dict[str, Counter] = dict(category_id=Counter(), image_id=Counter())
    for item in items:
        ids = _object_ids(item, faults)
        if ids is None:
            continue
        number, image_id, category = ids
        if category not in categories:
            lost['category_id'][category] += 1
        if image_id not in images:
            lost['image_id'][image_id] += 1
        if number in seen:
            faults.add(
                'duplicate_annotation',
                f'annotation id {show(number)} appears twice',
            )
        elif category in sound and images.get(image_id) is not None:
            ann = _read_object(item, number, images[image_id], faults)
            if ann is not None:
                ann.update(image_id=image_id, category_id=category)
                read.annotations.append(ann)
        seen.add(number)
    for name, ids in lost.items():
        _add_unknown(name.removesuffix('_id'), ids, faults)


def _object_ids(item: Any, faults: Faults) -> tuple[Id, Id, Id] | None:
    """Id of an annotation, of its image and of its category."""
    fields = ('id', 'image_id', 'category_id')
    given = item if isinstance(item, dict) else {}
    ids = tuple(as_id(given.get(name)) for name in fields)
    if None not in ids:
        return ids
    lost = [name for name, i in zip(fields, ids, strict=True) if i is None]
    faults.add('bad_annotation', f'the annotation {show(item)} has no {lost}')
    return None


def _add_unknown(kind: str, ids: Counter, faults: Faults) -> None:
    """Annotations of a category or an image that is not in the file."""
    there = dict(category='categories', image='images')[kind]
    for i in sorted(ids, key=sort_key):
        one = '' if ids[i] == 1 else 's'
        faults.add(
            f'unknown_{kind}',
            f'the {kind}_id {show(i)} of {ids[i]} annotation{one} is not in '
            f'{there}',
            ids[i],
        )


def _read_object(
    item: dict, number: Id, image: dict, faults: Faults
) -> dict | None:
    """Box, area, flags and mask of one object; None without a box."""
    ann = dict(item, id=number)
    box = item.get('bbox')
    numbers = [as_number(v) for v in box] if isinstance(box, list) else []
    if len(numbers) != 4 or None in numbers:
        faults.add(
            'bad_box', f'annotation {show(number)} has the bbox {show(box)}'
        )
        return None
    ann['bbox'] = numbers
    area = as_number(item.get('area'), _MAX_AREA)
    if area is None or area <= 0:
        area = max(numbers[2], 0) * max(numbers[3], 0)
    ann['area'] = min(area, _MAX_AREA)
    for name in ('iscrowd', 'ignore') if 'ignore' in item else ('iscrowd',):
        ann[name] = flag = as_flag(item.get(name))
        if flag is None:
            faults.add(
                'bad_flag',
                f'annotation {show(number)} has the {name} {show(item[name])}',
            )
            return None
    mask = item.get('segmentation')
    if mask:
        mask, fault = read_mask(mask, image['height'], image['width'])
        if fault:
            faults.add('bad_mask', f'annotation {show(number)}: {fault}')
    if mask or 'segmentation' in item:
        ann['segmentation'] = mask or []
    return ann
