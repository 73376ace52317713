# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tiny public-like models with random weights."""

import copy
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from dito.converters.towers.source import TowerSource, read_open_clip

TEXT = dict(width=32, layers=2, heads=4, vocab_size=60, context_length=10)
SIGLIP_TEXT = dict(
    TEXT,
    no_causal_mask=True,
    pool_type='last',
    proj_bias=True,
    norm_kwargs=dict(eps=1e-6),
)
VISION = dict(layers=2, width=32, head_width=16, patch_size=8, image_size=32)
PREPROCESS = dict(
    mean=(0.5, 0.4, 0.3),
    std=(0.25, 0.25, 0.25),
    interpolation='bicubic',
    resize_mode='squash',
)
TIMM = dict(
    img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, mlp_ratio=3
)


@register_model
def dito_test_vit(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """A tiny tower with timm's default of everything."""
    return _build(TIMM, kwargs)


@register_model
def dito_test_siglip(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """A tiny tower as SigLIP's are."""
    options = dict(
        TIMM, class_token=False, global_pool='map', act_layer='gelu_tanh'
    )
    return _build(options, kwargs)


@register_model
def dito_test_siglip_p16(pretrained: bool = False, **kwargs):
    """The same with the patches, activation and MLP of ViT-B-16-SigLIP."""
    options = dict(
        embed_dim=32,
        depth=2,
        num_heads=4,
        patch_size=16,
        class_token=False,
        global_pool='map',
    )
    return _build(options, kwargs)


def _build(options: dict, kwargs: dict) -> VisionTransformer:
    for name in ('pretrained_cfg', 'pretrained_cfg_overlay', 'cache_dir'):
        kwargs.pop(name, None)
    model = VisionTransformer(**{**options, **kwargs})
    model.pretrained_cfg = model.default_cfg = dict(
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    return model


def clip_config(vision=None, text=None, **kwargs) -> dict:
    """Config of a tiny CLIP in the manner of open_clip."""
    return dict(
        embed_dim=24,
        vision_cfg=dict(VISION, **(vision or {})),
        text_cfg=dict(text or TEXT),
        **kwargs,
    )


def siglip_config(name: str = 'dito_test_siglip', text=None, **vision) -> dict:
    """Config of a tiny SigLIP in the manner of open_clip."""
    options = {
        **dict(image_size=32, timm_model_name=name),
        **dict(timm_pool='map', timm_proj='none'),
        **vision,
    }
    return dict(
        embed_dim=32,
        init_logit_bias=-10,
        custom_text=True,
        vision_cfg=options,
        text_cfg=dict(SIGLIP_TEXT, **(text or {})),
    )


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Weights that leave no part without an effect."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.normal_(std=0.2, generator=generator)
    return model.eval()


def save_model(config: dict, path: Path) -> Path:
    """Write random weights of a model of open_clip."""
    build = copy.deepcopy(config)
    custom = build.pop('custom_text', False)
    model = randomize((CustomTextCLIP if custom else CLIP)(**build))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


def make_source(config: dict, folder: Path) -> TowerSource:
    """A model of open_clip with random weights, read from a file."""
    path = save_model(config, folder / 'weights.safetensors')
    return read_open_clip('tiny', config, path, PREPROCESS, {})


def make_meta_source(name: str) -> TowerSource:
    """A model of open_clip by name, without memory for its weights."""
    config = open_clip.get_model_config(name)
    build = dict(config)
    kind = CustomTextCLIP if build.pop('custom_text', False) else CLIP
    with torch.device('meta'):
        model = kind(**build)
        return TowerSource(
            name, 'open_clip', model, model.state_dict(), config, PREPROCESS
        )
