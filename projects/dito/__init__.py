# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""DITO: region-centric image-language pretraining for open vocabularies.

After ``import dito`` every class of it can be built from MMDetection's
registries, so ``custom_imports = dict(imports=['dito'])`` in a config is
enough. The import itself is a matter of milliseconds: the registries import
the packages below when something is first looked up in them, and what is
changed in MMEngine and mmcv is changed as they are imported.
"""

import importlib
from functools import partial
from types import ModuleType
from typing import Any

from .utils import on_import
from .version import __version__

__all__ = ['__version__', 'register']

# The packages that hold the classes of a registry, here and in MMDetection's.
_REGISTERED = {
    'datasets': ('DATASETS', 'DATA_SAMPLERS', 'FUNCTIONS', 'TRANSFORMS'),
    'engine': ('HOOKS', 'LOOPS', 'OPTIM_WRAPPERS', 'RUNNERS', 'STRATEGIES'),
    'evaluation': ('METRICS',),
    'models': ('MODELS', 'TASK_UTILS'),
    'visualization': ('VISUALIZERS',),
}


def register() -> None:
    """Import all that is registered now, and not when it is looked up."""
    for package in _REGISTERED:
        importlib.import_module(f'{__name__}.{package}')


def __getattr__(name: str) -> Any:
    """Import a package of :data:`_REGISTERED` as it is named."""
    if name in _REGISTERED:
        return importlib.import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def _add_locations(registries: ModuleType) -> None:
    """Let registries look into DITO's packages after their own."""
    for package, kinds in _REGISTERED.items():
        location = f'{__name__}.{package}'
        for kind in kinds:
            registry = getattr(registries, kind, None)
            if registry is not None and location not in registry._locations:
                # Those of MMEngine share one empty list.
                registry._locations = [*registry._locations, location]
                registry._imported = False


def _prepare_registries() -> None:
    from mmengine.registry import root

    _add_locations(root)


def _prepare_mmdet_registries() -> None:
    from mmdet import registry

    _add_locations(registry)


def _prepare_configs() -> None:
    from .utils import configs

    configs.register_config_scope()
    configs.format_config_once()


def _prepare_logs() -> None:
    from .utils import printable

    printable.install()


def _prepare_checkpoints() -> None:
    from .utils import checkpoint

    checkpoint.install()


def _prepare_mmpretrain() -> None:
    from .utils import compat

    compat.leave_out_multimodal()


def _mmcv_ops() -> ModuleType:
    from .utils import compat

    return compat.TorchvisionExt()


def _quietly() -> Any:
    from .utils import compat

    # Printed at each import, on the level of debugging: mmdet, and mmpretrain
    # beside transformers, without the optional client of a data-set service.
    # It reads as if the installation were broken.
    return compat.without_lines(
        'Could not import OneDL. Skipping OneDL datasets.',
        'Could not import OneDL',
    )


def _prepare_clients() -> None:
    from .models.detectors.clients import HubMixin

    HubMixin.hub = staticmethod(_hub)


def _hub() -> ModuleType:
    """Where detectors are loaded and published; it imports much."""
    from .apis import hub

    return hub


on_import.stand_in('mmcv._ext', _mmcv_ops)
for _name in 'mmdet.datasets', 'mmdet.models':
    on_import.around_import(_name, _quietly)
# The module that changes these may be the one that imports them, and is not
# whole then; so it does its work, below, when it is.
for _name, _module in {
    'mmengine.config': 'configs',
    'mmengine.logging': 'printable',
    'mmengine.runner': 'checkpoint',
}.items():
    on_import.after_import(
        _name, partial(importlib.import_module, f'{__name__}.utils.{_module}')
    )
for _name, _prepare in {
    'mmengine.registry': _prepare_registries,
    'mmdet.registry': _prepare_mmdet_registries,
    'mmpretrain.utils.dependency': _prepare_mmpretrain,
    f'{__name__}.models.detectors.clients': _prepare_clients,
    f'{__name__}.utils.configs': _prepare_configs,
    f'{__name__}.utils.printable': _prepare_logs,
    f'{__name__}.utils.checkpoint': _prepare_checkpoints,
}.items():
    on_import.after_import(_name, _prepare)
