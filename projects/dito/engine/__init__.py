# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Training loops, hooks, optimizer wrappers, runners, strategies."""

from .hooks import *  # noqa: F401,F403
from .loops import *  # noqa: F401,F403
from .optim_wrappers import *  # noqa: F401,F403
from .strategies import *  # noqa: F401,F403
