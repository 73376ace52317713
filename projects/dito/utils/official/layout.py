# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Names and shapes of the release's parameters, from a few sizes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


@dataclass(frozen=True)
class OfficialSizes:
    """Sizes of the release's detector; the defaults are its ViT-L/16.

    Attributes:
        width (int): Channels of the tower, and of the text embeddings.
        layers (int): Transformer layers.
        heads (int): Attention heads.
        mlp (int): Hidden channels of the MLPs.
        patch (int): Side of a patch in pixels.
        positions (int): Rows of the positional embedding.
        filters (int): Channels of pyramid and heads.
        fc (int): Width of the box head's linear layer.
        embed (int): Size of the region embeddings.
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp: int = 4096
    patch: int = 16
    positions: int = 196
    filters: int = 256
    fc: int = 1024
    embed: int = 1024

    @classmethod
    def infer(
        cls,
        tower: Mapping[str, np.ndarray],
        pyramid: Mapping[str, np.ndarray],
        box_head: Mapping[str, np.ndarray],
    ) -> 'OfficialSizes':
        """Read the sizes off the arrays of three parts.

        Where one is missing it is the default; the comparison of names will
        tell.
        """
        start = 'transformer/resblocks.'
        numbers = {
            k[len(start) :].split('/')[0] for k in tower if k.startswith(start)
        }

        def size(
            tree: Mapping[str, np.ndarray], path: str, axis: int, default: int
        ) -> int:
            array = tree.get(path)
            known = array is not None and array.ndim > axis
            return int(array.shape[axis]) if known else default

        first = f'{start}0'
        return cls(
            width=size(tower, 'conv1/kernel', 3, cls.width),
            layers=len(numbers) or cls.layers,
            heads=size(tower, f'{first}/attn/query/kernel', 1, cls.heads),
            mlp=size(tower, f'{first}/mlp/c_fc/kernel', 1, cls.mlp),
            patch=size(tower, 'conv1/kernel', 0, cls.patch),
            positions=size(tower, 'positional_embedding', 0, cls.positions),
            filters=size(pyramid, 'Conv_0/kernel', 3, cls.filters),
            fc=size(box_head, 'fc6/kernel', 1, cls.fc),
            embed=size(box_head, 'class-predict/kernel', 1, cls.embed),
        )

    def tower(self) -> Shapes:
        """Shapes of the vision transformer."""
        width, heads = self.width, self.heads
        part = width // heads
        shapes = {
            'conv1/kernel': (self.patch, self.patch, 3, width),
            'conv1/bias': (width,),
            'positional_embedding': (self.positions, width),
            **_norm('ln_post', width),
        }
        for i in range(self.layers):
            at = f'transformer/resblocks.{i}'
            for name in ('query', 'key', 'value'):
                shapes[f'{at}/attn/{name}/kernel'] = (width, heads, part)
                shapes[f'{at}/attn/{name}/bias'] = (heads, part)
            shapes[f'{at}/attn/out/kernel'] = (heads, part, width)
            shapes[f'{at}/attn/out/bias'] = (width,)
            shapes.update(_dense(f'{at}/mlp/c_fc', width, self.mlp))
            shapes.update(_dense(f'{at}/mlp/c_proj', self.mlp, width))
            shapes.update(_norm(f'{at}/ln_1', width))
            shapes.update(_norm(f'{at}/ln_2', width))
        return shapes

    def pyramid(self) -> Shapes:
        """Shapes of the feature pyramid."""
        width, out = self.width, self.filters
        half, quarter = width // 2, width // 4
        shapes = {
            'ConvTranspose_0/kernel': (2, 2, width, half),
            'ConvTranspose_1/kernel': (2, 2, half, quarter),
            'ConvTranspose_2/kernel': (2, 2, width, half),
            **_norm('simfpn-l2-ln-d2', half),
        }
        for i, channels in enumerate((quarter, half, width, width)):
            shapes[f'Conv_{2 * i}/kernel'] = (1, 1, channels, out)
            shapes[f'Conv_{2 * i + 1}/kernel'] = (3, 3, out, out)
            for number in (1, 2):
                shapes.update(_norm(f'simfpn-l{i + 2}-ln-out-{number}', out))
        return shapes

    def proposal_head(self) -> Shapes:
        """Shapes of the proposal head."""
        out = self.filters
        shapes = {
            **_conv('rpn', 3, out, out),
            **_conv('rpn-1', 3, out, out),
            **_conv('rpn-class', 1, out, 1),
            **_conv('rpn-box', 1, out, 4),
        }
        for i in range(4):
            for suffix in ('', '-1'):
                shapes.update(
                    _norm(f'SubRpnHead_{i}/rpn-l{i + 2}-bn{suffix}', out)
                )
        return shapes

    def box_head(self) -> Shapes:
        """Shapes of the box head: 4 convolutions, a linear layer."""
        shapes: Shapes = {}
        for i in range(4):
            shapes.update(_conv(f'conv_{i}', 3, self.filters, self.filters))
            shapes.update(_norm(f'conv_{i}_bn', self.filters))
        shapes.update(_dense('fc6', 49 * self.filters, self.fc))
        shapes.update(_norm('fc6_bn', self.fc))
        shapes.update(_dense('box-predict', self.fc, 4))
        shapes['class-predict/kernel'] = (self.fc, self.embed)
        return shapes

    def mask_head(self) -> Shapes:
        """Shapes of the mask head."""
        out = self.filters
        shapes: Shapes = {}
        for i in range(4):
            shapes.update(_conv(f'mask-conv-l{i}', 3, out, out))
            shapes.update(_norm(f'mask-conv-l{i}-bn', out))
        shapes.update(_conv('conv5-mask', 2, out, out))
        shapes.update(_norm('conv5-mask-bn', out))
        shapes.update(_conv('mask_fcn_logits', 1, out, 1))
        return shapes

    def detector(self, mask: bool = True) -> Shapes:
        """Shapes of a finetuned detector, frozen backbone and all."""
        heads = {
            'feature_pyramid_fn': self.pyramid(),
            'region_proposal_head_fn': self.proposal_head(),
            'fastrcnn_head_fn': self.box_head(),
            **({'maskrcnn_head_fn': self.mask_head()} if mask else {}),
        }
        groups = {
            'vision_model': self.tower(),
            'frozen_vision_model': self.tower(),
            **{f'task_heads_0/{k}': v for k, v in heads.items()},
        }
        return dict(_nested(groups), **{'task_heads_0/temperature': (1,)})

    def pretrained(self) -> Shapes:
        """Shapes of the pretrained 'visual' group."""
        return dict(
            self.tower(),
            **_nested(
                {
                    'feature_pyramid_fn': self.pyramid(),
                    'fastrcnn_head_fn': self.box_head(),
                }
            ),
        )


def _nested(groups: Mapping[str, Shapes]) -> Shapes:
    return {
        f'{group}/{name}': shape
        for group, shapes in groups.items()
        for name, shape in shapes.items()
    }


def _norm(path: str, width: int) -> Shapes:
    return {f'{path}/scale': (width,), f'{path}/bias': (width,)}


def _dense(path: str, c_in: int, c_out: int) -> Shapes:
    return {f'{path}/kernel': (c_in, c_out), f'{path}/bias': (c_out,)}


def _conv(path: str, side: int, c_in: int, c_out: int) -> Shapes:
    return {
        f'{path}/kernel': (side, side, c_in, c_out),
        f'{path}/bias': (c_out,),
    }


def leaf_order(names: Iterable[str]) -> list[str]:
    """Order in which JAX and TensorFlow flatten a tree: level by level."""
    return sorted(names, key=lambda name: name.split('/'))


def compare(shapes: Shapes, arrays: Mapping[str, np.ndarray]) -> None:
    """Check that a tree has exactly the expected arrays.

    ValueError if names are missing or not known or shapes differ; it lists
    each.
    """
    missing = [k for k in shapes if k not in arrays]
    unknown = [k for k in arrays if k not in shapes]
    wrong = [
        f'{k} {tuple(arrays[k].shape)} instead of {shapes[k]}'
        for k in shapes
        if k in arrays and tuple(arrays[k].shape) != shapes[k]
    ]
    found = [
        f'{len(names)} {kind}: {", ".join(names)}'
        for kind, names in (
            ('missing', missing),
            ('not known', unknown),
            ('of another shape', wrong),
        )
        if names
    ]
    if found:
        raise ValueError(
            f'The parameters do not fit the release: {"; ".join(found)}.'
        )
