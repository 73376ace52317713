# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Run another project's script with DITO imported first.

Importing DITO puts the stand-in for mmcv's compiled operators in place and
registers its classes; MMDetection's own ``tools/test.py`` needs both, and
imports parts of MMDetection before it reads the config's
``custom_imports``.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import one_sentence_errors


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run a script as ``python SCRIPT ARGS`` would."""
    parser = argparse.ArgumentParser(
        prog='python -m dito run', description=__doc__
    )
    parser.add_argument('script', help='a .py file')
    parser.add_argument('args', nargs=argparse.REMAINDER, help='its arguments')
    args = parser.parse_args(argv)
    script = Path(args.script)
    if not script.is_file():
        raise FileNotFoundError(f'There is no script {script} to run.')
    sys.argv = [str(script), *args.args]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name='__main__')
    return 0
