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
                     '15' is 15, but '015' and 'scan-15' stay text
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
import re
import reprlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Optional, Tuple, Union
from urllib.parse import urlsplit

from .json_files import collector_paused, read_json
from .masks import read_mask

Id = Union[int, str]

ID_LISTS = ('neg_category_ids', 'not_exhaustive_category_ids')
_MAX_SIDE, _MAX_PIXELS = 1 << 20, 1 << 30  # what OpenCV decodes
_MAX_COORDINATE = 1e7
# COCO's and LVIS' evaluations leave larger objects out.
_MAX_AREA = 1e10
_WHOLE = re.compile(r'(-?(?:0|[1-9][0-9]{0,17}))(?:\.0+)?')
_FLAGS = {'': 0, '0': 0, '1': 1, 'false': 0, 'true': 1}

#: Faults for which a file is refused, in the order they are looked for, and
#: what the sentence ends with.
_REFUSED = dict(
    bad_category='give each category an id and a name in text',
    duplicate_category='names and ids must be unique',
    bad_image='repair the file',
    duplicate_image='ids must be unique',
    no_file='give each image its file_name',
    bad_annotation='repair the file',
    dangling='repair the file',
    duplicate_annotation='ids must be unique',
    bad_box='four finite numbers [x, y, width, height] are expected',
    bad_flag='0 or 1 is expected',
    bad_mask='repair it, or remove the segmentation of the object',
)

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlist = _short.maxdict = 8
_short.maxlevel = 3


def show(value: Any) -> str:
    """Write a value of a file into a message, of bounded length."""
    return _short.repr(value)


def as_id(value: Any) -> Optional[Id]:
    """An id in its one form.

    Args:
        value (Any): As in a file, or of numpy or torch.

    Returns:
        int | str | None: A number where it is one, also '15' and 15.0; other
        text as it is; None for what cannot be an id.
    """
    kind = type(value)
    if kind is int:
        return value
    if kind is float:
        return int(value) if value.is_integer() else None
    if kind is str:
        whole = _WHOLE.fullmatch(value.strip())
        return int(whole[1]) if whole else value or None
    if kind is bool or not hasattr(value, 'item'):
        return None
    return as_id(value.item())


def sort_key(number: Id) -> Tuple[bool, Id]:
    """Order of ids: numbers before text."""
    return isinstance(number, str), number


def as_number(value: Any, limit: float = _MAX_COORDINATE) -> Optional[float]:
    """A finite number up to a limit, or None; digits in text count."""
    if type(value) is str:
        try:
            value = float(value)
        except ValueError:
            return None
    elif type(value) not in (int, float):
        return None
    return value if -limit <= value <= limit else None


def is_absent(value: Any) -> bool:
    """Whether a field holds nothing: null, or NaN as pandas writes it."""
    return value is None or value != value


def image_file(image: dict) -> Optional[str]:
    """Path of an image as its file has it.

    LVIS v1 has no ``file_name``: its images are COCO's, spread over
    train2017 and val2017 whatever the split, as ``coco_url`` tells.

    Args:
        image (dict): Entry of ``images``.

    Returns:
        str | None: ``file_name``, or the path part of ``coco_url``, or None.
        A ``file_name`` that is an address would be fetched: it is none.
    """
    name, url = image.get('file_name'), image.get('coco_url')
    if _is_text(name) and '://' not in name:
        return name
    return urlsplit(url).path.lstrip('/') or None if _is_text(url) else None


def _is_text(value: Any) -> bool:
    """Whether it is text that can be written: half a character cannot."""
    if not isinstance(value, str) or not value.strip():
        return False
    return value.isascii() or not re.search('[\ud800-\udfff]', value)


def left_out(ann: dict, image: dict) -> Optional[str]:
    """Why an object is left out of training, as MMDetection's loader does.

    Args:
        ann (dict): Annotation that was read here.
        image (dict): Its image.

    Returns:
        str | None: The reason in words, None for an object that stays.
    """
    if ann.get('ignore'):
        return 'marked as ignored'
    x, y, w, h = ann['bbox']
    if w < 1 or h < 1:
        return 'narrower than a pixel'
    if (
        min(x + w, image['width']) <= max(x, 0)
        or min(y + h, image['height']) <= max(y, 0)
    ):
        return 'outside the image'
    return None


class Faults:
    """What is wrong with a file: how often, and the first of each kind."""

    def __init__(self) -> None:
        self.numbers: Counter = Counter()
        self.examples: Dict[str, List[str]] = defaultdict(list)

    def add(self, kind: str, text: str, number: int = 1) -> None:
        """Count a fault and keep the first five."""
        self.numbers[kind] += number
        if len(self.examples[kind]) < 5:
            self.examples[kind].append(text)


