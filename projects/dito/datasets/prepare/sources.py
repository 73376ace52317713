# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Find the parts of a data set in the folders that a user names."""

import os
import os.path as osp
import re
import zipfile
from collections.abc import Iterator, Sequence

from .layouts import Item

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


def find_item(item: Item, sources: Sequence[str]) -> list[str]:
    """Places where a file or folder of images lies.

    Args:
        item (Item): What to look for, by name.
        sources (Sequence[str]): Folders to look into.

    Returns:
        list[str]: Paths, each a different file or folder.
    """
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


def find_patches(item: Item, sources: Sequence[str]) -> dict[str, str]:
    """Folders patchN below a folder of a name, such as val.

    Args:
        item (Item): With ``patches``.
        sources (Sequence[str]): Folders to look into.

    Returns:
        dict[str, str]: Path by name of the patch.

    Raises:
        ValueError: If a patch is there twice.
    """
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
                    f'{osp.dirname(folder)}; name one of them as --source'
                )
    return found


def find_in_archive(item: Item, sources: Sequence[str]) -> tuple[str, str]:
    """Find an annotation file in a published zip archive.

    Args:
        item (Item): A file.
        sources (Sequence[str]): Folders to look into.

    Returns:
        tuple[str, str]: Archive and the name inside; empty if there is none.
    """
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
