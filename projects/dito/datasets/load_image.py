# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Images of files and of the web, and their resizing as in the release."""

import logging
import time
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import mmcv
import mmengine.fileio as fileio
import numpy as np
import torch
from mmcv.image import io as mmcv_io
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmdet.registry import TRANSFORMS
from mmengine.logging import print_log

from dito.registry import REGISTRIES
from dito.utils.files import require_plain_file
from dito.version import __version__

from .image_text.image_header import open_image, orientation
from .reduced_image import decode_reduced

_TIFF = (b'II*\0', b'MM\0*')
# Seconds without a byte, and in all.
_SILENCE = 20
_MOST_SECONDS = 300
_MOST_BYTES = 1 << 28
_PIECE = 1 << 16


# In the scope 'dito' by the name that MMDetection's clients look for.
@REGISTRIES['TRANSFORMS'].register_module(name='LoadImageFromFile')
@TRANSFORMS.register_module()
class DITOLoadImageFromFile(LoadImageFromFile):
    """Load an image, and say in one sentence which file is broken if not.

    ``LoadImageFromFile`` ends on a broken file with an assertion or a
    decoder's own error, often without the path. In a test such an image must
    stop the run, because leaving it out would change the result. In training
    one broken file among millions should not: ``on_error='skip'`` returns
    None, for which the data set draws another image, up to a limit.

    Args:
        on_error (str): 'raise' or 'skip'. Defaults to 'raise'.
        max_skipped (int): Broken files each loading process leaves out
            before it stops the run after all. Defaults to 100.
        **kwargs: Passed to :class:`mmcv.transforms.LoadImageFromFile`.

    Raises:
        FileNotFoundError: If the image does not exist.
        ValueError: If the image cannot be decoded or fetched, or if too many
            cannot.
    """

    def __init__(
        self, on_error: str = 'raise', max_skipped: int = 100, **kwargs
    ) -> None:
        if on_error not in ('raise', 'skip'):
            raise ValueError(
                f"on_error must be 'raise' or 'skip', not {on_error!r}"
            )
        super().__init__(**kwargs)
        self.on_error = on_error
        self.max_skipped = max_skipped
        self.num_skipped = 0

    def transform(self, results: dict) -> dict | None:
        """Load ``img``, (H, W, 3) uint8 BGR, of a path; None if skipped."""
        path = results['img_path']
        try:
            image = self.decode(path, self.fetch(path))
        except (FileNotFoundError, ValueError) as error:
            if self.on_error == 'raise':
                raise
            self._count_skipped(error)
            return None
        results['img'] = image
        results['img_shape'] = image.shape[:2]
        results['ori_shape'] = image.shape[:2]
        return results

    def fetch(self, path: str) -> bytes:
        """Bytes of a path or address.

        Raises:
            FileNotFoundError: If it does not exist.
            PermissionError: If it may not be read.
            ValueError: If it is no plain file, or cannot be fetched.
        """
        require_plain_file(path)
        try:
            if self.backend_args is None and is_web(path):
                return _fetch_image(path)
            return fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'image {path} does not exist; check data_root and '
                'data_prefix of the dataset'
            ) from error
        except PermissionError as error:
            raise PermissionError(
                f'image {path} may not be read ({error.strerror.lower()}); '
                'change its permissions or leave it out'
            ) from error

    def decode(self, path: str, content: bytes, factor: int = 1) -> np.ndarray:
        """Decode an image reduced by a factor, (H, W, 3) BGR.

        uint8, or float32 by ``to_float32``; ValueError, which names ``path``,
        if it cannot be decoded.
        """
        remedy = 'fetch it again or leave it out'
        if not content:
            raise ValueError(
                f'image {path} (0 bytes) cannot be decoded: the file is '
                f'empty; {remedy}'
            )
        try:
            if factor > 1:
                image = _turn(
                    decode_reduced(content, factor), orientation(content)
                )
            else:
                image = self._decode(content)
        except Exception as error:  # decoders raise types of their own
            reason = ' '.join(str(error).split())
            raise ValueError(
                f'image {path} ({len(content)} bytes) cannot be decoded '
                f'({reason}); {remedy}'
            ) from error
        if image is None:
            raise ValueError(
                f'image {path} ({len(content)} bytes) cannot be decoded; '
                f'{remedy}'
            )
        return image.astype(np.float32) if self.to_float32 else image

    def _decode(self, content: bytes) -> np.ndarray | None:
        """Decode by the chosen backend; Pillow knows wanted formats alone."""
        backend = self.imdecode_backend or mmcv_io.imread_backend
        if backend == 'pillow' or _is_transparent_tiff(content):
            return self._by_pillow(content)
        upright = self.color_type in ('color', 'grayscale')
        # OpenCV turns a JPEG and, by its version, other kinds or none; a
        # TIFF is turned while it is decoded.
        turned = content[:2] == b'\xff\xd8' or content[:4] in _TIFF
        flag = self.color_type
        if backend == 'cv2' and upright and not turned:
            flag = f'{flag}_ignore_orientation'
        image = mmcv.imfrombytes(
            content, flag=flag, backend=self.imdecode_backend
        )
        if image is None:
            return self._by_pillow(content)
        if flag != self.color_type:
            image = _turn(image, orientation(content))
        return image

    def _by_pillow(self, content: bytes) -> np.ndarray:
        with open_image(content) as image:
            if image.mode in ('I', 'F'):  # which Pillow would cut to bytes
                low, high = image.getextrema()
                if low < 0 or high > 255 or 0 < high <= 1:
                    raise ValueError(
                        f'its values, {low:g} to {high:g}, must be scaled to '
                        '0 to 255'
                    )
            return mmcv_io._pillow2array(image, self.color_type)

    def _count_skipped(self, error: Exception) -> None:
        """Log a skipped image and stop if there are too many."""
        self.num_skipped += 1
        if self.num_skipped > self.max_skipped:
            raise ValueError(
                f'{self.num_skipped} images could not be read, more than '
                f'max_skipped={self.max_skipped}; the last: {error}'
            ) from error
        print_log(
            f'Skipped ({self.num_skipped} so far in this process): {error}',
            logger='current',
            level=logging.WARNING,
        )

    def __repr__(self) -> str:
        return (
            f'{super().__repr__()[:-1]}, on_error={self.on_error!r}, '
            f'max_skipped={self.max_skipped})'
        )


