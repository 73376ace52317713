# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Lay out data sets as the configs expect them; who publishes the parts."""

import os
import os.path as osp
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dito.utils.files import replacing

from .convert import convert_file, fix_objects365, write_categories
from .ov_dataset import COCO_BASE_CLASSES, COCO_NOVEL_CLASSES

_COCO = 'https://cocodataset.org/#download'
_LVIS = 'https://www.lvisdataset.org/dataset'
_O365 = 'https://www.objects365.org (registration)'
_O365_V2 = 'https://data.baai.ac.cn/details/Objects365_2020 (registration)'


@dataclass(frozen=True)
class Item:
    """A file or folder that a config reads, and who publishes it.

    The name of ``path``, below the root of the data set, is looked for in the
    sources. Of a folder: ``images`` that it holds when complete, and
    ``patches``, the folder in the sources above patch0, patch1 ... it is put
    together from.
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
    """A file made from another one, both below the root, on demand."""

    source: str
    target: str
    function: Callable[[str, str], Any]


@dataclass(frozen=True)
class Layout:
    """A data set: where the configs expect it, and what they read."""

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


#: Data sets by the name that ``dito prepare`` has for them.
LAYOUTS: dict[str, Layout] = {
    'lvis': _lvis(),
    'coco': _coco(),
    'objects365': _objects365('v1'),
    'objects365v2': _objects365('v2'),
}


# Deep enough for SOURCE/coco/images/val/images/v2/patch16.
_DEPTH = 6
_PATCH = re.compile(r'patch\d+$')
_PICTURES = ('.jpg', '.jpeg', '.png')


def holds_images(folder: str) -> bool:
    """Whether there is an image directly in a folder."""
    with os.scandir(folder) as entries:
        return any(e.name.lower().endswith(_PICTURES) for e in entries)


def count_images(folder: str) -> int:
    """Images directly in a folder or in its folders."""
    count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(_PICTURES):
                count += 1
            elif entry.is_dir():
                count += count_images(entry.path)
    return count


def _walk(source: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders of a source, without those full of images."""
    source = osp.abspath(source)
    for folder, folders, files in os.walk(source, followlinks=True):
        depth = folder[len(source) :].count(os.sep)
        if depth >= _DEPTH or any(
            f.lower().endswith(_PICTURES) for f in files[:1000]
        ):
            folders.clear()
        folders.sort()
        yield folder, folders, files


def _find_item(item: Item, sources: Sequence[str]) -> list[str]:
    """Places where a file or folder of images lies, each a different one."""
    name = osp.basename(item.path)
    found: dict[str, str] = {}
    for source in sources:
        for folder, _, files in _walk(source):
            if item.is_file and name in files:
                path = osp.join(folder, name)
            elif (
                not item.is_file
                and osp.basename(folder) == name
                and holds_images(folder)
            ):
                path = folder
            else:
                continue
            found.setdefault(osp.realpath(path), path)
    return list(found.values())


def _find_patches(item: Item, sources: Sequence[str]) -> dict[str, str]:
    """Folders patchN below a folder of a name such as val, by name."""
    found: dict[str, str] = {}
    for source in sources:
        for folder, _, _ in _walk(source):
            parts = folder.split(os.sep)
            if not _PATCH.match(parts[-1]) or item.patches not in parts:
                continue
            other = found.setdefault(parts[-1], folder)
            if osp.realpath(other) != osp.realpath(folder):
                raise ValueError(
                    f'{parts[-1]} is in {osp.dirname(other)} and in '
                    f'{osp.dirname(folder)}; name one of them as --from'
                )
    return found


def _find_in_archive(item: Item, sources: Sequence[str]) -> tuple[str, str]:
    """Archive and name inside of an annotation file; empty if none."""
    name = osp.basename(item.path)
    for source in sources:
        for folder, _, files in _walk(source):
            if item.archive not in files or not item.archive.endswith('.zip'):
                continue
            path = osp.join(folder, item.archive)
            try:
                with zipfile.ZipFile(path) as archive:
                    inside = [
                        n
                        for n in archive.namelist()
                        if n.split('/')[-1] == name
                    ]
            except zipfile.BadZipFile as error:
                raise ValueError(
                    f'{path} is damaged ({error}); fetch it again'
                ) from error
            if inside:
                return path, inside[0]
    return '', ''


@dataclass(frozen=True)
class Step:
    """What became of one file or folder.

    The state is 'there', 'linked', 'unpacked', 'converted' or 'missing'; the
    detail where it came from, or where to get it.
    """

    path: str
    state: str
    detail: str = ''


