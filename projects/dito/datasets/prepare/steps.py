# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Lay out a data set as the configs expect it."""

import os.path as osp
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

from dito.utils.files import replacing

from .layouts import Conversion, Item, Layout
from .sources import count_images, find_in_archive, find_item, find_patches


@dataclass(frozen=True)
class Step:
    """What became of one file or folder.

    Args:
        path (str): Where the configs look for it.
        state (str): 'there', 'linked', 'unpacked', 'converted' or
            'missing'.
        detail (str): Where it came from, or where to get it.
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

    What is there already is left alone, so a second run changes nothing;
    links and files appear as a whole or not at all. Nothing is downloaded.

    Args:
        layout (Layout): The data set.
        root (str): Folder to lay it out in.
        sources (Sequence[str]): Folders with what was downloaded.
        convert (bool): Whether to write the smaller files for other
            programs, too.

    Returns:
        list[Step]: One a file or folder, in the order of the layout.

    Raises:
        FileNotFoundError: If a source does not exist.
        ValueError: If an item is in several places, or an archive is
            damaged.
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
        for path in find_item(item, sources)
        if osp.abspath(path) != osp.abspath(target)
    ]
    if len(found) > 1:
        raise ValueError(
            f'{osp.basename(item.path)} is in several places: '
            f'{", ".join(found)}; name one of them as --source'
        )
    if found and not _is_incomplete(item, found[0]):
        _link(found[0], target)
        return Step(target, 'linked', _describe(item, found[0], True))
    if item.is_file:
        archive, name = find_in_archive(item, sources)
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
    patches = find_patches(item, sources)
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