@dataclass
class Annotations:
    """An annotation file after reading.

    Args:
        source (str): Where it comes from, for messages.
        images, categories, annotations (list[dict]): The sound entries, in
            the order of the file and with the fields of the rules above:
            ids in one form, ``bbox`` (four numbers), ``area``, ``iscrowd``
            (0 or 1; ``ignore`` too, if it is there) and ``segmentation``,
            which is [] or missing where there is no mask to read. Other
            fields are as in the file.
        others (dict): What else the file has.
        faults (Faults): What is wrong with it.
        number (int): Annotations in the file, the faulty ones too.
        spelling (dict): Ids that the file has as text, by their number; for
            'images' and 'categories'.
    """

    source: str
    images: List[dict] = field(default_factory=list)
    categories: List[dict] = field(default_factory=list)
    annotations: List[dict] = field(default_factory=list)
    others: dict = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    number: int = 0
    spelling: Dict[str, Dict[Id, str]] = field(
        default_factory=lambda: dict(images={}, categories={})
    )

    def refuse_faults(
        self, files: bool = False, masks: bool = True
    ) -> 'Annotations':
        """Stop if the file breaks the rules.

        Args:
            files (bool): Whether images must have files.
            masks (bool): Whether masks must be sound.

        Returns:
            Annotations: The same, without faults.

        Raises:
            ValueError: With the first fault in one sentence.
        """
        excused = {'no_file': not files, 'bad_mask': not masks}
        for kind, remedy in _REFUSED.items():
            examples = self.faults.examples.get(kind)
            if examples and not excused.get(kind):
                more = self.faults.numbers[kind] - 1
                more = f' (and {more} more like it)' if more else ''
                raise ValueError(
                    f'{self.source}: {examples[0]}{more}; {remedy}'
                )
        return self

    def content(self) -> dict:
        """The file in its normal form, to be written."""
        return dict(
            self.others,
            images=self.images,
            categories=self.categories,
            annotations=self.annotations,
        )


class IdNumbers:
    """Positive numbers for ids of any form, in order of id.

    Evaluation counts with numbers, and takes 0 for no object.

    Args:
        kind (str): 'images' or 'categories'.
        read (Annotations): The file.
        keep (bool): Whether ids that are numbers all stand for themselves.

    Attributes:
        ids (list[int | str]): In order.
        numbers (list[int]): Of each id.
    """

    def __init__(
        self, kind: str, read: Annotations, keep: bool = False
    ) -> None:
        self.ids = sorted(
            (item['id'] for item in getattr(read, kind)), key=sort_key
        )
        whole = all(isinstance(i, int) and abs(i) < 1 << 62 for i in self.ids)
        self.numbers = list(range(1, len(self.ids) + 1))
        if keep and whole:
            self.numbers = self.ids
        self._number = dict(zip(self.ids, self.numbers, strict=True))
        self._id = dict(zip(self.numbers, self.ids, strict=True))
        self._spelling = read.spelling[kind]

    def find(self, given: Any) -> Optional[int]:
        """Number of an id in whatever form; None for an unknown one."""
        return self._number.get(as_id(given))

    def spell(self, number: int) -> Id:
        """The id of a number, as the file has it."""
        return self._spelling.get(self._id[number], self._id[number])


def require_masks(read: Annotations, categories: Collection[Id]) -> None:
    """Stop if an object to be evaluated by its mask has none.

    Args:
        read (Annotations): The file.
        categories (Collection[int | str]): Ids of those evaluated.

    Raises:
        ValueError: If one has none, naming the first.
    """
    wanted = set(categories)
    objects = [a for a in read.annotations if a['category_id'] in wanted]
    lost = [a['id'] for a in objects if not a.get('segmentation')]
    if lost:
        raise ValueError(
            f'{read.source}: object {show(lost[0])} has no segmentation, '
            f'which mask AP needs ({len(lost)} of {len(objects)} objects '
            "have none); use metric='bbox'"
        )


def read_annotations(
    path: 'str | os.PathLike', backend_args: Optional[dict] = None
) -> Annotations:
    """Read an annotation file.

    Args:
        path (str | Path): File in the form of COCO, LVIS or Objects365.
        backend_args (dict, optional): File backend of MMEngine.

    Returns:
        Annotations: Its sound entries, and its faults.

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
    """Bring the content of an annotation file into its one form.

    Args:
        content (Any): What the JSON holds; stays as it is.
        source (str): Where it comes from, for messages.

    Returns:
        Annotations: Its sound entries, and its faults.

    Raises:
        ValueError: If it is no annotation file at all.
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


