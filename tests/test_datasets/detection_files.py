# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Small annotation files in LVIS, COCO and Objects365 form."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np


def write_json(path: Path, content: dict) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def make_categories(
    names: Sequence[str],
    frequency: Sequence[str] | None = None,
    first_id: int = 1,
) -> list[dict]:
    """Categories with ids in the order of names."""
    categories = [
        dict(id=first_id + i, name=name) for i, name in enumerate(names)
    ]
    if frequency is not None:
        for category, group in zip(categories, frequency, strict=True):
            category['frequency'] = group
    return categories


def make_image(image_id: int, size=(64, 48), **extra) -> dict:
    return dict(
        id=image_id,
        width=size[0],
        height=size[1],
        file_name=f'{image_id:06d}.jpg',
        neg_category_ids=[],
        not_exhaustive_category_ids=[],
        **extra,
    )


def make_annotation(
    ann_id: int, image_id: int, category_id: int, bbox=(4, 5, 20, 10), **extra
) -> dict:
    x, y, w, h = bbox
    base = dict(
        id=ann_id,
        image_id=image_id,
        category_id=category_id,
        bbox=list(bbox),
        area=w * h,
        segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
    )
    base.update(extra)
    return base


def write_images(folder: Path, images: Sequence[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for image in images:
        pixels = rng.integers(
            0, 255, (image['height'], image['width'], 3), dtype=np.uint8
        )
        cv2.imwrite(str(folder / image['file_name']), pixels)
