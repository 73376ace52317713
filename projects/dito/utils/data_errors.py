# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Errors about the data that outlive the way through a loading process."""

import os
import stat
from typing import Union


class BrokenDataError(RuntimeError):
    """The training data is broken to an extent that stops the run.

    A ``DataLoader`` wraps what its workers raise into a text that holds the
    worker's traceback; :meth:`sentence` finds the sentence again.
    """

    def sentence(self) -> str:
        """Return what was wrong, without a traceback."""
        mark = f'{type(self).__name__}: '
        return str(self).rsplit(mark, 1)[-1].strip()


def require_plain_file(path: Union[str, 'os.PathLike[str]']) -> None:
    """Refuse what is there and has no end, such as a pipe or ``/dev/zero``.

    Paths out of annotations, tables and folders of strangers go through
    here before they are opened; what is missing is left to whoever opens it.

    Args:
        path (str | Path): Of the file; links are followed.

    Raises:
        ValueError: If it is a pipe, a device, a socket or a folder.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # missing, or no path at all
        return
    if not stat.S_ISREG(mode):
        kind = 'folder' if stat.S_ISDIR(mode) else 'pipe or device'
        raise ValueError(f'{path} is a {kind}, not a file; remove it, or '
                         'correct the path')
