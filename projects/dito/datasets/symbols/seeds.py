# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""One random stream for every picture, whoever draws it.

A picture depends on the seed, on what it is for and on its number only, so
the number of processes and their order cannot change the set, and more
shards begin with the same ones.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a random stream is for; the numbers must never change."""

    SINGLE = 0
    SINGLE_ORDER = 1
    SCENES = 2
    IMAGE_TEXT_VAL = 3
    IMAGE_TEXT_VAL_PLAN = 4
    ZERO_SHOT = 5
    TRAIN_PLAN = 6
    TRAIN = 7
    VAL_PLAN = 8
    VAL = 9
    NEGATIVES = 10
    LONE = 11
    LONE_ORDER = 12
    VAL_DRAWINGS_PLAN = 13
    VAL_DRAWINGS = 14
    ZERO_SHOT_DRAWINGS = 15


def rng_for(seed: int, purpose: Purpose, *numbers: int) -> np.random.Generator:
    """Return the random stream of one picture or plan.

    Args:
        seed (int): Seed of the whole set, at least 0.
        purpose (Purpose): What it is for.
        *numbers (int): For example shard and position.

    Returns:
        np.random.Generator: Independent of all other streams.
    """
    entropy = (seed, int(purpose), *(int(number) for number in numbers))
    return np.random.Generator(np.random.PCG64(entropy))
