# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What a ``.pth`` may hold beside weights: plain values, and nothing callable.

Torch's safe reader (``weights_only=True``) calls and fills what is on its list
of names. MMEngine's own list is too long, with ``getattr`` and numpy's
constructors over foreign memory, and too short, without what training states
and ``meta`` hold. Here each name leads to a function that takes values alone.
numpy's are read by ``frombuffer``, so that files of numpy 1 and 2 are the
same.
"""

import pickle
from argparse import Namespace
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from pathlib import PosixPath, PurePosixPath, PureWindowsPath
from threading import RLock
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

_LOCK = RLock()
_OBJECTS = (HistoryBuffer, Namespace)
_STATISTICS = ('min', 'max', 'current', 'mean')
# Numbers, texts and times; not objects and records.
_KINDS = frozenset(type(np.dtype(code)) for code in '?bhilqBHILQefdgFDGSUmM')
# Namespaces are the arguments that many other trainers keep beside weights.
_TYPES = (
    HistoryBuffer,
    Namespace,
    date,
    datetime,
    frozenset,
    slice,
    time,
    timedelta,
    timezone,
)
# What a defaultdict may make where a key is missing.
_FACTORIES = (
    bool,
    float,
    int,
    str,
    tuple,
    list,
    dict,
    set,
    OrderedDict,
    deque,
)


class PlainValues:
    """Context in which torch's safe reader knows MMEngine's plain values.

    Examples:
        >>> with PlainValues() as values:
        ...     content = values.finish(torch.load(path, weights_only=True))
    """

    def __init__(self) -> None:
        self._filled: dict[int, tuple[Any, Any]] = {}
        self._seen: dict[int, tuple[Any, Any]] = {}
        self._context = torch.serialization.safe_globals(self._globals())

    def __enter__(self) -> 'PlainValues':
        # Torch has one list for all threads.
        _LOCK.acquire()
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._context.__exit__(*error)
        finally:
            _LOCK.release()

    def _globals(self) -> list[Any]:
        """Values by their names in files."""
        names: dict[str, Any] = {
            'collections.defaultdict': self._defaultdict,
            'collections.deque': self._deque,
            'mmengine.config.config.ConfigDict': self._config_dict,
            'numpy.dtype': _Kind,
            'numpy.ndarray': _Name(np.ndarray),
        }
        for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
            names[f'{module}._reconstruct'] = _empty_array
            names[f'{module}.scalar'] = _scalar
        # Python 3.13 has another place for paths.
        for module in ('pathlib', 'pathlib._local'):
            names[f'{module}.PosixPath'] = PosixPath
            names[f'{module}.PurePosixPath'] = PurePosixPath
            names[f'{module}.WindowsPath'] = PureWindowsPath
            names[f'{module}.PureWindowsPath'] = PureWindowsPath
        for module in ('__builtin__', 'builtins'):
            names[f'{module}.getattr'] = _buffer_statistic
        # Torch knows OrderedDict and set by itself.
        for factory in set(_FACTORIES) - {OrderedDict, deque, set}:
            names[f'builtins.{factory.__name__}'] = _Name(factory)
        return [
            *_TYPES,
            _Array,
            *((value, name) for name, value in names.items()),
        ]

    # Torch fills dicts and lists alone; others are put in place by finish().

    def _defaultdict(self, factory: Any = None) -> dict[Any, Any]:
        if factory == self._deque:
            factory = deque
        factory = getattr(factory, 'stands_for', factory)
        if factory is not None and factory not in _FACTORIES:
            raise pickle.UnpicklingError(f'GLOBAL defaultdict({factory})')
        content: dict[Any, Any] = {}
        self._filled[id(content)] = content, defaultdict(factory)
        return content

    def _deque(
        self, items: Iterable[Any] = (), maxlen: int | None = None
    ) -> list[Any]:
        content = list(items)
        self._filled[id(content)] = content, deque(maxlen=maxlen)
        return content

    def _config_dict(self, items: Any = ()) -> dict[Any, Any]:
        # Made of its items it would copy them.
        content = dict(items)
        self._filled[id(content)] = content, ConfigDict()
        return content

    def finish(self, value: Any) -> Any:
        """Put deques, defaultdicts and numpy's values where they belong."""
        if id(value) in self._seen:
            return self._seen[id(value)][1]
        if isinstance(value, (_Array, _Kind)):
            return value.value
        if isinstance(value, _Name):
            raise pickle.UnpicklingError(f'GLOBAL {value.stands_for.__name__}')
        if not isinstance(value, (dict, list, tuple, *_OBJECTS)):
            return value
        result = self._filled.get(id(value), (value, value))[1]
        # Kept with the value, so that no other gets its id.
        self._seen[id(value)] = value, result
        if isinstance(value, dict):
            # Beside torch's versions of modules they would shadow methods.
            for key in set(getattr(value, '__dict__', ())) - {'_metadata'}:
                delattr(value, key)
            for key in list(value):
                result[self.finish(key)] = self.finish(value[key])
        elif isinstance(value, list):
            items = [self.finish(item) for item in value]
            result.clear()
            result.extend(items)
        elif type(value) is tuple:
            result = tuple(self.finish(item) for item in value)
            self._seen[id(value)] = value, result
        elif isinstance(value, _OBJECTS):
            self.finish(vars(value))
        return result


class _Name:
    """Stands for a type that a file names and must not call."""

    def __init__(self, stands_for: type) -> None:
        self.stands_for = stands_for


class _Kind:
    """A dtype of numbers, texts or times."""

    def __init__(self, code: str, *_: bool) -> None:
        self.value = np.dtype(code if isinstance(code, str) else None)
        if not isinstance(code, str) or type(self.value) not in _KINDS:
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype({code})')

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if self.value.kind in 'mM' and len(state) > 8:
            unit, count = state[8][1][:2]
            unit = unit.decode() if isinstance(unit, bytes) else unit
            if unit != 'generic':
                self.value = np.dtype(f'{self.value.kind}8[{count}{unit}]')
        if state[1] in ('<', '>'):
            order = self.value.newbyteorder(state[1])
            self.value = np.dtype(order.str)


class _Array:
    """An array whose content is still to come."""

    value = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Kind) or not isinstance(data, bytes):
            raise pickle.UnpicklingError('GLOBAL numpy.ndarray of objects')
        self.value = _read(kind, data, shape, 'F' if fortran else 'C')


def _read(
    kind: _Kind, data: bytes, shape: tuple[int, ...], order: Any = 'C'
) -> np.ndarray:
    """Array over a copy of the data."""
    if kind.value.itemsize == 0:  # texts that are all empty
        return np.zeros(shape, kind.value)
    return (
        np.frombuffer(data, kind.value)
        .reshape(shape, order=order)
        .copy(order=order)
    )


def _empty_array(*_: Any) -> _Array:
    return _Array()


def _scalar(kind: _Kind, data: bytes = b'') -> Any:
    """One of numpy's values."""
    if not isinstance(kind, _Kind) or not isinstance(data, bytes):
        raise pickle.UnpicklingError('GLOBAL numpy.scalar of objects')
    return _read(kind, data, ())[()]


def _buffer_statistic(owner: Any, name: str) -> Callable[..., Any]:
    """The one use of getattr that mmengine's training states make."""
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(f'GLOBAL getattr({owner}, {name})')
    return getattr(owner, name)
