# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Captions of samples, filters by their figures, and sources with both."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dito.utils.files import encoding_of

from .bad_samples import BadSample, blame_sample
from .image_header import image_size
from .tar_reader import (
    IMAGE_EXTENSIONS,
    JSON_EXTENSION,
    TEXT_EXTENSION,
    RawSample,
)
from .tar_walk import expand_shards, shard_names

_JSON_PREFIX = JSON_EXTENSION + '.'
# Keeps the choice apart from the random crop, which has the same seed.
_SALT = 0xCA97


def decode_text(data: bytes) -> str:
    """Decode UTF-8, or what a byte-order mark says; else a BadSample."""
    try:
        text = data.decode(encoding_of(data))
    except UnicodeError as error:
        raise BadSample('caption not in UTF-8', str(error)) from error
    if '\0' in text:  # UTF-16 without a mark, or no text
        raise BadSample('caption not in UTF-8', 'it has a zero byte')
    return text


def clean_text(text: str) -> str:
    """Make a text of a json or table one that can be encoded.

    Halves of a surrogate pair are joined; one alone, as the end of a cut
    emoji, becomes U+FFFD, and a zero a blank.
    """
    if text.isascii() and '\0' not in text:
        return text
    data = text.encode('utf-16-le', 'surrogatepass')
    return data.decode('utf-16-le', 'replace').replace('\0', ' ')


class CaptionPicker:
    """Take a sample's caption from its text files or its json.

    Args:
        keys (str or list[str]): Where captions are: an extension such as
            ``txt``, or ``json.FIELD`` (``json.a.b`` for a field within a
            field). A json list of strings is several captions. Defaults to
            'txt'.
        choice (str): 'first' takes the first that is not empty; 'random'
            draws one of those that are not empty, anew each epoch, by the
            sample's seed. Defaults to 'first'.

    Attributes:
        wanted (frozenset[str]): Extensions to read from the shards.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = (TEXT_EXTENSION,),
        choice: str = 'first',
    ) -> None:
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        if not self.keys or not all(
            key and not key.endswith('.') for key in self.keys
        ):
            raise ValueError(
                "captions: keys must be extensions such as 'txt' or "
                f"'json.FIELD', got {keys!r}"
            )
        if choice not in ('first', 'random'):
            raise ValueError(
                f"captions: choice must be 'first' or 'random', got {choice!r}"
            )
        self.choice = choice
        self.wanted: frozenset[str] = frozenset(
            JSON_EXTENSION if key.startswith(_JSON_PREFIX) else key.lower()
            for key in self.keys
        )

    def __call__(self, raw: RawSample, seed: tuple[int, ...]) -> str:
        """The caption without blanks around it; BadSample without any."""
        captions = self.all_of(raw)
        if self.choice == 'first':
            return captions[0]
        rng = np.random.default_rng((_SALT, *seed))
        return captions[rng.integers(len(captions))]

    def all_of(self, raw: RawSample) -> list[str]:
        """The captions to choose from; BadSample if there is none.

        Of several keys 'first' looks at the first that has a caption.
        """
        found = False
        captions: list[str] = []
        for key in self.keys:
            for text in self._texts(raw, key):
                found = True
                text = text.strip()
                if text:
                    captions.append(text)
            if captions and self.choice == 'first':
                break
        if not captions:
            raise BadSample(
                'empty caption' if found else 'no caption',
                f'in {", ".join(self.keys)}',
            )
        return captions

    def _texts(self, raw: RawSample, key: str) -> Iterator[str]:
        """Yield the texts under one key."""
        if not key.startswith(_JSON_PREFIX):
            if key.lower() in raw.parts:
                yield decode_text(raw.parts[key.lower()])
            return
        value = _json_field(raw, key[len(_JSON_PREFIX) :])
        values = value if isinstance(value, list) else [value]
        yield from (clean_text(v) for v in values if isinstance(v, str))


def _json_field(raw: RawSample, field: str) -> Any:
    """A field of a sample's json; ``a.b`` may mean b within a."""
    value: Any = raw.metadata()
    if field in value:
        return value[field]
    for name in field.split('.'):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _size(data: bytes) -> Any:
    size = image_size(data)
    if size is None:
        raise BadSample('image cannot be decoded', 'it has no size')
    return size


