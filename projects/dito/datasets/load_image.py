# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Images of files and of the web, with errors that name what was read."""

import logging
import time
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.image import io as mmcv_io
from mmcv.transforms import LoadImageFromFile
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
        self,
        on_error: str = 'raise',
        max_skipped: int = 100,
        **kwargs,
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
        """Load the image of ``results['img_path']``.

        Args:
            results (dict): Data of one image.

        Returns:
            dict | None: The same with ``img`` (H, W, 3) uint8, BGR,
            ``img_shape`` and ``ori_shape``; None if skipped.
        """
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
        """Read a file.

        Args:
            path (str): Path or address.

        Returns:
            bytes: The encoded image.

        Raises:
            FileNotFoundError: If it does not exist.
            ValueError: If it is no plain file, or cannot be fetched.
        """
        require_plain_file(path)
        try:
            if self.backend_args is None and is_web(path):
                return fetch_image(path)
            return fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'image {path} does not exist; check data_root and '
                'data_prefix of the dataset'
            ) from error

    def decode(self, path: str, content: bytes, factor: int = 1) -> np.ndarray:
        """Decode an image.

        Args:
            path (str): Where it is from, for errors.
            content (bytes): The encoded image.
            factor (int): By which it is reduced, see
                :func:`.decode_reduced`.

        Returns:
            np.ndarray: (H, W, 3), uint8 or by ``to_float32`` float32, BGR.

        Raises:
            ValueError: If it cannot be decoded.
        """
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
                f'({reason}); fetch it again or remove it from the annotations'
            ) from error
        if image is None:
            raise ValueError(
                f'image {path} ({len(content)} bytes) cannot be decoded; '
                'fetch it again or remove it from the annotations'
            )
        return image.astype(np.float32) if self.to_float32 else image

    def _decode(self, content: bytes) -> np.ndarray | None:
        """Decode by the chosen backend; Pillow knows wanted formats alone."""
        backend = self.imdecode_backend or mmcv_io.imread_backend
        if backend == 'pillow':
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


def fetch_image(address: str) -> bytes:
    """Read what is at an address.

    Args:
        address (str): Of ``http://`` or ``https://``; redirections are
            followed.

    Returns:
        bytes: Whatever the server gives, at most 256 MiB.

    Raises:
        ValueError: If it cannot be read, is larger, or takes longer than 5
            minutes or 20 seconds without a byte.
    """
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
