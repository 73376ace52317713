# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Helpers that know nothing of models and data: files, configs, packages."""


def register_all_modules(init_default_scope: bool = True) -> None:
    """Make MMDetection's scope the default one, if there is none yet.

    ``mmengine.hub.get_model('dito::...')`` calls this. Everything of DITO is
    registered as soon as anything of it is imported.
    """
    from mmengine.registry import DefaultScope

    if init_default_scope and DefaultScope.get_current_instance() is None:
        DefaultScope.get_instance('mmdet', scope_name='mmdet')
