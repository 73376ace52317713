# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Arithmetic of operations against torch's counter."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import dito.engine.throughput as flops
from dito.engine.hooks import DITOThroughputHook
from dito.engine.throughput import ThroughputMeter

sys.path.insert(
    0, str(Path(__file__).parents[1] / 'test_models/test_pretrainers')
)
from pretrainer_models import TEXTS, clip_cfg, rep_cfg  # noqa: E402


def text_flops(encoder, length: int) -> int:
    """Operations of a text tower on one text of some tokens."""
    tokens = torch.zeros(1, encoder.context_length, dtype=torch.long)
    tokens[0, length - 1] = 1  # the largest number is the end
    return flops.forward_flops(encoder, tokens)


def text_length(encoder, texts: list[str]) -> int:
    """Tokens that the longest text is run on."""
    longest = int(encoder.tokenize(texts).argmax(dim=-1).max()) + 1
    return min(-(-longest // 8) * 8, encoder.context_length)


def counted(function, *args):
    """Count by torch, which knows attention as two products only."""
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        function(*args)
    return counter.get_total_flops()


def vit(**kwargs):
    init_default_scope('mmdet')
    return MODELS.build(
        dict(
            type='DITOViT',
            img_size=64,
            patch_size=8,
            arch=dict(embed_dims=16, num_layers=3, num_heads=2),
            **kwargs,
        )
    ).eval()


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(class_token=True),
        dict(window=dict(size=4), global_layers=[1]),
        dict(
            window=dict(size=4),
            global_layers=[1],
            shift='swl',
            shift_mask=False,
        ),
        dict(patch_embed=dict(type='DITOConvStem', channels=[8, 8, 16])),
    ],
)
@pytest.mark.parametrize('size', [64, 128])
def test_vision_tower(kwargs, size):
    tower = vit(**kwargs)
    found = flops.vit_flops(tower, (size, size))
    assert found == counted(tower, torch.zeros(1, 3, size, size))


def test_the_tower_itself_does_not_run():
    """Neither its hooks nor what was compiled of it."""
    tower = vit()
    expected = flops.vit_flops(tower, (64, 64))
    tower.blocks[1].register_forward_pre_hook(lambda *_: pytest.fail())
    tower.blocks[1].compile(backend=lambda *_: pytest.fail())
    assert flops.vit_flops(tower, (64, 64)) == expected
    assert all(p.device.type == 'cpu' for p in tower.parameters())


def test_text_tower():
    model = MODELS.build(clip_cfg())
    encoder = model.text_encoder.train()  # no fused layers
    length = text_length(encoder, TEXTS)
    tokens = encoder.tokenize(TEXTS[:1])
    own = text_length(encoder, TEXTS[:1])
    assert own <= length <= encoder.context_length
    assert text_flops(encoder, own) == counted(encoder, tokens)


def test_stages():
    """Trained parts count three times, frozen ones once."""
    batch = dict(inputs=torch.zeros(2, 3, 32, 32), texts=TEXTS[:2])
    clip = MODELS.build(clip_cfg())
    towers = flops.vit_flops(clip.backbone, (32, 32)) + text_flops(
        clip.text_encoder, text_length(clip.text_encoder, TEXTS[:2])
    )
    assert flops.step_flops(clip, batch) == 3 * towers
    rep = MODELS.build(rep_cfg())
    frozen = flops.vit_flops(rep.backbone, (32, 32)) + text_flops(
        rep.text_encoder, text_length(rep.text_encoder, TEXTS[:2])
    )
    feat = torch.zeros(1, rep.backbone.embed_dims, 4, 4)
    # The coarsest map of 4 x 4 cells is 2 x 2: a quarter, as assumed.
    maps = counted(rep.neck, (feat,))
    maps += counted(rep.rpn_head.forward_objectness, rep.neck((feat,)))
    number = sum(rep.regions.num_regions)
    channels = rep.neck.fpn_convs[0].conv.out_channels
    boxes, levels = (
        counted(
            rep.roi_head.bbox_head.embed, torch.zeros(crops, channels, 7, 7)
        )
        for crops in (number, len(rep.regions.num_regions))
    )
    assert flops.step_flops(rep, batch) == frozen + 3 * (maps + boxes)
    # Boxes are then for the targets of the proposal head, without gradient.
    rep.pooling = 'global_mean'
    assert flops.step_flops(rep, batch) == frozen + 3 * (maps + levels) + boxes
    assert flops.step_flops(torch.nn.Linear(1, 1), batch) == 0


def test_vit_l_is_what_is_known():
    """ViT-L/16 at 224 x 224: 61.6 G multiplications (ViT paper's code)."""
    with torch.device('meta'):
        tower = MODELS.build(dict(type='DITOViT', arch='large'))
    assert flops.vit_flops(tower, (224, 224)) / 2e9 == pytest.approx(
        61.3, abs=0.4
    )


def run_hook(hook, outputs, times, monkeypatch):
    clock = iter(times)
    monkeypatch.setattr(
        'dito.engine.throughput.time.perf_counter', lambda: next(clock)
    )
    hub = MessageHub(f'throughput_{id(hook)}')
    runner = SimpleNamespace(message_hub=hub, model=MODELS.build(clip_cfg()))
    batch = dict(inputs=torch.zeros(4, 3, 32, 32), texts=TEXTS[:4])
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, batch)
    hook.after_train_iter(runner, 0, batch, outputs)
    work = flops.step_flops(runner.model, batch)
    return {k: v.current() for k, v in hub.log_scalars.items()}, work


def test_hook_measures_any_loop(monkeypatch):
    # Started at 10, data there at 11, step done at 12: 4 images in 2 s.
    values, work = run_hook(
        DITOThroughputHook(peak_tflops=1e-3), {}, [10, 11, 12], monkeypatch
    )
    assert values['train/images_per_second'] == pytest.approx(2)
    assert values['train/loader_wait'] == pytest.approx(0.5)
    assert values['train/tflops'] == pytest.approx(work * 2 / 1e12)
    assert values['train/mfu'] == pytest.approx(work * 2 / 1e9)


def test_hook_takes_the_figures_of_our_loop(monkeypatch):
    values, work = run_hook(
        DITOThroughputHook(),
        dict(images_per_second=100.0),
        [10, 11, 12],
        monkeypatch,
    )
    assert values == {'train/tflops': pytest.approx(work * 100 / 1e12)}
    with pytest.raises(ValueError, match='must be positive'):
        DITOThroughputHook(peak_tflops=0)


def test_meter_averages_over_a_window(monkeypatch):
    clock = iter([0, 1, 3, 6])
    monkeypatch.setattr(
        'dito.engine.throughput.time.perf_counter', lambda: next(clock)
    )
    meter = ThroughputMeter(window=2)
    meter.start()
    assert meter.step(10)['images_per_second'] == pytest.approx(10)
    meter.wait(1)
    assert meter.step(10)['images_per_second'] == pytest.approx(20 / 3)
    figures = meter.step(10)
    assert figures['images_per_second'] == pytest.approx(4)
    assert figures['loader_wait'] == pytest.approx(0.2)
