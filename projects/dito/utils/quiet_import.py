# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Import MMDetection beside packages that make it talk or fail."""

import importlib
import importlib.util
import io
import sys
from contextlib import redirect_stdout
from importlib import metadata


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


def leave_out_multimodal() -> bool:
    """Keep mmpretrain importable beside transformers 5.

    MMDetection imports mmpretrain where it is installed. The multimodal
    models of mmpretrain 1.3 need names that transformers 5 no longer has, and
    the whole import fails with a TypeError; without transformers they are
    left out, as they are here.

    Returns:
        bool: Whether they are left out for this reason.
    """
    try:
        version = metadata.version('transformers')
    except metadata.PackageNotFoundError:
        return False
    if (int(version.split('.')[0]) < 5 or 'mmpretrain.models' in sys.modules
            or importlib.util.find_spec('mmpretrain') is None):
        return False
    dependency = importlib.import_module('mmpretrain.utils.dependency')
    dependency.WITH_MULTIMODAL = False
    return True