def _is_transparent_tiff(content: bytes) -> bool:
    """OpenCV multiplies its colours by alpha, those of a PNG it leaves."""
    if content[:4] not in _TIFF:
        return False
    try:
        with open_image(content) as image:
            return image.mode == 'RGBA'
    except OSError:  # of which OpenCV alone knows
        return False


def _turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """Set upright an image (H, W, ...) of an EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


# ----------------------------------------------------------------- the web


def is_web(path: str) -> bool:
    """Whether a path is an ``http://`` or ``https://`` address."""
    return str(path).lower().startswith(('http://', 'https://'))


def _fetch_image(address: str) -> bytes:
    """Read what is at a web address, within limits of size and time."""
    try:
        request = Request(
            address, headers={'User-Agent': f'dito/{__version__}'}
        )
        with urlopen(request, timeout=_SILENCE) as answer:
            return _read(answer)
    except HTTPError as error:
        error.close()
        reason = f'the server says {error.code} {error.reason}'
    except (OSError, HTTPException, ValueError) as error:
        reason = str(getattr(error, 'reason', error)) or type(error).__name__
    raise ValueError(
        f'image {address} cannot be fetched ({" ".join(reason.split())}); '
        'check the address, or download it and give its path'
    )


def _read(answer: Any) -> bytes:
    """Read an answer in pieces, up to the limits."""
    size = int(answer.headers.get('Content-Length') or 0)
    content = bytearray()
    end = time.monotonic() + _MOST_SECONDS
    while size <= _MOST_BYTES and len(content) <= _MOST_BYTES:
        piece = answer.read1(_PIECE)
        if not piece:
            if len(content) < size:
                raise ValueError(f'{len(content)} of its {size} bytes came')
            return bytes(content)
        content += piece
        if time.monotonic() > end:
            raise ValueError(f'it took more than {_MOST_SECONDS} seconds')
    raise ValueError(f'it has more than {_MOST_BYTES:,} bytes')


