# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The encoding of a text file, by its byte-order mark."""

import codecs

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, 'utf-8-sig'), (codecs.BOM_UTF32_LE, 'utf-32'),
    (codecs.BOM_UTF32_BE, 'utf-32'), (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'))


def encoding_of(start: bytes) -> str:
    """Name the encoding of a text.

    Args:
        start (bytes): Its first four bytes, or more.

    Returns:
        str: What a byte-order mark says, else 'utf-8'.
    """
    return next((name for mark, name in _MARKS if start.startswith(mark)),
                'utf-8')
