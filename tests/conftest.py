# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Shared fixtures: one torch thread, a fixed seed, the golden arrays."""

import os
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from golden_arrays import DATA, Arrays, load_golden
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

import dito  # noqa: F401  (registers everything)

# pytest-xdist sets it for its processes, and tables keep to it.
os.environ.pop('COLUMNS', None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of test_training/test_golden_losses.py."""
    parser.addoption(
        '--remake-losses',
        action='store_true',
        help='write tests/data/losses anew from what is trained now',
    )


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    """One thread and one seed: tiny tensors, and the same numbers anywhere."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _open_streams() -> None:
    """Loggers of earlier tests write to what was captured then: move them."""
    for logger in MMLogger._instance_dict.values():
        for handler in logger.handlers:
            if getattr(getattr(handler, 'stream', None), 'closed', False):
                handler.stream = sys.stdout  # setStream flushes it


@pytest.fixture(autouse=True)
def _default_scope() -> Iterator[None]:
    """Names are looked up where the test says, not where one before did."""
    scopes = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)


@pytest.fixture
def golden() -> Callable[[str], Arrays]:
    """Load arrays computed by the authors' own modules, by file stem."""
    return load_golden


TESTS = DATA.parent

# Folders and files whose numbers must hold on any processor: comparisons
# with the release, with other implementations, and of two ways of computing
# the same.
PARITY = (
    'test_models/',
    'test_training/test_golden_losses',
    'test_training/test_gradients',
    'test_engine/test_flops',
    'test_engine/test_loops/',
    'test_evaluation/',
    'test_tools/test_official',
    'test_utils/test_official',
    'test_utils/test_op_fallback',
    'test_utils/test_towers/',
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that CI runs with other kernels too."""
    for item in items:
        place = item.path.relative_to(TESTS).as_posix()
        if place.startswith(PARITY) or 'golden' in item.fixturenames:
            item.add_marker('parity')
