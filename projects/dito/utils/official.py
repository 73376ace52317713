# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The documented name of :mod:`dito.converters.official`."""

from dito.converters.official import *  # noqa: F403
