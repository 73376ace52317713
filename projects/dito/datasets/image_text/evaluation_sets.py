# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Labelled images for classification, held-out pairs for retrieval."""

import logging
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmdet.registry import DATASETS
from mmengine.fileio import get
from mmengine.logging import print_log
from torch.utils.data import Dataset
from webdataset.shardlists import expand_urls

from dito.utils.files import read_json, require_plain_file

from .bad_samples import BadSample
from .captions import CaptionPicker
from .tar_reader import IMAGE_EXTENSIONS, RawSample, read_shard
from .tar_walk import decompressor_of
from .transforms import CropTransform

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')


@DATASETS.register_module()
class DITOClassificationDataset(Dataset):
    """A dataset of MMPretrain, centre-cropped, with names for the prompts.

    Takes the list of images and labels from MMPretrain (ImageNet and other
    layouts, annotation files, storage backends), and decodes like the
    pretraining sets. Needs ``onedl-mmpretrain``.

    Args:
        dataset (dict): Config of a dataset of MMPretrain, such as
            ``dict(type='ImageNet', data_root='data/imagenet',
            split='val')``. Its pipeline is not used.
        size (int): Side of the square output in pixels.
        names (str or sequence[str], optional): Class names in label order;
            'imagenet': the 1,000 names of CLIP's evaluation. Defaults to
            None, the dataset's own.

    Raises:
        ImportError: If MMPretrain is not installed.
        ValueError: If there are not as many names as classes.
    """

    def __init__(
        self,
        dataset: dict[str, Any],
        size: int,
        *,
        names: str | Sequence[str] | None = None,
    ) -> None:
        try:
            import mmpretrain.datasets  # noqa: F401  (registers them)
            from mmpretrain.registry import DATASETS as SETS
        except ImportError as error:
            raise ImportError(
                f'the dataset {dataset.get("type")!r} needs MMPretrain: pip '
                'install onedl-mmpretrain'
            ) from error
        self.images = SETS.build(
            dict(dataset, pipeline=[], _scope_='mmpretrain')
        )
        own = tuple(self.images.metainfo['classes'])
        if names == 'imagenet':
            names = imagenet_names()
        elif isinstance(names, str):
            raise ValueError(
                f"names is {names!r}, expected 'imagenet' or a list"
            )
        classes = own if names is None else tuple(names)
        if len(classes) != len(own):
            raise ValueError(
                f'{len(classes)} names are given for {len(own)} classes of '
                f'{dataset.get("type")}'
            )
        self.metainfo = dict(classes=classes)
        self.transform = CropTransform(size, scale=None)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``inputs`` (3, size, size) uint8 RGB, ``labels``, ``keys`` (path).

        ValueError if the image cannot be decoded.
        """
        info = self.images.get_data_info(index)
        path = info['img_path']
        try:
            require_plain_file(path)
            inputs = self.transform(get(path))
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        return dict(inputs=inputs, labels=int(info['gt_label']), keys=path)


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

    def __init__(
        self, root: str, size: int, *, categories: str | None = None
    ) -> None:
        self.root = root
        folder = Path(root)
        if not folder.is_dir():
            raise FileNotFoundError(f'there is no folder {root!r}')
        names = sorted(p.name for p in folder.iterdir() if p.is_dir())
        self.samples: list[tuple[Path, int]] = [
            (path, label)
            for label, name in enumerate(names)
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in _SUFFIXES
        ]
        if not self.samples:
            raise FileNotFoundError(
                f'{root!r} holds no image; expected CLASS NAME/*.jpg'
            )
        novel = _novel_names(categories, names)
        self.metainfo = dict(
            classes=tuple(names),
            base_classes=tuple(n for n in names if n not in novel),
            novel_classes=tuple(n for n in names if n in novel),
        )
        self.transform = CropTransform(size, scale=None)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``inputs`` (3, size, size) uint8 RGB, ``labels``, ``keys`` (path).

        ValueError if the image cannot be decoded.
        """
        path, label = self.samples[index]
        try:
            require_plain_file(path)
            inputs: np.ndarray = self.transform(path.read_bytes())
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        return dict(
            inputs=inputs, labels=label, keys=f'{path.parent.name}/{path.name}'
        )


def _novel_names(categories: str | None, names: list[str]) -> frozenset:
    """Read the names of frequency 'r', check that all names are known."""
    if categories is None:
        return frozenset()
    content = read_json(categories)
    if isinstance(content, dict):
        content = content['categories']
    frequency = {c['name']: c.get('frequency') for c in content}
    unknown = [name for name in names if name not in frequency]
    if unknown:
        raise ValueError(
            f'{categories!r} lacks {len(unknown)} of {len(names)} classes, '
            f'the first is {unknown[0]!r}'
        )
    return frozenset(name for name in names if frequency[name] == 'r')


