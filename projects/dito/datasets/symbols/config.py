# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Sizes and numbers of a build of ``symbols``."""

from dataclasses import asdict, dataclass


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
        scene_shards (int): Image-text shards of several objects a picture.
        lone_shards (int): Image-text shards of one object somewhere in a
            scene, in the sizes of the detection pictures.
        shard_size (int): Samples a shard.
        retrieval_images (int): Held-out image-text pairs.
        zero_shot_images (int): Held-out single objects a category, and as
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
