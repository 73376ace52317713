# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures that are given: listed, checked and read."""

import glob
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import cv2
import numpy as np
import PIL.Image
import torch
from mmcv.image.io import _pillow2array
from mmengine.dataset import Compose
from mmengine.fileio import get_file_backend
from mmengine.logging import print_log

from dito.datasets.image_text.image_header import picture_suffixes
from dito.datasets.load_image import DITOLoadImageFromFile
from dito.datasets.reduced_image import (
    WHOLE_PIXELS,
    reading_plan,
    reduction,
    shrink,
)

from .films import Film, is_film

Image = (
    str
    | Path
    | np.ndarray
    | torch.Tensor
    | PIL.Image.Image
    | bytes
    | bytearray
    | memoryview
    | Film
)
_ENCODED = (bytes, bytearray, memoryview)
# Of EXIF.
_ORIENTATION = 0x0112


def with_stems(images: Iterable[Any]) -> Iterator[tuple[Any, str]]:
    """Give images names for their output files, no two the same.

    Args:
        images (Iterable): As :func:`list_images` has them.

    Yields:
        tuple: The image, and its name without suffix, of a picture in memory
        its number; what comes again under one name gets a number.
    """
    used: set[str] = set()
    for number, item in enumerate(images):
        if isinstance(item, Film):
            stem = item.stem
        elif isinstance(item, str):
            stem = Path(urlsplit(item).path if _scheme(item) else item).stem
        else:
            stem = f'{number:06d}'
        name, more = stem, 1
        while name in used:
            more += 1
            name = f'{stem}_{more}'
        used.add(name)
        yield item, name


def _scheme(item: Any) -> str:
    """What comes before :// or in file:/path; '' for what is no address."""
    if not isinstance(item, str):
        return ''
    before, colon, after = item.partition(':')
    short = before.lower() == 'file' and after.startswith('/')
    return (
        before.lower() if colon and (short or after.startswith('//')) else ''
    )


def list_images(inputs: Any, check: bool | None = True) -> list[Any]:
    """Expand folders, patterns and addresses of files; check what is given.

    Args:
        inputs: See :class:`DITOInferencer`.
        check (bool, optional): Whether a file that is missing raises; None:
            one that is named, and not one of a folder or pattern.

    Returns:
        list[str | Film | ndarray | Tensor | Image | bytes]: Paths, addresses
        and pictures in memory; a film for its path.

    Raises:
        FileNotFoundError: If a file does not exist, or a pattern fits none.
        ValueError: If an array is no picture, an address cannot be read, or
            there is no picture at all.
    """
    if isinstance(inputs, (str, Path)) and not is_film(inputs):
        path = _local(str(inputs))
        if not _scheme(path) and Path(path).is_dir():
            inputs, check = _pictures_of(Path(path)), bool(check)
        elif _is_pattern(path):
            inputs, check = _files_of(path), bool(check)
    elif (
        is_sequence(inputs)
        or isinstance(inputs, np.ndarray)
        and inputs.ndim == 1
    ):
        inputs = list(inputs)
    if not isinstance(inputs, (list, tuple)):
        inputs = [inputs]
    images = [as_image(item, check is not False) for item in inputs]
    if not images:
        raise ValueError('There is no image in an empty list; give one.')
    return images


def is_sequence(inputs: Any) -> bool:
    """Whether images come one after the other, as from a generator."""
    return isinstance(inputs, Iterator) and not hasattr(inputs, 'read')


def as_image(item: Any, check: bool = True) -> Any:
    """One of the images that :func:`list_images` gives.

    Args:
        item: Anything but a folder and a pattern.
        check (bool): Whether a file that is missing raises.

    Returns:
        str | Film | ndarray | Tensor | Image | bytes: The image.

    Raises:
        FileNotFoundError: If its file does not exist.
        ValueError: If it is no picture, or an address that cannot be read.
    """
    if isinstance(item, (str, Path)):
        item = str(item)
        if not is_film(item) or item.lower().startswith('file:'):
            item = _local(item)
        if is_film(item):
            item = Film(item)
    if isinstance(item, Film):
        return item.check() if check else item
    if not isinstance(item, str):
        _check_pixels(item)
    elif check and not _scheme(item):
        check_file(item)
    return item


