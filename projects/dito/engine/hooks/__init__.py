# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Hooks of the three stages."""

from .load_report_hook import DITOLoadReportHook

__all__ = ['DITOLoadReportHook']
