# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Annotation files with every oddity that the rules of reading allow."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils

NAN = float('nan')
SIZES = ((64, 48), (48, 64), (70, 50), (64, 64))  # width, height
NAMES = ('cat', 'Käse', 'red umbrella')
NO = (None, NAN, 0, 0.0, '0', '0.0', '', False, 'false', ' False ')
YES = (1, 1.0, '1', True, 'true', 'TRUE')
NO_MASK = (None, NAN, [], {}, [[]], [[], []], '')
NO_AREA = (None, NAN, 0, '0', -4, 'big', [], 1e300, 1e11, 10**400, {})
# Drawn now and then: what the check calls a problem although all can be read.
ODD_BOXES = dict(
    zero_area_box=((5, 6, 0, 9), (5, 6, 9, -3), (5, 6, 0, 0)),
    box_outside_image=((-20, 5, 20, 9), (200, 5, 9, 9), (4, -9, 9, 9)),
)


@dataclass
class Object:
    """What an entry of ``annotations`` means.

    Attributes:
        image (int): Place of its image.
        category (int): Place of its category.
        box (tuple[float]): x, y, width, height.
        crowd (bool): A crowd.
        ignore (bool): To be ignored.
        rle (dict, optional): Its mask.
    """

    image: int
    category: int
    box: tuple[float, ...]
    crowd: bool = False
    ignore: bool = False
    rle: Any = None

    def left_out(self) -> str:
        """Why training leaves it out; '' if it does not."""
        width, height = SIZES[self.image]
        x, y, w, h = self.box
        if self.ignore:
            return 'marked as ignored'
        if w < 1 or h < 1:
            return 'narrower than a pixel'
        inside = -w < x < width and -h < y < height
        return '' if inside else 'outside the image'


@dataclass
class Oddity:
    """A file and what it means.

    Attributes:
        content (dict): The file.
        objects (list[Object]): In order.
        form (str): 'coco' or 'lvis'.
        masks (bool): Whether every object has one.
        problems (set[str]): What the check must say of it.
    """

    content: dict[str, Any]
    objects: list[Object]
    form: str
    masks: bool
    problems: set = field(default_factory=set)


def spell(value: Any, rng: random.Random) -> Any:
    """Write an id or a number in one of its forms."""
    if isinstance(value, str):
        return value
    if value != int(value):
        return rng.choice([value, str(value)])
    forms = [int(value), str(int(value)), f' {int(value)} ', f'{int(value)}.0']
    return rng.choice(forms + [float(value)] * (abs(value) < 2**53))


def draw_ids(number: int, rng: random.Random) -> list[Any]:
    """Ids without gaps: numbers from anywhere, text, or both."""
    first = rng.choice([0, 1, 5, -2, 10**12, 10**17])
    ids: list[Any] = list(range(first, first + number))
    if rng.random() < 0.4:
        ids[rng.randrange(number - 1) :] = []
        texts = [
            '015',
            'scan-15',
            'a b',
            'Ä',
            '1e3',
            '-',
            '+1',
            '1_0',
            '٣',
            'null',
        ]
        ids += rng.sample(texts, number - len(ids))
    rng.shuffle(ids)
    return ids


def draw_box(image: int, rng: random.Random) -> tuple[float, ...]:
    """A box in its image or over its edge."""
    width, height = SIZES[image]
    x, y = rng.uniform(0, width - 20), rng.uniform(0, height - 20)
    w, h = rng.uniform(4, 18), rng.uniform(4, 18)
    kind = rng.random()
    if kind < 0.1:
        w = rng.uniform(0.2, 0.9)
    elif kind < 0.2:
        x, w = x - width, 2 * w + width
    elif kind < 0.25:
        w = h = 1e6
    if rng.random() < 0.5:
        return tuple(float(round(v) or 1) for v in (x, y, w, h))
    return tuple(round(v, 3) for v in (x, y, w, h))


def draw_mask(image: int, rng: random.Random) -> tuple[Any, dict]:
    """A mask in one of its forms, and the pixels it means."""
    width, height = SIZES[image]
    x, y = rng.randint(0, width - 20), rng.randint(0, height - 20)
    w, h = rng.randint(4, 18), rng.randint(4, 18)
    # As far outside as is allowed.
    far = x + w if rng.random() < 0.8 else 2 * max(width, height)
    polygon = [x, y, far, y, far, y + h, x, y + h]
    rle = mask_utils.merge(mask_utils.frPyObjects([polygon], height, width))
    if rng.random() < 0.5:
        return _polygons(polygon, rng), rle
    pixels = mask_utils.decode(rle).ravel(order='F')
    ends = np.flatnonzero(np.diff(pixels)) + 1
    runs = np.diff([0, *ends, len(pixels)]).tolist()
    counts = [0, *runs] if pixels[0] else runs
    if rng.random() < 0.5:
        counts = rle['counts'].decode()
    elif rng.random() < 0.3:
        counts = [str(v) for v in counts]
    size = [spell(height, rng), spell(width, rng)]
    return dict(size=size, counts=counts), rle


