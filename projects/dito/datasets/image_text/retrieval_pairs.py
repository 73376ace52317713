# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Held-out image-text pairs, by number, for retrieval."""

import json
import logging
import tarfile
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple, Union

from mmdet.registry import DATASETS
from mmengine.logging import print_log
from torch.utils.data import Dataset
from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext

from .bad_samples import BadSample
from .image_header import image_size, looks_complete
from .transforms import CropTransform

_IMAGES = ('jpg', 'jpeg', 'png', 'webp')


class _Pair(NamedTuple):
    """Where a sample's image lies, and its captions."""

    shard: str
    offset: int
    size: int
    texts: Tuple[str, ...]
    key: str


@DATASETS.register_module()
class DITORetrievalDataset(Dataset):
    """Image-text pairs of held-out shards, each with a number.

    Unlike :class:`ImageTextShards` it is finite and indexed, so that a
    sampler can split it over processes and no pair counts twice. Captions are
    held in memory; images are read when asked for. Shards are local,
    uncompressed tar files. Images are centre-cropped. Samples without a
    caption, and images that break off or have no size, are left out at the
    start with a warning, not found in the middle of a run.

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

    def __init__(self, shards: Union[str, Sequence[str]], size: int, *,
                 caption: str = 'txt') -> None:
        patterns = [shards] if isinstance(shards, str) else list(shards)
        self.shards = patterns
        self.transform = CropTransform(size, scale=None)
        self.extension, _, self.field = caption.partition('.')
        self.pairs: List[_Pair] = [
            pair for pattern in patterns for url in expand_urls(pattern)
            for pair in self._index(url)
        ]
        if not self.pairs:
            raise FileNotFoundError(
                f'shards={shards!r} hold no image with a caption in '
                f'{caption!r}; check the path and the caption key')
        # No class names: the zero-shot hook has nothing to embed here.
        self.metainfo: Dict[str, Any] = {}

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Dict[str, Any]:
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
                f'{pair.shard}, sample {pair.key}: {error}') from error
        return dict(inputs=inputs, texts=list(pair.texts), keys=pair.key)

    def _index(self, path: str) -> List[_Pair]:
        """List the pairs of a shard, leaving out incomplete ones."""
        images: Dict[str, Tuple[int, int]] = {}
        faults: Dict[str, str] = {}
        texts: Dict[str, Tuple[str, ...]] = {}
        try:
            with tarfile.open(path, 'r:') as tar:
                for member in tar:
                    key, extension = base_plus_ext(member.name)
                    if extension in _IMAGES:
                        images[key] = member.offset_data, member.size
                        fault = self._fault(tar.extractfile(member).read())
                        if fault:
                            faults[key] = fault
                    elif extension == self.extension and member.isreg():
                        texts[key] = self._texts(
                            tar.extractfile(member).read())
        except tarfile.TarError as error:
            raise ValueError(
                f'{path} is no whole, uncompressed tar ({error}); retrieval '
                'reads pairs by number from plain local shards') from error
        for key in {*images, *texts}:
            if key not in images:
                faults[key] = 'no image'
            elif not texts.get(key):
                faults[key] = 'no caption'
        if faults:
            reasons = ', '.join(f'{number} {reason}' for reason, number in
                                Counter(faults.values()).most_common())
            print_log(
                f'{path}: {len(faults)} of {len({*images, *texts})} samples '
                f'are left out ({reasons})', logger='current',
                level=logging.WARNING)
        return [
            _Pair(path, *place, texts[key], key)
            for key, place in images.items() if key not in faults
        ]

    def _fault(self, data: bytes) -> str:
        """Say what a glance finds wrong with an image, '' if nothing."""
        if image_size(data) is not None and looks_complete(data):
            return ''
        try:
            self.transform(data)
        except BadSample as error:
            return error.reason
        return ''

    def _texts(self, data: bytes) -> Tuple[str, ...]:
        """Read the captions of a sample that are not empty."""
        values: Any = data.decode('utf-8', 'replace')
        if self.field:
            try:
                values = json.loads(values)[self.field]
            except (ValueError, KeyError, TypeError):
                return ()
        values = values if isinstance(values, list) else [values]
        stripped = (v.strip() for v in values if isinstance(v, str))
        return tuple(text for text in stripped if text)
