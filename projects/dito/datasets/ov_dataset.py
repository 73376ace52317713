# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detection data sets whose labels follow class names, not file order."""

import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.logging import print_log

from .annotations import (
    Annotations,
    Id,
    image_file,
    left_out,
    read_annotations,
)
from .categories import CategoryTable, build_category_table

#: What the log and the check call objects of which only a box is known.
NO_MASK = 'without a mask'


def reads_masks(pipeline: Sequence[Any]) -> bool:
    """Whether a transform of a pipeline, or its config, has ``with_mask``."""
    for step in pipeline:
        has = step if isinstance(step, dict) else getattr(step, '__dict__', {})
        inner = has.get('transforms')
        if has.get('with_mask') or (
            isinstance(inner, (list, tuple))
            and reads_masks(
                [
                    i
                    for part in inner
                    for i in (
                        part if isinstance(part, (list, tuple)) else [part]
                    )
                ]
            )
        ):
            return True
    return False


@DATASETS.register_module()
class OpenVocabularyDataset(CocoDataset):
    """COCO-style annotations with base and novel classes.

    Differences from MMDetection's ``CocoDataset``: a label is the position
    of the name in the class list whatever order the file has; names that the
    file does not know are an error instead of being dropped; annotations are
    looked up in dictionaries, so 1,203 classes cost no more than 80; and the
    novel classes can be left out of training.

    Subclasses may set ``DEFAULT_CLASSES``, ``DEFAULT_BASE_CLASSES`` and
    ``DEFAULT_NOVEL_CLASSES``; they hold unless ``metainfo`` names classes.

    Args:
        split (str): 'base' leaves the novel classes and their annotations
            out (training), 'novel' keeps these only, 'all' keeps every
            class. Defaults to 'all'.
        metainfo (dict, optional): ``classes`` in label order, and
            ``base_classes`` and/or ``novel_classes``. Without ``classes``,
            all categories of the file in order of id.

    Attributes:
        num_skipped (Counter): Annotations of chosen classes that are left
            out, by reason, as MMDetection's COCO loader leaves them out.

    Raises:
        FileNotFoundError: If the annotation file does not exist.
        ValueError: If a class is not in the file, if the file breaks the
            rules of :mod:`.annotations`, or if masks are wanted and none is
            there.
    """

    METAINFO: dict = {}
    DEFAULT_CLASSES: Sequence[str] | None = None
    DEFAULT_BASE_CLASSES: Sequence[str] | None = None
    DEFAULT_NOVEL_CLASSES: Sequence[str] | None = None
    #: Corrects the spelling of category names, where a set needs it.
    name_repair: Callable[[str], str] | None = None

    def __init__(
        self, *args, split: str = 'all', metainfo: dict | None = None, **kw
    ) -> None:
        self.split = split
        super().__init__(*args, metainfo=metainfo, **kw)

    def load_data_list(self) -> list[dict]:
        """Read the annotation file: one dict an image."""
        masks = reads_masks(self.pipeline.transforms)
        read = read_annotations(self.ann_file, self.backend_args)
        read.refuse_faults(files=True, masks=masks)
        table = self.category_table(read.categories)
        self._metainfo.update(table.metainfo())
        self.cat_ids = list(table.ids)
        self.cat2label = {cat: label for label, cat in enumerate(table.ids)}
        annotations: dict[Id, list[dict]] = defaultdict(list)
        for ann in read.annotations:
            if ann['category_id'] in self.cat2label:
                annotations[ann['image_id']].append(ann)
        self.num_skipped = Counter()
        data_list = []
        for image in read.images:
            file_name = self.image_file_name(image)
            if file_name is None:
                continue
            data_list.append(
                self.parse_data_info(
                    dict(
                        raw_img_info=dict(
                            image, img_id=image['id'], file_name=file_name
                        ),
                        raw_ann_info=annotations.get(image['id'], []),
                    )
                )
            )
        self._log_counts(table, read, data_list)
        self._note_masks(read, data_list, masks)
        return data_list

    def image_file_name(self, image: dict) -> str | None:
        """Path below ``data_prefix['img']``; None leaves the image out."""
        return image_file(image)

    def category_table(
        self, categories: Sequence[dict], split: str | None = None
    ) -> CategoryTable:
        """Choose the classes: from metainfo, the defaults or the file.

        ``split`` is another than the data set's own; ValueError if the class
        lists and the file do not agree.
        """
        given = self._metainfo
        if given.get('classes') is not None:
            wanted = (
                given['classes'],
                given.get('base_classes'),
                given.get('novel_classes'),
            )
        else:
            wanted = (
                self.DEFAULT_CLASSES,
                given.get('base_classes', self.DEFAULT_BASE_CLASSES),
                given.get('novel_classes', self.DEFAULT_NOVEL_CLASSES),
            )
        try:
            return build_category_table(
                categories,
                split=split or self.split,
                classes=wanted[0],
                base_classes=wanted[1],
                novel_classes=wanted[2],
                repair=self.name_repair,
            )
        except ValueError as error:
            raise ValueError(f'{self.ann_file}: {error}') from error

    def parse_data_info(self, raw_data_info: dict) -> dict | list[dict]:
        """Turn the record of one image into MMDetection's form.

        Of ``raw_img_info`` and ``raw_ann_info`` (annotations of chosen classes
        only) come ``img_path``, ``img_id``, ``height``, ``width`` and
        ``instances``: dicts with ``bbox`` [x1, y1, x2, y2] in pixels,
        ``bbox_label``, ``ignore_flag`` and ``mask`` (polygons or RLE; []
        without).
        """
        image = raw_data_info['raw_img_info']
        info = dict(
            img_path=osp.join(
                self.data_prefix.get('img', ''), image['file_name']
            ),
            img_id=image['img_id'],
            seg_map_path=None,
            height=image['height'],
            width=image['width'],
        )
        if self.return_classes:
            info['text'] = self.metainfo['classes']
            info['caption_prompt'] = self.caption_prompt
            info['custom_entities'] = True
        parsed = (
            self._parse_instance(ann, image)
            for ann in raw_data_info['raw_ann_info']
        )
        info['instances'] = [item for item in parsed if item is not None]
        return info

    def _parse_instance(self, ann: dict, image: dict) -> dict | None:
        """One annotation, or None if no part of it can be seen."""
        reason = left_out(ann, image)
        if reason is not None:
            self.num_skipped[reason] += 1
            return None
        x, y, w, h = ann['bbox']
        return dict(
            bbox=[x, y, x + w, y + h],
            bbox_label=self.cat2label[ann['category_id']],
            ignore_flag=ann['iscrowd'],
            # An empty mask stays in the list: LoadAnnotations turns such an
            # object into an ignored one, and misses the key otherwise.
            mask=ann.get('segmentation') or [],
        )

    def _note_masks(
        self, read: Annotations, data_list: list[dict], needed: bool
    ) -> None:
        """Say which masks are missing before a training begins."""
        unread = read.faults.numbers['bad_mask']
        if unread and not needed:
            print_log(
                f'{self.ann_file}: {unread} masks cannot be read, which this '
                f'pipeline does not need '
                f'({read.faults.examples["bad_mask"][0]})',
                logger='current',
            )
        if not needed or self.test_mode:
            return
        objects = [item for info in data_list for item in info['instances']]
        lost = sum(not item['mask'] for item in objects)
        if lost and lost == len(objects):
            raise ValueError(
                f'{self.ann_file}: none of the {lost} objects has a mask, '
                'which the pipeline reads; train without masks: '
                'model.roi_head.mask_head=None, mask_roi_extractor=None '
                'there, and with_mask=False in LoadAnnotations'
            )
        if lost:
            print_log(
                f'{self.ann_file}: {lost} of {len(objects)} objects are '
                f'{NO_MASK} and count as ignored',
                logger='current',
            )

    def filter_data(self) -> list[dict]:
        """Drop small images and, if asked, empty ones; in tests none."""
        if self.test_mode or self.filter_cfg is None:
            return self.data_list
        min_size = self.filter_cfg.get('min_size', 0)
        drop_empty = self.filter_cfg.get('filter_empty_gt', False)
        kept = [
            info
            for info in self.data_list
            if min(info['width'], info['height']) >= min_size
            and (info['instances'] or not drop_empty)
        ]
        if self.data_list and not kept:
            raise ValueError(
                f'filter_cfg={self.filter_cfg} leaves none of the '
                f'{len(self.data_list)} images of {self.ann_file}'
            )
        return kept

    def _log_counts(
        self, table: CategoryTable, read: Annotations, data_list: list[dict]
    ) -> None:
        """Say what was loaded, so that a wrong file shows in the log."""
        kept = sum(len(info['instances']) for info in data_list)
        print_log(
            f'{self.ann_file}: split {self.split!r}, {len(table)} of '
            f'{len(read.categories)} classes '
            f'({len(table.novel_classes)} novel), {len(data_list)} images, '
            f'{kept} of {read.number} annotations'
            + ''.join(
                f', {number} left out as {reason}'
                for reason, number in sorted(self.num_skipped.items())
            ),
            logger='current',
        )


