# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Chains of trainings and tests, and pages, tables and figures of them."""
