# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Import a module without one of the lines it prints."""

import importlib
import io
import sys
from contextlib import redirect_stdout


def import_without_line(module: str, line: str) -> None:
    """Import a module; what it prints appears, but for one line.

    Args:
        module (str): Name of the module.
        line (str): The unwanted line. Other output appears after the import,
            also if that fails.
    """
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            importlib.import_module(module)
    finally:
        sys.stdout.writelines(
            text for text in printed.getvalue().splitlines(keepends=True)
            if text.rstrip('\r\n') != line)
