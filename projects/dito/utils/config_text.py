# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Read the config text inside a checkpoint without running it.

mmengine stores a run's config in its checkpoints as Python source, and its
own inferencer executes that. A file from elsewhere should not get to run
code, so the text is parsed here as plain values, and a config that asks for
objects outside the detection libraries is refused.
"""

import ast
from typing import Any, Dict

# Scopes whose registered classes an embedded config may name.
_SCOPES = ('mmdet', 'mmengine', 'mmcv', 'mmpretrain')


def parse_config_text(text: str) -> Dict[str, Any]:
    """Turn ``Config.pretty_text`` back into a dict.

    Args:
        text (str): Assignments of literals, lists, tuples, dicts and
            ``dict(...)`` to names.

    Returns:
        dict: Values by name; ``custom_imports`` is left out.

    Raises:
        ValueError: If the text has anything else in it, or a ``type`` that
            is no registered name of the detection libraries.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError('The config in the checkpoint is not readable '
                         f'({error}); give the config file too.') from error
    config = {}
    for node in tree.body:
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1
                and isinstance(node.targets[0], ast.Name)):
            raise _refused(node)
        config[node.targets[0].id] = _value(node.value)
    config.pop('custom_imports', None)
    _check_types(config)
    return config


def _value(node: ast.expr) -> Any:
    """Evaluate literals and ``dict(key=value)`` calls, nothing more."""
    if isinstance(node, ast.Call):
        return _call(node)
    if isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_value(key) for key in node.keys]
        return dict(zip(keys, map(_value, node.values), strict=True))
    for kind, build in ((ast.List, list), (ast.Tuple, tuple), (ast.Set, set)):
        if isinstance(node, kind):
            return build(_value(item) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand)
        if isinstance(value, (int, float)):
            return -value
    # Python prints these without quotes.
    if isinstance(node, ast.Name) and node.id in ('inf', 'nan'):
        return float(node.id)
    if isinstance(node, ast.Constant):
        return node.value
    raise _refused(node)


def _call(node: ast.Call) -> Dict[str, Any]:
    """``dict(key=value)`` and ``dict({...})``, as pretty_text has them."""
    name = node.func.id if isinstance(node.func, ast.Name) else ''
    keys = [keyword.arg for keyword in node.keywords]
    if name == 'dict' and not node.args and None not in keys:
        return {word.arg: _value(word.value) for word in node.keywords}
    if name == 'dict' and not keys and [*map(type, node.args)] == [ast.Dict]:
        return _value(node.args[0])
    raise _refused(node)


def _check_types(value: Any) -> None:
    """Refuse ``type`` strings that would import from other packages."""
    if isinstance(value, dict):
        kind = value.get('type')
        if isinstance(kind, str) and '.' in kind:
            scope, _, name = kind.partition('.')
            if scope not in _SCOPES or '.' in name:
                raise ValueError(
                    f'The config in the checkpoint asks for "{kind}", which '
                    'is no registered class; give a config file of your own '
                    'if you trust it.')
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for item in value:
        _check_types(item)


def _refused(node: ast.AST) -> ValueError:
    source = ast.unparse(node)[:60]
    return ValueError('The config in the checkpoint has more than plain '
                      f'values in it ("{source}"); give the config file too.')
