# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Sources of image-text pairs and how a mixture draws from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .captions import CaptionPicker, SampleFilter
from .tar_reader import IMAGE_EXTENSIONS
from .tar_walk import expand_shards, shard_names

# Choices are drawn this many at a time.
_BLOCK = 1024
_SALT = 0x50CE
ShardsType = str | Sequence[str | dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """Shards of one origin with their own captions and filters.

    The name, if any, begins the keys of its samples; its share of the samples
    is weight / sum of weights.
    """

    shards: Sequence[str]
    name: str = ''
    weight: float = 1.0
    captions: CaptionPicker = field(default_factory=CaptionPicker)
    filters: SampleFilter = field(default_factory=SampleFilter)

    def __post_init__(self) -> None:
        """Check the weight; make the keys' prefixes."""
        if not (self.weight > 0 and np.isfinite(self.weight)):
            raise ValueError(
                f'the weight of source {self.name!r} must be a '
                f'positive number, got {self.weight}'
            )
        before = f'{self.name}/' if self.name else ''
        object.__setattr__(
            self,
            'prefixes',
            [f'{before}{name}/' for name in shard_names(self.shards)],
        )

    @property
    def wanted(self) -> frozenset[str]:
        """Extensions of the members to read."""
        return (
            frozenset(IMAGE_EXTENSIONS)
            | self.captions.wanted
            | self.filters.wanted
        )


def build_sources(
    shards: ShardsType,
    captions: dict[str, Any] | None = None,
    filters: Sequence[dict[str, Any]] = (),
) -> list[Source]:
    """Make sources of a config.

    ``shards`` are addresses of one source; or one dict a source with
    ``shards``, ``name`` and, where wanted, ``weight``, ``captions``,
    ``filters``. ``captions`` (:class:`CaptionPicker`) and ``filters``
    (:class:`SampleFilter`) hold where a source has none of its own.

    Raises:
        FileNotFoundError: If a shard is missing.
        ValueError: If a source lacks a name of its own, or has unknown keys.
    """
    listed = [] if isinstance(shards, str) else list(shards)
    if not any(isinstance(item, dict) for item in listed):
        listed = [dict(shards=shards)]
    elif not all(isinstance(item, dict) for item in listed):
        raise ValueError(
            'shards must be addresses, or one dict a source, '
            'not a mixture of both'
        )
    sources = [_build_source(item, captions, filters) for item in listed]
    names = [source.name for source in sources]
    if len(sources) > 1 and (len(set(names)) < len(names) or '' in names):
        raise ValueError(
            f'each of several sources needs a name of its own, got {names}'
        )
    return sources


def _build_source(
    item: dict[str, Any],
    captions: dict[str, Any] | None,
    filters: Sequence[dict[str, Any]],
) -> Source:
    """Make one source."""
    known = ('shards', 'name', 'weight', 'captions', 'filters')
    unknown = sorted(set(item) - set(known))
    if unknown or 'shards' not in item:
        raise ValueError(
            f'a source is a dict of {", ".join(known)}, got {sorted(item)}'
        )
    return Source(
        tuple(expand_shards(item['shards'])),
        name=item.get('name', ''),
        weight=item.get('weight', 1.0),
        captions=CaptionPicker(**(item.get('captions', captions) or {})),
        filters=SampleFilter(item.get('filters', filters) or ()),
    )


class SourceDraw:
    """Which source each sample of a stream comes from.

    A function of (seed, stream, number of the sample in its stream) alone,
    hence the same after a resume and on any number of processes.
    """

    def __init__(
        self, weights: Sequence[float], seed: int, stream: int
    ) -> None:
        self._bounds = np.cumsum(weights)[:-1] / np.sum(weights)
        self._seed = (_SALT, seed, stream)
        self._block = -1
        self._choices = np.empty(0, np.int64)

    def __call__(self, number: int) -> int:
        """Return the source of sample ``number``."""
        if not len(self._bounds):
            return 0
        block, place = divmod(number, _BLOCK)
        if block != self._block:
            rng = np.random.default_rng((*self._seed, block))
            self._choices = np.searchsorted(
                self._bounds, rng.random(_BLOCK), side='right'
            )
            self._block = block
        return int(self._choices[place])
