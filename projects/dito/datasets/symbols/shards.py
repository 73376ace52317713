# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Image-text pairs of ``symbols`` in tar shards."""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from dito.utils.files import replacing

from .captions import caption_many, caption_one
from .config import Purpose, rng_for
from .palette import COLOUR_NAMES
from .picture import Picture
from .rasterizer import GlyphAtlas
from .renderer import render_scene, render_single

Sample = tuple[str, Picture, str]
# A caption must not name what can hardly be seen.
_NAMED_FROM = 0.5


def write_tar(path: str, samples: Iterable[Sample], quality: int = 90) -> int:
    """Write samples as KEY.jpg, KEY.txt, KEY.json, byte for byte the same.

    Args:
        path (str): Target file, which appears whole.
        samples (Iterable[Sample]): (key, picture, caption) triples.
        quality (int): JPEG quality. Defaults to 90.

    Returns:
        int: Number of samples.
    """
    count = 0
    with (
        replacing(path) as unfinished,
        tarfile.open(unfinished, 'w', format=tarfile.USTAR_FORMAT) as tar,
    ):
        for key, picture, caption in samples:
            _add(tar, f'{key}.jpg', picture.jpeg(quality))
            _add(tar, f'{key}.json', _describe(key, picture, caption))
            _add(tar, f'{key}.txt', caption.encode())
            count += 1
    return count


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # TarInfo's own defaults: time 0, owner 0, mode 644.
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _describe(key: str, picture: Picture, caption: str) -> bytes:
    """Describe a sample: size, caption, and per object what is where."""
    height, width = picture.image.shape[:2]
    record = dict(
        key=key,
        width=width,
        height=height,
        caption=caption,
        category_ids=[placed.index + 1 for placed in picture.objects],
        colours=[placed.colour for placed in picture.objects],
        boxes=[list(placed.bbox()) for placed in picture.objects],
    )
    return json.dumps(record, separators=(',', ':')).encode()


def sample_key(shard: int, position: int) -> str:
    """Return the key of a sample, unique within its kind of shards."""
    return f'{shard:06d}{position:06d}'


def _in_blocks(
    purpose: Purpose, seed: int, shard: int, count: int, categories: int
) -> Iterator[tuple[int, int]]:
    """Yield (position, category), all categories once in every block."""
    order: Sequence[int] = ()
    for position in range(count):
        block, place = divmod(position, categories)
        if place == 0:
            rng = rng_for(seed, purpose, shard, block)
            order = rng.permutation(categories)
        yield position, int(order[place])


def single_samples(
    atlas: GlyphAtlas, seed: int, shard: int, count: int, size: int
) -> Iterator[Sample]:
    """Draw the single-object samples of one shard.

    They come in blocks that hold each category once in random order: a
    contrastive batch then has few captions that also fit another image.

    Args:
        atlas (GlyphAtlas): The masks.
        seed (int): Seed of the set.
        shard (int): Number of the shard.
        count (int): Samples in the shard; the last block may be cut.
        size (int): Side of the pictures in pixels.

    Yields:
        Sample: Key, picture, caption.
    """
    blocks = _in_blocks(Purpose.SINGLE_ORDER, seed, shard, count, len(atlas))
    for position, index in blocks:
        rng = rng_for(seed, Purpose.SINGLE, shard, position)
        colour = COLOUR_NAMES[int(rng.integers(len(COLOUR_NAMES)))]
        picture = render_single(atlas, index, colour, size, rng)
        caption = caption_one(colour, atlas.glyphs[index].name, rng)
        yield sample_key(shard, position), picture, caption


