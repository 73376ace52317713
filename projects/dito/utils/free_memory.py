# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Main memory that a process can still take."""

from pathlib import Path
from typing import Optional

_MEMINFO = Path('/proc/meminfo')
# Limit and use of the container, cgroup version 2 and 1.
_CGROUPS = (
    (Path('/sys/fs/cgroup/memory.max'),
     Path('/sys/fs/cgroup/memory.current')),
    (Path('/sys/fs/cgroup/memory/memory.limit_in_bytes'),
     Path('/sys/fs/cgroup/memory/memory.usage_in_bytes')))


def free_memory() -> Optional[int]:
    """Count the bytes that can be taken without swapping.

    Returns:
        int, optional: The less of what Linux calls available and of what
        the container leaves; None where it cannot be known.
    """
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    found = [1024 * int(line.split()[1]) for line in lines
             if line.startswith('MemAvailable:')]
    for limit, use in _CGROUPS:
        try:
            found.append(int(limit.read_text()) - int(use.read_text()))
        except (OSError, ValueError):  # not there, or 'max'
            continue
    return min(found, default=None)