# Introduced by Bansal et al., Zero-Shot Object Detection (ECCV 2018), and used
# for every open-vocabulary COCO result, the paper's table 2 among them. The
# other 15 of COCO's 80 classes are not used at all.
COCO_BASE_CLASSES = (
    'person', 'bicycle', 'car', 'motorcycle', 'train', 'truck', 'boat',
    'bench', 'bird', 'horse', 'sheep', 'bear', 'zebra', 'giraffe', 'backpack',
    'handbag', 'suitcase', 'frisbee', 'skis', 'kite', 'surfboard', 'bottle',
    'fork', 'spoon', 'bowl', 'banana', 'apple', 'sandwich', 'orange',
    'broccoli', 'carrot', 'pizza', 'donut', 'chair', 'bed', 'toilet', 'tv',
    'laptop', 'mouse', 'remote', 'microwave', 'oven', 'toaster',
    'refrigerator', 'book', 'clock', 'vase', 'toothbrush',
)  # fmt: skip

COCO_NOVEL_CLASSES = (
    'airplane', 'bus', 'cat', 'dog', 'cow', 'elephant', 'umbrella', 'tie',
    'snowboard', 'skateboard', 'cup', 'knife', 'cake', 'couch', 'keyboard',
    'sink', 'scissors',
)  # fmt: skip