def _polygons(polygon: list[int], rng: random.Random) -> Any:
    """A polygon as files have it, with others that are none."""
    return rng.choice(
        [
            [polygon],
            polygon,
            [polygon, []],
            [polygon, [1, 2, 3, 4]],
            [[1, 2, 3, 4, 5, 6, 7], polygon],
            [[str(v) for v in polygon]],
            [[float(v) for v in polygon]],
            [polygon, polygon],
        ]
    )


def _maybe(entry: dict, key: str, value: Any, rng: random.Random) -> None:
    """Set a field that says nothing, or leave it away."""
    if rng.random() < 0.7:
        entry[key] = value


def _draw_image(
    place: int,
    number: Any,
    lists: list[list[Any]],
    form: str,
    rng: random.Random,
) -> dict:
    width, height = SIZES[place]
    entry = dict(
        id=spell(number, rng),
        width=spell(width, rng),
        height=spell(height, rng),
        license=None,
    )
    if rng.random() < 0.7:
        entry['file_name'] = f'{place}.png'
    else:
        _maybe(entry, 'file_name', rng.choice([None, '', NAN]), rng)
        entry['coco_url'] = f'http://images.org/{place}.png'
    for name, ids in zip(
        ('neg_category_ids', 'not_exhaustive_category_ids'), lists, strict=True
    ):
        if form == 'lvis':
            entry[name] = [spell(i, rng) for i in ids]
    return entry


def _draw_object(
    item: Object,
    number: Any,
    ids: tuple[Any, Any],
    masks: str,
    rng: random.Random,
) -> dict:
    """Write an object; sets its flags and mask."""
    entry: dict[str, Any] = dict(
        id=spell(number, rng),
        image_id=spell(ids[0], rng),
        category_id=spell(ids[1], rng),
        bbox=[spell(v, rng) for v in item.box],
        extra=None,
    )
    x, y, w, h = item.box
    _maybe(
        entry, 'area', rng.choice([*NO_AREA, spell(max(w * h, 1), rng)]), rng
    )
    for name, share in (('crowd', 0.1), ('ignore', 0.1)):
        yes = rng.random() < share
        setattr(item, name, yes)
        key = 'iscrowd' if name == 'crowd' else name
        if yes:
            entry[key] = rng.choice(YES)
        else:
            _maybe(entry, key, rng.choice(NO), rng)
    if masks == 'all' or (masks == 'some' and rng.random() < 0.5):
        entry['segmentation'], item.rle = draw_mask(item.image, rng)
    else:
        _maybe(entry, 'segmentation', rng.choice(NO_MASK), rng)
    return entry


def draw(seed: int, form: str) -> Oddity:
    """A file that can be read, with oddities of all kinds.

    Args:
        seed (int): Its number.
        form (str): 'coco' or 'lvis'.
    """
    rng = random.Random(f'{form} {seed}')
    images, categories = draw_ids(len(SIZES), rng), draw_ids(3, rng)
    masks = rng.choice(['all', 'all', 'some', 'none'])
    problems: set = set()
    objects = []
    number = rng.randint(4, 9)
    odd = rng.randrange(3 * number)  # in every third file
    for index in range(number):
        place = rng.randrange(len(SIZES))
        box = draw_box(place, rng)
        if index == odd:
            kind = rng.choice(list(ODD_BOXES))
            box = rng.choice(ODD_BOXES[kind])
            problems.add(kind)
        objects.append(Object(place, rng.randrange(3), box))
    numbers = draw_ids(len(objects), rng)
    annotations = [
        _draw_object(
            item,
            number,
            (images[item.image], categories[item.category]),
            masks,
            rng,
        )
        for item, number in zip(objects, numbers, strict=True)
    ]
    content: dict[str, Any] = dict(annotations=annotations, info=None)
    content['images'] = []
    for place, number in enumerate(images):
        present = {o.category for o in objects if o.image == place}
        absent = [i for k, i in enumerate(categories) if k not in present]
        lists = [
            absent * rng.randint(0, 2),
            [categories[k] for k in present if rng.random() < 0.2],
        ]
        content['images'].append(_draw_image(place, number, lists, form, rng))
    content['categories'] = [
        dict(id=spell(number, rng), name=name, supercategory=None)
        for number, name in zip(categories, NAMES, strict=True)
    ]
    for category, group in zip(content['categories'], 'rcf', strict=True):
        if form == 'lvis':
            category['frequency'] = group
    order = rng.sample(range(3), 3)
    content['categories'] = [content['categories'][k] for k in order]
    return Oddity(
        content,
        objects,
        form,
        all(o.rle is not None for o in objects),
        problems,
    )