def _read_categories(items: List[Any], read: Annotations) -> set:
    """Fill ``categories``; return all ids, also of faulty ones."""
    ids: set = set()
    names: set = set()
    for item in items:
        item = item if isinstance(item, dict) else dict(id=item)
        number = as_id(item.get('id'))
        name = item.get('name')
        if number is None or not _is_text(name):
            read.faults.add(
                'bad_category',
                f'the category {show(item)} needs an id and a name in text',
            )
        elif number in ids or name in names:
            read.faults.add(
                'duplicate_category',
                f'category {name!r} (id {number}) appears twice in the '
                'annotation file',
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
    """Keep the text of an id that became a number, for results."""
    if type(given) is str and type(number) is int:
        read.spelling[kind][number] = given


def _read_images(
    items: List[Any], categories: set, read: Annotations
) -> Dict[Id, Optional[dict]]:
    """Fill ``images``; return them by id, None for a faulty one."""
    known: Dict[Id, Optional[dict]] = {}
    for item in items:
        item = item if isinstance(item, dict) else dict(id=item)
        number = as_id(item.get('id'))
        width, height = map(_side, (item.get('width'), item.get('height')))
        lost = [
            key
            for key, value in zip(
                ('id', 'width', 'height'), (number, width, height),
                strict=True,
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
                + (f' (its file_name {show(image["file_name"])} is no path)'
                   if image.get('file_name') else ''),
            )
        known[number] = image
        read.images.append(image)
    known.pop(None, None)
    return known


def _side(value: Any) -> Optional[int]:
    """Width or height of an image."""
    number = as_number(value, _MAX_SIDE)
    whole = number is not None and number == int(number) and number >= 1
    return int(number) if whole else None


def _read_lists(image: dict, categories: set, read: Annotations) -> None:
    """The lists of category ids that LVIS has for each image."""
    for name in ID_LISTS:
        given = image.get(name)
        if is_absent(given):
            image.pop(name, None)
            continue
        ids = [as_id(i) for i in given] if isinstance(given, list) else [None]
        if not categories.issuperset(ids):
            wrong = given if ids == [None] else [
                i for i in ids if i not in categories]
            read.faults.add(
                'listed_ids',
                f'image {show(image["id"])}: {name} has {show(wrong)}',
            )
        image[name] = list(dict.fromkeys(i for i in ids if i in categories))


def _read_objects(
    items: List[Any],
    images: Dict[Id, Optional[dict]],
    categories: set,
    read: Annotations,
) -> None:
    """Fill ``annotations``."""
    read.number = len(items)
    faults = read.faults
    sound = {category['id'] for category in read.categories}
    seen: set = set()
    lost: Dict[str, Counter] = dict(category_id=Counter(), image_id=Counter())
    for item in items:
        ids = _object_ids(item, faults)
        if ids is None:
            continue
        number, image_id, category = ids
        lost['category_id'][category] += category not in categories
        lost['image_id'][image_id] += image_id not in images
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
    # Plus nothing: without those that are counted 0 times.
    _add_dangling(*(ids + Counter() for ids in lost.values()), faults)


def _object_ids(item: Any, faults: Faults) -> Optional[Tuple[Id, Id, Id]]:
    """Id of an annotation, of its image and of its category."""
    fields = ('id', 'image_id', 'category_id')
    given = item if isinstance(item, dict) else {}
    ids = tuple(as_id(given.get(name)) for name in fields)
    if None not in ids:
        return ids
    lost = [
        name for name, i in zip(fields, ids, strict=True) if i is None
    ]
    faults.add(
        'bad_annotation', f'the annotation {show(item)} has no {lost}'
    )
    return None


def _add_dangling(
    categories: Counter, images: Counter, faults: Faults
) -> None:
    """Annotations of categories and images that are not in the file."""
    for i, number in categories.items():
        faults.add(
            'unknown_category', f'category_id {show(i)}: {number} annotations',
            number)
    for i, number in images.items():
        faults.add('unknown_image', f'image_id {show(i)}', number)
    if categories or images:
        first = [
            sorted(ids, key=sort_key)[:5] for ids in (categories, images)
        ]
        faults.add(
            'dangling',
            f'the file contradicts itself: {sum(categories.values())} '
            'annotations have a category_id that is not in its categories '
            f'(ids {show(first[0])}) and {sum(images.values())} an image_id '
            f'that is not in its images (ids {show(first[1])})',
        )


def _read_object(
    item: dict, number: Id, image: dict, faults: Faults
) -> Optional[dict]:
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
        ann[name] = flag = _flag(item.get(name))
        if flag is None:
            faults.add(
                'bad_flag',
                f'annotation {show(number)} has the {name} '
                f'{show(item[name])}',
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


def _flag(value: Any) -> Optional[int]:
    """0 or 1, None for what is neither."""
    if value is None or value != value:
        return 0
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower(), _flag_number(value))
    return _flag_number(value)


def _flag_number(value: Any) -> Optional[int]:
    """A flag written as a number or as true or false."""
    number = int(value) if isinstance(value, bool) else as_number(value)
    return int(number) if number in (0, 1) else None
