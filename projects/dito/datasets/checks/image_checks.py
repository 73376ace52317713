# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Checks of the image files."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ..load_image import DITOLoadImageFromFile
from .findings import Finding, gather

# Path of an image, and the width and height that the annotations say.
Expected = tuple[str, int, int]


def check_images(
    images: Sequence[Expected],
    max_images: int | None = None,
    workers: int = 1,
) -> list[Finding]:
    """Look for images that are missing, broken or of another size.

    Args:
        images (Sequence[tuple]): Path, width and height of each image.
        max_images (int, optional): Images to decode, spread evenly; the
            existence of all is checked. None: all of them.
        workers (int): Threads to decode with. Defaults to 1.

    Returns:
        list[Finding]: What was found.
    """
    missing = [path for path, _, _ in images if not os.path.isfile(path)]
    gone = set(missing)
    there = [image for image in images if image[0] not in gone]
    chosen = _spread(there, max_images)
    found: dict[str, list[str]] = dict(undecodable_image=[], image_size=[])
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for result in pool.map(_decode, chosen):
            if result is not None:
                found[result[0]].append(result[1])
    left = len(there) - len(chosen)
    return [
        *gather('missing_image', missing),
        *gather('undecodable_image', found['undecodable_image']),
        *gather('image_size', found['image_size']),
        *gather('unchecked_images', range(left), note=True, shown=0),
    ]


def _spread(
    images: Sequence[Expected], number: int | None
) -> Sequence[Expected]:
    """Take a number of images at even distances."""
    if number is None or number >= len(images):
        return images
    return [images[i * len(images) // number] for i in range(number)]


def _decode(image: Expected) -> tuple[str, str] | None:
    """Kind and text of a problem with one image, as the loader sees it."""
    path, width, height = image
    try:
        loaded = DITOLoadImageFromFile()(dict(img_path=path))
    except (OSError, ValueError) as error:
        return 'undecodable_image', str(error)
    found = loaded['ori_shape']
    if found == (height, width):
        return None
    turned = ', turned by its EXIF data?' if found == (width, height) else ''
    return 'image_size', (
        f'{path}: {found[1]} x {found[0]}, not {width} x {height}{turned}'
    )