# Figures that need no json; images are not decoded for them.
_COMPUTED: dict[str, Callable[[str, bytes], float]] = {
    'caption.chars': lambda text, image: len(text),
    'caption.words': lambda text, image: len(text.split()),
    'image.bytes': lambda text, image: len(image),
    'image.width': lambda text, image: _size(image)[1],
    'image.height': lambda text, image: _size(image)[0],
    'image.side': lambda text, image: min(_size(image)),
    'image.aspect': lambda text, image: max(_size(image)) / min(_size(image)),
}


class FieldFilter:
    """Keep a sample if one figure of it lies in a range.

    Args:
        field (str): A field of the json (such as ``similarity`` or
            ``original_width``; ``a.b`` for b within a), or one of
            ``caption.chars``, ``caption.words``, ``image.width``,
            ``image.height``, ``image.side`` (the shorter one),
            ``image.aspect`` (longer over shorter side), ``image.bytes``.
        min (float, optional): Smallest value kept.
        max (float, optional): Largest value kept.
        one_of (list, optional): Values kept, for texts such as ``NSFW``.
        missing (str): 'drop' or 'keep' a sample without the field (or with
            null in it). Defaults to 'drop'.
    """

    def __init__(
        self,
        field: str,
        min: float | None = None,
        max: float | None = None,
        one_of: Sequence[Any] | None = None,
        missing: str = 'drop',
    ) -> None:
        group = field.split('.')[0]
        if group in ('caption', 'image') and field not in _COMPUTED:
            raise ValueError(
                f'filters: there is no field {field!r}; there '
                f'are {", ".join(_COMPUTED)} and those of json'
            )
        if min is None and max is None and one_of is None:
            raise ValueError(f'filters: {field!r} needs min, max or one_of')
        if missing not in ('drop', 'keep'):
            raise ValueError(
                f"filters: missing must be 'drop' or 'keep', got {missing!r}"
            )
        self.field = field
        self.min, self.max = min, max
        self.one_of = None if one_of is None else tuple(one_of)
        self.missing = missing

    def __call__(self, raw: RawSample, text: str, image: bytes) -> str | None:
        """Why a sample is left out, None if it is kept.

        BadSample if the json or the image's header cannot be read.
        """
        if self.field in _COMPUTED:
            value: Any = _COMPUTED[self.field](text, image)
        else:
            value = _json_field(raw, self.field)
        if value is None:
            return None if self.missing == 'keep' else f'without {self.field}'
        if self.one_of is not None and value not in self.one_of:
            return f'{self.field} not allowed'
        if self.min is None and self.max is None:
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            return f'{self.field} is no number'
        # Written so that nan is left out, too.
        if self.min is not None and not number >= self.min:
            return f'{self.field} below {self.min:g}'
        if self.max is not None and not number <= self.max:
            return f'{self.field} above {self.max:g}'
        return None


class SampleFilter:
    """Several :class:`FieldFilter` s, applied in their order.

    Attributes:
        wanted: Extensions to read from the shards.
    """

    def __init__(self, filters: Sequence[dict[str, Any]] = ()) -> None:
        self.filters = [FieldFilter(**cfg) for cfg in filters]
        self.wanted: frozenset[str] = frozenset(
            JSON_EXTENSION for f in self.filters if f.field not in _COMPUTED
        )

    def __call__(self, raw: RawSample, text: str, image: bytes) -> str | None:
        """Return the first reason to leave the sample out, or None."""
        for keep in self.filters:
            with blame_sample(f'filter {keep.field} cannot be applied'):
                reason = keep(raw, text, image)
            if reason is not None:
                return reason
        return None


# Choices are drawn this many at a time.
_BLOCK = 1024
_SOURCE_SALT = 0x50CE
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
        self._seed = (_SOURCE_SALT, seed, stream)
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
