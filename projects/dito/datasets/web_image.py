# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Fetch a picture of the web, within limits."""

import time
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from dito.version import __version__

# Seconds without a byte, and in all.
_SILENCE = 20
_MOST_SECONDS = 300
_MOST_BYTES = 1 << 28
_PIECE = 1 << 16


def is_web(path: str) -> bool:
    """Whether a path is an ``http://`` or ``https://`` address."""
    return str(path).lower().startswith(('http://', 'https://'))


def fetch_image(address: str) -> bytes:
    """Read what is at an address.

    Args:
        address (str): Of ``http://`` or ``https://``; redirections are
            followed.

    Returns:
        bytes: Whatever the server gives, at most 256 MiB.

    Raises:
        ValueError: If it cannot be read, is larger, or takes longer than 5
            minutes or 20 seconds without a byte.
    """
    try:
        request = Request(
            address, headers={'User-Agent': f'dito/{__version__}'})
        with urlopen(request, timeout=_SILENCE) as answer:
            return _read(answer)
    except HTTPError as error:
        error.close()
        reason = f'the server says {error.code} {error.reason}'
    except (OSError, HTTPException, ValueError) as error:
        reason = str(getattr(error, 'reason', error)) or type(error).__name__
    raise ValueError(
        f'image {address} cannot be fetched ({" ".join(reason.split())}); '
        'check the address, or download it and give its path')


def _read(answer: Any) -> bytes:
    """Read an answer in pieces, up to the limits."""
    size = int(answer.headers.get('Content-Length') or 0)
    content = bytearray()
    end = time.monotonic() + _MOST_SECONDS
    while size <= _MOST_BYTES and len(content) <= _MOST_BYTES:
        piece = answer.read1(_PIECE)
        if not piece:
            if len(content) < size:
                raise ValueError(f'{len(content)} of its {size} bytes came')
            return bytes(content)
        content += piece
        if time.monotonic() > end:
            raise ValueError(f'it took more than {_MOST_SECONDS} seconds')
    raise ValueError(f'it has more than {_MOST_BYTES:,} bytes')
