# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What may import what: arrows between sub-packages point downwards."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import dito

ROOT = Path(dito.__file__).parent
# From the ground up: each sub-package knows those before it and no other.
LAYERS = (
    'version',
    'registry',
    'utils',
    'datasets',
    'models',
    'evaluation',
    'engine',
    'converters',
    'visualization',
    'apis',
    'export',
    'reports',
    'cli',
    '',  # the package itself, which registers what is in it
    '__main__',
)


def module_name(path: Path) -> str:
    """Dotted name of a file of the package."""
    parts = path.relative_to(ROOT.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob('*.py'))}


def imports_of(name: str) -> Iterator[str]:
    """Modules of the package that one imports, wherever in the file."""
    path = MODULES[name]
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                above = package.split('.')[
                    : len(package.split('.')) - node.level + 1
                ]
                base = '.'.join([*above, *base.split('.')]).rstrip('.')
            # A name may be a module or something in one.
            found = [f'{base}.{alias.name}' for alias in node.names]
            found = [n if n in MODULES else base for n in found]
        else:
            continue
        yield from (n for n in found if n.partition('.')[0] == 'dito')


def layer(name: str) -> str:
    """Sub-package of a module; '' for the package itself."""
    return (name.split('.') + [''])[1]


ARROWS = sorted(
    {
        (name, target)
        for name in MODULES
        for target in imports_of(name)
        if target != name
    }
)


def test_every_sub_package_has_its_place():
    assert {layer(name) for name in MODULES} == set(LAYERS)


def test_the_page_shows_every_sub_package():
    page = ROOT.parents[1] / 'docs/design.md'
    drawn = page.read_text(encoding='utf-8').split('```')[3]
    shown = {word for word in drawn.split() if word in LAYERS}
    assert shown == set(LAYERS) - {'', '__main__'}


def test_arrows_point_downwards():
    upwards = [
        (name, target)
        for name, target in ARROWS
        if LAYERS.index(layer(name)) < LAYERS.index(layer(target))
    ]
    assert upwards == []


def circle_of(arrows: list[tuple[str, str]]) -> list[str]:
    """One circle of a graph, [] if it has none."""
    graph: dict[str, set[str]] = {}
    for name, target in arrows:
        graph.setdefault(name, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_itself_by_way_of_others():
    assert circle_of(ARROWS) == []


def test_a_circle_is_found():
    assert circle_of([('a', 'b'), ('b', 'c'), ('c', 'a')]) != []
    assert circle_of([('a', 'b'), ('b', 'c'), ('a', 'c')]) == []


def test_test_files_have_a_name_each():
    # Of two modules of one name pytest and sys.path find the first alone.
    names = Counter(p.name for p in Path(__file__).parent.rglob('*.py'))
    assert [name for name, number in names.items() if number > 1] == []
