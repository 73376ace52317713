# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Both sides of the backbone and of stages 1 and 2, for ``benchmark.py``.

Models have random weights and come from the configs that users train.
"""

from typing import Any

import numpy as np
import torch
from benchmark_cases import Case, Setup, Side, Sides
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from dito.cli.common import load_config
from dito.cli.memory import Setting, pretraining_memory, step_memory
from dito.engine.loops.cached_step import cached_train_step
from dito.engine.throughput import (
    flops_by_part,
    forward_flops,
    step_flops,
    vit_flops,
)
from dito.models.backbones import DITOViT
from dito.models.backbones.vit_layers import read_arch, resize_pos_embed
from dito.models.pretrainers import BatchPlace

# Configs by stage, for 's', 'b' and 'l', and those of `symbols`.
CONFIGS = {
    'stage 1': ('pretrain/clip_vit{}16_laion2b.py', 'symbols/clip_symbols.py'),
    'stage 2': ('pretrain/rep_vit{}16_laion2b.py', 'symbols/rep_symbols.py'),
    'stage 3': ('dito_vit{}_lvis.py', 'symbols/dito_symbols.py'),
}
_CAPTION = 'a photo of red small cat tree on the sea by an old house'.split()


# ------------------------------------------------------------------ backbone


def backbone_sides(case: Case, setup: Setup) -> Sides:
    """Build both sides of a backbone."""
    setting = Setting(
        case.size, case.batch, case.side, swl=case.swl, bf16=setup.bf16
    )
    torch.manual_seed(0)
    ours = setting.tower().to(setup.device)

    def other() -> Side:
        if case.swl == 'none':
            return _tower_side(
                'ViTSAM of mmpretrain',
                vit_sam(ours, case.size, case.side),
                case,
                setup,
            )
        plain = Setting(case.size, case.batch, case.side).tower()
        return _tower_side('no shift', plain, case, setup)

    return Sides(
        _tower_side('DITOViT', ours, case, setup),
        other,
        lambda: step_memory(setting),
    )


def _tower_side(name: str, model: nn.Module, case: Case, setup: Setup) -> Side:
    """Maps of noise, and a backward pass."""
    model.to(setup.device)
    images = _noise(case, setup.device)

    def forward() -> Tensor:
        with setup.cast():
            return model(images)[0]

    def train() -> None:
        forward().float().mean().backward()
        model.zero_grad(set_to_none=True)

    flops = 0
    if isinstance(model, DITOViT):
        flops = case.batch * vit_flops(model, (case.side, case.side))
    return Side(
        name,
        dict(forward=torch.no_grad()(forward), train=train),
        dict(forward=flops, train=3 * flops) if flops else {},
    )


def _noise(case: Case, device: str) -> Tensor:
    """Normalised pictures of noise, (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    shape = case.batch, 3, case.side, case.side
    return torch.randn(shape, generator=generator).to(device)


def vit_sam(ours: DITOViT, arch: str, side: int) -> nn.Module:
    """ViTSAM of mmpretrain with a tower's sizes, windows and weights.

    Args:
        ours (DITOViT): Tower of a :class:`Setting`, in 4 x 4 windows.
        arch (str): Its sizes.
        side (int): Of its images in pixels.

    Returns:
        nn.Module: In training mode. It ends without the LayerNorm.

    Raises:
        ValueError: If the windows do not divide the map.
    """
    from mmpretrain.models import ViTSAM

    tokens, windows = side // ours.patch_size, 4
    if tokens % windows:
        raise ValueError(
            f'{tokens} tokens per side are not divisible into {windows} '
            'windows.'
        )
    sizes = read_arch(arch)
    theirs = ViTSAM(
        arch=dict(
            embed_dims=sizes.embed_dims,
            num_layers=sizes.num_layers,
            num_heads=sizes.num_heads,
            feedforward_channels=int(sizes.embed_dims * sizes.mlp_ratio),
            global_attn_indexes=sorted(ours.plan.global_layers),
        ),
        img_size=side,
        out_channels=0,
        use_rel_pos=False,
        window_size=tokens // windows,
    )
    state = {}
    for name, value in ours.state_dict().items():
        for old, new in (
            ('blocks', 'layers'),
            ('norm1', 'ln1'),
            ('norm2', 'ln2'),
            ('mlp.fc1', 'ffn.layers.0.0'),
            ('mlp.fc2', 'ffn.layers.1'),
            ('patch_embed.proj', 'patch_embed.projection'),
        ):
            name = name.replace(old, new)
        state[name] = value
    del state['pos_embed'], state['norm.weight'], state['norm.bias']
    theirs.load_state_dict(state, strict=False)
    grid = ours.pos_embed.detach().view(1, *ours.pos_size, -1)
    theirs.pos_embed.data = resize_pos_embed(grid, (tokens, tokens))
    theirs.train()  # returns nothing, unlike other modules
    return theirs


# ------------------------------------------------------------ stages 1 and 2


def stage_config(case: Case) -> Config:
    """Config that users train, of a case of stages 1 to 3."""
    general, symbols = CONFIGS[case.stage]
    name = symbols if case.size == 'symbols' else general.format(case.size[0])
    return load_config(name)


def pair_config(case: Case) -> Config:
    """Model of a case of stage 1 or 2."""
    cfg = stage_config(case).model
    if cfg.text_encoder.get('token_ids'):
        del cfg.text_encoder['token_ids']  # the peer has all rows, too
    return cfg


def pair_model(case: Case) -> tuple[nn.Module, dict[str, Any]]:
    """Pretrainer of stage 1 or 2, and a batch as its loader gives it."""
    model = MODELS.build(pair_config(case))
    generator = torch.Generator().manual_seed(0)
    shape = case.batch, 3, case.side, case.side
    images = torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=generator
    )
    texts = captions(case.batch)
    return model, dict(
        inputs=images,
        texts=texts,
        tokens=model.text_encoder.caption_tokenizer()(texts),
        place=BatchPlace(0, 0, 0, case.batch),
    )


