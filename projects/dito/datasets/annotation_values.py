# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Values of annotation files in their one form, or none.

The rules are in :mod:`.annotations`.
"""

import re
import reprlib
from typing import Any

Id = int | str

_MAX_SIDE = 1 << 20  # what OpenCV decodes
_MAX_COORDINATE = 1e7
_WHOLE = re.compile(r'(-?(?:0|[1-9][0-9]{0,17}))(?:\.0+)?')
# Longer ones are text. Python's dictionaries take numbers that differ by
# 2^61 - 1 for the same at first: 20,000 such ids would take a minute.
_MAX_ID = 10**18
_FLAGS = {'': 0, '0': 0, '1': 1, 'false': 0, 'true': 1}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlist = _short.maxdict = 8
_short.maxlevel = 3


def show(value: Any) -> str:
    """Write a value of a file into a message, of bounded length."""
    return _short.repr(value)


def as_id(value: Any) -> Id | None:
    """An id in its one form.

    Args:
        value (Any): As in a file, or of numpy or torch.

    Returns:
        int | str | None: A number where it is one of up to 18 digits, also
        '15' and 15.0; longer ones as text; other text as it is; None for
        what cannot be an id.
    """
    kind = type(value)
    if kind is int:
        return value if -_MAX_ID < value < _MAX_ID else str(value)
    if kind is float:
        return as_id(int(value)) if value.is_integer() else None
    if kind is str:
        whole = _WHOLE.fullmatch(value.strip())
        return int(whole[1]) if whole else value or None
    if kind is bool or not hasattr(value, 'item'):
        return None
    return as_id(value.item())


def sort_key(number: Id) -> tuple[bool, Id]:
    """Order of ids: numbers before text."""
    return isinstance(number, str), number


def as_number(value: Any, limit: float = _MAX_COORDINATE) -> float | None:
    """A finite number up to a limit, or None; digits in text count."""
    if type(value) is str:
        try:
            value = float(value)
        except ValueError:
            return None
    elif type(value) not in (int, float):
        return None
    return value if -limit <= value <= limit else None


def is_absent(value: Any) -> bool:
    """Whether a field holds nothing: null, or NaN as pandas writes it."""
    return value is None or value != value


def is_text(value: Any) -> bool:
    """Whether it is text that can be written: half a character cannot."""
    if not isinstance(value, str) or not value.strip():
        return False
    return value.isascii() or not re.search('[\ud800-\udfff]', value)


def as_side(value: Any) -> int | None:
    """Width or height of an image."""
    number = as_number(value, _MAX_SIDE)
    whole = number is not None and number == int(number) and number >= 1
    return int(number) if whole else None


def as_flag(value: Any) -> int | None:
    """0 or 1, None for what is neither."""
    if value is None or value != value:
        return 0
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower(), _flag_number(value))
    return _flag_number(value)


def _flag_number(value: Any) -> int | None:
    """A flag written as a number or as true or false."""
    number = int(value) if isinstance(value, bool) else as_number(value)
    return int(number) if number in (0, 1) else None