# What breaks a rule, by the kind that the check names: a place in the file,
# and values for it.
_FAULTY: dict[str, tuple[str, dict[str, list]]] = dict(
    bad_image=(
        'images',
        dict(
            id=[None, NAN, True, 3.5, '', [1], {}],
            width=[None, NAN, 0, -5, 1.5, 'wide', 1 << 21, 10**400, True, []],
            height=[None, '0', '-3', float('inf'), {}],
        ),
    ),
    bad_category=(
        'categories',
        dict(
            id=[None, NAN, False, 0.5, '', []],
            name=[None, '', ' ', 5, ['a'], NAN, 'half \ud83d'],
        ),
    ),
    bad_annotation=(
        'annotations',
        dict(
            id=[None, NAN, True, 1.5, '', {}],
            image_id=[None, NAN, 0.5, [0]],
            category_id=[None, '', 7.25, True],
        ),
    ),
    bad_box=(
        'annotations',
        dict(
            bbox=[
                None,
                NAN,
                [],
                [1, 2, 3],
                [1, 2, 3, 4, 5],
                [1, 2, NAN, 4],
                [1, 2, 'inf', 4],
                [1, 2, None, 4],
                [1, 2, 2e7, 4],
                [10**400] * 4,
                '[1, 2, 3, 4]',
                {'x': 1},
                [[1, 2, 3, 4]],
                [True, 1, 2, 3],
            ]
        ),
    ),
    bad_flag=(
        'annotations',
        dict(iscrowd=[2, -1, 0.5, 'perhaps', [], {}], ignore=[2, 'nein', [1]]),
    ),
    bad_mask=(
        'annotations',
        dict(
            segmentation=[
                [[2, 8, NAN, 8, 22, 32]],
                [[2, 8, 1e9, 8, 22, 32]],
                [[2, 8, float('-inf'), 8, 22, 32]],
                [[2, 8, None, 8, 22, 32]],
                [[2, 8, 10**400, 8, 22, 32]],
                [[1, 2, 3, 4]],
                [[[1, 2], [3, 4]]],
                'none',
                7,
                dict(counts=[9]),
                dict(size=[9, 9], counts=[81]),
                dict(size=None, counts='PP'),
            ]
        ),
    ),
)
FAULTS = [
    *_FAULTY,
    'duplicate_image',
    'duplicate_category',
    'no_file',
    'duplicate_annotation',
    'unknown_image',
    'unknown_category',
]


def spoil(content: dict, kind: str, rng: random.Random) -> None:
    """Put a fault into a file that can be read."""
    if kind in _FAULTY:
        part, fields = _FAULTY[kind]
        entry = rng.choice(content[part])
        name = rng.choice(list(fields))
        value = rng.choice(fields[name])
        if value is None and rng.random() < 0.5:
            entry.pop(name, None)
        else:
            entry[name] = value
        if kind in ('bad_image', 'bad_category', 'bad_annotation') and (
            rng.random() < 0.3
        ):
            content[part].append(rng.choice([None, 3, [], 'a']))
    elif kind == 'no_file':
        entry = rng.choice(content['images'])
        entry.pop('coco_url', None)
        entry['file_name'] = rng.choice([None, '', 5, ' ', [], NAN])
    elif kind.startswith('unknown'):
        entry = rng.choice(content['annotations'])
        entry[kind.split('_')[1] + '_id'] = rng.choice([10**6, '99', 'lost'])
    else:
        part = dict(
            duplicate_image='images',
            duplicate_category='categories',
            duplicate_annotation='annotations',
        )[kind]
        first, second = rng.sample(content[part], 2)
        field_name = rng.choice(['id', 'name']) if 'name' in first else 'id'
        again = first[field_name]
        number = str(again).strip().removesuffix('.0')
        second[field_name] = rng.choice([again, number])
