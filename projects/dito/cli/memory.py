# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Peak memory of a training step, by its parts."""

import weakref
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dito.evaluation.report import print_table
from dito.models.backbones import DITOViT
from dito.models.backbones.vit_layers import read_arch
from dito.models.backbones.window_ops import cached_layout
from dito.utils.configs import config_root
from dito.utils.files import write_json

from . import common
from .options import command

_MIB = 2.0**20
_CONFIG = '_base_/models/dito_vitl.py'
# Shifted windows as one pass or two: arguments of the tower.
_SHIFT = dict(
    none=dict(shift=None),
    batched=dict(shift='swl', swl_batched=True),
    sequential=dict(shift='swl', swl_batched=False),
)
_HEADS = (
    'ViT',
    'batch',
    'checkpointing',
    'SWL',
    'backbone: computed',
    'measured',
    'heads keep',
    'teacher adds',
    'weights',
)


@dataclass(frozen=True)
class Setting:
    """A training step of the backbone.

    Images have the side ``img_size`` in pixels; ``with_cp`` checkpoints
    activations; ``swl`` is 'none', or shifted windows as one 'batched' pass or
    two 'sequential' ones; ``bf16`` runs under bfloat16 autocast.
    """

    arch: str
    batch: int
    img_size: int = 1024
    with_cp: bool = False
    swl: str = 'none'
    bf16: bool = False
    patch_size: int = 16

    def tower(self) -> DITOViT:
        """The backbone, in training mode."""
        return DITOViT(
            self.arch,
            self.patch_size,
            window=dict(grid=4),
            with_cp=self.with_cp,
            **_SHIFT[self.swl],
        ).train()

    def forward(self, model: DITOViT, side: int) -> Tensor:
        """Map of images of zeros, on the model's device."""
        device = model.pos_embed.device
        image = torch.zeros(self.batch, 3, side, side, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            return model(image)[0]

    def step(self, model: DITOViT, side: int) -> None:
        """Forward and backward pass."""
        self.forward(model, side).float().sum().backward()
        model.zero_grad(set_to_none=True)


class LiveBytes(TorchDispatchMode):
    """Adds up the memory of the tensors that operations make.

    Parameters of the modules given are there before; those within one
    operation, such as the workspace of a convolution, do not count.

    Attributes:
        now: Bytes of the tensors that are alive.
        peak: The most so far.
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {
            p.untyped_storage()._cdata
            for module in modules
            for p in module.parameters()
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count what it has made."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:  # a view shares it
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@contextmanager
def without_data() -> Iterator[None]:
    """Run models on tensors that have shapes and types and no content."""
    # Orders of tokens are kept from call to call: neither kind may see the
    # other's.
    cached_layout.cache_clear()
    try:
        with FakeTensorMode():
            yield
    finally:
        cached_layout.cache_clear()


@cache
def parameter_count(arch: str) -> int:
    """Parameters of a tower of :class:`DITOViT`."""
    with torch.device('meta'):
        return sum(p.numel() for p in DITOViT(arch).parameters())


def step_memory(setting: Setting) -> float:
    """Peak memory of a step over the loaded model, in MiB.

    Kept activations, transient values and gradients of the parameters; neither
    the model's own weights nor the optimizer's.
    """
    with without_data():
        model = setting.tower()
        with LiveBytes(model) as count:
            setting.step(model, setting.img_size)
    return count.peak / _MIB


@torch.no_grad()
def teacher_memory(setting: Setting) -> float:
    """What the frozen teacher adds at the peak, in MiB.

    It keeps nothing: its weights and the largest part of its pass are there
    beside the student's activations.
    """
    with without_data():
        model = DITOViT(setting.arch, setting.patch_size)
        with LiveBytes(model) as count:
            setting.forward(model, setting.img_size)
    return (count.peak + 4 * parameter_count(setting.arch)) / _MIB


def detector_config(arch: str) -> Config:
    """Model of the paper's detector with another tower, without teacher."""
    cfg = Config.fromfile(config_root() / _CONFIG).model
    dims = read_arch(arch).embed_dims
    cfg.neck.in_channels = cfg.roi_head.bbox_head.embed_dims = dims
    cfg.roi_head.vlm_roi_extractor.out_channels = dims
    cfg.backbone.arch = arch
    return cfg


def head_memory(
    arch: str, batch: int, img_size: int = 1024, bf16: bool = False
) -> float:
    """What autograd keeps of pyramid, proposal, box and mask head, in MiB.

    This is after the forward pass of images with the 512 RoIs of training
    each, 128 of them with masks, but for the backbone's map itself. On top
    come, for moments, gradients of the largest map.
    """
    cfg = detector_config(arch)
    rois = cfg.train_cfg.rcnn.sampler.num * batch
    masks = int(rois * cfg.train_cfg.rcnn.sampler.pos_fraction)
    side = -(-img_size // cfg.backbone.patch_size)
    width = cfg.neck.out_channels
    with without_data():
        neck, rpn, box, mask = heads = [
            MODELS.build(part)
            for part in (
                cfg.neck,
                cfg.rpn_head,
                cfg.roi_head.bbox_head,
                cfg.roi_head.mask_head,
            )
        ]
        feat = torch.empty(
            batch, cfg.neck.in_channels, side, side, requires_grad=True
        )
        with (
            LiveBytes(*heads) as count,
            torch.autocast('cpu', torch.bfloat16, enabled=bf16),
        ):
            kept = [rpn(neck((feat,)))]
            for head, number, size in (
                (box.regions, rois, 7),
                (mask, masks, 14),
            ):
                kept.append(
                    head(
                        torch.empty(
                            number, width, size, size, requires_grad=True
                        )
                    )
                )
            return count.now / _MIB


def measure(setting: Setting, device: str = 'cpu') -> float:
    """Peak of a step over the loaded model, in MiB, by PyTorch's allocator."""
    model = setting.tower().to(device)
    setting.step(model, 4 * setting.patch_size)
    return peak_of(lambda: setting.step(model, setting.img_size), device)


def peak_of(run: Callable[[], Any], device: str = 'cpu') -> float:
    """Peak of what is allocated while something runs, in MiB.

    Args:
        run (callable): Runs once.
        device (str): Such as 'cuda'. Defaults to 'cpu'.

    Returns:
        float: Over what was there before, as the allocator of PyTorch counts
        it.
    """
    if not device.startswith('cuda'):
        return _peak_of_events(run) / _MIB
    start = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return (torch.cuda.max_memory_allocated(device) - start) / _MIB


def _peak_of_events(run: Callable[[], Any]) -> int:
    """Peak of what is allocated on the CPU while something runs, in bytes."""
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True
    ) as log:
        run()
    events = [
        e
        for e in log.profiler.kineto_results.events()
        if e.name() == '[memory]'
    ]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def rows_of(args: Namespace) -> list[dict[str, Any]]:
    """All settings with their figures."""
    rows = []
    heads = {
        pair: head_memory(*pair, args.img_size, args.bf16)
        for pair in product(args.arch, args.batch)
    }
    teachers = {
        (arch, batch): teacher_memory(
            Setting(arch, batch, args.img_size, bf16=args.bf16)
        )
        for arch, batch in heads
    }
    for arch, batch, with_cp, swl in product(
        args.arch, args.batch, (False, True), _SHIFT
    ):
        setting = Setting(arch, batch, args.img_size, with_cp, swl, args.bf16)
        measured = (
            measure(setting, args.device) if arch in args.measure else None
        )
        rows.append(
            dict(
                arch=arch,
                batch=batch,
                with_cp=with_cp,
                swl=swl,
                computed=step_memory(setting),
                measured=measured,
                device=args.device if measured is not None else None,
                heads=heads[arch, batch],
                teacher=teachers[arch, batch],
                weights=4 * parameter_count(arch) / _MIB,
            )
        )
    return rows


def show(args: Namespace, rows: Sequence[dict[str, Any]]) -> Table:
    """The figures as a table for the terminal."""
    kind = 'bfloat16 autocast' if args.bf16 else 'float32'
    table = Table(
        title=f'Training step at {args.img_size} x '
        f'{args.img_size}, {kind}, in MiB over the loaded model'
    )
    for number, head in enumerate(_HEADS):
        table.add_column(head, justify='right' if number > 3 else 'left')
    for row in rows:
        measured = (
            '-'
            if row['measured'] is None
            else (f'{row["measured"]:,.0f} ({row["device"]})')
        )
        table.add_row(
            row['arch'],
            str(row['batch']),
            'yes' if row['with_cp'] else 'no',
            row['swl'],
            f'{row["computed"]:,.0f}',
            measured,
            f'{row["heads"]:,.0f}',
            f'{row["teacher"]:,.0f}',
            f'{row["weights"]:,.0f}',
        )
    return table


@command
def main(args: Namespace) -> int:
    """Compute, measure and show."""
    args.device = common.device_of(args)
    rows = rows_of(args)
    print_table(show(args, rows))
    if args.json:
        write_json(args.json, rows, indent=1)
    return 0
