# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detection data sets whose labels follow class names, not file order."""

import json
import math
import os.path as osp
from collections import Counter, defaultdict
from typing import Callable, Dict, List, Optional, Sequence, Union

from mmdet.datasets import CocoDataset
from mmengine.fileio import get_text
from mmengine.logging import print_log

from .categories import CategoryTable, build_category_table

_REQUIRED = ('id', 'image_id', 'category_id')


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
        ValueError: If a class is not in the file, or if the file contradicts
            itself (an annotation of an unknown category or image).
    """

    METAINFO: dict = {}
    DEFAULT_CLASSES: Optional[Sequence[str]] = None
    DEFAULT_BASE_CLASSES: Optional[Sequence[str]] = None
    DEFAULT_NOVEL_CLASSES: Optional[Sequence[str]] = None
    #: Corrects the spelling of category names, where a set needs it.
    name_repair: Optional[Callable[[str], str]] = None

    def __init__(
        self, *args, split: str = 'all', metainfo: Optional[dict] = None, **kw
    ) -> None:
        self.split = split
        super().__init__(*args, metainfo=metainfo, **kw)

    def load_data_list(self) -> List[dict]:
        """Read the annotation file.

        Returns:
            list[dict]: One dict an image, see :meth:`parse_data_info`.
        """
        content = self._read_annotation_file()
        table = self.category_table(content['categories'])
        self._metainfo.update(table.metainfo())
        self.cat_ids = list(table.ids)
        self.cat2label = {cat: label for label, cat in enumerate(table.ids)}
        annotations = self._group_annotations(content)
        self.num_skipped = Counter()
        data_list = []
        for image in content['images']:
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
        self._log_counts(table, content, data_list)
        return data_list

    def image_file_name(self, image: dict) -> Optional[str]:
        """Path of an image below ``data_prefix['img']``.

        Args:
            image (dict): Entry of the file's ``images``.

        Returns:
            str | None: The path; None leaves the image out.
        """
        return image['file_name']

    def _read_annotation_file(self) -> dict:
        """Load the JSON and check that it is a detection annotation file."""
        try:
            text = get_text(self.ann_file, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'annotation file {self.ann_file} does not exist; check '
                'data_root and ann_file of the dataset'
            ) from error
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f'annotation file {self.ann_file} is not valid JSON ({error})'
            ) from error
        keys = ('images', 'categories')
        lost = [
            key
            for key in keys
            if not isinstance(content, dict) or key not in content
        ]
        if lost:
            raise ValueError(
                f'annotation file {self.ann_file} has no {lost}; a COCO or '
                'LVIS style detection file is expected'
            )
        content.setdefault('annotations', [])
        return content

    def category_table(
        self, categories: Sequence[dict], split: Optional[str] = None
    ) -> CategoryTable:
        """Choose the classes: from metainfo, the defaults or the file.

        Args:
            categories (Sequence[dict]): Of the annotation file.
            split (str, optional): Another split than the data set's own.

        Returns:
            CategoryTable: The classes in label order.

        Raises:
            ValueError: If the class lists and the file do not agree.
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

    def _group_annotations(self, content: dict) -> Dict[int, List[dict]]:
        """Annotations of the chosen classes by image id."""
        known = {category['id'] for category in content['categories']}
        images = self._image_ids(content['images'])
        grouped: Dict[int, List[dict]] = defaultdict(list)
        seen: set = set()
        for annotation in content['annotations']:
            lost = [key for key in _REQUIRED if key not in annotation]
            if lost:
                raise ValueError(
                    f'{self.ann_file}: the annotation {annotation} has no '
                    f'{lost}'
                )
            category = annotation['category_id']
            if category not in known or annotation['image_id'] not in images:
                self._raise_dangling(content['annotations'], known, images)
            if annotation['id'] in seen:
                raise ValueError(
                    f'{self.ann_file}: annotation id {annotation["id"]} '
                    'appears twice; ids must be unique'
                )
            seen.add(annotation['id'])
            if category in self.cat2label:
                grouped[annotation['image_id']].append(annotation)
        return grouped

    def _image_ids(self, images: Sequence[dict]) -> set:
        """Ids of the images; refuse one without size, or twice there."""
        found: set = set()
        for image in images:
            lost = [
                key
                for key in ('id', 'width', 'height')
                if not isinstance(image.get(key), (int, float))
            ]
            if lost:
                raise ValueError(
                    f'{self.ann_file}: an image has no {lost}: {image}'
                )
            if image['id'] in found:
                raise ValueError(
                    f'{self.ann_file}: image id {image["id"]} appears '
                    'twice; ids must be unique'
                )
            found.add(image['id'])
        return found

    def _raise_dangling(
        self, annotations: Sequence[dict], known: set, images: set
    ) -> None:
        """Report all annotations of unlisted categories and images."""
        categories = [
            ann['category_id']
            for ann in annotations
            if ann['category_id'] not in known
        ]
        lost = [
            ann['image_id']
            for ann in annotations
            if ann['image_id'] not in images
        ]
        raise ValueError(
            f'{self.ann_file} contradicts itself: {len(categories)} '
            'annotations have a category_id that is not in its categories '
            f'(ids {sorted(set(categories))[:5]}) and {len(lost)} an '
            f'image_id that is not in its images (ids '
            f'{sorted(set(lost))[:5]}); repair the file'
        )

    def parse_data_info(self, raw_data_info: dict) -> Union[dict, List[dict]]:
        """Turn the record of one image into MMDetection's form.

        Args:
            raw_data_info (dict): ``raw_img_info`` (with ``img_id``,
                ``file_name``, ``height``, ``width``) and ``raw_ann_info``
                (annotations of chosen classes only).

        Returns:
            dict: ``img_path``, ``img_id``, ``height``, ``width`` and
            ``instances``: dicts with ``bbox`` [x1, y1, x2, y2] in pixels,
            ``bbox_label``, ``ignore_flag`` and, where the file has it,
            ``mask`` (polygons or RLE).
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
            self._parse_instance(ann, image['width'], image['height'])
            for ann in raw_data_info['raw_ann_info']
        )
        info['instances'] = [item for item in parsed if item is not None]
        return info

    def _parse_instance(
        self, ann: dict, width: int, height: int
    ) -> Optional[dict]:
        """One annotation, or None if no part of it can be seen.

        The same boxes as in ``CocoDataset`` are left out: empty ones, those
        outside the image and those under one pixel.
        """
        if ann.get('ignore', False):
            self.num_skipped['marked as ignored'] += 1
            return None
        x, y, w, h = self._checked_box(ann)
        inside = min(x + w, width) > max(x, 0)
        inside = inside and min(y + h, height) > max(y, 0)
        if w < 1 or h < 1 or ann.get('area', w * h) <= 0:
            self.num_skipped['narrower than a pixel'] += 1
            return None
        if not inside:
            self.num_skipped['outside the image'] += 1
            return None
        instance = dict(
            bbox=[x, y, x + w, y + h],
            bbox_label=self.cat2label[ann['category_id']],
            ignore_flag=int(bool(ann.get('iscrowd', False))),
        )
        if 'segmentation' in ann:
            # An empty mask stays in the list: LoadAnnotations turns such an
            # object into an ignored one, and misses the key otherwise.
            instance['mask'] = ann['segmentation'] or []
        return instance

    def _checked_box(self, ann: dict) -> List[float]:
        """The box [x, y, w, h], or one sentence about what is there."""
        box = ann.get('bbox')
        try:
            finite = len(box) == 4 and all(map(math.isfinite, box))
        except TypeError:
            finite = False
        if not finite:
            raise ValueError(
                f'{self.ann_file}: annotation {ann["id"]} has the bbox '
                f'{box!r}; four finite numbers [x, y, width, height] are '
                'expected'
            )
        return box

    def filter_data(self) -> List[dict]:
        """Drop images that are too small or, if asked, without objects.

        Returns:
            list[dict]: The kept images; all of them in test mode.
        """
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
        self, table: CategoryTable, content: dict, data_list: List[dict]
    ) -> None:
        """Say what was loaded, so that a wrong file shows in the log."""
        kept = sum(len(info['instances']) for info in data_list)
        print_log(
            f'{self.ann_file}: split {self.split!r}, {len(table)} of '
            f'{len(content["categories"])} classes '
            f'({len(table.novel_classes)} novel), {len(data_list)} images, '
            f'{kept} of {len(content["annotations"])} annotations'
            + ''.join(
                f', {number} left out as {reason}'
                for reason, number in sorted(self.num_skipped.items())
            ),
            logger='current',
        )
