# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Checks of an annotation file and of images; what checks find."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pycocotools.mask as mask_utils
from mmdet.datasets import CocoDataset

from ..annotations import Annotations, left_out, show
from ..load_image import DITOLoadImageFromFile
from ..masks import to_rle
from ..ov_dataset import NO_MASK

_LONGEST = 5000  # letters of an example; a path has up to 4,096

#: Kinds of problems and what each one means.
KINDS: dict[str, str] = {
    'bad_file': 'an annotation file that is missing or damaged',
    'bad_category': 'categories without an id or a name',
    'duplicate_category': 'categories that share a name or an id',
    'id_gaps': 'category ids that are not contiguous',
    'unknown_category': 'annotations whose category_id is not in categories',
    'unknown_image': 'annotations whose image_id is not in images',
    'duplicate_annotation': 'annotation ids that appear twice',
    'duplicate_image': 'image ids that appear twice',
    'bad_image': 'images without id, width, height or file name',
    'listed_ids': 'ids in LVIS lists of a category that is not there',
    'bad_annotation': 'annotations without id, image_id or category_id',
    'bad_box': 'boxes that are not four finite numbers',
    'bad_flag': 'iscrowd or ignore that is neither 0 nor 1',
    'zero_area_box': 'boxes without area',
    'box_outside_image': 'boxes wholly outside their image',
    'bad_mask': 'masks that no loader can read',
    'empty_mask': 'masks without a pixel',
    'missing_mask': 'objects without a mask where masks are used',
    'missing_class': 'classes of the config that the file does not have',
    'bad_classes': 'a class list that contradicts itself',
    'class_order': 'labels that the data set would give to other classes',
    'novel_in_training': 'novel classes that are trained on',
    'wrong_split': 'boxes of rare classes in a file of base classes',
    'missing_image': 'images that do not exist',
    'undecodable_image': 'images that cannot be decoded',
    'image_size': 'images of another size than the file says',
    'shared_image': 'images in training that are in a test, too',
    'vocabulary': 'classes that the vocabulary file does not have',
    'metric_file': 'a metric that judges by another file than the set has',
    'metric_form': 'what the metric needs and the file does not have',
    'no_boxes': 'a training set without any box',
}

#: What is counted and reported, but no problem.
NOTES: dict[str, str] = {
    'unused_category': 'categories of the file that are no classes here',
    'respelt_class': 'classes the file spells in another way',
    'left_out_boxes': 'boxes of other categories that are left out',
    'left_out_objects': 'objects of the classes that loading leaves out',
    'id_gaps': 'gaps between category ids, as the benchmark has them',
    'box_over_edge': 'boxes more than a pixel over the edge of the image',
    'mixed_masks': 'polygons and RLE in one file; both are read',
    'class_without_boxes': 'classes without any box',
    'unchecked_images': 'images that were not decoded (--max-images)',
}


@dataclass
class Finding:
    """One kind, of :data:`KINDS` or :data:`NOTES`, in one data set.

    How many there are and the first of them; a note is no problem.
    """

    kind: str
    number: int
    examples: list[str] = field(default_factory=list)
    note: bool = False

    @property
    def meaning(self) -> str:
        """What the kind means, in words."""
        return (NOTES if self.note else KINDS)[self.kind]


def gather(
    kind: str, items: Iterable[Any], note: bool = False, shown: int = 5
) -> list[Finding]:
    """Make a finding of things, with a few examples; none of nothing."""
    items = list(items)
    if not items:
        return []
    examples = [str(i)[:_LONGEST] for i in items[:shown]]
    return [Finding(kind, len(items), examples, note)]


