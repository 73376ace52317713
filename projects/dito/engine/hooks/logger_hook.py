# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The log of a run."""

from mmdet.registry import HOOKS
from mmengine.hooks import LoggerHook

from ..telemetry import only_reports


@HOOKS.register_module()
@only_reports
class DITOLoggerHook(LoggerHook):
    """MMEngine's logger, whose errors end no run.

    A full disk, a service that is down or a value that cannot be written is
    a warning, once; the run goes on. Args: those of :obj:`LoggerHook`.
    """
