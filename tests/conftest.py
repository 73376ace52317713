# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Shared fixtures: one torch thread, a fixed seed, the golden arrays."""

from pathlib import Path
from typing import Callable, Dict

import numpy as np
import pytest
import torch

import dito  # noqa: F401  (registers everything)

DATA = Path(__file__).parent / 'data'


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    """One thread and one seed: tiny tensors, and the same numbers anywhere."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def golden() -> Callable[[str], Dict[str, np.ndarray]]:
    """Load arrays computed by the authors' own modules, by file stem."""

    def load(name: str) -> Dict[str, np.ndarray]:
        with np.load(DATA / 'golden' / f'{name}.npz') as arrays:
            return dict(arrays)

    return load
