# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pair class names with the categories of an annotation file, by name.

A label is the position of a name in the class list, and the text embedding of
that label is computed from that name. Category ids and the order in which a
file lists its categories therefore never decide a label here: both differ
between releases of the same data set (Objects365) and between splits.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import not_

from .annotations import sort_key

SPLITS = ('base', 'novel', 'all')
_SHOWN_NAMES = 10
_MAX_NAME = 200  # letters


@dataclass(frozen=True)
class CategoryTable:
    """The classes of a data set in label order.

    With their category ids, LVIS frequency group ('r', 'c', 'f', or '' where
    the file has none), whether they are novel, that is, never annotated in
    training, and their names as the file spells them.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    frequency: tuple[str, ...]
    novel: tuple[bool, ...]
    names_in_file: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def base_classes(self) -> tuple[str, ...]:
        """Names of the base classes, in label order."""
        return tuple(compress(self.names, map(not_, self.novel)))

    @property
    def novel_classes(self) -> tuple[str, ...]:
        """Names of the novel classes, in label order."""
        return tuple(compress(self.names, self.novel))

    def metainfo(self) -> dict[str, tuple]:
        """Meta information as MMEngine's data sets carry it."""
        return dict(
            classes=self.names,
            base_classes=self.base_classes,
            novel_classes=self.novel_classes,
            frequency=self.frequency,
            category_ids=self.ids,
            names_in_file=self.names_in_file,
        )


def show_name(name: str) -> str:
    """Write a name into a message; a text of megabytes is cut."""
    return repr(name if len(name) <= _MAX_NAME else f'{name[:_MAX_NAME]}...')


def list_names(names: Collection[str]) -> str:
    """Write at most ten names into an error message."""
    names = list(names)
    text = ', '.join(show_name(name) for name in names[:_SHOWN_NAMES])
    if len(names) > _SHOWN_NAMES:
        text += f' and {len(names) - _SHOWN_NAMES} more'
    return text


def index_categories(categories: Sequence[dict]) -> dict[str, dict]:
    """Index the categories of an annotation file by name, in order of id.

    ValueError if two categories share a name or an id, or one has neither.
    """
    by_name: dict[str, dict] = {}
    seen_ids: set = set()
    for category in categories:
        if not isinstance(category.get('name'), str) or 'id' not in category:
            raise ValueError(
                f'the category {category} needs an id and a name in text'
            )
    for category in sorted(categories, key=lambda item: sort_key(item['id'])):
        name = category['name']
        if name in by_name or category['id'] in seen_ids:
            raise ValueError(
                f'category {name!r} (id {category["id"]}) appears twice in '
                'the annotation file; names and ids must be unique'
            )
        seen_ids.add(category['id'])
        by_name[name] = category
    return by_name


def match_names(
    names: Sequence[str],
    by_name: dict[str, dict],
    repair: Callable[[str], str] | None = None,
) -> list[dict | None]:
    """Find the category of each name, None where there is none.

    An exact match wins. A name that has none is looked up without regard to
    case and surrounding blanks, provided that this is not ambiguous: class
    lists of Objects365 carry stray blanks ('tissue '). ``repair`` corrects the
    spelling of names on both sides before they are compared.
    """

    def fold(name: str) -> str:
        """Drop what differs between releases: case and blanks around it."""
        return ' '.join((repair(name) if repair else name).split()).casefold()

    folded: dict[str, list[dict]] = {}
    for name, category in by_name.items():
        folded.setdefault(fold(name), []).append(category)
    matches: list[dict | None] = []
    for name in names:
        match = by_name.get(name)
        if match is None:
            close = folded.get(fold(name), [])
            match = close[0] if len(close) == 1 else None
        matches.append(match)
    return matches


def unmatched(
    names: Sequence[str], matches: Sequence[dict | None]
) -> list[str]:
    """Names to which :func:`match_names` has found no category."""
    return [n for n, m in zip(names, matches, strict=True) if m is None]


