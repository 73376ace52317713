# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Leave samples out by figures in their json, their caption or image size."""

from collections.abc import Callable, Sequence
from typing import Any

from .bad_samples import BadSample, blame_sample
from .captions import json_field
from .image_header import image_size
from .tar_reader import JSON_EXTENSION, RawSample


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
        """Return why the sample is left out, None if it is kept.

        Args:
            raw (RawSample): The sample.
            text (str): Its caption.
            image (bytes): Its encoded image.

        Raises:
            BadSample: If the json or the image's header cannot be read.
        """
        if self.field in _COMPUTED:
            value: Any = _COMPUTED[self.field](text, image)
        else:
            value = json_field(raw, self.field)
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
    """Several filters, applied in their order.

    Args:
        filters (list[dict]): Arguments of :class:`FieldFilter`.

    Attributes:
        wanted (frozenset[str]): Extensions to read from the shards.
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
