# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Read the config text inside a checkpoint without running it.

mmengine stores a config as Python source, and executes that. A file from
elsewhere is data: the text is parsed as plain values, which may name
registered classes that inference needs and nothing else. ``Registry.get``
would import any dotted name, ``default_scope`` and ``_scope_`` import
``SCOPE.registry``, and mmcv evaluates the ``type`` of an ``nms``: each is
closed here.
"""

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from mmengine.registry import Registry, registry, root

# Both see all of MMDetection's and MMEngine's registries.
_SCOPES = ('mmdet', 'dito')
_PREFIXES = ('mmengine', *_SCOPES)
# Never built here, but named by the evaluators of trainings.
_OTHER_PREFIXES = ('mmcv', 'mmpretrain')
# What mmcv finds in its own operations and in no registry.
_OPERATIONS = ('nms', 'soft_nms', 'RoIAlign', 'RoIPool')
# Registries by the part of a config that is built from them.
_REGISTRIES = dict(
    model=('MODELS', 'TASK_UTILS'),
    visualizer=('VISUALIZERS',),
    test_dataloader=('TRANSFORMS',),
)
# Hooks whose settings inference reads.
SETTINGS_HOOKS = ('DITOLoadReportHook', 'DITOVocabularyHook')
# Of these libraries, what computes and reads no files by name. Packages that
# are not here were imported by the user.
_LIBRARIES = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'torch', 'dito')
_MODULES = re.compile(
    r'(torch\.nn|mmcv\.(cnn|ops|transforms)|mmengine\.(model|utils)'
    r'|mmengine\.visualization\.visualizer|mmdet\.visualization'
    r'|mmdet\.models\.(backbones|data_preprocessors|dense_heads|layers|losses'
    r'|necks|roi_heads|task_modules\.(assigners|coders|prior_generators'
    r'|samplers))'
    r'|mmdet\.datasets\.transforms\.(formatting|loading|transforms)'
    r'|dito\.(models|datasets|visualization\.local_visualizer))(\.|$)'
)
_FILE_KEYS = re.compile(
    r'(init_cfg|checkpoint|pretrained|ckpt|backend_args|file_client_args'
    r'|url|path|filename|.*_(file|path|dir|root|url|ckpt|checkpoint))$'
)
_PATH = re.compile(r'[/\\:~$]|\{\{|\.')
_MAX_TEXT = 4_000_000
_MAX_DEPTH = 40
_LOCKED: ContextVar[bool] = ContextVar(
    'imports_by_name_refused', default=False
)


def _install() -> None:
    """Let MMEngine's registries heed the lock; again does nothing."""
    if not hasattr(registry.import_module, 'dito_lock'):
        registry.get_object_from_string = _unless_locked(
            registry.get_object_from_string, lambda name: None
        )
        registry.import_module = _unless_locked(
            registry.import_module, _import_known
        )


def _unless_locked(
    original: Callable[[str], Any], locked: Callable[[str], Any]
) -> Callable[[str], Any]:

    def by_name(name: str) -> Any:
        return (locked if _LOCKED.get() else original)(name)

    by_name.dito_lock = True  # type: ignore
    return by_name


def _import_known(name: str) -> Any:
    """Import from packages that are in use already."""
    if name.partition('.')[0] not in sys.modules:
        raise ImportError(f'{name!r} is not imported for a file.')
    return importlib.import_module(name)


@contextmanager
def imports_by_name_refused() -> Iterator[None]:
    """Build from registries alone: a name that is in none is not imported."""
    _install()
    token = _LOCKED.set(True)
    try:
        yield
    finally:
        _LOCKED.reset(token)


# ------------------------------------------------------------------ parsing


def parse_config_text(
    text: str, path: str | Path = 'the checkpoint'
) -> dict[str, Any]:
    """Turn ``Config.pretty_text`` back into a dict, without running it.

    ``custom_imports`` of DITO itself, which every training has, is left out.

    Raises:
        ValueError: If the text is more than assignments of literals and
            ``dict(...)``, asks for imports or other files to inherit from, or
            names a ``type`` by the place of its code.
    """
    where = f'The config inside {path}'
    config: dict[str, Any] = {}
    try:
        for node in _statements(text, where):
            if not (
                isinstance(node, ast.Assign)
                and len(node.targets) == 1
                and isinstance(node.targets[0], ast.Name)
            ):
                raise _refused(node, where)
            config[node.targets[0].id] = _value(node.value, where)
    except RecursionError as error:  # of signs, which are no brackets
        raise ValueError(
            f'{where} is nested too deep to be one; give the config file too.'
        ) from error
    _refuse_imports(config.pop('custom_imports', None), where)
    for key, value in _items(config):
        name = key.rpartition('.')[2]
        if name in ('_base_', '_delete_'):
            raise _refusal(where, key, value, 'inherits from another config')
        if name == 'type' and isinstance(value, str) and '.' in value:
            _check_prefix(where, key, value)
    return config


