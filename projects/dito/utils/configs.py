# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Configs: found by path or name, in a clone or installed; other lengths."""

import ast
import difflib
import functools
import os
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

PACKAGE = Path(__file__).resolve().parents[1]
#: Keys of a part of ``param_scheduler`` that are iterations.
TIMES = ('begin', 'end', 'T_max', 'milestones', 'decay_iters')
_SAVES = 4


def register_config_scope() -> None:
    """Let mmengine resolve ``dito::`` in ``_base_`` and ``get_config``.

    mmengine asks for a slash in what follows, so a config at the top is
    ``dito::_base_/../dito_vitl_lvis.py``. It also writes ``_scope_`` into
    dicts of configs inherited that way, which reaches constructors and
    functions that are not built by a registry. The classes are MMDetection's
    registries' own, so what is inherited from here needs no scope.
    """
    MODULE2PACKAGE.setdefault('dito', 'dito')
    original = Config._get_cfg_path
    if getattr(original, '__module__', None) == __name__:
        return

    @functools.wraps(original, assigned=())
    def without_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = original(cfg_path, filename)
        return path, None if scope == 'dito' else scope

    Config._get_cfg_path = staticmethod(without_scope)


def format_config_once() -> None:
    """Let mmengine format the text of a config only if it has changed.

    A training asks for it at the start three times, and with every
    checkpoint; each time yapf takes half a second.
    """
    original = Config.pretty_text.fget
    if original is None or original.__module__ == __name__:
        return
    kept: dict[tuple[str, bool], str] = {}

    @functools.wraps(original, assigned=('__doc__',))
    def pretty_text(self: Config) -> str:
        key = repr(self._cfg_dict), self._format_python_code
        if key not in kept:
            text = original(self)
            kept.clear()
            kept[key] = text
        return kept[key]

    Config.pretty_text = property(pretty_text)


def config_root() -> Path:
    """Folder that holds DITO's configs.

    ``configs`` of the clone the package is imported from, else the copy inside
    the installed package, else ``configs`` beside the package (as a project of
    MMDetection); FileNotFoundError without any.
    """
    clone = PACKAGE.parents[1]
    if (clone / 'setup.cfg').is_file() and (clone / 'configs').is_dir():
        return clone / 'configs'
    installed = PACKAGE / '.mim' / 'configs'
    beside = PACKAGE.parent / 'configs'
    for folder in (installed, beside):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"DITO's configs are neither in {clone / 'configs'} nor in "
        f'{installed}; install the package again.'
    )


def list_configs() -> dict[str, Path]:
    """Runnable configs by their path in the configs folder, without ``.py``.

    Parts under ``_base_`` and detectors under ``assets`` are left out.
    """
    root = config_root()
    names = {
        path.relative_to(root).with_suffix('').as_posix(): path
        for path in sorted(root.rglob('*.py'))
    }
    return {
        k: v
        for k, v in names.items()
        if not {'_base_', 'assets'} & set(k.split('/'))
    }


def find_config(name: str | Path) -> Path:
    """Find a config file by path or name.

    A name may have ``configs/``, the sub-folder and ``.py``.

    Raises:
        FileNotFoundError: If there is none; the message has close matches.
        ValueError: If the name fits several configs, is a folder, or a file
            that is no config, such as YAML that asks for Python objects.
    """
    path = Path(os.path.expanduser(name))
    if path.is_file():
        _check_content(path)
        return path
    wanted = str(name).removeprefix('dito::').removeprefix('./')
    wanted = wanted.removeprefix('configs/').removesuffix('.py')
    configs = list_configs()
    if wanted in configs:
        return configs[wanted]
    if path.is_dir():
        raise ValueError(f'{name} is a folder; give a config file inside it.')
    fits = [key for key in configs if key.rsplit('/', 1)[-1] == wanted]
    if len(fits) == 1:
        return configs[fits[0]]
    if fits:
        raise ValueError(
            f'The config name "{name}" fits several files: '
            f'{", ".join(fits)}; give one of these.'
        )
    raise FileNotFoundError(
        f'There is no config "{name}"; {_suggest(wanted, list(configs))}'
    )


def _check_content(path: Path) -> None:
    """Refuse what is no config, before mmengine reads it."""
    if path.suffix == '.py':
        try:
            ast.parse(path.read_bytes())
        except (SyntaxError, ValueError) as error:
            raise ValueError(
                f'The config {path} is no Python ({error}); correct it.'
            ) from error
        return
    if path.suffix not in ('.yaml', '.yml', '.json'):
        raise ValueError(
            f'{path} is no config, which ends in .py, .yml, .yaml or .json; '
            "give one of these, or the name of one of DITO's."
        )
    # That imports mmengine, whose import comes here.
    from dito.utils.files import read_json

    read = read_json if path.suffix == '.json' else _plain_yaml
    content = read(path)
    if not isinstance(content, dict):
        raise ValueError(
            f'The config {path} holds a {type(content).__name__}, not '
            'settings by name.'
        )


def _plain_yaml(path: Path) -> Any:
    """Read YAML; of one that names Python objects mmengine would call them."""
    try:
        return yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise ValueError(
            f'The config {path} is no YAML of plain values ({reason}); '
            'write a Python config if it needs more.'
        ) from error


def _suggest(wanted: str, names: list[str]) -> str:
    """Close names, by the full path and by the last part alone."""
    stems = {name.rsplit('/', 1)[-1]: name for name in names}
    close = difflib.get_close_matches(wanted, names, 3, 0.5)
    last = wanted.rsplit('/', 1)[-1]
    close += [
        stems[stem]
        for stem in difflib.get_close_matches(last, stems, 3, 0.5)
        if stems[stem] not in close
    ]
    if close:
        return f'close matches: {", ".join(close[:4])}.'
    return f'see {config_root()} for the names.'


def scale_schedule(cfg: Config, factor: float) -> None:
    """Shorten or lengthen a training, in place.

    The number of iterations and all times of the learning rate are multiplied
    and rounded. ValueError if the config counts epochs, or nothing would be
    left.
    """
    iters = cfg.train_cfg.get('max_iters')
    if iters is None or factor <= 0:
        raise ValueError(
            f'{cfg.filename} cannot be scaled by {factor}: the factor must '
            'be above 0 and the config must have train_cfg.max_iters.'
        )
    total = max(round(iters * factor), 1)
    cfg.train_cfg.max_iters = total
    # Evaluation is a step of its own. The interval alone would not do:
    # MMEngine validates after the last iteration whatever the interval.
    cfg.train_cfg.val_begin = cfg.train_cfg.val_interval = total + 1
    schedulers = cfg.get('param_scheduler') or []
    for part in schedulers if isinstance(schedulers, list) else [schedulers]:
        for key in TIMES:
            if part.get(key) is not None:
                part[key] = _scaled(part[key], factor)
        if 'end' in part:
            part['end'] = max(part['end'], part.get('begin', 0) + 1)
        if 'T_max' in part:
            part['T_max'] = max(part['T_max'], 1)
    cfg.default_hooks.checkpoint.update(
        by_epoch=False,
        interval=-(-total // _SAVES),
        max_keep_ckpts=1,
        save_last=True,
    )
    cfg.default_hooks.logger.interval = min(
        cfg.default_hooks.logger.get('interval', 50), -(-total // _SAVES)
    )


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, (list, tuple)):
        return [round(v * factor) for v in value]
    return round(value * factor)