def _novel_flags(
    names: Sequence[str],
    by_name: dict[str, dict],
    base_classes: Collection[str] | None,
    novel_classes: Collection[str] | None,
) -> list[bool] | None:
    """Tell which names are novel, or None if nothing says so."""
    if base_classes is not None and novel_classes is not None:
        both = sorted(set(base_classes) & set(novel_classes))
        if both:
            raise ValueError(
                'these classes are listed as base and as novel: '
                f'{list_names(both)}'
            )
        lost = set(names) - set(base_classes) - set(novel_classes)
        if lost:
            raise ValueError(
                'these classes are neither in base_classes nor in '
                f'novel_classes: {list_names(sorted(lost))}'
            )
    if novel_classes is not None:
        novel = set(novel_classes)
        return [name in novel for name in names]
    if base_classes is not None:
        base = set(base_classes)
        return [name not in base for name in names]
    if all('frequency' in category for category in by_name.values()):
        matches = match_names(names, by_name)
        return [m is not None and m['frequency'] == 'r' for m in matches]
    return None


def build_category_table(
    categories: Sequence[dict],
    *,
    split: str = 'all',
    classes: Sequence[str] | None = None,
    base_classes: Collection[str] | None = None,
    novel_classes: Collection[str] | None = None,
    repair: Callable[[str], str] | None = None,
) -> CategoryTable:
    """Choose the classes of a data set and pair them with category ids.

    ``split`` is 'all', 'base' to leave novel classes out, or 'novel' to keep
    these only. Without ``classes``, in label order, every category of the file
    is taken, in order of id. With neither base nor novel classes, those of
    LVIS frequency 'r' are novel (paper, section 4.1). ``repair`` corrects the
    spelling of the file's names; given names are matched in either. ValueError
    if ``split`` is unknown, a class is not in the file or appears twice, or if
    a split is asked for and nothing says which classes are base.
    """
    if split not in SPLITS:
        raise ValueError(f'split must be one of {SPLITS}, but got {split!r}')
    by_name = index_categories(categories)
    if classes is None:
        names = [repair(name) if repair else name for name in by_name]
    else:
        names = list(classes)
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f'classes appear twice: {list_names(twice)}')
    novel = _novel_flags(names, by_name, base_classes, novel_classes)
    _refuse_stray(names, base_classes, 'base_classes')
    if split != 'base':  # a base-only file need not know the novel classes
        _refuse_stray(names, novel_classes, 'novel_classes')
    names, novel = _select_split(names, novel, split)
    matches = match_names(names, by_name, repair)
    _refuse_unknown(names, matches, by_name)
    ids = tuple(match['id'] for match in matches)
    if len(set(ids)) != len(ids):
        raise ValueError('two classes match the same category by name')
    return CategoryTable(
        names=tuple(names),
        ids=ids,
        frequency=tuple(match.get('frequency', '') for match in matches),
        novel=tuple(novel),
        names_in_file=tuple(match['name'] for match in matches),
    )


def _refuse_stray(
    names: Sequence[str], group: Collection[str] | None, what: str
) -> None:
    """Stop at a misspelt base or novel name, which would change the group."""
    stray = sorted(set(group or ()) - set(names))
    if stray:
        raise ValueError(
            f'{what} has {len(stray)} names that are not among the '
            f'{len(names)} classes: {list_names(stray)}'
        )


def _select_split(
    names: list[str], novel: list[bool] | None, split: str
) -> tuple[list[str], list[bool]]:
    """Names of a split, and which of them are novel."""
    if novel is None:
        if split != 'all':
            raise ValueError(
                f'split={split!r} needs base_classes or novel_classes in '
                'metainfo, because the categories of the annotation file '
                "have no 'frequency', as those of LVIS do"
            )
        return names, [False] * len(names)
    if split == 'all':
        return names, novel
    wanted = split == 'novel'
    kept = [
        name for name, new in zip(names, novel, strict=True) if new == wanted
    ]
    if not kept:
        raise ValueError(
            f'split={split!r} leaves none of the {len(names)} classes'
        )
    return kept, [wanted] * len(kept)


def _refuse_unknown(
    names: Sequence[str],
    matches: Sequence[dict | None],
    by_name: dict[str, dict],
) -> None:
    """Stop at class names that the file does not have, and list them."""
    unknown = unmatched(names, matches)
    if unknown:
        raise ValueError(
            f'{len(unknown)} of {len(names)} classes are not in the '
            f'annotation file: {list_names(unknown)}; its categories are '
            f'{list_names(by_name)}'
        )
