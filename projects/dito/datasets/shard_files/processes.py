# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Share work out over processes."""

from concurrent.futures import ProcessPoolExecutor
from typing import Any, Callable, Iterable, Iterator


def map_in_processes(function: Callable[[Any], Any], tasks: Iterable[Any],
                     workers: int) -> Iterator[Any]:
    """Apply a function to each task.

    Args:
        function (callable): Of a module, so that it can be pickled.
        tasks (iterable): What it is applied to.
        workers (int): Number of processes; up to 1 means this one.

    Yields:
        Any: Results, in the order of the tasks.
    """
    tasks = list(tasks)
    if workers <= 1 or len(tasks) <= 1:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(min(workers, len(tasks))) as pool:
        yield from pool.map(function, tasks)
