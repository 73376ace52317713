# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The manifest beside shards: which there are, and their checksums."""

import json
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

MANIFEST = 'manifest.json'
_FIELDS = dict(name=str, samples=int, bytes=int, sha256=str)


def find_manifest(sources: Sequence[str]) -> Optional[str]:
    """Return the manifest of the folder that is checked, if it has one."""
    if len(sources) == 1 and Path(sources[0], MANIFEST).is_file():
        return str(Path(sources[0], MANIFEST))
    return None


def load_manifest(path: str) -> Dict[str, Dict[str, Any]]:
    """Read a manifest as shard name -> record.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is no manifest of shards.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no manifest {path!r}')
    try:
        shards = json.loads(Path(path).read_text('utf-8'))['shards']
        return {_checked(record)['name']: record for record in shards}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f'{path!r} is no manifest of shards: '
                         f'{error!r}') from error


def _checked(record: Dict[str, Any]) -> Dict[str, Any]:
    """Return a record if it has what is compared, in its type."""
    for key, kind in _FIELDS.items():
        if type(record[key]) is not kind:
            raise TypeError(f'{key} is {record[key]!r:.80}')
    if Path(record['name']).name != record['name'] or not record[
            'name'].endswith('.tar'):
        raise ValueError(f'{record["name"]!r:.80} is no name of a shard')
    return record
