# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The losses of 20 steps of each stage are those that were written down.

So is the norm of each step's gradient, before it is clipped. What is compared
shows what a change has moved: nothing, where code was only put elsewhere.
Pictures and weights are generated, from the names of files and parameters
alone, so that neither the built-in data set nor the order in which a model is
built has a part in them. After a change that is meant to move losses, the
command in the files' heads writes tests/data/losses anew; the difference
belongs to the change.
"""

import io
import math
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_arrays import DATA, close
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image
from tiny_detector import TEXT_ENCODER, bbox_head, extractor, tiny_config
from tiny_training import Recorder, training, write
from torch import nn
from training_runs import training_cfg

LOSSES = DATA / 'losses'
COMMAND = 'pytest tests/test_training/test_golden_losses.py --remake-losses'
STEPS = 20
# Kernels of other processors change the losses by up to 2e-6 of the largest.
# Weights, rates and temperature below are mild for this: rounding must not
# grow from step to step.
REL = 1e-5
# A unit of a ReLU that is 0 but for rounding is open with one kernel and shut
# with another. No loss sees it; the gradient's norm moved by up to 3e-5.
NORM_REL = 1e-4
CAPTIONS = [
    f'a photo of a {color} {animal}'
    for color in ('red', 'green', 'blue')
    for animal in ('cat', 'dog', 'bird')
]


def set_weights(model: nn.Module) -> None:
    """Give each parameter numbers that follow from its name.

    Scales are near 1, shifts near 0; parameters of another kind keep their
    start. Proposals start as their anchors: empty boxes would learn nothing.
    """
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            values = 0.5 * noise / math.sqrt(parameter[0].numel())
        elif name.endswith(('weight', 'bias')):
            values = name.endswith('weight') + 0.05 * noise
        else:
            continue
        if name.endswith('rpn_reg.bias'):
            values += 0.5
        parameter.data.copy_(values)


def write_pairs(path: Path, size: int) -> None:
    """Write nine pictures of smooth noise with captions as a shard."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, 'w') as tar:
        for number, caption in enumerate(CAPTIONS):
            coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            pixels = coarse.repeat(size // 4, 0).repeat(size // 4, 1)
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, 'PNG')
            for end, data in (
                ('png', picture.getvalue()),
                ('txt', caption.encode()),
            ):
                info = tarfile.TarInfo(f'{number}.{end}')
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def pair_training(folder: Path, size: int, **changes: Any) -> dict:
    """A training on pairs, in micro-batches of 4 and 2."""
    write_pairs(folder / '00.tar', size)
    return training_cfg(
        folder,
        CAPTIONS,
        folder / 'work',
        train_dataloader__dataset=dict(
            type='ImageTextShards',
            size=size,
            num_streams=1,
            shards=str(folder / '00.tar'),
        ),
        train_cfg__max_iters=STEPS,
        optim_wrapper__optimizer=dict(type='AdamW', lr=1e-3, eps=1e-3),
        default_hooks=dict(checkpoint=None),
        custom_hooks=[],
        log_level='ERROR',
        **changes,
    )


def clip(folder: Path) -> dict:
    """Stage 1, with cropped position embeddings."""
    return pair_training(folder, 16)


def rep(folder: Path) -> dict:
    """Stage 2, with the parts of the tiny detector."""
    parts = tiny_config()
    return pair_training(
        folder,
        64,
        model=dict(
            type='mmdet.RegionCentricPretrainer',
            text_encoder=TEXT_ENCODER,
            roi_head=dict(
                type='DITORoIHead',
                bbox_roi_extractor=extractor(7),
                bbox_head=bbox_head(),
            ),
            regions=dict(type='RandomRegions', num_regions=(12, 8, 6, 4)),
            **{part: parts[part] for part in ('backbone', 'neck', 'rpn_head')},
        ),
    )


def dito(folder: Path) -> dict:
    """Stage 3, with masks, shifted windows and a teacher."""
    cfg = training(write(folder), iters=STEPS)
    cfg.model.teacher = dict(checkpoint=str(folder / 'start.pth'))
    cfg.model.roi_head.loss_distill = dict(type='DITOCosineDistillLoss')
    cfg.train_cfg = dict(
        type='DITOTrainLoop', max_iters=STEPS, total_batch_size=4
    )
    # All proposals, whatever their order: near ties have none to rely on.
    cfg.model.train_cfg.rcnn.sampler.num = 200
    cfg.model.roi_head.bbox_head.temperature = 0.1
    steps = cfg.train_dataloader.dataset.pipeline
    steps[2] = dict(type='RandomFlip', prob=0.5)
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=3e-5, momentum=0.9)
    return cfg.to_dict()


STAGES = dict(clip=clip, rep=rep, dito=dito)


class StepRecorder(Recorder):
    """Keeps the norm of the gradient beside the losses of every step."""

    def after_train_iter(
        self, runner: Runner, *args: Any, **kwargs: Any
    ) -> None:
        super().after_train_iter(runner, *args, **kwargs)
        norms = runner.message_hub.get_scalar('train/grad_norm')
        self.losses[-1]['grad_norm'] = norms.current()


def train_losses(stage: str, folder: Path) -> dict[str, np.ndarray]:
    """Train a stage; its losses and the gradient's norm, (STEPS, ) each."""
    cfg = STAGES[stage](folder)
    init_default_scope('mmdet')
    model = MODELS.build(cfg['model'])
    set_weights(model)
    torch.save(dict(state_dict=model.state_dict()), folder / 'start.pth')
    runner = Runner(**cfg, load_from=str(folder / 'start.pth'))
    recorder = StepRecorder()
    runner.register_hook(recorder)
    runner.train()
    names = [
        name
        for name in recorder.losses[0]
        if 'loss' in name or name == 'grad_norm'
    ]
    return {
        name: np.array([step[name] for step in recorder.losses])
        for name in names
    }


@pytest.mark.parametrize('stage', STAGES)
def test_losses_are_those_written_down(
    stage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    losses = train_losses(stage, tmp_path)
    path = LOSSES / f'{stage}.txt'
    if request.config.getoption('remake_losses'):
        LOSSES.mkdir(exist_ok=True)
        rows = np.stack(list(losses.values()), axis=1)
        np.savetxt(
            path, rows, '%.17g', header=f'{COMMAND}\n{" ".join(losses)}'
        )
    command, names = (
        line.lstrip('# ') for line in path.read_text().splitlines()[:2]
    )
    assert command == COMMAND
    assert list(losses) == names.split()
    written = dict(zip(losses, np.loadtxt(path).T, strict=True))
    for name, values in losses.items():
        rel = NORM_REL if name == 'grad_norm' else REL
        close(values, written[name], rel, err_msg=name)