# CLIP's mean colour, RGB in [0, 1].
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


def legacy_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, C) as the first TensorFlow did: float32, (h, w, C).

    Pixel ``i`` of the result is sampled at ``i * old / new``: the corners of
    both images are aligned, their centres are not, and an image that shrinks
    is not smoothed, however much.
    """
    image = image.astype(np.float32)
    for axis, new in enumerate(size):
        old = image.shape[axis]
        step = np.float32(old) / np.float32(new)
        places = np.arange(new, dtype=np.float32) * step
        low = np.floor(places)
        fraction = (places - low).reshape(-1, *[1] * (2 - axis))
        low = np.minimum(low.astype(np.int64), old - 1)
        near = image.take(low, axis)
        far = image.take(np.minimum(low + 1, old - 1), axis)
        far -= near
        far *= fraction
        near += far
        image = near
    return image


@TRANSFORMS.register_module()
class DITOReleaseResize(BaseTransform):
    """Scale to fit a square, pad at the bottom and the right (release).

    The padding has CLIP's mean colour, because the release normalises,
    resizes, pads with zeros and then takes the normalisation back. Its parser
    rounds pixels in [0, 1] to bfloat16. ``img_shape`` is the padded size:
    boxes are clipped to the square, not to the valid area.

    Required keys: ``img``. Changed: ``img`` (float32, in [0, 255]),
    ``img_shape``, ``scale_factor`` (width, height), ``keep_ratio``.

    Args:
        size (int): Side of the square. Defaults to 1024.
        pad_color (Sequence[float]): RGB in [0, 1]; the release's demo has
            black. Defaults to CLIP's mean.
        bfloat16 (bool): Whether to round pixels. Defaults to True.
    """

    def __init__(
        self,
        size: int = 1024,
        pad_color: Sequence[float] = CLIP_MEAN,
        bfloat16: bool = True,
    ) -> None:
        if size < 1:
            raise ValueError(f'size must be at least 1 pixel, got {size}.')
        self.size = size
        self.pad_color = tuple(pad_color)
        self.bfloat16 = bfloat16

    def transform(self, results: dict) -> dict:
        """Resize and pad ``results['img']``, (H, W, 3) in BGR."""
        image = results['img']
        height, width = image.shape[:2]
        scale = min(
            np.float32(self.size) / np.float32(side)
            for side in (height, width)
        )
        # np.round and TensorFlow's both round halves to the even number.
        new: tuple[int, int] = tuple(
            max(int(np.round(np.float32(side) * scale)), 1)
            for side in (height, width)
        )
        padded = np.empty((self.size, self.size, 3), np.float32)
        padded[:] = np.float32(self.pad_color[::-1]) * 255
        padded[: new[0], : new[1]] = legacy_bilinear(image, new)
        results['img'] = self._round(padded)
        results['img_shape'] = padded.shape[:2]
        results['scale_factor'] = (new[1] / width, new[0] / height)
        results['keep_ratio'] = True
        return results

    def _round(self, image: np.ndarray) -> np.ndarray:
        """Pixels as bfloat16 in [0, 1] has them, back in [0, 255]."""
        if not self.bfloat16:
            return image
        pixels = torch.from_numpy(image).div_(255)
        return pixels.bfloat16().float().mul_(255).numpy()

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(size={self.size}, pad_color='
            f'{self.pad_color}, bfloat16={self.bfloat16})'
        )
