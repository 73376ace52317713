# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Networks: backbone, neck, heads, detector and pretrainers."""

from .backbones import *  # noqa: F401,F403
from .dense_heads import *  # noqa: F401,F403
from .detectors import *  # noqa: F401,F403
from .losses import *  # noqa: F401,F403
from .necks import *  # noqa: F401,F403
from .pretrainers import *  # noqa: F401,F403
from .roi_heads import *  # noqa: F401,F403
from .targets import *  # noqa: F401,F403
from .text import *  # noqa: F401,F403
