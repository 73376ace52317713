# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Decode and crop images for contrastive pretraining, fast, in uint8.

A large JPEG is decoded by libjpeg at a half, a quarter or an eighth of its
size where that still covers the wanted crop; normalisation is left to the
device (:class:`ImageTextPreprocessor`), so that a batch travels as uint8.
"""

from typing import Optional, Tuple

import cv2
import numpy as np

Box = Tuple[int, int, int, int]

_REDUCED_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
# Start-of-frame markers hold the size; C4, C8 and CC are other segments.
_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def jpeg_size(data: bytes) -> Optional[Tuple[int, int]]:
    """Read (height, width) from a JPEG header without decoding.

    Args:
        data (bytes): The encoded image.

    Returns:
        tuple[int, int] or None: None where the data is no JPEG or its header
        is damaged.
    """
    if data[:2] != b'\xff\xd8':
        return None
    pos, end = 2, len(data) - 9
    while pos < end:
        if data[pos] != 0xFF:
            return None
        marker = data[pos + 1]
        if marker == 0xFF:  # fill byte
            pos += 1
            continue
        if marker in _SOF_MARKERS:
            height = int.from_bytes(data[pos + 5:pos + 7], 'big')
            width = int.from_bytes(data[pos + 7:pos + 9], 'big')
            # A height of 0 means that it follows after the first scan.
            return (height, width) if height and width else None
        pos += 2 + int.from_bytes(data[pos + 2:pos + 4], 'big')
    return None


def random_crop_box(
    height: int,
    width: int,
    scale: Tuple[float, float],
    ratio: Tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """Draw a random-resized-crop box, as torchvision draws it.

    Args:
        height (int): Image height in pixels.
        width (int): Image width in pixels.
        scale (tuple[float, float]): Range of the box area over the image's.
        ratio (tuple[float, float]): Range of width over height, log-uniform.
        rng (np.random.Generator): Source of randomness.

    Returns:
        tuple[int, int, int, int]: (top, left, height, width) in pixels.
    """
    log_low, log_high = np.log(ratio[0]), np.log(ratio[1])
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(log_low, log_high))
        w = int(round(np.sqrt(area * aspect)))
        h = int(round(np.sqrt(area / aspect)))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(0, height - h + 1))
            left = int(rng.integers(0, width - w + 1))
            return top, left, h, w
    # A very long image: the largest centred box within the ratio's range.
    h = min(height, max(1, int(round(width / ratio[0]))))
    w = min(width, max(1, int(round(height * ratio[1]))))
    return (height - h) // 2, (width - w) // 2, h, w


def center_crop_box(height: int, width: int) -> Box:
    """Return the largest centred square as (top, left, height, width)."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def decode_reduced(data: bytes, size: Optional[Tuple[int, int]],
                   factor: int) -> np.ndarray:
    """Decode an image, a JPEG at 1 / factor of its size.

    The EXIF orientation is ignored: captions of web images describe the
    stored pixels, and the check would cost a header parse for each image.

    Args:
        data (bytes): The encoded image.
        size (tuple[int, int], optional): Size from :func:`jpeg_size`; None
            means not a JPEG, for which ``factor`` does not apply.
        factor (int): 1, 2, 4 or 8.

    Returns:
        np.ndarray: (h, w, 3) uint8, BGR.

    Raises:
        ValueError: If the data cannot be decoded.
    """
    flag = _REDUCED_FLAGS[factor if size is not None else 1]
    buffer = np.frombuffer(data, np.uint8)
    image = None
    try:
        if buffer.size:
            image = cv2.imdecode(buffer, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # for example more pixels than it allows
        raise ValueError(
            f'the image of {len(data)} bytes is refused: {error}') from error
    if image is None:
        raise ValueError(
            f'the image of {len(data)} bytes cannot be decoded')
    return image


class CropTransform:
    """Encoded image to a square uint8 crop, at random or centred.

    Args:
        size (int): Side of the output in pixels.
        scale (tuple[float, float], optional): Range of the crop's area over
            the image's; None takes the centred square (evaluation).
        ratio (tuple[float, float]): Range of the crop's width over height.
        flip (float): Probability of a horizontal flip. Captions name
            directions and hold written words, hence 0 by default.
        reduce (bool): Whether a large JPEG is decoded at reduced scale.
    """

    def __init__(
        self,
        size: int,
        *,
        scale: Optional[Tuple[float, float]] = (0.4, 1.0),
        ratio: Tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.0,
        reduce: bool = True,
    ) -> None:
        if size < 1:
            raise ValueError(f'size must be at least 1 pixel, got {size}')
        if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(
                f'scale must be a range within (0, 1], got {scale}')
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f'ratio must be a positive range, got {ratio}')
        if not 0 <= flip <= 1:
            raise ValueError(f'flip is a probability, got {flip}')
        self.size = size
        self.scale = None if scale is None else tuple(scale)
        self.ratio = tuple(ratio)
        self.flip = flip
        self.reduce = reduce

    def __call__(self, data: bytes,
                 rng: Optional[np.random.Generator] = None) -> np.ndarray:
        """Decode, crop and resize one image.

        Args:
            data (bytes): The encoded image.
            rng (np.random.Generator, optional): Needed for random crops.

        Returns:
            np.ndarray: (3, size, size) uint8, RGB, contiguous.

        Raises:
            ValueError: If the data cannot be decoded.
        """
        size = jpeg_size(data) if self.reduce else None
        if size is None:
            image = decode_reduced(data, None, 1)
            size = image.shape[:2]
            box = self._box(size, rng)
        else:
            # The crop is drawn at full size, so that it does not depend on
            # the scale at which the image happens to be decoded.
            box = self._box(size, rng)
            factor = self._factor(box)
            image = decode_reduced(data, size, factor)
            box = _scaled_box(box, size, image.shape[:2])
        top, left, h, w = box
        image = _resize(image[top:top + h, left:left + w], self.size)
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        if self.flip and rng.random() < self.flip:
            image = image[:, ::-1]
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    def _box(self, size: Tuple[int, int],
             rng: Optional[np.random.Generator]) -> Box:
        """Choose the crop of an image of (height, width) ``size``."""
        if self.scale is None:
            return center_crop_box(*size)
        return random_crop_box(*size, self.scale, self.ratio, rng)

    def _factor(self, box: Box) -> int:
        """Return the largest reduction that still covers the output."""
        side = min(box[2], box[3])
        for factor in (8, 4, 2):
            if side >= factor * self.size:
                return factor
        return 1


def _scaled_box(box: Box, size: Tuple[int, int],
                decoded: Tuple[int, int]) -> Box:
    """Move a crop from the full image to the one decoded at reduced size."""
    scale_y, scale_x = decoded[0] / size[0], decoded[1] / size[1]
    top, left = int(round(box[0] * scale_y)), int(round(box[1] * scale_x))
    h = max(1, int(round(box[2] * scale_y)))
    w = max(1, int(round(box[3] * scale_x)))
    return min(top, decoded[0] - h), min(left, decoded[1] - w), h, w


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize to a square: area average to shrink, cubic to enlarge."""
    if image.shape[:2] == (size, size):
        return image
    shrink = image.shape[0] > size and image.shape[1] > size
    mode = cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
    return cv2.resize(image, (size, size), interpolation=mode)
