# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What an annotation file holds, after reading: values in their one form.

The rules are in :mod:`.annotations`.
"""

import re
import reprlib
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

Id = int | str

_MAX_SIDE = 1 << 20  # what OpenCV decodes
_MAX_COORDINATE = 1e7
_WHOLE = re.compile(r'(-?(?:0|[1-9][0-9]{0,17}))(?:\.0+)?')
# Longer ones are text. Python's dictionaries take numbers that differ by
# 2^61 - 1 for the same at first: 20,000 such ids would take a minute.
_MAX_ID = 10**18
_FLAGS = {'': 0, '0': 0, '1': 1, 'false': 0, 'true': 1}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlist = _short.maxdict = 8
_short.maxlevel = 3


def show(value: Any) -> str:
    """Write a value of a file into a message, of bounded length."""
    return _short.repr(value)


def as_id(value: Any) -> Id | None:
    """An id in its one form.

    A number where it is one of up to 18 digits, also '15' and 15.0; longer
    ones as text; other text as it is; None for what cannot be an id.
    """
    kind = type(value)
    if kind is int:
        return value if -_MAX_ID < value < _MAX_ID else str(value)
    if kind is float:
        return as_id(int(value)) if value.is_integer() else None
    if kind is str:
        whole = _WHOLE.fullmatch(value.strip())
        return int(whole[1]) if whole else value or None
    if kind is bool or not hasattr(value, 'item'):
        return None
    return as_id(value.item())


def sort_key(number: Id) -> tuple[bool, Id]:
    """Order of ids: numbers before text."""
    return isinstance(number, str), number


def as_number(value: Any, limit: float = _MAX_COORDINATE) -> float | None:
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


def is_text(value: Any) -> bool:
    """Whether it is text that can be written: half a character cannot."""
    if not isinstance(value, str) or not value.strip():
        return False
    return value.isascii() or not re.search('[\ud800-\udfff]', value)


def as_side(value: Any) -> int | None:
    """Width or height of an image."""
    number = as_number(value, _MAX_SIDE)
    whole = number is not None and number == int(number) and number >= 1
    return int(number) if whole else None


def as_flag(value: Any) -> int | None:
    """0 or 1, None for what is neither."""
    if value is None or value != value:
        return 0
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower(), _flag_number(value))
    return _flag_number(value)


def _flag_number(value: Any) -> int | None:
    """A flag written as a number or as true or false."""
    number = int(value) if isinstance(value, bool) else as_number(value)
    return int(number) if number in (0, 1) else None


#: Of LVIS: rare, common, frequent.
FREQUENCIES = ('r', 'c', 'f')
ID_LISTS = ('neg_category_ids', 'not_exhaustive_category_ids')
#: Faults for which a file is refused, in the order they are looked for, and
#: what the sentence ends with.
_REFUSED = dict(
    bad_category='give each category an id and a name in text',
    duplicate_category='names and ids must be unique',
    bad_image='repair the file',
    duplicate_image='ids must be unique',
    no_file='give each image its file_name',
    bad_annotation='repair the file',
    unknown_category='add the category, or remove its annotations',
    unknown_image='add the image, or remove its annotations',
    duplicate_annotation='ids must be unique',
    bad_box='four finite numbers [x, y, width, height] are expected',
    bad_flag='0 or 1 is expected',
    bad_mask='repair it, or remove the segmentation of the object',
)


class Faults:
    """What is wrong with a file: how often, and the first of each kind.

    ``sentences`` counts those about the entries with a fault: one an entry, or
    one an id that many entries share. ``examples`` are the first five.
    """

    def __init__(self) -> None:
        self.numbers: Counter = Counter()
        self.sentences: Counter = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, text: str, number: int = 1) -> None:
        """Count a fault of some entries and keep the first five sentences."""
        self.numbers[kind] += number
        self.sentences[kind] += 1
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
        spelling (dict): Ids of 'images' and 'categories' that the file has
            as text, by their number, or as a number, by their text.
    """

    source: str
    images: list[dict] = field(default_factory=list)
    categories: list[dict] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)
    others: dict = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    number: int = 0
    spelling: dict[str, dict[Id, Id]] = field(
        default_factory=lambda: dict(images={}, categories={})
    )

    def refuse_faults(
        self, files: bool = False, masks: bool = True
    ) -> 'Annotations':
        """Stop if the file breaks the rules.

        ``files``: images must have files; ``masks``: masks must be sound.

        Raises:
            ValueError: With the first fault in one sentence.
        """
        excused = {'no_file': not files, 'bad_mask': not masks}
        for kind, remedy in _REFUSED.items():
            examples = self.faults.examples.get(kind)
            if examples and not excused.get(kind):
                more = self.faults.sentences[kind] - 1
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

    Evaluation counts with numbers, and takes 0 for no object. ``kind`` is
    'images' or 'categories'; with ``keep`` ids that are all numbers stand for
    themselves.

    Attributes:
        ids: In order.
        numbers: Of each id.
    """

    def __init__(
        self, kind: str, read: Annotations, keep: bool = False
    ) -> None:
        self.ids = sorted(
            (item['id'] for item in getattr(read, kind)), key=sort_key
        )
        whole = all(isinstance(i, int) for i in self.ids)
        self.numbers = list(range(1, len(self.ids) + 1))
        if keep and whole:
            self.numbers = self.ids
        self._number = dict(zip(self.ids, self.numbers, strict=True))
        self._id = dict(zip(self.numbers, self.ids, strict=True))
        self._spelling = read.spelling[kind]

    def find(self, given: Any) -> int | None:
        """Number of an id in whatever form; None for an unknown one."""
        return self._number.get(as_id(given))

    def spell(self, number: int) -> Id:
        """The id of a number, as the file has it."""
        return self._spelling.get(self._id[number], self._id[number])


def require_masks(read: Annotations, categories: Collection[Id]) -> None:
    """Stop, by a ValueError, if an object to be evaluated has no mask."""
    wanted = set(categories)
    objects = [a for a in read.annotations if a['category_id'] in wanted]
    lost = [a['id'] for a in objects if not a.get('segmentation')]
    if lost:
        raise ValueError(
            f'{read.source}: object {show(lost[0])} has no segmentation, '
            f'which mask AP needs ({len(lost)} of {len(objects)} objects '
            "have none); use metric='bbox'"
        )


def require_federated(read: Annotations) -> None:
    """Refuse, by a ValueError, files that are not in LVIS form."""
    for category in read.categories:
        if category.get('frequency') not in FREQUENCIES:
            raise ValueError(
                f'{read.source}: category {category["name"]!r} has '
                f'frequency {show(category.get("frequency"))}, expected one '
                f'of {FREQUENCIES}; is this an LVIS file?'
            )
    for image in read.images:
        lost = [key for key in ID_LISTS if key not in image]
        if lost:
            raise ValueError(
                f'{read.source}: image {show(image["id"])} has no {lost}, '
                'which federated evaluation needs'
            )
    listed = read.faults.examples.get('listed_ids')
    if listed:
        raise ValueError(f'{read.source}: {listed[0]}; repair the list')