def check_file(path: str) -> None:
    """Refuse a file that is not there.

    Raises:
        FileNotFoundError: If it is not, or is a folder.
    """
    if Path(path).is_dir():
        raise FileNotFoundError(
            f'{path} is a folder; give it alone, or its pictures.'
        )
    if not Path(path).is_file():
        if path.startswith('camera:'):
            raise FileNotFoundError(
                f'There is no {path}; cameras have numbers, camera:0 is the '
                'first.'
            )
        found = 'is no plain file' if Path(path).exists() else 'does not exist'
        raise FileNotFoundError(f'The image {path} {found}; check the path.')


def refuse_films(images: Iterable[Any]) -> None:
    """Refuse a film where pictures are wanted.

    Raises:
        ValueError: If there is one.
    """
    for image in images:
        if isinstance(image, Film):
            raise ValueError(
                f'{image.name} is a film, and a picture is wanted here; '
                'detectors take it: stream(...) or dito detect.'
            )


def _local(item: str) -> str:
    """Path of a file: address; refuses addresses that cannot be read."""
    if not item:
        raise ValueError(
            'The path of the image is empty; write . for the '
            'folder that you are in.'
        )
    scheme = _scheme(item)
    if scheme == 'file':
        address = urlsplit(item)
        if address.netloc not in ('', 'localhost'):
            raise ValueError(
                f'{item} is a file of the machine {address.netloc!r}; write '
                'file:/// and the path for one of this machine.'
            )
        return url2pathname(address.path)
    if scheme:
        try:
            get_file_backend(item)
        except (ImportError, KeyError):
            raise ValueError(
                f'Images are not read from {scheme}:// ({item}); download it '
                'and give its path, or give a file:// or https:// address.'
            ) from None
    if item.startswith('~') and not os.path.lexists(item):
        return os.path.expanduser(item)
    return item


def _pictures_of(folder: Path) -> list[str]:
    """Files of a folder that can be decoded, in the order of their names."""
    # A link that leads nowhere is one of them, so that it is named.
    shown = [p for p in folder.iterdir() if not p.name.startswith('.')]
    files = [p for p in shown if not p.is_dir()]
    suffixes = picture_suffixes()
    images = sorted(str(p) for p in files if p.suffix.lower() in suffixes)
    more = len(shown) - len(files)
    inside = (
        f'{more} folder{"s" if more > 1 else ""}, whose images are '
        'not looked for; give its path for them'
    )
    if not images:
        raise ValueError(
            f'There is no image in {folder}, of {len(files)} files; the '
            'suffixes of images are .jpg, .png, .webp, .tif and the like'
            + (f'; it has {inside}.' if more else '.')
        )
    if more:
        print_log(
            f'Besides its images {folder} has {inside}.',
            logger='current',
            level=logging.WARNING,
        )
    return images


def _is_pattern(path: str) -> bool:
    """Whether a path stands for others: photos/*.jpg; no file has its name."""
    return (
        not _scheme(path) and glob.has_magic(path) and not Path(path).exists()
    )


def _files_of(pattern: str) -> list[str]:
    """Files that fit a pattern, in the order of their names."""
    found = sorted(glob.glob(pattern, recursive=True))
    files = [path for path in found if not Path(path).is_dir()]
    if not files:
        raise FileNotFoundError(
            f'No file fits the pattern {pattern}; check it, and write ** for '
            'folders of any depth.'
        )
    return files


def _check_pixels(item: Any) -> None:
    """Refuse what is no picture, and say how to make one of it."""
    if isinstance(item, _ENCODED):
        return
    if isinstance(item, torch.Tensor):
        _check_tensor(item)
    elif isinstance(item, PIL.Image.Image):
        _check_pillow(item)
    else:
        _check_array(item)


