# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Errors about the data that outlive the way through a loading process."""


class BrokenDataError(RuntimeError):
    """The training data is broken to an extent that stops the run.

    A ``DataLoader`` wraps what its workers raise into a text that holds the
    worker's traceback; :meth:`sentence` finds the sentence again.
    """

    def sentence(self) -> str:
        """Return what was wrong, without a traceback."""
        mark = f'{type(self).__name__}: '
        return str(self).rsplit(mark, 1)[-1].strip()
