# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Training loops, hooks, and strategies with what belongs to them."""

from .hooks import *  # noqa: F401,F403
from .loops import *  # noqa: F401,F403
from .strategies import *  # noqa: F401,F403
