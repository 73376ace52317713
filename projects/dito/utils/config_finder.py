# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The name under which scripts of others import :func:`find_config`."""

from .configs import find_config

__all__ = ['find_config']
