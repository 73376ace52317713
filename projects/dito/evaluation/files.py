# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Files of evaluations."""

import hashlib
import os

from ..datasets.json_files import (
    collector_paused,
    read_json,
    write_json,
    write_json_list,
)

__all__ = [
    'collector_paused',
    'read_json',
    'sha256_of',
    'write_json',
    'write_json_list',
]


def sha256_of(path: 'str | os.PathLike') -> str:
    """Hash a file.

    Args:
        path (str | PathLike): The file.

    Returns:
        str: 64 hexadecimal digits, as ``sha256sum`` prints them.
    """
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
