# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Training loops and hooks."""

from .hooks import *  # noqa: F401,F403
from .loops import *  # noqa: F401,F403
