# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Captions of the image-text shards."""

from collections.abc import Sequence

import numpy as np

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
    """Put 'a' or 'an' before words, by their sound.

    Args:
        words (str): For example 'umbrella' or 'orange heart'.

    Returns:
        str: For example 'an umbrella', 'a unicorn'.
    """
    vowel = words[0] in 'aeiou' and not words.startswith(_CONSONANT_SOUND)
    return f'{"an" if vowel else "a"} {words}'


def caption_one(colour: str, name: str, rng: np.random.Generator) -> str:
    """Describe one object; about four in ten captions leave the colour out.

    Args:
        colour (str): Name of its colour.
        name (str): Name of its category.
        rng (np.random.Generator): Chooses the template.

    Returns:
        str: The caption.
    """
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
    """Describe several objects, all of them, with their colours.

    Args:
        objects (Sequence[tuple[str, str]]): (colour, name) pairs.
        rng (np.random.Generator): Chooses template and order.

    Returns:
        str: For example 'a photo of a red umbrella and a blue anchor'.
    """
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
