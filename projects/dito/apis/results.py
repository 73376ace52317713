# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures that are given, and what was found in them as values and files."""

import json
import math
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

import cv2
import mmcv
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmengine.fileio import get_file_backend
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from torchvision.ops import nms

from dito.datasets.image_text.image_header import picture_suffixes
from dito.models.roi_heads.dito_mask_head import paste_mask
from dito.models.text import Vocabulary

# Pictures are drawn on at no more than this size.
_DRAWN_PIXELS = 1 << 22
# Bytes of masks that are drawn at a time.
_DRAWN_MASKS = 1 << 28


@dataclass
class Detections:
    """What was found in an image, or why it could not be read.

    Attributes:
        every (DetDataSample): All detections of the names; ``pred_instances``
            has masks within their boxes only (``box_masks``), the meta data
            ``classes``, the names by label.
        kept (DetDataSample): Those of the least score or more.
        classes (Vocabulary): The names that labels stand for.
        negative (int): Detections that went to negative names.
        drawn (ndarray): RGB picture (H, W, 3) if it was wanted.
        error (str): Why the image could not be read; else None.
    """

    every: Any = None
    kept: Any = None
    classes: Any = None
    negative: int = 0
    drawn: Optional[np.ndarray] = None
    error: Optional[str] = None

    @classmethod
    def of(cls, sample: DetDataSample, classes: Vocabulary, score_thr: float,
           iou: Optional[float], mask_thr: float) -> 'Detections':
        """Sort the detections of one image.

        Args:
            sample (DetDataSample): As the model gives it.
            classes (Vocabulary): Names that are looked for; labels above
                theirs are negative names.
            score_thr (float): Least score of ``kept``.
            iou (float, optional): Of the NMS over all names.
            mask_thr (float): Least probability of a pixel of a mask.
        """
        found = sample.pred_instances
        if iou is not None:
            found = found[nms(found.bboxes, found.scores, iou)]
        asked = found[found.labels < len(classes)]
        every = sample.new()
        every.pop('vocabulary', None)
        every.set_metainfo(dict(mask_thr=mask_thr, classes=classes.names))
        every.pred_instances = asked
        kept = every.new()
        kept.pred_instances = asked[asked.scores >= score_thr]
        return cls(every, kept, classes, len(found) - len(asked))

    @property
    def names(self) -> Tuple[str, ...]:
        """Names by label."""
        return self.classes.names

    @property
    def shape(self) -> Tuple[int, int]:
        """Height and width of the image."""
        return self.every.ori_shape[:2]


def with_masks(sample: DetDataSample) -> DetDataSample:
    """Paste all masks of a sample: ``masks``, bool (N, H, W)."""
    found = sample.pred_instances
    if 'box_masks' in found:
        shape = sample.ori_shape[:2]
        masks = torch.zeros(len(found), *shape, dtype=torch.bool)
        for row, mask in zip(masks, _pasted(sample), strict=True):
            row.copy_(torch.from_numpy(mask))
        found = found[:]
        found.pop('box_masks')
        found.masks = masks.to(found.bboxes.device)
        sample = sample.new()
        sample.pred_instances = found
    return sample


def _pasted(sample: DetDataSample) -> Iterator[np.ndarray]:
    """The masks of a sample, one at a time."""
    found = sample.pred_instances
    for mask, box in zip(found.box_masks, found.bboxes, strict=True):
        yield paste_mask(mask, box, sample.ori_shape[:2],
                         sample.get('mask_thr', 0.5))


