# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Other projects' scripts."""

import runpy
import sys
from argparse import Namespace
from pathlib import Path

from .options import command


@command
def main(args: Namespace) -> int:
    """Run a script as ``python SCRIPT ARGS`` would."""
    script = Path(args.script)
    if not script.is_file():
        raise FileNotFoundError(f'There is no script {script} to run.')
    sys.argv = [str(script), *args.args]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name='__main__')
    return 0
