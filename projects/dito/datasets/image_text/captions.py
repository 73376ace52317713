# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Which text of a sample is its caption."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dito.utils.files import encoding_of

from .bad_samples import BadSample
from .tar_reader import JSON_EXTENSION, TEXT_EXTENSION, RawSample

_JSON_PREFIX = JSON_EXTENSION + '.'
# Keeps the choice apart from the random crop, which has the same seed.
_SALT = 0xCA97


def decode_text(data: bytes) -> str:
    """Decode the content of a text file.

    Args:
        data (bytes): UTF-8, or what its byte-order mark says.

    Raises:
        BadSample: If it is in another encoding.
    """
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
        keys (str or list[str]): Where captions stand: an extension such as
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
        """Return the caption without surrounding blanks.

        Args:
            raw (RawSample): The sample.
            seed (tuple[int, ...]): Seed of its randomness.

        Raises:
            BadSample: If there is no caption, or only empty ones.
        """
        captions = self.all_of(raw)
        if self.choice == 'first':
            return captions[0]
        rng = np.random.default_rng((_SALT, *seed))
        return captions[rng.integers(len(captions))]

    def all_of(self, raw: RawSample) -> list[str]:
        """Return the captions to choose from, without surrounding blanks.

        Of several keys 'first' looks at the first that has a caption.

        Raises:
            BadSample: As calling does.
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
        value = json_field(raw, key[len(_JSON_PREFIX) :])
        values = value if isinstance(value, list) else [value]
        yield from (clean_text(v) for v in values if isinstance(v, str))


def json_field(raw: RawSample, field: str) -> Any:
    """Return a field of a sample's json, None where it has none.

    Args:
        raw (RawSample): The sample.
        field (str): Its name; ``a.b`` means b within a where there is no
            field named ``a.b``.

    Raises:
        BadSample: If the json cannot be read.
    """
    value: Any = raw.metadata()
    if field in value:
        return value[field]
    for name in field.split('.'):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value