@DATASETS.register_module()
class DITOCocoDataset(OpenVocabularyDataset):
    """COCO detection annotations for open-vocabulary training and testing.

    Reads the unchanged ``instances_*2017.json``: ``split='base'`` keeps the
    48 base classes, ``split='all'`` these and the 17 novel ones. Base
    classes have the first labels. With ``classes`` in ``metainfo`` any other
    COCO-style set can be read; then ``base_classes`` or ``novel_classes``
    say which is which, and without them all classes are base.

    Args:
        split (str): 'base' or 'all'. Defaults to 'all'.

    Examples:
        >>> dataset = DITOCocoDataset(
        ...     ann_file='annotations/instances_val2017.json',
        ...     data_root='data/coco/',
        ...     data_prefix=dict(img='val2017/'))  # doctest: +SKIP
        >>> len(dataset.metainfo['novel_classes'])  # doctest: +SKIP
        17
    """

    DEFAULT_CLASSES = COCO_BASE_CLASSES + COCO_NOVEL_CLASSES
    DEFAULT_BASE_CLASSES = COCO_BASE_CLASSES
    DEFAULT_NOVEL_CLASSES = COCO_NOVEL_CLASSES


@DATASETS.register_module()
class DITOLVISDataset(OpenVocabularyDataset):
    """LVIS instance annotations (v0.5, v1 or any file in that format).

    Classes of frequency 'r' are the novel ones (paper, section 4.1): they
    are evaluated and never seen in training, so the training set uses
    ``split='base'``. Classes come from the annotation file unless
    ``metainfo`` lists them. Polygon and RLE masks are both read. LVIS v1 has
    no ``file_name``: images are found by ``coco_url``.

    Args:
        split (str): 'base' (866 classes of LVIS v1) or 'all' (1,203).
            Defaults to 'all'.

    Examples:
        >>> dataset = DITOLVISDataset(
        ...     ann_file='annotations/lvis_v1_train.json',
        ...     data_root='data/lvis_v1/', data_prefix=dict(img=''),
        ...     split='base')  # doctest: +SKIP
        >>> len(dataset.metainfo['classes'])  # doctest: +SKIP
        866
    """
