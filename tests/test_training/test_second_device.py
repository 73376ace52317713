# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Every stage on a second device: no mix, and few waits of the host."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.optim import OptimWrapper
from second_device import (
    DEVICE,
    Elsewhere,
    MixedDevices,
    SecondDevice,
    move,
    second_device,
)
from tiny_detector import TEXT_ENCODER, build, pretrained, vocabulary
from torch import nn

from dito.engine.loops.cached_step import cached_train_step
from dito.engine.loops.pair_loading import TokenizedCollate

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / 'test_models' / 'test_pretrainers'))
import pretrainer_models as tiny_pretrainers  # noqa: E402
from pretrainer_models import clip_cfg, make_batch, rep_cfg  # noqa: E402

FOCAL = dict(type='DITOFocalContrastiveLoss')
SIGMOID = dict(type='DITOSigmoidLoss')
MOSAIC = dict(grid=2, jitter=0.3, global_prob=0.5)
PAIRS: dict[str, Callable[[], dict]] = dict(
    clip=lambda: clip_cfg(cpe=dict(up_size=16)),
    clip_mosaic=lambda: clip_cfg(mosaic=MOSAIC),
    clip_focal=lambda: clip_cfg(loss=FOCAL),
    clip_sigmoid=lambda: clip_cfg(loss=SIGMOID, logit_bias_init=-4.0),
    rep=rep_cfg,
    rep_focal=lambda: rep_cfg(loss=FOCAL),
    rep_sigmoid=lambda: rep_cfg(loss=SIGMOID, logit_bias_init=-4.0),
    rep_all=lambda: rep_cfg(levels='all', rpn_head=None),
    rep_global=lambda: rep_cfg(pooling='global_max'),
    pyramid=tiny_pretrainers.pyramid_cfg,
)
# Of a step of stage 3 with four images, whatever is in them.
MOST_READS = 20


def images(num_items: int, count: int = 4) -> dict:
    """Raw batch of images with as many objects each, with masks."""
    return demo_mm_inputs(
        count,
        [(3, 64, 64)] * count,
        num_items=[num_items] * count,
        num_classes=3,
        with_mask=True,
    )


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, lr=1e-3, momentum=0.9)


def detector(folder: Path, **changes: Any) -> nn.Module:
    """The tiny detector with masks and a teacher."""
    model = build(
        teacher=dict(checkpoint=pretrained(folder)),
        roi_head=dict(loss_distill=dict(type='DITOCosineDistillLoss')),
        data_preprocessor=dict(non_blocking=True),
        **changes,
    )
    model.init_weights()
    if 'text_encoder' not in changes:
        model.set_vocabulary(vocabulary(3))
    return model.train()


def step_of(model: nn.Module, batches: int) -> OptimWrapper:
    """One step, clipped, in so many batches."""
    return OptimWrapper(
        optimizer_of(model),
        accumulative_counts=batches,
        clip_grad=dict(max_norm=5.0),
    )


def detection_steps(
    device: SecondDevice, model: nn.Module, *batches: dict
) -> tuple[int, int]:
    """Train on batches, accumulated to one step; reads and sends of it."""
    wrapper = step_of(model, len(batches))
    before = device.reads.total(), device.sends.total()
    for batch in batches:
        model.train_step(copy.deepcopy(batch), wrapper)
    return (
        device.reads.total() - before[0],
        device.sends.total() - before[1],
    )


def test_a_mix_of_devices_is_an_error() -> None:
    with second_device():
        there = torch.ones(3, device=DEVICE)
        assert isinstance(there * 2, Elsewhere)
        with pytest.raises(MixedDevices, match=r'\(3,\) on the CPU'):
            there + torch.ones(3)
        assert (there + 1.5).sum().item() == 7.5


def test_waits_are_counted_by_line() -> None:
    with second_device() as device:
        there = torch.arange(4.0).to(DEVICE)
        torch.arange(4.0).to(DEVICE, non_blocking=True)
        assert (device.reads.total(), device.sends.total()) == (0, 1)
        for wait in (
            lambda: there.sum().item(),
            lambda: there.nonzero(),
            lambda: there[there > 1],
            lambda: there.unique(),
            lambda: there.cpu(),
            lambda: there.tolist(),
        ):
            before = device.reads.total()
            wait()
            assert device.reads.total() == before + 1
        there[there > 1] = 0  # a number is written without a list of places
        there.new_tensor([1.0])
        assert (device.reads.total(), device.sends.total()) == (6, 2)
    assert device.report().startswith('6 reads\n')


