# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Weights of others, converted to this package's names."""
