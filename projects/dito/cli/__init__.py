# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What the command-line tools do; ``tools/*.py`` only call these."""