@dataclass
class SetReport:
    """What was found in one data set, such as 'train_dataloader'.

    ``counts`` has images, boxes, classes and so on.
    """

    name: str
    ann_file: str
    counts: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def problems(self, allowed: Iterable[str] = ()) -> list[Finding]:
        """Findings that are neither notes nor of an allowed kind."""
        allowed = set(allowed)
        return [
            finding
            for finding in self.findings
            if not finding.note and finding.kind not in allowed
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


# Rounding puts many boxes of every data set a little over the edge.
_EDGE = 1.0
# Highest category id of COCO, whose 80 ids have gaps.
_COCO_LAST_ID = 90


def check_annotations(
    read: Annotations, masks_needed: bool | None = None
) -> list[Finding]:
    """Problems and notes of an annotation file.

    ``masks_needed``: whether every object needs a mask; None: if another one
    has.
    """
    images = {image['id']: image for image in read.images}
    return [
        *_faults(read),
        *_check_names(read.categories),
        *_check_gaps(read.categories),
        *_check_boxes(read.annotations, images),
        *_check_masks(read.annotations, images, masks_needed),
    ]


def name_form(name: str) -> str:
    """Form in which two names are one for a text tower."""
    return ' '.join(name.replace('_', ' ').split()).casefold()


def _faults(read: Annotations) -> list[Finding]:
    """What the rules of reading forbid."""
    faults = read.faults
    # For the check a missing file name is one more fault of an image.
    found = dict(no_file='bad_image')
    return [
        Finding(found.get(kind, kind), number, faults.examples[kind])
        for kind, number in faults.numbers.items()
    ]


def _check_names(categories: Sequence[dict]) -> list[Finding]:
    """Names that differ, but not for a text tower."""
    by_name: dict[str, list[dict]] = defaultdict(list)
    for cat in categories:
        by_name[name_form(cat['name'])].append(cat)
    twice = (
        ' = '.join(f'{cat["name"]!r} (id {show(cat["id"])})' for cat in group)
        for group in by_name.values()
        if len(group) > 1
    )
    return gather('duplicate_category', twice)


def _check_gaps(categories: Sequence[dict]) -> list[Finding]:
    """Gaps between ids; fine in COCO and in LVIS without rare classes."""
    ids = sorted(i for cat in categories if isinstance(i := cat['id'], int))
    if not ids:
        return []
    gaps: list[str] = []
    for low, high in zip(ids, ids[1:], strict=False):
        if high - low > 1:
            gaps.append(
                f'{low + 1}' if high - low == 2 else f'{low + 1} to {high - 1}'
            )
    missing = ids[-1] - ids[0] + 1 - len(ids)
    coco = set(CocoDataset.METAINFO['classes'])
    official = all('frequency' in cat for cat in categories) or (
        ids[-1] <= _COCO_LAST_ID
        and all(cat['name'] in coco for cat in categories)
    )
    return [Finding('id_gaps', missing, gaps[:5], official)] * bool(gaps)


def _check_boxes(annotations: Sequence[dict], images: dict) -> list[Finding]:
    """Boxes that are empty, outside, or over the edge."""
    found: dict[str, list[str]] = defaultdict(list)
    for ann in annotations:
        image = images[ann['image_id']]
        kind = _box_kind(ann, image)
        if kind is not None:
            found[kind].append(
                f'annotation {show(ann["id"])}: {ann["bbox"]} in '
                f'{image["width"]} x {image["height"]}'
            )
    return [
        finding
        for kind, items in found.items()
        for finding in gather(kind, items, note=kind == 'box_over_edge')
    ]


def _box_kind(ann: dict, image: dict) -> str | None:
    """Kind of problem with one box [x, y, w, h], None if it is fine."""
    x, y, w, h = ann['bbox']
    if w <= 0 or h <= 0:
        return 'zero_area_box'
    if left_out(dict(ann, ignore=0), image) == 'outside the image':
        return 'box_outside_image'
    over = max(-x, -y, x + w - image['width'], y + h - image['height'])
    return 'box_over_edge' if over > _EDGE else None


def _check_masks(
    annotations: Sequence[dict], images: dict, needed: bool | None
) -> list[Finding]:
    """Masks without a pixel, none at all, polygons and RLE together."""
    empty: list[str] = []
    missing: list[str] = []
    forms: Counter = Counter()
    for ann in annotations:
        mask = ann.get('segmentation')
        if not mask:
            missing.append(f'annotation {show(ann["id"])} is {NO_MASK}')
            continue
        forms['polygons' if isinstance(mask, list) else 'RLE'] += 1
        image = images[ann['image_id']]
        rle = to_rle(mask, image['height'], image['width'])
        if not mask_utils.area(rle):
            empty.append(f'annotation {show(ann["id"])}')
    if needed is None:
        needed = bool(forms)
    mixed = [f'{n} {form}' for form, n in forms.items()]
    return [
        *gather('missing_mask', missing if needed else ()),
        *gather('empty_mask', empty),
        *gather('mixed_masks', mixed if len(mixed) > 1 else (), note=True),
    ]


# Path of an image, and the width and height that the annotations say.
Expected = tuple[str, int, int]


def check_images(
    images: Sequence[Expected], max_images: int | None = None, workers: int = 1
) -> list[Finding]:
    """Look for images that are missing, broken or of another size.

    ``images`` has path, width and height of each. All must exist;
    ``max_images`` of them, spread evenly, are decoded, by ``workers`` threads.
    """
    missing = [path for path, _, _ in images if not os.path.isfile(path)]
    gone = set(missing)
    there = [image for image in images if image[0] not in gone]
    chosen = _spread(there, max_images)
    found: dict[str, list[str]] = dict(undecodable_image=[], image_size=[])
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for result in pool.map(_decode, chosen):
            if result is not None:
                found[result[0]].append(result[1])
    left = len(there) - len(chosen)
    return [
        *gather('missing_image', missing),
        *gather('undecodable_image', found['undecodable_image']),
        *gather('image_size', found['image_size']),
        *gather('unchecked_images', range(left), note=True, shown=0),
    ]


def _spread(
    images: Sequence[Expected], number: int | None
) -> Sequence[Expected]:
    """Take a number of images at even distances."""
    if number is None or number >= len(images):
        return images
    return [images[i * len(images) // number] for i in range(number)]


def _decode(image: Expected) -> tuple[str, str] | None:
    """Kind and text of a problem with one image, as the loader sees it."""
    path, width, height = image
    try:
        loaded = DITOLoadImageFromFile()(dict(img_path=path))
    except (OSError, ValueError) as error:
        return 'undecodable_image', str(error)
    found = loaded['ori_shape']
    if found == (height, width):
        return None
    turned = ', turned by its EXIF data?' if found == (width, height) else ''
    return 'image_size', (
        f'{path}: {found[1]} x {found[0]}, not {width} x {height}{turned}'
    )
