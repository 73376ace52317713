# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Image-text pairs of ``symbols`` in tar shards, and their captions."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from dito.utils.files import replacing

from .config import Purpose, rng_for
from .rasterizer import GlyphAtlas
from .renderer import COLOUR_NAMES, Picture, render_scene, render_single

_ONE = (
    'a photo of {a_colour} {name}',
    'a photo of {a_colour} {name}',
    'a photo of {a_colour} {name}.',
    '{a_colour} {name}',
    'a picture of the {colour} {name}',
    'there is {a_colour} {name} in the photo',
    'the {name} is {colour}',
    '{colour} {name}',
    'a photo of {a_name}',
    'a photo of the {name}.',
    'a picture of {a_name}',
    '{a_name}',
    '{name}',
)
_MANY = (
    'a photo of {things}',
    'a photo of {things}.',
    'a picture of {things}',
    '{things}',
    'a scene with {things}',
    'there are {things} in the photo',
)
# Written with a vowel, spoken with a consonant.
_CONSONANT_SOUND = ('unicorn',)


def with_article(words: str) -> str:
    """Put 'a' or 'an' before words, by their sound ('a unicorn')."""
    vowel = words[0] in 'aeiou' and not words.startswith(_CONSONANT_SOUND)
    return f'{"an" if vowel else "a"} {words}'


def _caption_one(colour: str, name: str, rng: np.random.Generator) -> str:
    """Describe one object; four in ten captions leave the colour out."""
    template = _ONE[int(rng.integers(len(_ONE)))]
    return template.format(
        colour=colour,
        name=name,
        a_colour=with_article(colour),
        a_name=with_article(name),
    )


def caption_many(
    objects: Sequence[tuple[str, str]], rng: np.random.Generator
) -> str:
    """Describe all objects, (colour, name) pairs: 'a red umbrella and ...'."""
    order = rng.permutation(len(objects))
    things = [with_article('{} {}'.format(*objects[i])) for i in order]
    if len(things) == 1:
        listed = things[0]
    else:
        listed = ', '.join(things[:-1]) + ' and ' + things[-1]
    template = _MANY[int(rng.integers(len(_MANY)))]
    if len(things) == 1 and template.startswith('there are'):
        template = 'there is {things} in the photo'
    return template.format(things=listed)


Sample = tuple[str, Picture, str]
# A caption must not name what can hardly be seen.
_NAMED_FROM = 0.5


def write_tar(path: str, samples: Iterable[Sample], quality: int = 90) -> int:
    """Write samples as KEY.jpg, .txt and .json, the same each time."""
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


def _sample_key(shard: int, position: int) -> str:
    """Return the key of a sample, unique within its kind of shards."""
    return f'{shard:06d}{position:06d}'


def _object_samples(
    atlas: GlyphAtlas,
    seed: int,
    purpose: Purpose,
    shard: int,
    count: int,
    draw: Callable[[int, str, np.random.Generator], Picture],
) -> Iterator[Sample]:
    """Yield samples of one object, all categories once in every block."""
    order: Sequence[int] = ()
    for position in range(count):
        block, place = divmod(position, len(atlas))
        if place == 0:
            shuffle = Purpose[f'{purpose.name}_ORDER']
            order = rng_for(seed, shuffle, shard, block).permutation(
                len(atlas)
            )
        index = int(order[place])
        rng = rng_for(seed, purpose, shard, position)
        colour = COLOUR_NAMES[int(rng.integers(len(COLOUR_NAMES)))]
        picture = draw(index, colour, rng)
        caption = _caption_one(colour, atlas.glyphs[index].name, rng)
        yield _sample_key(shard, position), picture, caption


def single_samples(
    atlas: GlyphAtlas, seed: int, shard: int, count: int, size: int
) -> Iterator[Sample]:
    """Draw the single-object samples of one shard.

    They come in blocks that hold each category once in random order: a
    contrastive batch then has few captions that also fit another image.
    """
    return _object_samples(
        atlas,
        seed,
        Purpose.SINGLE,
        shard,
        count,
        lambda index, colour, rng: render_single(
            atlas, index, colour, size, rng
        ),
    )


def lone_samples(
    atlas: GlyphAtlas,
    seed: int,
    shard: int,
    count: int,
    size: int,
    sides: tuple[float, float],
) -> Iterator[Sample]:
    """Draw samples of one object anywhere in a scene, among distractors.

    They come in blocks, as single objects do; ``sides`` is the range of the
    object's longest side in pixels.
    """
    return _object_samples(
        atlas,
        seed,
        Purpose.LONE,
        shard,
        count,
        lambda index, colour, rng: render_scene(
            atlas, [index], [colour], size, sides, rng
        ),
    )


def _draw_scene(
    atlas: GlyphAtlas, size: int, rng: np.random.Generator
) -> tuple[Picture, str]:
    """Draw two to four objects of different categories, with a caption."""
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
        return _draw_scene(atlas, size, rng)
    return picture, caption_many(named, rng)


def scene_samples(
    atlas: GlyphAtlas, seed: int, shard: int, count: int, size: int
) -> Iterator[Sample]:
    """Draw the several-object samples of one shard."""
    for position in range(count):
        rng = rng_for(seed, Purpose.SCENES, shard, position)
        picture, caption = _draw_scene(atlas, size, rng)
        yield _sample_key(shard, position), picture, caption


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
    atlas: GlyphAtlas, seed: int, count: int, single_size: int, scene_size: int
) -> Iterator[Sample]:
    """Draw the held-out pairs: single objects and scenes in turn.

    Captions always name the colours and no single (category, colour) pair
    comes twice, so that retrieval has one right answer.
    """
    pairs = _distinct_pairs(seed, len(atlas), (count + 1) // 2)
    for position in range(count):
        rng = rng_for(seed, Purpose.IMAGE_TEXT_VAL, position)
        if position % 2:
            picture, caption = _draw_scene(atlas, scene_size, rng)
        else:
            index, colour = pairs[position // 2]
            picture = render_single(atlas, index, colour, single_size, rng)
            named = [(colour, atlas.glyphs[index].name)]
            caption = caption_many(named, rng)
        yield _sample_key(0, position), picture, caption
