# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Held-out image-text pairs, by number, for retrieval."""

import logging
import tarfile
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from mmdet.registry import DATASETS
from mmengine.logging import print_log
from torch.utils.data import Dataset
from webdataset.shardlists import expand_urls

from dito.utils.files import require_plain_file

from .bad_samples import BadSample
from .captions import CaptionPicker
from .tar_reader import IMAGE_EXTENSIONS, RawSample, read_shard
from .tar_walk import decompressor_of
from .transforms import CropTransform


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
        caption (str): Where captions stand: an extension such as 'txt', the
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
        """Load one pair.

        Args:
            index (int): Its number.

        Returns:
            dict: ``inputs`` (3, size, size) uint8 array RGB, ``texts``
            list[str], ``keys`` str.

        Raises:
            ValueError: If the image cannot be decoded.
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
        """Add what a group of members holds.

        Members of a key need not be neighbours here, as in training.
        """
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