def to_dict(sample: DetDataSample, names: Sequence[str]) -> Dict[str, Any]:
    """Make a json-able dict of the predictions of one image.

    Args:
        sample (DetDataSample): With ``pred_instances``.
        names (Sequence[str]): Class names by label.

    Returns:
        dict: ``labels``, ``names``, ``scores``, ``bboxes`` (x1, y1, x2, y2
        in pixels of the image) and, with masks, ``masks`` as COCO's
        compressed run lengths. One entry per detection, best score first.
    """
    found = sample.pred_instances.cpu()
    found = found[found.scores.argsort(descending=True, stable=True)]
    labels = found.labels.tolist()
    result = dict(
        labels=labels,
        names=[names[i] for i in labels],
        scores=found.scores.tolist(),
        bboxes=found.bboxes.tolist())
    masks: Any = None
    if 'box_masks' in found:
        ordered = sample.new()
        ordered.pred_instances = found
        masks = (coco_mask.encode(mask) for mask in _pasted(ordered))
    elif 'masks' in found:
        masks = encode_mask_results(np.asarray(found.masks))
    if masks is not None:
        result['masks'] = [
            dict(size=list(mask['size']), counts=_text(mask['counts']))
            for mask in masks
        ]
    return result


def _text(counts: Any) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


def write_json(value: Any, path: Path) -> None:
    """Write a json file that appears whole or not at all."""
    _write(json.dumps(value).encode(), path)


def _unfinished(path: Path) -> Path:
    """Where a file of this process and thread is until it is whole."""
    return path.with_name(
        f'.{os.getpid()}.{threading.get_ident()}.{path.name}')