def _check_tensor(item: torch.Tensor) -> None:
    """Refuse a tensor of which it is not clear what its numbers mean."""
    shape = tuple(item.shape)
    if item.ndim != 3 or shape[0] != 3 or 0 in shape:
        raise ValueError(
            'An image tensor must be of shape (3, H, W), red first, got '
            f'{shape}; {_as_tensor(shape)}.'
        )
    if item.dtype != torch.uint8:
        raise ValueError(
            'An image tensor must be of uint8, from 0 to 255, got '
            f'{item.dtype}; give (image * 255).round().to(torch.uint8) if its '
            'values are from 0 to 1 and not normalised.'
        )


def _as_tensor(shape: tuple[int, ...]) -> str:
    """How to bring a tensor of a shape into the one that is wanted."""
    if len(shape) == 4:
        return 'of a batch give list(images)'
    if len(shape) == 3 and shape[2] == 3:
        return 'give image.permute(2, 0, 1)'
    if len(shape) == 3 and shape[0] == 1:
        return 'give image.expand(3, -1, -1)'
    return 'bring it into this shape'


def _check_pillow(item: PIL.Image.Image) -> None:
    """Refuse an image of a scale that its mode does not say."""
    if item.mode.startswith(('I', 'F')):
        raise ValueError(
            f"A Pillow image of mode '{item.mode}' must be scaled to values "
            'from 0 to 255 first; or give its file.'
        )
    if 0 in item.size:
        raise ValueError(
            f'The Pillow image of {item.width} x {item.height} has no pixels.'
        )


def _check_array(item: Any) -> None:
    """Refuse what is no picture in OpenCV's form, and say how to make it."""
    if not isinstance(item, np.ndarray):
        raise ValueError(
            'An image must be a path, an array of shape (H, W, 3), a tensor '
            '(3, H, W), a Pillow image or the bytes of a file, got '
            f'{type(item).__name__}; {_as_picture(item)}.'
        )
    if np.ma.is_masked(item):
        raise ValueError(
            'An image array has no mask; give image.filled(0), '
            'or another value for what is hidden.'
        )
    if item.ndim != 3 or item.shape[2] != 3 or 0 in item.shape:
        raise ValueError(
            'An image must be a path or an array of shape (H, W, 3) with '
            f'pixels in it, got {item.shape}.'
        )
    if item.dtype == np.uint8:
        return
    raise ValueError(
        'An image array must be of uint8, from 0 to 255, got '
        f'{item.dtype}; {_as_uint8(item)}.'
    )


def _as_picture(item: Any) -> str:
    """How to give a picture that came in another form."""
    if hasattr(item, 'read'):
        return 'of an open file give its path, or file.read()'
    if isinstance(item, Iterable):
        return 'several images go into one list or generator'
    return 'give one of these, or a list of them'


def _as_uint8(array: np.ndarray) -> str:
    """How to make bytes from 0 to 255 of other numbers."""
    if array.dtype == bool:
        return 'give image.astype(np.uint8) * 255'
    if array.dtype.kind not in 'iuf':
        return 'make it one of numbers from 0 to 255'
    if not np.isfinite(array).all():
        return 'it has values that are NaN or infinite'
    least, most = array.min(), array.max()
    if least < 0 or most > 255:
        return f'its values, {least} to {most}, must be scaled to 0 to 255'
    if array.dtype.kind == 'f' and most <= 1:
        return 'give (image * 255).round().astype(np.uint8)'
    return 'give image.astype(np.uint8) if its values are from 0 to 255'


