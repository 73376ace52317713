# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import pytest
import torch

from dito.models.pretrainers import BatchPlace

MODULE = 'dito.models.pretrainers.random_regions.get_dist_info'


def draw(place, size):
    return place.draw(lambda batch, g: torch.rand(batch, 3, generator=g), size)


def rand(place, size):
    return place.rand(size, (2, 3))


@pytest.mark.parametrize('method', [draw, rand])
def test_parts_and_processes_get_the_numbers_of_the_whole(monkeypatch, method):
    whole = method(BatchPlace(1, 5, 0, 12), 12)
    assert 0 <= whole.min() and whole.max() < 1
    assert len(whole.flatten().unique()) == whole.numel()
    for start in (0, 3, 8):
        part = method(BatchPlace(1, 5, 0, 12).moved(start), 4)
        assert torch.equal(part, whole[start : start + 4])
    for rank in range(3):
        monkeypatch.setattr(MODULE, lambda rank=rank: (rank, 3))
        part = method(BatchPlace(1, 5, 1, 4), 3)
        assert torch.equal(part, whole[rank::3][1:])


@pytest.mark.parametrize('method', [draw, rand])
def test_seed_and_iteration_change_the_numbers(method):
    draws = [
        method(BatchPlace(*key, 0, 2), 2).flatten()[0].item()
        for key in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len(set(draws)) == 4


@pytest.mark.parametrize('method', [draw, rand])
def test_alone_all_processes_draw_the_same(monkeypatch, method):
    place = BatchPlace(1, 5, 0, 2, alone=True)
    whole = method(place, 2)
    monkeypatch.setattr(MODULE, lambda: (1, 3))
    assert torch.equal(method(place, 2), whole)
    assert not torch.equal(method(place._replace(alone=False), 2), whole)
