# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Helpers that do not belong to one model: operators, checkpoints."""

from .setup_env import register_all_modules

__all__ = ['register_all_modules']
