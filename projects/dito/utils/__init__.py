# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Helpers that do not belong to one model: operators, checkpoints."""
