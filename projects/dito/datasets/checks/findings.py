# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What a check of a data set finds."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

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
