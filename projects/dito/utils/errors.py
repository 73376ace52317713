# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Errors that are shown as one sentence wherever they come from."""

import errno

# How systems say that there is no room left.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BrokenDataError(RuntimeError):
    """The training data is broken to an extent that stops the run.

    A ``DataLoader`` wraps what its workers raise into a text that holds the
    worker's traceback; :meth:`sentence` finds the sentence again.
    """

    def sentence(self) -> str:
        """Return what was wrong, without a traceback."""
        mark = f'{type(self).__name__}: '
        return str(self).rsplit(mark, 1)[-1].strip()


class StepError(RuntimeError):
    """A step of a chain has failed, and has said why in its own output.

    Where the chain was is of no help then: tools print the sentence alone.
    """
