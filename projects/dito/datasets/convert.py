# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write annotation files of some classes, or with repaired names."""

import os
from collections.abc import Collection, Sequence

from dito.utils.files import write_json

from .annotations import ID_LISTS, read_annotations, sort_key
from .categories import CategoryTable, build_category_table
from .objects365 import find_o365_version, o365_image_path, repair_o365_name


def _select_classes(
    content: dict, table: CategoryTable, drop_empty: bool = False
) -> dict:
    """Keep what concerns some classes, ids and LVIS's lists included."""
    kept = set(table.ids)
    annotations = [
        ann for ann in content['annotations'] if ann['category_id'] in kept
    ]
    used = {ann['image_id'] for ann in annotations}
    images = [
        _select_ids(image, kept)
        for image in content['images']
        if image['id'] in used or not drop_empty
    ]
    categories = [cat for cat in content['categories'] if cat['id'] in kept]
    return dict(
        content, images=images, categories=categories, annotations=annotations
    )


def _select_ids(image: dict, kept: set) -> dict:
    """Filter the lists of category ids that LVIS images have."""
    lists = {
        field: [cat for cat in image[field] if cat in kept]
        for field in ID_LISTS
        if field in image
    }
    return dict(image, **lists) if lists else image


def convert_file(
    source: str,
    target: str,
    *,
    split: str,
    classes: Sequence[str] | None = None,
    base_classes: Collection[str] | None = None,
    novel_classes: Collection[str] | None = None,
    drop_empty: bool = False,
) -> dict[str, int]:
    """Read an annotation file and write the part of some classes.

    ``split`` is 'base', 'novel' or 'all' of ``classes``, or of the file; with
    neither base nor novel classes the LVIS frequency 'r' decides.
    ``drop_empty`` leaves out images without objects. The target is complete or
    not there at all. Returns the number of ``images``, ``annotations`` and
    ``categories``.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: If source and target are the same file, or if the file does
            not have the classes.
    """
    content = _read_source(source, target)
    table = build_category_table(
        content['categories'],
        split=split,
        classes=classes,
        base_classes=base_classes,
        novel_classes=novel_classes,
    )
    selected = _select_classes(content, table, drop_empty)
    write_json(target, selected)
    return count_entries(selected)


def _read_source(source: str, target: str) -> dict:
    """Read a file that is not the one to be written."""
    if os.path.realpath(source) == os.path.realpath(target):
        raise ValueError(f'{source} would be overwritten; name another file')
    return read_annotations(source).refuse_faults().content()


def count_entries(content: dict) -> dict[str, int]:
    """Number of images, annotations and categories of a file."""
    fields = ('images', 'annotations', 'categories')
    return {field: len(content[field]) for field in fields}


def write_categories(source: str, target: str) -> dict[str, int]:
    """Write the category metadata of an LVIS file on its own.

    The small file is what vocabularies are built from (``dito
    build-text-embeddings --names``): ids, names, synonyms, frequency,
    definitions and counts, in order of id. Returns the number of categories of
    each frequency.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: If its categories have no frequency or contradict
            themselves.
    """
    categories = _read_source(source, target)['categories']
    table = build_category_table(categories)
    if not all(table.frequency):
        raise ValueError(
            f'{source} has categories without a frequency; it is no LVIS file'
        )
    by_id = {category['id']: category for category in categories}
    write_json(target, [by_id[number] for number in table.ids])
    return {group: table.frequency.count(group) for group in 'rcf'}


def fix_objects365(source: str, target: str) -> dict[str, object]:
    """Repair an annotation file of Objects365, version 1 or 2.

    Misspelt names are corrected, categories put in order of id (train and val
    files differ), image paths of v2 reduced to ``patchN/name.jpg``, and its
    three images that are not in the archives left out. Ids stay. Returns
    ``version``, ``renamed`` (pairs of names) and the numbers of ``images``,
    ``annotations`` and ``categories``.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: If its names are those of neither version.
    """
    content = _read_source(source, target)
    names = build_category_table(content['categories']).names
    version = find_o365_version(names)
    if not version:
        raise ValueError(
            f'the {len(names)} categories of {source} are not those of '
            'Objects365 v1 or v2'
        )
    categories = sorted(
        content['categories'], key=lambda cat: sort_key(cat['id'])
    )
    images = _stored_images(content['images'], version)
    kept = {image['id'] for image in images}
    fixed = dict(
        content,
        images=images,
        annotations=[
            ann for ann in content['annotations'] if ann['image_id'] in kept
        ],
        categories=[
            dict(cat, name=repair_o365_name(cat['name'])) for cat in categories
        ],
    )
    write_json(target, fixed)
    pairs = [
        (old['name'], new['name'])
        for old, new in zip(categories, fixed['categories'], strict=True)
    ]
    return dict(
        version=version,
        renamed=[pair for pair in pairs if pair[0] != pair[1]],
        **count_entries(fixed),
    )


def _stored_images(images: Sequence[dict], version: str) -> list[dict]:
    """Images with the paths they have on disk; those that exist."""
    paths = [o365_image_path(image['file_name'], version) for image in images]
    return [
        dict(image, file_name=path)
        for image, path in zip(images, paths, strict=True)
        if path is not None
    ]
