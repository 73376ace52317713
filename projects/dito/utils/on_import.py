# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Prepare other packages' modules when they are imported, not before.

What DITO changes in MMEngine and MMDetection must be in place whoever imports
them, and importing them takes seconds. So ``import dito`` imports neither: it
leaves word here. Nothing but the standard library is needed.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Around = Callable[[], AbstractContextManager[Any]]


class _AroundLoader:
    """Loads as another loader does, inside a context."""

    def __init__(self, loader: Any, around: Around) -> None:
        self.loader, self.around = loader, around

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module keeps its own loader, which reads its source and data.
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        with self.around():
            self.loader.exec_module(module)


class _StandInLoader:
    """Makes a module that is nowhere on the disk."""

    def __init__(self, make: Callable[[], ModuleType]) -> None:
        self.make = make

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.make()

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module is whole."""


class _Finder:
    """Asks the other finders, and says how to load what they find."""

    def __init__(self) -> None:
        self.around: dict[str, Around] = {}
        self.stand_ins: dict[str, Callable[[], ModuleType]] = {}

    def find_spec(
        self, fullname: str, path: Any, target: Any = None
    ) -> ModuleSpec | None:
        if fullname not in self.around and fullname not in self.stand_ins:
            return None
        spec = self._elsewhere(fullname, path, target)
        if spec is None and fullname in self.stand_ins:
            loader = _StandInLoader(self.stand_ins[fullname])
            return ModuleSpec(fullname, loader)
        if spec is not None and fullname in self.around:
            spec.loader = _AroundLoader(spec.loader, self.around[fullname])
        return spec

    def _elsewhere(
        self, fullname: str, path: Any, target: Any
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            find = getattr(finder, 'find_spec', None)
            if finder is self or find is None:
                continue
            spec = find(fullname, path, target)
            if spec is not None:
                return spec
        return None


_FINDER = _Finder()


def around_import(name: str, around: Around) -> None:
    """Execute a module inside a context.

    Where it is imported already, the context is entered and left at once.

    Args:
        name (str): Full name of the module.
        around (callable): Makes the context.
    """
    _install()
    _FINDER.around[name] = around
    if name in sys.modules:
        with around():
            pass


def after_import(name: str, action: Callable[[], None]) -> None:
    """Do something as soon as a module is imported; at once if it is.

    Args:
        name (str): Full name of the module. Of a package, for what its
            modules hold: it is imported before any of them.
        action (callable): Called with the module in ``sys.modules``; twice
            makes no difference.
    """

    @contextmanager
    def around() -> Iterator[None]:
        yield
        action()

    around_import(name, around)


def stand_in(name: str, make: Callable[[], ModuleType]) -> None:
    """Put a module in place of one that is not installed.

    Args:
        name (str): Full name of the module.
        make (callable): Makes it, where it is imported and not to be found.
    """
    _install()
    _FINDER.stand_ins[name] = make


def _install() -> None:
    """Come before the other finders."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
