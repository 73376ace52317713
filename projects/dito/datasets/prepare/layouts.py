# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Where the configs look for data sets, and who publishes their parts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..coco import COCO_BASE_CLASSES, COCO_NOVEL_CLASSES
from ..convert import convert_file, fix_objects365, write_categories

_COCO = 'https://cocodataset.org/#download'
_LVIS = 'https://www.lvisdataset.org/dataset'
_O365 = 'https://www.objects365.org (registration)'
_O365_V2 = 'https://data.baai.ac.cn/details/Objects365_2020 (registration)'


@dataclass(frozen=True)
class Item:
    """A file or folder that a config reads.

    Args:
        path (str): Below the root of the data set; its name is also what is
            looked for in the sources.
        owner (str): Where its owner publishes it.
        archive (str): Name of the published archive.
        images (int, optional): Of a folder: images it holds when complete.
        patches (str, optional): Of a folder that is put together from
            folders patch0, patch1 ...: folder above them in the sources.
    """

    path: str
    owner: str
    archive: str
    images: int | None = None
    patches: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is an annotation file, not a folder of images."""
        return self.path.endswith('.json')


@dataclass(frozen=True)
class Conversion:
    """A file made from another one, on demand.

    Args:
        source (str): Below the root.
        target (str): Below the root.
        function (Callable[[str, str], Any]): Makes it.
    """

    source: str
    target: str
    function: Callable[[str, str], Any]


@dataclass(frozen=True)
class Layout:
    """One data set.

    Args:
        root (str): Where the configs expect it.
        items (tuple[Item]): What they read.
        conversions (tuple[Conversion]): What other programs may want.
    """

    root: str
    items: tuple[Item, ...]
    conversions: tuple[Conversion, ...] = ()


def _coco_images() -> tuple[Item, ...]:
    """The two folders of images that COCO and LVIS share."""
    return (
        Item('train2017', _COCO, 'train2017.zip', images=118287),
        Item('val2017', _COCO, 'val2017.zip', images=5000),
    )


def _coco() -> Layout:
    split = partial(
        convert_file,
        classes=COCO_BASE_CLASSES + COCO_NOVEL_CLASSES,
        novel_classes=COCO_NOVEL_CLASSES,
    )
    files = {
        part: f'annotations/instances_{part}2017.json'
        for part in ('train', 'val')
    }
    archive = 'annotations_trainval2017.zip'
    return Layout(
        'data/coco',
        (*(Item(f, _COCO, archive) for f in files.values()), *_coco_images()),
        tuple(
            Conversion(
                files[part],
                files[part].replace('.json', f'_ov_{name}.json'),
                partial(split, split=name),
            )
            for part, name in (
                ('train', 'base'),
                ('val', 'base'),
                ('val', 'novel'),
                ('val', 'all'),
            )
        ),
    )


def _lvis() -> Layout:
    train, val = (
        f'annotations/lvis_v1_{part}.json' for part in ('train', 'val')
    )
    return Layout(
        'data/lvis_v1',
        (
            *(Item(f, _LVIS, f'{f.split("/")[1]}.zip') for f in (train, val)),
            *_coco_images(),
        ),
        (
            Conversion(
                val, 'annotations/lvis_v1_categories.json', write_categories
            ),
            Conversion(
                train,
                'annotations/lvis_v1_train_base.json',
                partial(convert_file, split='base'),
            ),
        ),
    )


def _objects365(version: str) -> Layout:
    v1 = version == 'v1'
    owner = _O365 if v1 else _O365_V2
    name = 'objects365_val' if v1 else 'zhiyuan_objv2_val'
    file = f'annotations/{name}.json'
    images = Item('val', owner, 'val', patches=None if v1 else 'val')
    return Layout(
        f'data/objects365{version}',
        (Item(file, owner, f'{name}.json'), images),
        (Conversion(file, f'annotations/{name}_fixed.json', fix_objects365),),
    )


#: Data sets by the name that ``tools/misc/prepare.py`` has for them.
LAYOUTS: dict[str, Layout] = {
    'lvis': _lvis(),
    'coco': _coco(),
    'objects365': _objects365('v1'),
    'objects365v2': _objects365('v2'),
}
