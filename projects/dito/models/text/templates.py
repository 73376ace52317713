# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Prompt templates and readable class names."""

from typing import Sequence, Tuple, Union

from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

# open_clip keeps functions; a text with a placeholder can be saved in a file.
TEMPLATE_SETS = {
    'openai': tuple(f('{}') for f in OPENAI_IMAGENET_TEMPLATES),
    'simple': tuple(f('{}') for f in SIMPLE_IMAGENET_TEMPLATES),
    'none': ('{}', ),
}


def readable_name(name: str) -> str:
    """Turn a dataset's class name into words.

    Underscores become spaces. LVIS tells homonyms apart by a suffix in
    parentheses; it stays, as context for the text tower.

    Examples:
        >>> readable_name('aerosol_can')
        'aerosol can'
        >>> readable_name('bat_(animal)')
        'bat (animal)'
    """
    return ' '.join(name.replace('_', ' ').split())


def resolve_templates(
        templates: Union[str, Sequence[str], None]) -> Tuple[str, ...]:
    """Look up a named set, or check own templates.

    Args:
        templates (str | Sequence[str], optional): 'openai' (the 80 prompts
            of CLIP), 'simple' (7 of them), 'none' (the bare name), one text
            with a ``{}``, or several. None means 'openai'.

    Returns:
        tuple[str]: Texts with one or more ``{}`` each.

    Raises:
        ValueError: If a set is unknown, empty, or a text has no ``{}``.
    """
    if templates is None:
        templates = 'openai'
    if isinstance(templates, str):
        if templates in TEMPLATE_SETS:
            return TEMPLATE_SETS[templates]
        templates = (templates, )
    result = tuple(templates)
    bad = [t for t in result if not isinstance(t, str) or '{}' not in t]
    if bad or not result:
        raise ValueError(
            f'Prompt templates must be one of {sorted(TEMPLATE_SETS)} or '
            f'texts that contain {{}}, got {bad[:3] or list(result)}.')
    return result


def fill_templates(templates: Sequence[str], phrase: str) -> Tuple[str, ...]:
    """Put one phrase into every template."""
    return tuple(t.replace('{}', phrase) for t in templates)