def _statements(text: str, where: str) -> Sequence[ast.stmt]:
    """Parse, with limits below those that end the interpreter."""
    depth = deepest = 0
    for sign in re.findall(r'[\[({\])}]', text[:_MAX_TEXT]):
        depth += 1 if sign in '[({' else -1
        deepest = max(deepest, depth)
    if len(text) > _MAX_TEXT or deepest > 2 * _MAX_DEPTH:
        raise ValueError(
            f'{where} is no config ({len(text)} characters, {deepest} levels '
            'of brackets); give the config file too.'
        )
    try:
        return ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = ascii(str(error)).strip('\'"')[:99] or type(error).__name__
        raise ValueError(
            f'{where} is not readable ({reason}); give the config file too.'
        ) from error


def _value(node: ast.expr, where: str) -> Any:
    """Evaluate literals and ``dict(key=value)`` calls, nothing more."""
    if isinstance(node, ast.Call):
        return _call(node, where)
    if isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_value(key, where) for key in node.keys if key is not None]
        values = [_value(value, where) for value in node.values]
        return _hashable(node, where, dict, zip(keys, values, strict=True))
    for kind, build in ((ast.List, list), (ast.Tuple, tuple), (ast.Set, set)):
        if isinstance(node, kind):
            items = [_value(item, where) for item in node.elts]
            return _hashable(node, where, build, items)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, where)
        if isinstance(value, (int, float)):
            return -value
    # Python prints these without quotes.
    if isinstance(node, ast.Name) and node.id in ('inf', 'nan'):
        return float(node.id)
    # An integer that Python itself would not write: no setting is one.
    if isinstance(node, ast.Constant) and not (
        isinstance(node.value, int) and node.value.bit_length() > 64
    ):
        return node.value
    raise _refused(node, where)


def _hashable(node: ast.expr, where: str, build: Any, items: Any) -> Any:
    """Build a container; a list is no key and no member of a set."""
    try:
        return build(items)
    except TypeError:
        raise _refused(node, where) from None


def _call(node: ast.Call, where: str) -> dict[str, Any]:
    """``dict(key=value)`` and ``dict({...})``, as pretty_text has them."""
    name = node.func.id if isinstance(node.func, ast.Name) else ''
    keys = [keyword.arg for keyword in node.keywords]
    if name == 'dict' and not node.args and None not in keys:
        return {
            str(word.arg): _value(word.value, where) for word in node.keywords
        }
    if name == 'dict' and not keys and [*map(type, node.args)] == [ast.Dict]:
        return _value(node.args[0], where)
    raise _refused(node, where)


def _refuse_imports(imports: Any, where: str) -> None:
    """Allow what is imported already."""
    names = imports.get('imports') if isinstance(imports, dict) else imports
    names = [names] if isinstance(names, str) else names or []
    if not (
        isinstance(names, (list, tuple))
        and all(name == 'dito' for name in names)
    ):
        raise _refusal(where, 'custom_imports', names, 'imports code')


def _check_prefix(where: str, key: str, name: str) -> None:
    """Refuse a ``type`` that is found by importing, in any part."""
    scope, _, rest = name.partition('.')
    if '.' not in rest and (
        scope in _OTHER_PREFIXES
        or any(
            _find(kind, name) is not None
            for kind, found in vars(root).items()
            if isinstance(found, Registry)
        )
    ):
        return
    raise _no_class(where, key, name)


# ----------------------------------------------------------------- checking


def check_config(config: dict[str, Any], path: str | Path) -> None:
    """Refuse a config from elsewhere that names more than inference needs.

    Raises:
        ValueError: If a ``type`` is no registered class of the right kind, a
            value names a file or an address, or a key is not one of a
            detector's.
    """
    where = f'The config inside {path}'
    for part, content in config.items():
        if part == 'default_scope':
            _check_scope(where, part, content)
        elif part == 'custom_hooks':
            _check_hooks(where, part, content)
        elif part not in _REGISTRIES:
            raise _refusal(where, part, content, 'is not of the model')
        else:
            if not isinstance(content, dict):
                raise _refusal(where, part, content, 'is no dict')
            for key, value in (part, content), *_items(content, part):
                _check_keys(where, key, value)
                _check_item(where, key, value, _REGISTRIES[part])


def _check_keys(where: str, key: str, value: Any) -> None:
    """Keys are names of arguments; nothing else can be written safely."""
    for name in value if isinstance(value, dict) else ():
        if not (
            isinstance(name, int)
            or isinstance(name, str)
            and name.isidentifier()
        ):
            raise _refusal(
                where, f'{key}.{name}', value[name], 'is no argument'
            )