def write_picture(image: np.ndarray, path: Path) -> None:
    """Write an RGB picture (H, W, 3) that appears whole or not at all."""
    temporary = _unfinished(path)
    try:
        mmcv.imwrite(image[..., ::-1], str(temporary))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(content: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _unfinished(path)
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_stems(inputs: Sequence[Any]) -> List[str]:
    """Names for the output files of some images, no two the same.

    Args:
        inputs (Sequence): Paths, or arrays, which are named by number.

    Returns:
        list[str]: The image's name without suffix; what comes again under
        one name gets a number.
    """
    used: Set[str] = set()
    stems = []
    for number, item in enumerate(inputs):
        path = urlsplit(item).path if _scheme(item) else item
        stem = Path(path).stem if isinstance(item, str) else f'{number:06d}'
        name, more = stem, 1
        while name in used:
            more += 1
            name = f'{stem}_{more}'
        used.add(name)
        stems.append(name)
    return stems


def check_options(score_thr: Any, batch_size: Any, agnostic_nms: Any,
                  on_error: str) -> None:
    """Refuse options of a call that are out of their range.

    Raises:
        ValueError: If one is.
    """
    if not _is_number(score_thr) or math.isnan(score_thr):
        raise ValueError(
            f'score_thr is a score from 0 to 1, got {score_thr!r}.')
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(
            f'batch_size is a whole number from 1 on, got {batch_size!r}.')
    if agnostic_nms is not None and not (_is_number(agnostic_nms)
                                         and 0 < agnostic_nms <= 1):
        raise ValueError(
            f'agnostic_nms is an IoU in (0, 1], got {agnostic_nms!r}.')
    if on_error not in ('raise', 'collect'):
        raise ValueError(
            f"on_error is 'raise' or 'collect', got {on_error!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating))


def _scheme(item: Any) -> str:
    """What stands before :// in an address; '' for what is none."""
    if not isinstance(item, str) or '://' not in item:
        return ''
    return item.split('://')[0].lower()


def list_images(inputs: Any, check: bool = True) -> List[Any]:
    """Expand folders and addresses of files; check arrays and paths.

    Args:
        inputs: See :class:`DITOInferencer`.
        check (bool): Whether a file that is missing raises.

    Returns:
        list[str | ndarray]: Paths, addresses and arrays.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If an array is no picture, an address cannot be read, or
            there is no picture at all.
    """
    if isinstance(inputs, (str, Path)):
        path = _local(str(inputs))
        if not _scheme(path) and Path(path).is_dir():
            inputs = _pictures_of(Path(path))
    if not isinstance(inputs, (list, tuple)):
        inputs = [inputs]
    images = [
        _local(str(item)) if isinstance(item, (str, Path)) else item
        for item in inputs
    ]
    if not images:
        raise ValueError('There is no image in an empty list; give one.')
    for item in images:
        if not isinstance(item, str):
            _check_array(item)
        elif check and not _scheme(item):
            check_file(item)
    return images


def check_file(path: str) -> None:
    """Refuse a file that is not there.

    Raises:
        FileNotFoundError: If it is not, or is a folder.
    """
    if Path(path).is_dir():
        raise FileNotFoundError(
            f'{path} is a folder; give it alone, or its pictures.')
    if not Path(path).is_file():
        raise FileNotFoundError(
            f'The image {path} does not exist; check the path.')


def _local(item: str) -> str:
    """Path of a file: address; refuses addresses that cannot be read."""
    scheme = _scheme(item)
    if scheme == 'file':
        address = urlsplit(item)
        if address.netloc not in ('', 'localhost'):
            raise ValueError(
                f'{item} is a file of the machine {address.netloc!r}; write '
                'file:/// and the path for one of this machine.')
        return url2pathname(address.path)
    if scheme:
        try:
            get_file_backend(item)
        except (ImportError, KeyError):
            raise ValueError(
                f'Images are not read from {scheme}:// ({item}); download it '
                'and give its path, or give a file:// or https:// address.'
            ) from None
    return item


def _pictures_of(folder: Path) -> List[str]:
    """Files of a folder that can be decoded, in the order of their names."""
    files = [p for p in folder.iterdir()
             if p.is_file() and not p.name.startswith('.')]
    suffixes = picture_suffixes()
    images = sorted(str(p) for p in files if p.suffix.lower() in suffixes)
    if not images:
        raise ValueError(
            f'There is no image in {folder}, of {len(files)} files; the '
            'suffixes of images are .jpg, .png, .webp, .tif and the like.')
    return images


def _check_array(item: Any) -> None:
    """Refuse what is no picture in OpenCV's form, and say how to make it."""
    if not isinstance(item, np.ndarray):
        raise ValueError(
            'An image must be a path or an array of shape (H, W, 3), got '
            f'{type(item).__name__}; of a Pillow image give '
            "np.array(image.convert('RGB'))[..., ::-1], of a tensor "
            '(3, H, W) tensor.permute(1, 2, 0).numpy() in uint8.')
    if item.ndim != 3 or item.shape[2] != 3 or 0 in item.shape:
        raise ValueError(
            'An image must be a path or an array of shape (H, W, 3) with '
            f'pixels in it, got {item.shape}.')
    if item.dtype == np.uint8:
        return
    how = 'give image.astype(np.uint8) if its values are from 0 to 255'
    if np.issubdtype(item.dtype, np.floating):
        if not np.isfinite(item).all():
            how = 'it has values that are NaN or infinite'
        elif item.max() <= 1:
            how = 'give (image * 255).round().astype(np.uint8)'
    raise ValueError('An image array must be of uint8, from 0 to 255, got '
                     f'{item.dtype}; {how}.')


def reduce_picture(image: np.ndarray) -> np.ndarray:
    """A copy to draw on, uint8, of at most 4 megapixels (H, W, 3)."""
    factor = math.sqrt(_DRAWN_PIXELS / (image.shape[0] * image.shape[1]))
    if factor >= 1:
        return image.astype(np.uint8)
    size = [max(round(side * factor), 1) for side in image.shape[1::-1]]
    return cv2.resize(
        image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def parts_to_draw(sample: DetDataSample, shape: Tuple[int, int],
                  scale: Sequence[float]) -> Iterator[DetDataSample]:
    """Detections to draw, no more at a time than memory is meant for.

    Args:
        sample (DetDataSample): With masks in their boxes.
        shape (tuple[int, int]): Height and width of the picture.
        scale (Sequence[float]): Its width and height over the image's.

    Yields:
        DetDataSample: With boxes and masks in pixels of the picture.
    """
    found: InstanceData = sample.pred_instances
    step = max(_DRAWN_MASKS // (shape[0] * shape[1]), 1)
    for start in range(0, max(len(found), 1), step):
        part = sample.new()
        part.set_metainfo(dict(ori_shape=shape))
        few = found[start:start + step] if len(found) else found[:]
        few.bboxes = few.bboxes * few.bboxes.new_tensor([*scale, *scale])
        part.pred_instances = few
        yield with_masks(part)
