# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""How much memory a training step of the backbone takes, by arithmetic.

With T the token rows of a step (images x passes x tokens), C channels, r the
ratio of the MLP, H heads and L layers, a layer keeps for its backward pass

    2 C      input of both LayerNorms (the residual stream)
    2 C      output of both LayerNorms, input of qkv and fc1
    3 C      queries, keys and values
    1 C      output of attention, input of the projection
    2 r C    input and output of GELU

per row, and H + 4 numbers of statistics: (8 + 2 r) C + H + 4, which is 16 C
and a bit for r = 4. Attention is computed without its matrix. Under bfloat16
autocast only the residual stream stays float32.

A step holds these of all L layers at the start of its backward pass; with
activation checkpointing only the input of every layer (C a row), and what one
layer keeps. In the backward pass these go layer by layer while the gradients
of the parameters come, so that the larger of both counts. On top come the
gradients that a layer's backward pass has alive at its largest (2 r C + 2 C),
the pixels, and four maps before and after the layers.

Against what the allocator counts on a CPU in float32 (ViT-Ti and ViT-S, 256
pixels, all combinations of checkpointing and shift) the error is below 10
percent.

Shifted windows run every layer from the first with windows on twice as many
rows. One pass after the other, the passes still keep their activations, but
recomputation and gradients are one pass's.
"""

from dataclasses import dataclass

from dito.models.backbones.vit_arch import read_arch

_MIB = 2.0**20
SWL = ('none', 'batched', 'sequential')


@dataclass(frozen=True)
class Setting:
    """A training step of the backbone.

    Args:
        arch (str): 'small', 'base', 'large', ...
        batch (int): Images.
        img_size (int): Side of the square images in pixels.
        with_cp (bool): Activation checkpointing.
        swl (str): 'none', or shifted windows as one 'batched' pass or two
            'sequential' ones.
        bf16 (bool): Under bfloat16 autocast.
        patch_size (int): Side of a patch in pixels.
    """

    arch: str
    batch: int
    img_size: int = 1024
    with_cp: bool = False
    swl: str = 'none'
    bf16: bool = False
    patch_size: int = 16


def parameter_count(arch: str, patch_size: int = 16,
                    pretrained_size: int = 224) -> int:
    """Parameters of a tower of :class:`DITOViT`, biases included."""
    sizes = read_arch(arch)
    dims, hidden = sizes.embed_dims, int(sizes.embed_dims * sizes.mlp_ratio)
    layer = 4 * dims * dims + 4 * dims + 2 * dims * hidden + hidden + dims
    layer += 4 * dims
    patch = 3 * patch_size**2 * dims + dims
    positions = (pretrained_size // patch_size)**2 * dims
    return sizes.num_layers * layer + patch + positions + 2 * dims


def step_memory(setting: Setting) -> float:
    """Peak memory of a step over the loaded model, in MiB.

    Args:
        setting (Setting): The step.

    Returns:
        float: Kept activations, transient values and gradients of the
        parameters; neither the model's own weights nor the optimizer's.
    """
    sizes = read_arch(setting.arch)
    dims, ratio = sizes.embed_dims, sizes.mlp_ratio
    tokens = (-(-setting.img_size // setting.patch_size))**2
    passes = 1 if setting.swl == 'none' else 2
    rows = setting.batch * passes * tokens
    # Rows that are in work at one time.
    working = rows // 2 if setting.swl == 'sequential' else rows
    low = 2 if setting.bf16 else 4
    layer = (2 * 4 + (6 + 2 * ratio) * low) * dims
    layer += 4 * (sizes.num_heads + 4)
    kept = sizes.num_layers * rows * layer
    recomputed = 0.0
    if setting.with_cp:
        kept = sizes.num_layers * rows * dims * 4
        recomputed = working * layer
    transient = working * (2 * ratio * low + 2 * 4) * dims
    pixels = setting.batch * 3 * setting.img_size**2 * 4
    # Patches, the tokens before the first layer, the map and its gradient.
    ends = pixels + 4 * rows * dims * 4
    gradients = 4 * parameter_count(setting.arch, setting.patch_size)
    casts = 2 * parameter_count(setting.arch, setting.patch_size) if (
        setting.bf16) else 0
    peak = max(kept, gradients) + recomputed + transient + ends + casts
    return peak / _MIB


def teacher_memory(setting: Setting) -> float:
    """What the frozen teacher adds at the peak, in MiB.

    It shares the images of the student and keeps nothing; its weights and
    one layer of its pass are there beside the student's activations.
    """
    sizes = read_arch(setting.arch)
    tokens = (-(-setting.img_size // setting.patch_size))**2
    low = 2 if setting.bf16 else 4
    layer = setting.batch * tokens * sizes.embed_dims * (
        2 * 4 + 2 * sizes.mlp_ratio * low)
    return (layer + 4 * parameter_count(
        setting.arch, setting.patch_size)) / _MIB