@pytest.mark.parametrize('micro_batch', [None, 4])
@pytest.mark.parametrize('stage', PAIRS)
def test_pairs_train(stage: str, micro_batch: int | None) -> None:
    model = tiny_pretrainers.build(PAIRS[stage]()).train()
    with second_device() as device:
        wrapper = OptimWrapper(optimizer_of(move(model)))
        tokenizer = model.text_encoder.caption_tokenizer()
        batch = TokenizedCollate(dict, tokenizer)(make_batch(8))
        assert device.reads.total() <= 1  # the rows that the tower keeps
        device.reads.clear()
        device.sends.clear()
        if micro_batch is None:
            logs = model.train_step(batch, wrapper)
        else:
            logs = cached_train_step(model, batch, wrapper, micro_batch)
        assert not device.reads and not device.sends, device.report()
        assert logs['loss'].isfinite().item()
        plain = model.data_preprocessor(make_batch(8))
        assert model(**plain, mode='tensor').isfinite().all().item()


def test_objects_are_not_asked_about_one_by_one(tmp_path: Path) -> None:
    model = detector(tmp_path)
    with second_device() as device:
        move(model)
        detection_steps(device, model, images(3))  # what is sent once
        few = detection_steps(device, model, images(1))
        many = detection_steps(device, model, images(12))
    assert few == many, device.report()
    reads, sends = many
    assert reads <= MOST_READS and sends <= MOST_READS, device.report()


def test_a_step_of_several_batches(tmp_path: Path) -> None:
    model = detector(tmp_path)
    expected = copy.deepcopy(model)
    batches = images(2, 2), images(0, 1)
    torch.manual_seed(1)
    wrapper = step_of(expected, len(batches))
    for batch in batches:
        expected.train_step(copy.deepcopy(batch), wrapper)
    torch.manual_seed(1)
    with second_device() as device:
        detection_steps(device, move(model), *batches)
        for parameter, other in zip(
            model.parameters(), expected.parameters(), strict=True
        ):
            if other.grad is not None:
                torch.testing.assert_close(
                    parameter.detach().cpu(), other.detach()
                )


@pytest.mark.parametrize('num', [1, 13000])
@pytest.mark.parametrize('frozen', [False, True])
def test_detection(num: int, frozen: bool) -> None:
    model = build(
        vlm_backbone=dict(shift=None) if frozen else None,
        test_cfg=dict(given_boxes='ensemble'),
    ).eval()
    model.set_vocabulary(vocabulary(num, novel=[0]))
    batch = images(3, 2)
    for sample in batch['data_samples']:
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
        sample.gt_instances.labels %= num
    expected = copy.deepcopy(model).test_step(copy.deepcopy(batch))
    with second_device(), torch.no_grad():
        results = move(model).test_step(copy.deepcopy(batch))
        for result, other in zip(results, expected, strict=True):
            found = result.pred_instances
            assert found.scores.tolist() == pytest.approx(
                other.pred_instances.scores.tolist(), rel=1e-3
            )
            assert (
                found.labels.tolist() == other.pred_instances.labels.tolist()
            )
            regions = result.pred_regions.scores
            assert regions.shape == (3, num)


def test_new_names(tmp_path: Path) -> None:
    model = detector(tmp_path, text_encoder=TEXT_ENCODER).eval()
    with second_device(), torch.no_grad():
        move(model)
        made = model.build_vocabulary(['red cat', 'dog', 'bird'], ['dog'])
        assert made.names == ('red cat', 'dog', 'bird')
        assert isinstance(model.roi_head.bbox_head.text, Elsewhere)
        (result,) = model.test_step(images(1, 1))
        assert set(result.pred_instances.labels.tolist()) <= {0, 1, 2}


def test_resume_of_the_optimizer(tmp_path: Path) -> None:
    model = detector(tmp_path)
    optimizer = optimizer_of(model)
    data = model.data_preprocessor(images(2, 1), True)
    model.parse_losses(model(**data, mode='loss'))[0].backward()
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    with second_device() as device:
        resumed = optimizer_of(move(model))
        resumed.load_state_dict(state)
        data = model.data_preprocessor(images(2, 1), True)
        model.parse_losses(model(**data, mode='loss'))[0].backward()
        before = device.reads.total()
        resumed.step()
        assert device.reads.total() == before, device.report()
