# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detectors as files that run without this package."""