def _check_item(
    where: str, key: str, value: Any, kinds: Sequence[str]
) -> None:
    """Check one value, itself or as a container."""
    name = key.rpartition('.')[2]
    if name == 'type':
        _check_type(where, key, value, kinds)
    elif name == '_scope_':
        _check_scope(where, key, value)
    elif name.startswith('_'):
        raise _refusal(where, key, value, 'changes how configs are read')
    elif key.endswith('.tokenizer.path'):
        # Opened when names are to be embedded, for reading, and only there.
        if not _is_below(value):
            raise _refusal(
                where, key, value, 'is no folder below the working directory'
            )
    elif _FILE_KEYS.match(name) and value is not None:
        raise _refusal(where, key, value, 'reads another file')
    elif isinstance(value, str) and _PATH.search(value):
        raise _refusal(
            where, key, value, 'may be a path, an address or an import'
        )
    elif name == 'token_ids' and isinstance(value, (str, dict)):
        raise _refusal(where, key, value, 'reads another file')


def _check_type(where: str, key: str, name: Any, kinds: Sequence[str]) -> None:
    """Accept registered classes of a part's kind, and mmcv's operations."""
    if isinstance(name, str) and name in _OPERATIONS:
        return
    if not isinstance(name, str) or name.partition('.')[0] not in (
        name,
        *_PREFIXES,
    ):
        raise _no_class(where, key, name)
    found = [_find(kind, name) for kind in kinds]
    classes = [item for item in found if inspect.isclass(item)]
    if not classes:
        raise _no_class(where, key, name)
    for item in classes:
        package = item.__module__.partition('.')[0]
        if package in _LIBRARIES and not _MODULES.match(item.__module__):
            raise _refusal(where, key, name, 'is no part of a detector')


def _check_scope(where: str, key: str, scope: Any) -> None:
    if scope not in _SCOPES:
        raise _refusal(where, key, scope, f'is none of {list(_SCOPES)}')


def _check_hooks(where: str, part: str, hooks: Any) -> None:
    """Allow those whose settings are read; none of them is built."""
    for key, value in _items(hooks, part):
        # A config file that is written of it would have it filled in.
        if '{{' in key or isinstance(value, str) and '{{' in value:
            raise _refusal(where, key, value, 'is a substitution')
    for number, hook in enumerate(hooks if isinstance(hooks, list) else []):
        kind = hook.get('type') if isinstance(hook, dict) else hook
        if kind not in SETTINGS_HOOKS:
            raise _refusal(
                where,
                f'{part}.{number}.type',
                kind,
                'is of no use to inference',
            )


def _find(kind: str, name: str) -> Any | None:
    """Look a name up in all registries of a kind; imports nothing by it."""
    scope, dot, key = name.rpartition('.')
    for wanted in (scope,) if dot else _SCOPES:
        if wanted not in _PREFIXES:
            continue
        found = getattr(root, kind)._search_child(wanted)
        if found is not None:
            found.import_from_location()
        while found is not None:
            if key in found.module_dict:
                return found.module_dict[key]
            found = found.parent
    return None


def _items(value: Any, key: str = '', depth: int = 0) -> Iterator[tuple]:
    """Walk all values with their dotted keys, containers first."""
    if depth > _MAX_DEPTH:
        raise ValueError(f'"{key[:60]}" of a config is nested too deep.')
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        pairs = list(enumerate(value))
    else:
        return
    for name, item in pairs:
        inner = f'{key}.{name}' if key else str(name)
        yield inner, item
        yield from _items(item, inner, depth + 1)


def _is_below(value: Any) -> bool:
    """Whether a path stays below the folder it is taken from."""
    return (
        isinstance(value, str)
        and bool(value)
        and all(
            not kind(value).anchor
            and '..' not in kind(value).parts
            and not value.startswith('~')
            for kind in (PurePosixPath, PureWindowsPath)
        )
    )


# ---------------------------------------------------------------- messages


def _no_class(where: str, key: str, name: Any) -> ValueError:
    return _refusal(where, key, name, 'is no registered class of this kind')


def _refusal(where: str, key: str, value: Any, reason: str) -> ValueError:
    shown = ascii(value)
    shown = shown if len(shown) <= 80 else f'{shown[:77]}...'
    return ValueError(
        f'{where} is refused: {ascii(key)[1:-1]}={shown} {reason}; give a '
        'config file of your own, if you trust where this one comes from.'
    )


def _refused(node: ast.AST, where: str) -> ValueError:
    try:
        source = ascii(ast.unparse(node)[:60])[1:-1]
    except (RecursionError, ValueError):  # too deep, or too many digits
        source = type(node).__name__
    return ValueError(
        f'{where} has more than plain values in it '
        f'("{source}"); give the config file too.'
    )
