# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Print versions, operators and devices, and a remedy for each problem.

Exits with 1 when something keeps DITO from running. Works where ``import
dito`` fails: the checks are loaded from their file, without the package.
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

CLONE = Path(__file__).resolve().parents[2] / 'projects' / 'dito'


def load_checks() -> ModuleType:
    """Import ``dito/utils/env.py`` alone, installed or from the clone."""
    installed = importlib.util.find_spec('dito')
    root = Path(installed.origin).parent if installed else CLONE
    spec = importlib.util.spec_from_file_location(
        'dito_env', root / 'utils' / 'env.py'
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == '__main__':
    argparse.ArgumentParser(description=__doc__).parse_args()
    raise SystemExit(load_checks().main())
