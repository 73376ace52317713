# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Run the whole chain on the embedded data set: dito/cli/reports.py."""

from dito.cli.reports import quickstart

if __name__ == '__main__':
    raise SystemExit(quickstart())
