# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Reports of a run that never end it."""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from mmengine.hooks import Hook
from mmengine.logging import print_log

Kind = TypeVar('Kind', bound=type[Hook])


@contextmanager
def said_once(owner: Any, what: str) -> Iterator[None]:
    """Turn errors of what only reports into one warning of an owner."""
    try:
        yield
    except Exception as error:
        said = owner.__dict__.setdefault('_said_once', set())
        if what not in said:
            said.add(what)
            print_log(
                f'{what} failed; training goes on, and this is reported once: '
                f'{type(error).__name__}: {error}',
                logger='current',
                level=logging.WARNING,
            )


def only_reports(hook: Kind) -> Kind:
    """Decorate a hook class that reports and changes nothing.

    An error in it is a warning, once for each of its methods. Those of the
    start of a run, :meth:`before_run`, are errors: nothing is lost yet.
    """
    for stage in Hook.stages:
        method = getattr(hook, stage)
        if stage != 'before_run' and method is not getattr(Hook, stage):
            setattr(hook, stage, _guarded(method, f'{hook.__name__}.{stage}'))
    return hook


def _guarded(method: Callable, name: str) -> Callable:
    """Let a method of a hook warn instead of raising."""

    @functools.wraps(method)
    def guarded(self: Hook, *args: Any, **kwargs: Any) -> None:
        with said_once(self, name):
            method(self, *args, **kwargs)

    return guarded
