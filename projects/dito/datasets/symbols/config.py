# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What a build of ``symbols`` depends on: sizes, numbers, random streams.

A picture depends on the seed, on what it is for and on its number only, so
the number of processes and their order cannot change the set, and more shards
begin with the same ones.
"""

from dataclasses import asdict, dataclass
from enum import IntEnum

import numpy as np


@dataclass(frozen=True)
class SymbolsConfig:
    """What to build.

    Args:
        seed (int): Seed of the whole set.
        train_images (int): Detection pictures for training.
        val_images (int): Detection pictures for validation.
        val_drawings_images (int): Detection pictures of known names in
            drawings that are nowhere else.
        size (int): Side of the detection pictures in pixels.
        single_shards (int): Image-text shards of one object a picture.
        scene_shards (int): Image-text shards of several objects per picture.
        lone_shards (int): Image-text shards of one object somewhere in a
            scene, in the sizes of the detection pictures.
        shard_size (int): Samples a shard.
        retrieval_images (int): Held-out image-text pairs.
        zero_shot_images (int): Held-out single objects per category, and as
            many again of each held-out drawing.
        single_size (int): Side of single-object pictures in pixels.
        scene_size (int): Side of image-text scenes in pixels.
    """

    seed: int = 0
    train_images: int = 1200
    val_images: int = 300
    val_drawings_images: int = 150
    size: int = 192
    single_shards: int = 8
    scene_shards: int = 8
    lone_shards: int = 10
    shard_size: int = 1188
    retrieval_images: int = 1000
    zero_shot_images: int = 20
    single_size: int = 64
    scene_size: int = 128

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in asdict(self).items():
            least = 48 if name in ('size', 'scene_size') else 0
            least = 16 if name == 'single_size' else least
            if value < least:
                raise ValueError(
                    f'{name} must be at least {least}, got {value}.'
                )


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

    The numbers, for example of shard and position, make it another one.
    """
    entropy = (seed, int(purpose), *(int(number) for number in numbers))
    return np.random.Generator(np.random.PCG64(entropy))