def imagenet_names() -> tuple[str, ...]:
    """Return the 1,000 names that CLIP's evaluation uses, in label order.

    open_clip's list holds two names twice ('missile', 'sunglasses'), with
    which the classes could not be told apart. Where the first WordNet name of
    such a class, as mmpretrain lists it, is another, it takes its place:
    'projectile' and 'sunglass'.
    """
    from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
    from open_clip import IMAGENET_CLASSNAMES

    counts = Counter(IMAGENET_CLASSNAMES)
    return tuple(
        name if counts[name] == 1 else wordnet.split(',')[0].strip()
        for name, wordnet in zip(
            IMAGENET_CLASSNAMES, IMAGENET_CATEGORIES, strict=True
        )
    )


class _Pair(NamedTuple):
    """Where a sample's image lies, and its captions."""

    shard: str
    offset: int
    size: int
    texts: tuple[str, ...]
    key: str


@DATASETS.register_module()
class DITORetrievalDataset(Dataset):
    """Image-text pairs of held-out shards, each with a number.

    Unlike :class:`ImageTextShards` it is finite and indexed, so that a
    sampler can split it over processes and no pair counts twice. Captions are
    held in memory; images are read when asked for. Shards are local,
    uncompressed tar files. Images are centre-cropped. Samples without a
    caption and images that cannot be decoded are left out at the start with
    a warning, not found in the middle of a run.

    Args:
        shards (str or list[str]): Paths; braces are expanded.
        size (int): Side of the square output in pixels.
        caption (str): Where captions are: an extension such as 'txt', the
            whole file being one caption, or 'json.FIELD', a text or a list
            of texts. Defaults to 'txt'.

    Raises:
        FileNotFoundError: If a shard is missing or no pair is found.
        ValueError: If a shard is no plain tar.
    """

    def __init__(
        self, shards: str | Sequence[str], size: int, *, caption: str = 'txt'
    ) -> None:
        patterns = [shards] if isinstance(shards, str) else list(shards)
        self.shards = patterns
        self.transform = CropTransform(size, scale=None)
        self.captions = CaptionPicker(caption, choice='random')
        self.pairs: list[_Pair] = [
            pair
            for pattern in patterns
            for url in expand_urls(pattern)
            for pair in self._index(url)
        ]
        if not self.pairs:
            raise FileNotFoundError(
                f'shards={shards!r} hold no image with a caption in '
                f'{caption!r}; check the path and the caption key'
            )
        # No class names: the zero-shot hook has nothing to embed here.
        self.metainfo: dict[str, Any] = {}

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``inputs`` (3, size, size) uint8 RGB, ``texts`` list[str], ``keys``.

        ValueError if the image cannot be decoded.
        """
        pair = self.pairs[index]
        with open(pair.shard, 'rb') as file:
            file.seek(pair.offset)
            data = file.read(pair.size)
        try:
            inputs = self.transform(data)
        except ValueError as error:
            raise ValueError(
                f'{pair.shard}, sample {pair.key}: {error}'
            ) from error
        return dict(inputs=inputs, texts=list(pair.texts), keys=pair.key)

    def _index(self, path: str) -> list[_Pair]:
        """List the pairs of a shard, leaving out incomplete ones."""
        images: dict[str, tuple[int, int]] = {}
        faults: dict[str, str] = {}
        texts: dict[str, tuple[str, ...]] = {}
        wanted = self.captions.wanted | {*IMAGE_EXTENSIONS}
        require_plain_file(path)
        try:
            with open(path, 'rb') as file:
                if decompressor_of(file.read(6)):
                    raise tarfile.ReadError('it is compressed')
            for raw in read_shard(path, wanted=wanted):
                self._note(raw, images, texts, faults)
        except tarfile.TarError as error:
            raise ValueError(
                f'{path} is no whole, uncompressed tar ({error}); retrieval '
                'reads pairs by number from plain local shards'
            ) from error
        for key in {*images, *texts}:
            if key not in images:
                faults.setdefault(key, 'no image')
            elif not texts.get(key):
                faults.setdefault(key, 'no caption')
        if faults:
            reasons = ', '.join(
                f'{number} {reason}'
                for reason, number in Counter(faults.values()).most_common()
            )
            print_log(
                f'{path}: {len(faults)} of '
                f'{len({*images, *texts, *faults})} samples are left '
                f'out ({reasons})',
                logger='current',
                level=logging.WARNING,
            )
        return [
            _Pair(path, *place, texts[key], key)
            for key, place in images.items()
            if key not in faults
        ]

    def _note(
        self,
        raw: RawSample,
        images: dict[str, tuple[int, int]],
        texts: dict[str, tuple[str, ...]],
        faults: dict[str, str],
    ) -> None:
        """Add what a group of members, neighbours or not, holds."""
        if not raw.parts.keys().isdisjoint(IMAGE_EXTENSIONS) or raw.fault:
            try:
                data = raw.image()
                extension = next(e for e in IMAGE_EXTENSIONS if e in raw.parts)
                images[raw.key] = raw.places[extension], len(data)
                self.transform(data)
            except BadSample as error:
                images.setdefault(raw.key, (0, 0))
                faults[raw.key] = error.reason
        try:
            texts[raw.key] = tuple(self.captions.all_of(raw))
        except BadSample as error:
            if error.reason not in ('no caption', 'empty caption'):
                faults.setdefault(raw.key, error.reason)
