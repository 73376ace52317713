# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Annotation files: read with clear errors, written whole or not at all."""

import json
import os
from typing import Any, Union

PathLike = Union[str, 'os.PathLike[str]']


def read_annotations(path: PathLike) -> dict:
    """Read a COCO, LVIS or Objects365 style annotation file.

    Args:
        path (str | Path): The file.

    Returns:
        dict: Its content, with ``images``, ``categories`` and, if only
        empty, ``annotations``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or something else.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'annotation file {path} does not exist; check the path'
        )
    with open(path, encoding='utf-8') as file:
        try:
            content = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f'annotation file {path} is not valid JSON ({error}); if it '
                'was downloaded, it may be incomplete'
            ) from error
    lost = [
        key
        for key in ('images', 'categories')
        if not isinstance(content, dict)
        or not isinstance(content.get(key), list)
    ]
    if lost:
        raise ValueError(
            f'{path} has no {lost}; a COCO or LVIS style detection file is '
            'expected'
        )
    content.setdefault('annotations', [])
    return content


def write_json(path: PathLike, content: Any) -> None:
    """Write JSON under another name first, so that it is never half there.

    Args:
        path (str | Path): Target; its folder is made.
        content (Any): What to write.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    unfinished = f'{path}.{os.getpid()}.tmp'
    try:
        with open(unfinished, 'w', encoding='utf-8') as file:
            json.dump(content, file)
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)
