# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Images in one folder a class, for zero-shot classification."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
from mmdet.registry import DATASETS
from torch.utils.data import Dataset

from dito.utils.files import require_plain_file

from .transforms import CropTransform

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')


@DATASETS.register_module()
class DITOFolderDataset(Dataset):
    """Labelled images from ``ROOT/CLASS NAME/*.jpg``, centre-cropped.

    ``metainfo`` holds ``classes`` (sorted names, the label order),
    ``base_classes`` and ``novel_classes``.

    Args:
        root (str): Folder with one sub-folder a class.
        size (int): Side of the square output in pixels.
        categories (str, optional): LVIS-style json, either a list of
            categories or a dict with ``categories``; names whose
            ``frequency`` is 'r' are novel. Defaults to None, all base.

    Raises:
        FileNotFoundError: If the root is missing or holds no image.
        ValueError: If ``categories`` lacks a class.
    """

    def __init__(self, root: str, size: int, *,
                 categories: Optional[str] = None) -> None:
        self.root = root
        folder = Path(root)
        if not folder.is_dir():
            raise FileNotFoundError(f'there is no folder {root!r}')
        names = sorted(p.name for p in folder.iterdir() if p.is_dir())
        self.samples: List[Tuple[Path, int]] = [
            (path, label) for label, name in enumerate(names)
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in _SUFFIXES
        ]
        if not self.samples:
            raise FileNotFoundError(
                f'{root!r} holds no image; expected CLASS NAME/*.jpg')
        novel = _novel_names(categories, names)
        self.metainfo = dict(
            classes=tuple(names),
            base_classes=tuple(n for n in names if n not in novel),
            novel_classes=tuple(n for n in names if n in novel))
        self.transform = CropTransform(size, scale=None)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        """Load one image.

        Args:
            index (int): Number of the image.

        Returns:
            dict: ``inputs`` (3, size, size) uint8 array RGB, ``labels`` int,
            ``keys`` str, the path below the root.

        Raises:
            ValueError: If the image cannot be decoded.
        """
        path, label = self.samples[index]
        try:
            require_plain_file(path)
            inputs: np.ndarray = self.transform(path.read_bytes())
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        return dict(inputs=inputs, labels=label,
                    keys=f'{path.parent.name}/{path.name}')


def _novel_names(categories: Optional[str], names: List[str]) -> frozenset:
    """Read the names of frequency 'r', check that all names are known."""
    if categories is None:
        return frozenset()
    content = json.loads(Path(categories).read_text())
    if isinstance(content, dict):
        content = content['categories']
    frequency = {c['name']: c.get('frequency') for c in content}
    unknown = [name for name in names if name not in frequency]
    if unknown:
        raise ValueError(
            f'{categories!r} lacks {len(unknown)} of {len(names)} classes, '
            f'the first is {unknown[0]!r}')
    return frozenset(name for name in names if frequency[name] == 'r')
