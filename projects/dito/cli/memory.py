# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Peak memory of a training step, by its parts."""

import weakref
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dito.engine.loops.cached_step import cached_train_step
from dito.evaluation.report import print_table
from dito.models.backbones import DITOViT
from dito.models.backbones.vit_layers import read_arch
from dito.models.backbones.window_ops import cached_layout
from dito.models.detectors import DITO
from dito.models.pretrainers import BatchPlace, ImageTextPretrainer
from dito.utils.configs import config_root
from dito.utils.files import write_json

from . import common
from .options import command

Row = dict[str, Any]

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
_CONFIG_HEADS = (
    'config',
    'batch',
    'side',
    'step',
    'weights',
    "optimizer's state",
    'in all',
)
# Numbers that an optimizer keeps for each trained one.
_STATES = dict(AdamW=2, Adam=2, SGD=1)


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


def run_tower(
    model: nn.Module, batch: int, side: int, bf16: bool = False
) -> Tensor:
    """Map of images of zeros, on the model's device."""
    device = next(model.parameters()).device
    images = torch.zeros(batch, 3, side, side, device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        return model(images)[0]


def train_tower(
    model: nn.Module, batch: int, side: int, bf16: bool = False
) -> None:
    """Forward and backward pass."""
    run_tower(model, batch, side, bf16).float().sum().backward()
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


def tower_memory(
    build: Callable[[], nn.Module],
    batch: int,
    side: int,
    bf16: bool = False,
    trained: bool = True,
) -> float:
    """Peak memory of a pass of a backbone over the loaded model, in MiB.

    Args:
        build (callable): Makes the backbone.
        batch (int): Images that pass together.
        side (int): Of the images, in pixels.
        bf16 (bool): Under bfloat16 autocast. Defaults to False.
        trained (bool): Whether a backward pass follows, where the backbone is
            not frozen: kept activations and gradients of the parameters count,
            too. Defaults to True.

    Returns:
        float: Neither the weights nor the state of an optimizer.
    """
    with without_data():
        model = build()
        trained &= any(p.requires_grad for p in model.parameters())
        run = train_tower if trained else torch.no_grad()(run_tower)
        with LiveBytes(model) as count:
            run(model, batch, side, bf16)
    return count.peak / _MIB


def step_memory(setting: Setting) -> float:
    """Peak memory of a step over the loaded model, in MiB."""
    return tower_memory(
        setting.tower, setting.batch, setting.img_size, setting.bf16
    )


def teacher_memory(setting: Setting) -> float:
    """What the frozen teacher adds at the peak, in MiB.

    It keeps nothing: its weights and the largest part of its pass are there
    beside the student's activations.
    """
    build = partial(DITOViT, setting.arch, setting.patch_size)
    largest = tower_memory(
        build, setting.batch, setting.img_size, setting.bf16, trained=False
    )
    return largest + 4 * parameter_count(setting.arch) / _MIB


def pretraining_memory(
    model: ConfigDict,
    batch: int,
    side: int,
    bf16: bool = False,
    pieces: int = 1,
    tokens: int = 0,
) -> float:
    """Peak memory of a step of stage 1 or 2 over the loaded model, in MiB.

    Args:
        model (ConfigDict): Config of the pretrainer.
        batch (int): Images that pass together, with a caption each.
        side (int): Of the images, in pixels.
        bf16 (bool): Under bfloat16 autocast. Defaults to False.
        pieces (int): Such batches of a step, embedded one by one. What more
            of them add is their embeddings. Defaults to 1.
        tokens (int): Of the longest caption of a batch. Defaults to 0, as
            many as the text tower takes.

    Returns:
        float: Activations, transient values and gradients; not the state of
        the optimizer.
    """
    images = batch * pieces
    wrapper = dict(
        type='DITOBF16OptimWrapper' if bf16 else 'OptimWrapper',
        optimizer=dict(type='SGD', lr=1.0),  # keeps nothing
    )
    with without_data():
        built = MODELS.build(model).train()
        tower = built.text_encoder
        # Captions are cut at the end of the longest, which has no data here.
        tower.shorten = lambda tokens: tokens
        optim_wrapper = build_optim_wrapper(built, wrapper)
        data = dict(
            inputs=torch.empty(images, 3, side, side, dtype=torch.uint8),
            tokens=torch.zeros(
                images, tokens or tower.context_length, dtype=torch.long
            ),
            texts=[''] * images,
            place=BatchPlace(0, 0, 0, images),
        )
        with LiveBytes(built) as count:
            if pieces > 1:
                cached_train_step(built, data, optim_wrapper, batch)
            else:
                built.train_step(data, optim_wrapper)
    return count.peak / _MIB


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
    return heads_memory(detector_config(arch), batch, img_size, bf16)


def heads_memory(
    cfg: ConfigDict, batch: int, img_size: int, bf16: bool = False
) -> float:
    """What autograd keeps of the heads of a detector's config, in MiB."""
    sampler = cfg.train_cfg.rcnn.sampler
    rois = sampler.num * batch
    crops = [('bbox_head', 'regions', rois, 7)]
    if cfg.roi_head.get('mask_head'):
        crops.append(
            ('mask_head', 'forward', int(rois * sampler.pos_fraction), 14)
        )
    side = -(-img_size // cfg.backbone.get('patch_size', 16))
    with without_data():
        neck, rpn = MODELS.build(cfg.neck), MODELS.build(cfg.rpn_head)
        heads = [MODELS.build(cfg.roi_head[name]) for name, *_ in crops]
        feat = torch.empty(
            batch, cfg.neck.in_channels, side, side, requires_grad=True
        )
        with (
            LiveBytes(neck, rpn, *heads) as count,
            torch.autocast('cpu', torch.bfloat16, enabled=bf16),
        ):
            kept = [rpn(neck((feat,)))]
            for head, (_, method, number, size) in zip(
                heads, crops, strict=True
            ):
                shape = number, cfg.neck.out_channels, size, size
                crop = torch.empty(shape, requires_grad=True)
                kept.append(getattr(head, method)(crop))
            return count.now / _MIB


def detector_memory(
    cfg: ConfigDict, batch: int, side: int, bf16: bool = False
) -> float:
    """Peak memory of a step of stage 3 over the loaded model, in MiB.

    Backbone, what the heads keep and the frozen teacher's pass are added up;
    what is drawn by chance or depends on what is found is not counted.
    """
    build = partial(MODELS.build, cfg.backbone)
    total = tower_memory(lambda: build().train(), batch, side, bf16)
    total += heads_memory(cfg, batch, side, bf16)
    if cfg.get('teacher'):
        total += tower_memory(build, batch, side, bf16, trained=False)
    return total


def trained_config(args: Namespace, name: str) -> Config:
    """A config of any stage; ValueError for what DITO does not train."""
    cfg = common.load_config(name, args.cfg_options)
    init_default_scope('mmdet')
    kind = MODELS.get(cfg.get('model', {}).get('type', ''))
    if kind is None or not issubclass(kind, (ImageTextPretrainer, DITO)):
        raise ValueError(
            f'{name} has no model of DITO; dito memory computes the steps of '
            'its pretrainers and detectors.'
        )
    if not cfg.get('train_dataloader') or not cfg.get('optim_wrapper'):
        raise ValueError(
            f'{name} trains nothing; name a config with a train_dataloader '
            'and an optim_wrapper.'
        )
    return cfg


def config_row(args: Namespace, name: str, batch: int | None) -> Row:
    """Figures of a step of a config of any stage."""
    cfg = trained_config(args, name)
    model, loader = cfg.model, cfg.train_dataloader
    batch = batch or loader.batch_size
    bf16 = args.bf16 or 'BF16' in cfg.optim_wrapper.type
    pairs = issubclass(MODELS.get(model.type), ImageTextPretrainer)
    if pairs:
        side = args.img_size or loader.dataset.size
        # Two pieces: more of them hold no more at a time.
        pieces = 2 if cfg.train_cfg.get('total_batch_size') else 1
        step = pretraining_memory(model, batch, side, bf16, pieces)
        counted = model
    else:
        side = args.img_size or model.data_preprocessor.pad_size_divisor
        step = detector_memory(model, batch, side, bf16)
        counted = {**model, 'teacher': None, 'text_encoder': None}
    weights, trained = count_bytes(counted)
    if not pairs and model.get('teacher'):
        weights += count_bytes(model.backbone)[0]
    optimizer = cfg.optim_wrapper.optimizer
    states = _STATES.get(optimizer.type)
    return dict(
        config=name,
        batch=batch,
        img_size=side,
        bf16=bf16,
        step=step,
        weights=weights / _MIB,
        state=None if states is None else states * trained / _MIB,
    )


def count_bytes(model: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes of the weights of a config, and of those that are trained."""
    with torch.device('meta'):
        weights = list(MODELS.build(ConfigDict(model)).parameters())
    trained = (w.nbytes for w in weights if w.requires_grad)
    return sum(w.nbytes for w in weights), sum(trained)


def measure(setting: Setting, device: str = 'cpu') -> float:
    """Peak of a step over the loaded model, in MiB, by PyTorch's allocator."""
    model = setting.tower().to(device)
    train_tower(model, setting.batch, 4 * setting.patch_size, setting.bf16)
    return peak_of(
        lambda: train_tower(
            model, setting.batch, setting.img_size, setting.bf16
        ),
        device,
    )


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


def rows_of(args: Namespace) -> list[Row]:
    """All settings with their figures."""
    rows = []
    args.batch, args.img_size = (
        args.batch or [1, 2, 3, 4],
        args.img_size or 1024,
    )
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


def show(args: Namespace, rows: Sequence[Row]) -> Table:
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


def show_configs(rows: Sequence[Row]) -> Table:
    """The figures of configs as a table for the terminal."""
    table = Table(title='Training step of a process, in MiB')
    for number, head in enumerate(_CONFIG_HEADS):
        table.add_column(head, justify='right' if number else 'left')
    for row in rows:
        parts = [row['step'], row['weights'], row['state']]
        known = [part for part in parts if part is not None]
        table.add_row(
            row['config'],
            str(row['batch']),
            str(row['img_size']),
            *('-' if part is None else f'{part:,.0f}' for part in parts),
            ('' if None not in parts else 'over ') + f'{sum(known):,.0f}',
        )
    return table


@command
def main(args: Namespace) -> int:
    """Compute, measure and show."""
    if args.config:
        rows = [
            config_row(args, name, batch)
            for name, batch in product(args.config, args.batch or [None])
        ]
        print_table(show_configs(rows))
    else:
        args.device = common.device_of(args)
        rows = rows_of(args)
        print_table(show(args, rows))
    if args.json:
        write_json(args.json, rows, indent=1)
    return 0
