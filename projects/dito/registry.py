# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The scope ``dito``, below MMDetection's.

DITO's classes are in MMDetection's registries, so that plain names work
under ``default_scope = 'mmdet'``. mmengine marks everything that a config
inherits by ``_base_ = 'dito::...'`` with the scope ``dito``, imports this
module to find it, and looks further in the parents.
"""

from mmdet import registry as mmdet_registry
from mmengine.registry import Registry

# A registry imports its own locations, not those of its parents.
REGISTRIES: dict[str, Registry] = {
    name: Registry(
        parent.name,
        parent=parent,
        scope='dito',
        locations=list(parent._locations),
    )
    for name, parent in vars(mmdet_registry).items()
    if isinstance(parent, Registry) and parent.scope == 'mmdet'
}