class PictureReader:
    """Read pictures as evaluations do, very large ones at reduced size.

    Args:
        options (dict): Of the ``LoadImageFromFile`` of the test pipeline.
        pipeline (Compose): The steps after it.
    """

    def __init__(self, options: dict[str, Any], pipeline: Compose) -> None:
        self._loader = DITOLoadImageFromFile(**dict(options, on_error='raise'))
        self._pipeline = pipeline

    def read(self, image: Image, whole: bool = False) -> dict[str, Any]:
        """Read a picture as the data set would, without annotations.

        Args:
            image (Image): Path, address, picture in memory or bytes, as
                :func:`list_images` gives it.
            whole (bool): Reduce it from 150 megapixels on, instead of 50.

        Returns:
            dict: ``img`` (h, w, 3), which is a copy; ``ori_shape``, height
            and width of the picture, and ``img_shape``, those of ``img``.

        Raises:
            FileNotFoundError: If it does not exist.
            ValueError: If it cannot be decoded, or takes too much memory.
        """
        path = image if isinstance(image, str) else ''
        most = WHOLE_PIXELS if whole else None
        refuse_films([image])
        if path:
            if not _scheme(path):
                check_file(path)
            pixels, size = self._decode(path, self._loader.fetch(path), most)
        elif isinstance(image, _ENCODED):
            pixels, size = self._decode('given as bytes', bytes(image), most)
        else:
            pixels, size = _bgr(image, most)
            # A copy: transforms may work in place.
            pixels = np.array(
                pixels, np.float32 if self._loader.to_float32 else np.uint8
            )
        return dict(
            img_path=path,
            img=pixels,
            img_shape=pixels.shape[:2],
            ori_shape=size,
            instances=[],
        )

    def _decode(self, path: str, content: bytes, most: int | None) -> Any:
        """Pixels of a file, and height and width of the whole picture."""
        try:
            factor, size = reading_plan(content, most)
        except ValueError as error:
            raise ValueError(f'image {path} {error}') from None
        pixels = self._loader.decode(path, content, factor)
        if factor == 1 or size is None:
            size = pixels.shape[:2]
        return pixels, size

    def prepare(self, item: dict[str, Any]) -> dict[str, Any]:
        """Data for the model.

        Args:
            item (dict): As :meth:`read` gives it; ``img`` is taken out.

        Returns:
            dict: ``inputs`` and ``data_samples``, whose scale factors are
            those of the whole picture.

        Raises:
            ValueError: If the picture is too thin to be resized.
        """
        full, read = item['ori_shape'], item['img_shape']
        name = item['img_path'] or 'the array'
        given = dict(item, img_id=0)
        del item['img']
        try:
            data = self._pipeline(given)
        except (cv2.error, ValueError, ZeroDivisionError) as error:
            # OpenCV's own reason is an assertion about its source.
            told = isinstance(error, ValueError)
            reason = f' ({" ".join(str(error).split())})' if told else ''
            raise ValueError(
                f'The picture {name} of {full[1]} x {full[0]} pixels cannot '
                f'be prepared{reason}; a side of it may be too short or too '
                'long for the size that the config resizes to.'
            ) from error
        sample = data['data_samples']
        if tuple(full) != tuple(read) and 'scale_factor' in sample:
            factors = [
                factor * part / whole
                for factor, part, whole in zip(
                    sample.scale_factor, read[::-1], full[::-1], strict=True
                )
            ]
            sample.set_metainfo(dict(scale_factor=tuple(factors)))
        return data


def _bgr(image: Any, most: int | None) -> tuple[np.ndarray, tuple[int, int]]:
    """A picture in memory in OpenCV's form, reduced, and its whole size."""
    if isinstance(image, PIL.Image.Image):
        return _bgr_of_pillow(image, most)
    if isinstance(image, torch.Tensor):
        image = image.permute(1, 2, 0).cpu().numpy()[..., ::-1]
    size = image.shape[:2]
    return shrink(image, reduction(size, most)), size


def _bgr_of_pillow(
    image: PIL.Image.Image, most: int | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """As :func:`_bgr`; upright by EXIF, as files are."""
    width, height = image.size
    factor = reduction((height, width), most)
    try:
        turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        if factor > 1:
            image = image.convert('RGB').reduce(factor)
        pixels = _pillow2array(image)
    except (OSError, SyntaxError) as error:  # of a file that is not whole
        reason = ' '.join(str(error).split())
        raise ValueError(
            f'The Pillow image of {width} x {height} pixels cannot be loaded '
            f'({reason}); open its file again.'
        ) from error
    if factor == 1:
        return pixels, pixels.shape[:2]
    return pixels, (width, height) if turned else (height, width)
