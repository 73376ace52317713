# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Reading of class names from text and json files."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Union


@dataclass
class NameList:
    """Class names of a file.

    Attributes:
        names (list[str]): In the order of the file.
        synonyms (dict[str, list[str]]): More phrases by name, where the
            file has them.
        rare (list[str]): Names of frequency 'r' (LVIS).
    """

    names: List[str]
    synonyms: Dict[str, List[str]] = field(default_factory=dict)
    rare: List[str] = field(default_factory=list)


def read_names(path: Union[str, Path]) -> NameList:
    """Read class names.

    Args:
        path (str | Path): A text file with a name a line (blank lines and
            lines that start with # are left out), or json: a list of names,
            a dict from name to synonyms, or annotations in COCO's or LVIS'
            format, whose categories are taken.

    Returns:
        NameList: The names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of these.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'The file of class names {path} does not exist; check the path.')
    try:
        text = path.read_text(encoding='utf-8')
        content = json.loads(text) if path.suffix == '.json' else None
    except ValueError as error:
        raise ValueError(
            f'{path} is not {path.suffix or "a text file"} in UTF-8: {error}; '
            'give a text file with a name a line, or json.') from None
    if path.suffix != '.json':
        lines = [line.strip() for line in text.splitlines()]
        return NameList([n for n in lines if n and not n.startswith('#')])
    return _from_json(content, path)


def _from_json(content: Any, path: Path) -> NameList:
    """Tell the kinds of json apart."""
    if isinstance(content, dict) and 'categories' in content:
        content = content['categories']
    if _is_texts(content):
        return NameList(content)
    if isinstance(content, dict) and all(map(_is_texts, content.values())):
        return NameList(list(content), content)
    if isinstance(content, list) and all(
            isinstance(c, dict) and isinstance(c.get('name'), str)
            for c in content):
        return _from_categories(content)
    raise ValueError(
        f'{path} has no class names; it must be a list of names, a dict from '
        'name to a list of synonyms, or annotations with categories.')


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _from_categories(categories: List[Dict[str, Any]]) -> NameList:
    """Read categories of COCO or LVIS; those have synonyms and frequency."""
    result = NameList([c['name'] for c in categories])
    for category in categories:
        name = category['name']
        # LVIS repeats the name among its synonyms.
        others = [s for s in category.get('synonyms', []) if s != name]
        if others:
            result.synonyms[name] = others
        if category.get('frequency') == 'r':
            result.rare.append(name)
    return result
