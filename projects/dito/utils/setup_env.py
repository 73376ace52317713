# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Registration on request, under the name OpenMMLab's packages use."""

from mmengine.registry import DefaultScope


def register_all_modules(init_default_scope: bool = True) -> None:
    """Import all of DITO, which registers it; ``import dito`` does it too.

    ``mmengine.hub.get_model('dito::...')`` calls this.

    Args:
        init_default_scope (bool): Make ``mmdet`` the default scope if there
            is none yet. Defaults to True.
    """
    import dito  # noqa: F401
    if init_default_scope and DefaultScope.get_current_instance() is None:
        DefaultScope.get_instance('mmdet', scope_name='mmdet')
