# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Shared fixtures: one torch thread, a fixed seed, the golden arrays."""

from typing import Callable, List

import numpy as np
import pytest
import torch
from golden_arrays import Arrays, load_golden

import dito  # noqa: F401  (registers everything)


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    """One thread and one seed: tiny tensors, and the same numbers anywhere."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def golden() -> Callable[[str], Arrays]:
    """Load arrays computed by the authors' own modules, by file stem."""
    return load_golden


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """Whatever compares with golden arrays is a test of parity."""
    for item in items:
        if 'golden' in getattr(item, 'fixturenames', ()):
            item.add_marker('parity')
