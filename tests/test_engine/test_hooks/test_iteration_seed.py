# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import random
from types import SimpleNamespace

import numpy as np
import torch

from dito.engine.hooks import DITOIterationSeedHook


def draw(seed, iteration, used=0):
    """What a step draws after others have drawn ``used`` numbers."""
    torch.rand(used)
    runner = SimpleNamespace(seed=seed, iter=iteration)
    DITOIterationSeedHook().before_train_iter(runner, iteration)
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_a_step_draws_what_its_number_says():
    first = draw(0, 5)
    assert draw(0, 5, used=7) == first
    for other in (draw(0, 6), draw(1, 5)):
        assert all(a != b for a, b in zip(first, other, strict=True))


def test_ranks_draw_differently(monkeypatch):
    first = draw(0, 5)
    monkeypatch.setattr(
        'dito.engine.hooks.iteration_seed_hook.get_rank', lambda: 1
    )
    assert draw(0, 5) != first