def captions(number: int) -> list[str]:
    """Different captions of twelve words."""
    words = len(_CAPTION)
    return [
        ' '.join(
            _CAPTION[(i * (w + 1) + i // words + w) % words] for w in range(12)
        )
        for i in range(number)
    ]


def pair_flops(model: nn.Module, batch: dict[str, Any]) -> dict[str, int]:
    """Operations of a batch of stage 1 or 2, by part of a case."""
    size = len(batch['inputs'])
    forward = sum(flops_by_part(model, batch).values())
    return dict(forward=size * forward, train=size * step_flops(model, batch))


def pair_sides(case: Case, setup: Setup) -> Sides:
    """Build both sides of a step of stage 1 or 2."""
    torch.manual_seed(0)
    model, batch = pair_model(case)
    flops = pair_flops(model, batch)
    model.to(setup.device).train()
    wrapper = wrapper_of(stage_config(case).optim_wrapper, model, setup)

    @torch.no_grad()
    def forward() -> Any:
        with setup.cast():
            return model(**model.data_preprocessor(batch), mode='embed')

    def whole() -> Any:
        return model.train_step(batch, wrapper)

    def pieces() -> Any:
        return cached_train_step(model, batch, wrapper, case.micro_batch)

    # Captions are cut at the end of the longest.
    tokens = int(batch['tokens'].argmax(dim=-1).max()) + 1

    def said() -> float:
        size = case.micro_batch or case.batch
        return pretraining_memory(
            pair_config(case),
            size,
            case.side,
            setup.bf16,
            case.batch // size,
            tokens,
        )

    if case.micro_batch:
        ours = Side(
            'in pieces', dict(train=pieces), dict(train=flops['train'])
        )
        other = Side('the whole at once', dict(train=whole), ours.flops)
        return Sides(ours, lambda: other, said)
    ours = Side(
        type(model).__name__, dict(forward=forward, train=whole), flops
    )
    if case.stage == 'stage 2':
        return Sides(ours, memory=said)
    return Sides(ours, lambda: _open_clip_side(case, setup, model), said)


def wrapper_of(cfg: Config, model: nn.Module, setup: Setup) -> Any:
    """Optimizer of a config, in the type of the run."""
    kind = 'DITOBF16OptimWrapper' if setup.bf16 else 'OptimWrapper'
    return build_optim_wrapper(model, dict(cfg, type=kind))


def _open_clip_side(case: Case, setup: Setup, ours: nn.Module) -> Side:
    """open_clip's model of the same size, its loss and the same optimizer."""
    import open_clip

    torch.manual_seed(0)
    cfg = stage_config(case)
    tower, text = cfg.model.backbone, ours.text_encoder.arch
    sizes = read_arch(tower.arch)
    vision = dict(
        layers=sizes.num_layers,
        width=sizes.embed_dims,
        head_width=sizes.embed_dims // sizes.num_heads,
        patch_size=tower.patch_size,
        image_size=case.side,
    )
    model = open_clip.CLIP(
        embed_dim=sizes.embed_dims,
        vision_cfg=vision,
        text_cfg={k: text[k] for k in ('width', 'layers', 'heads')},
        output_dict=True,
    ).train()
    model.set_grad_checkpointing(bool(tower.get('with_cp')))
    images = _noise(case, 'cpu')
    tokens = open_clip.get_tokenizer('ViT-B-32')(captions(case.batch))
    one = images[:1].to('meta'), tokens[:1].to('meta')
    flops = case.batch * forward_flops(model, *one)
    model.to(setup.device)
    loss = open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def forward() -> dict[str, Tensor]:
        with setup.cast():
            return model(images.to(setup.device), tokens.to(setup.device))

    def train() -> None:
        with setup.cast():
            value = loss(**forward())
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))

    return Side(
        'open_clip',
        dict(forward=torch.no_grad()(forward), train=train),
        dict(forward=flops, train=3 * flops),
    )
