# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Autocast, clipping, checkpointing, distribution, in all stages."""

import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from tiny_detector import batch as detection_batch
from tiny_detector import build as build_detector
from tiny_detector import vocabulary
from training_runs import Forked

from dito.engine.loops.cached_step import cached_train_step
from dito.engine.strategies import DITOBF16OptimWrapper

sys.path.insert(
    0, str(Path(__file__).parents[1] / 'test_models/test_pretrainers')
)
from pretrainer_models import (  # noqa: E402
    build,
    clip_cfg,
    make_batch,
    rep_cfg,
)


def gradients(model, batch, wrapper=None):
    """Gradients and logs of a step without a change of weights."""
    model.train()
    wrapper = wrapper or OptimWrapper
    optim = wrapper(
        torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], lr=1.0
        )
    )
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    logs = model.train_step(batch, optim)
    return {
        n: before[n] - p.detach() for n, p in model.named_parameters()
    }, logs


@pytest.fixture
def clip():
    torch.manual_seed(7)
    return build(clip_cfg(cpe=dict(up_size=16)))


def test_bfloat16(clip):
    state = {n: v.clone() for n, v in clip.state_dict().items()}
    exact, logs = gradients(clip, make_batch())
    clip.load_state_dict(state)
    seen = []
    block = clip.backbone.blocks[0].mlp.fc1
    block.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    rough, rough_logs = gradients(clip, make_batch(), DITOBF16OptimWrapper)
    assert seen == [torch.bfloat16]
    assert all(v.dtype == torch.float32 for v in rough.values())
    assert rough_logs['loss_image'].dtype == torch.float32
    assert rough_logs['loss'].item() == pytest.approx(
        logs['loss'].item(), rel=0.02
    )
    for name, value in exact.items():
        if value.norm() > 1e-3:
            cosine = torch.cosine_similarity(
                value.flatten(), rough[name].flatten(), dim=0
            )
            assert cosine > 0.9, name


@pytest.mark.parametrize('micro_batch', [None, 3])
def test_clipping_is_of_the_whole_gradient(clip, micro_batch):
    state = {n: v.clone() for n, v in clip.state_dict().items()}
    whole, _ = gradients(clip, make_batch())
    norm = torch.stack([v.norm() for v in whole.values()]).norm()
    clip.load_state_dict(state)
    optim = OptimWrapper(
        torch.optim.SGD(clip.parameters(), lr=1.0),
        clip_grad=dict(max_norm=float(norm) / 2),
    )
    batch = make_batch()
    if micro_batch is None:
        clip.train_step(batch, optim)
    else:
        cached_train_step(clip, batch, optim, micro_batch)
    hub = optim.message_hub
    assert hub.get_scalar('train/grad_norm').current() == pytest.approx(
        float(norm), rel=1e-4
    )
    for name, value in clip.named_parameters():
        torch.testing.assert_close(
            state[name] - value.detach(),
            whole[name] / 2,
            rtol=1e-3,
            atol=1e-5,
            msg=name,
        )


def saved_bytes(model, batch):
    """Memory kept for the backward pass."""
    sizes = {}

    def pack(tensor):
        sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    data = model.data_preprocessor(batch, True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(**data, mode='loss')
    return sum(sizes.values())


def test_activation_checkpointing_of_both_towers():
    results, kept = [], []
    for with_cp in (False, True):
        torch.manual_seed(7)
        cfg = clip_cfg(cpe=dict(up_size=16))
        cfg['backbone']['with_cp'] = with_cp
        cfg['text_encoder']['with_cp'] = with_cp
        model = build(cfg)
        model.train()
        kept.append(saved_bytes(model, make_batch()))
        results.append(gradients(model, make_batch()))
    assert kept[1] < 0.6 * kept[0]
    for name, value in results[0][0].items():
        torch.testing.assert_close(
            results[1][0][name], value, rtol=1e-5, atol=1e-7, msg=name
        )


def step_ddp(stage):
    """Two steps: the second one fails if a parameter had no gradient."""
    torch.manual_seed(3)
    if stage == 'detector':
        model = build_detector()
        model.init_weights()
        model.set_vocabulary(vocabulary(3))
        batch = detection_batch((2, 1))
    else:
        model = build(clip_cfg() if stage == 'clip' else rep_cfg())
        batch = make_batch()
    model.train()
    wrapped = MMDistributedDataParallel(
        model, find_unused_parameters=False, broadcast_buffers=False
    )
    optim = OptimWrapper(
        torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], lr=1e-3
        )
    )
    for _ in range(2):
        logs = wrapped.train_step(batch, optim)
    assert torch.isfinite(logs['loss'])


@pytest.mark.parametrize('stage', ['clip', 'rep', 'detector'])
def test_no_unused_parameters(tmp_path, stage):
    Forked(step_ddp, stage, ranks=2, folder=tmp_path).join()


def test_the_configs_of_vit_l_checkpoint_activations():
    from mmengine.config import Config

    root = Path(__file__).parents[2] / 'configs/pretrain'
    model = Config.fromfile(root / 'clip_vitl16_laion2b.py').model
    assert model.backbone.with_cp and MODELS.get('CLIPPretrainer')
