# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The error of a command that runs other commands."""


class StepError(RuntimeError):
    """A step of a chain has failed, and has said why in its own output.

    Where the chain was is of no help then: tools print the sentence alone.
    """
