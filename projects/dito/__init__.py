# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""DITO: region-centric image-language pretraining for open vocabularies.

Importing the package registers every module of it in MMDetection's
registries, so ``custom_imports = dict(imports=['dito'])`` in a config is
enough.
"""

import sys

if sys.argv[1:2] == ['check-env'] and sys.argv[0].endswith(('-m', 'dito')):
    # ``dito check-env`` examines why what follows fails, in a process that
    # has not tried it.
    import os

    _CHECKS = os.path.join(os.path.dirname(__file__), 'utils', 'env.py')
    os.execv(
        sys.executable,
        [
            sys.executable,
            '-c',
            'import runpy, sys; runpy.run_path('
            f'{_CHECKS!r}, run_name="__main__")',
        ],
    )

from .utils import (  # noqa: E402
    checkpoint,
    compat,
    configs,
    printable,
)

# mmdet cannot be imported without mmcv's ops, so this comes first.
compat.install()
checkpoint.install()
configs.register_config_scope()
compat.leave_out_multimodal()
printable.install()
# Printed at each import, on the level of debugging: mmdet without the optional
# client of a data-set service. It reads as if the installation were broken.
compat.import_without_line(
    'mmdet.datasets', 'Could not import OneDL. Skipping OneDL datasets.'
)

from . import (  # noqa: E402
    datasets,
    engine,
    evaluation,
    models,
    visualization,
)
from .version import __version__  # noqa: E402

__all__ = [
    '__version__',
    'datasets',
    'engine',
    'evaluation',
    'models',
    'visualization',
]
