# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""``torchrun`` for dist_train.sh and dist_test.sh, quiet after a refusal.

A process that refuses what the user gave prints one sentence and exits with
2 (dito/cli/errors.py); torchrun ends the others, reports a crash at length
and exits with 1. Here the processes of a machine share a file, so that one
alone speaks, and torchrun says nothing after it. Crashes are reported as
ever. Does not import ``dito``, which takes seconds.
"""

import logging
import os
import tempfile
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

REFUSED = 'DITO_REFUSAL_FILE'
USER_ERROR = 2


def main() -> int:
    """Start processes, with the arguments of ``torchrun``.

    Returns:
        int: 0, or 2 if the first process to fail did so by a refusal.

    Raises:
        ChildFailedError: If a process crashed.
    """
    with tempfile.TemporaryDirectory() as folder:
        refusal = Path(folder, 'refusal')
        os.environ[REFUSED] = str(refusal)
        for name in list(logging.root.manager.loggerDict):
            if name.startswith('torch.distributed.elastic'):
                logging.getLogger(name).addFilter(
                    lambda _: not refusal.exists()
                )
        try:
            run.main()
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            if failure.exitcode != USER_ERROR:
                raise
            return USER_ERROR
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