def prepare(
    layout: Layout,
    root: str,
    sources: Sequence[str] = (),
    convert: bool = False,
) -> list[Step]:
    """Link, unpack and convert what is found; say what is missing.

    What is there already is left alone, so a second run changes nothing; links
    and files appear as a whole or not at all. Nothing is downloaded.
    ``sources`` are folders with what was; ``convert`` also writes the smaller
    files for other programs. Returns a step for each file or folder.

    Raises:
        FileNotFoundError: If a source does not exist.
        ValueError: If an item is in several places, or an archive is damaged.
    """
    for source in sources:
        if not osp.isdir(source):
            raise FileNotFoundError(
                f'the source folder {source} does not exist'
            )
    # LVIS uses the images of COCO, which often lie beside it.
    beside = osp.join(osp.dirname(osp.abspath(root)), 'coco')
    places = [*sources, *([beside] if osp.isdir(beside) else [])]
    steps = [_place(item, root, places) for item in layout.items]
    if convert:
        steps += [_convert(job, root) for job in layout.conversions]
    return steps


def _place(item: Item, root: str, sources: Sequence[str]) -> Step:
    """Bring one item to its place, if it can be found."""
    target = osp.join(root, item.path)
    if osp.isdir(target) and not count_images(target):
        return Step(
            target, 'missing', f'{target} is empty: remove it and run again'
        )
    if osp.exists(target) and not _is_incomplete(item, target):
        return Step(target, 'there', _describe(item, target))
    if item.patches is not None:
        return _link_patches(item, target, sources)
    found = [
        path
        for path in _find_item(item, sources)
        if osp.abspath(path) != osp.abspath(target)
    ]
    if len(found) > 1:
        raise ValueError(
            f'{osp.basename(item.path)} is in several places: '
            f'{", ".join(found)}; name one of them as --from'
        )
    if found and not _is_incomplete(item, found[0]):
        _link(found[0], target)
        return Step(target, 'linked', _describe(item, found[0], True))
    if item.is_file:
        archive, name = _find_in_archive(item, sources)
        if archive:
            _unpack(archive, name, target)
            return Step(target, 'unpacked', archive)
    return Step(target, 'missing', _remedy(item, [*found, target]))


def _is_incomplete(item: Item, path: str) -> bool:
    """Whether a file ends before its closing brace."""
    if not item.is_file:
        return False
    with open(path, 'rb') as file:
        file.seek(max(0, osp.getsize(path) - 64))
        return not file.read().rstrip().endswith(b'}')


def _describe(item: Item, path: str, origin: bool = False) -> str:
    """Where something is, and how many images of how many."""
    text = path if origin else ''
    if item.is_file:
        return text
    count = count_images(path)
    whole = f' of {item.images}' if item.images not in (None, count) else ''
    return f'{text} ({count}{whole} images)'.strip()


def _remedy(item: Item, places: Sequence[str]) -> str:
    """What to do about a missing item."""
    broken = [
        path
        for path in places
        if osp.isfile(path) and _is_incomplete(item, path)
    ]
    if broken:
        return f'{broken[0]} is incomplete; get it again: {item.owner}'
    return f'{item.archive} is published at {item.owner}'


def _link(source: str, target: str) -> None:
    """Make a link, or replace a dead one, in one step."""
    with replacing(target) as unfinished:
        unfinished.symlink_to(osp.realpath(source))


def _link_patches(item: Item, target: str, sources: Sequence[str]) -> Step:
    """Link every folder patchN of a split into one folder."""
    patches = _find_patches(item, sources)
    if not patches:
        return Step(target, 'missing', _remedy(item, [target]))
    for name, path in patches.items():
        _link(path, osp.join(target, name))
    return Step(
        target, 'linked', f'{len(patches)} folders {_describe(item, target)}'
    )


def _unpack(archive: str, name: str, target: str) -> None:
    """Write one file of an archive, whole or not at all."""
    with zipfile.ZipFile(archive) as content, content.open(name) as source:
        with replacing(target) as unfinished, open(unfinished, 'wb') as file:
            shutil.copyfileobj(source, file)


def _convert(job: Conversion, root: str) -> Step:
    """Make a file anew if it is missing or older than its source."""
    source, target = osp.join(root, job.source), osp.join(root, job.target)
    if not osp.exists(source):
        return Step(target, 'missing', f'is made from {source}')
    if osp.exists(target) and (osp.getmtime(target) >= osp.getmtime(source)):
        return Step(target, 'there')
    job.function(source, target)
    return Step(target, 'converted', source)
