# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Files of the authors' release, and :mod:`dito.utils.official`."""

from dito.utils.official import *  # noqa: F403