def lone_samples(
    atlas: GlyphAtlas,
    seed: int,
    shard: int,
    count: int,
    size: int,
    sides: tuple[float, float],
) -> Iterator[Sample]:
    """Draw samples of one object anywhere in a scene, among distractors.

    They come in blocks, as single objects do.

    Args:
        atlas (GlyphAtlas): The masks.
        seed (int): Seed of the set.
        shard (int): Number of the shard.
        count (int): Samples in the shard; the last block may be cut.
        size (int): Side of the pictures in pixels.
        sides (tuple[float, float]): Range of the object's longest side in
            pixels.

    Yields:
        Sample: Key, picture, caption.
    """
    blocks = _in_blocks(Purpose.LONE_ORDER, seed, shard, count, len(atlas))
    for position, index in blocks:
        rng = rng_for(seed, Purpose.LONE, shard, position)
        colour = COLOUR_NAMES[int(rng.integers(len(COLOUR_NAMES)))]
        picture = render_scene(atlas, [index], [colour], size, sides, rng)
        caption = caption_one(colour, atlas.glyphs[index].name, rng)
        yield sample_key(shard, position), picture, caption


def draw_scene(
    atlas: GlyphAtlas, size: int, rng: np.random.Generator
) -> tuple[Picture, str]:
    """Draw two to four objects of different categories and name them.

    Args:
        atlas (GlyphAtlas): The masks.
        size (int): Side of the picture; objects take 3/16 to 1/2 of it.
        rng (np.random.Generator): Source of randomness.

    Returns:
        tuple[Picture, str]: The picture, with the named objects only, and
        the caption.
    """
    number = int(rng.integers(2, 5))
    indices = rng.choice(len(atlas), number, replace=False).tolist()
    picks = rng.integers(len(COLOUR_NAMES), size=number)
    colours = [COLOUR_NAMES[int(pick)] for pick in picks]
    sides = (size * 3 / 16, size / 2)
    picture = render_scene(atlas, indices, colours, size, sides, rng)
    picture.objects = [
        placed for placed in picture.objects if placed.visible >= _NAMED_FROM
    ]
    named = [
        (placed.colour, atlas.glyphs[placed.index].name)
        for placed in picture.objects
    ]
    if not named:
        return draw_scene(atlas, size, rng)
    return picture, caption_many(named, rng)


def scene_samples(
    atlas: GlyphAtlas, seed: int, shard: int, count: int, size: int
) -> Iterator[Sample]:
    """Draw the several-object samples of one shard.

    Args:
        atlas (GlyphAtlas): The masks.
        seed (int): Seed of the set.
        shard (int): Number of the shard.
        count (int): Samples in the shard.
        size (int): Side of the pictures in pixels.

    Yields:
        Sample: Key, picture, caption.
    """
    for position in range(count):
        rng = rng_for(seed, Purpose.SCENES, shard, position)
        picture, caption = draw_scene(atlas, size, rng)
        yield sample_key(shard, position), picture, caption


def _distinct_pairs(
    seed: int, categories: int, count: int
) -> list[tuple[int, str]]:
    """Draw (category, colour) pairs; none twice before all were used."""
    total = categories * len(COLOUR_NAMES)
    rng = rng_for(seed, Purpose.IMAGE_TEXT_VAL_PLAN)
    order = rng.permutation(total)
    picks = [int(order[i % total]) for i in range(count)]
    return [
        (pick // len(COLOUR_NAMES), COLOUR_NAMES[pick % len(COLOUR_NAMES)])
        for pick in picks
    ]


def retrieval_samples(
    atlas: GlyphAtlas,
    seed: int,
    count: int,
    single_size: int,
    scene_size: int,
) -> Iterator[Sample]:
    """Draw the held-out pairs: single objects and scenes in turn.

    Captions always name the colours and no single (category, colour) pair
    comes twice, so that retrieval has one right answer.

    Args:
        atlas (GlyphAtlas): The masks.
        seed (int): Seed of the set.
        count (int): Number of samples.
        single_size (int): Side of the single-object pictures in pixels.
        scene_size (int): Side of the scenes in pixels.

    Yields:
        Sample: Key, picture, caption.
    """
    pairs = _distinct_pairs(seed, len(atlas), (count + 1) // 2)
    for position in range(count):
        rng = rng_for(seed, Purpose.IMAGE_TEXT_VAL, position)
        if position % 2:
            picture, caption = draw_scene(atlas, scene_size, rng)
        else:
            index, colour = pairs[position // 2]
            picture = render_single(atlas, index, colour, single_size, rng)
            named = [(colour, atlas.glyphs[index].name)]
            caption = caption_many(named, rng)
        yield sample_key(0, position), picture, caption
