# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""DITO: region-centric image-language pretraining for open vocabularies.

Importing the package registers every module of it in MMDetection's
registries, so ``custom_imports = dict(imports=['dito'])`` in a config is
enough.
"""

import os
import sys
from itertools import pairwise
from types import ModuleType

from .version import __version__

__all__ = ['__version__', 'register']


def register() -> None:
    """Register every module of the package; a second call does nothing."""
    from .utils import checkpoint, compat, configs, printable

    # mmdet cannot be imported without mmcv's ops, so this comes first.
    compat.install()
    checkpoint.install()
    configs.register_config_scope()
    compat.leave_out_multimodal()
    printable.install()
    # Printed at each import, on the level of debugging: mmdet, and mmpretrain
    # beside transformers, without the optional client of a data-set service.
    # It reads as if the installation were broken.
    for module in 'mmdet.datasets', 'mmdet.models':
        compat.import_without_lines(
            module,
            'Could not import OneDL. Skipping OneDL datasets.',
            'Could not import OneDL',
        )
    from . import datasets, engine, evaluation, models, visualization  # noqa: F401

    models.detectors.clients.HubMixin.hub = staticmethod(_hub)


def _hub() -> ModuleType:
    """Where detectors are loaded and published; it imports much."""
    from .apis import hub

    return hub


def _is_command() -> bool:
    """Whether this process is the command ``dito``, or ``python -m dito``."""
    if sys.argv[:1] == ['-m']:  # while Python looks for the module
        return ('-m', 'dito') in pairwise(sys.orig_argv)
    return os.path.basename(''.join(sys.argv[:1])) == 'dito'


# The command says what is wrong with its arguments before it loads what takes
# seconds, and calls this then.
if not _is_command():
    register()
