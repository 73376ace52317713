# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Find shards."""

from pathlib import Path
from typing import List, Sequence

from dito.datasets.image_text.open_shard import expand_shards
from dito.datasets.image_text.tar_reader import (
    IMAGE_EXTENSIONS,
    JSON_EXTENSION,
    TEXT_EXTENSION,
)
from dito.utils.files import require_plain_file

WANTED = frozenset((*IMAGE_EXTENSIONS, TEXT_EXTENSION, JSON_EXTENSION))


def find_shards(sources: Sequence[str]) -> List[str]:
    """List shards of folders, paths, patterns with braces and addresses.

    Args:
        sources (list[str]): A folder stands for the .tar files in it.

    Returns:
        list[str]: Addresses.

    Raises:
        FileNotFoundError: If one is missing, or a folder has no shard.
    """
    shards: List[str] = []
    for source in sources:
        if Path(source).is_dir():
            found = sorted(str(path) for path in Path(source).glob('*.tar'))
            if not found:
                raise FileNotFoundError(f'{source!r} holds no .tar file')
            for path in found:
                require_plain_file(path)
            shards += found
        else:
            shards += expand_shards(source)
    return shards
