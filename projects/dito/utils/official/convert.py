# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Weights of the release's detector, whole and by part.

Each function takes the flat Flax tree of a part, arrays by path
(``dict[str, ndarray]``), and returns the state dict of the module here
(``dict[str, Tensor]``, float32); a ValueError says which parameter is missing
or not known.

    (height, width, in, out) of a convolution becomes (out, in, height, width)
    (in, out) of a linear layer becomes (out, in)

Transposed convolutions are flipped in space as well. What the release calls
'bn' are LayerNorms.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .layout import OfficialSizes, compare

StateDict = dict[str, Tensor]
Tree = dict[str, np.ndarray]
# Box deltas are (dy, dx, dh, dw) in the release, (dx, dy, dw, dh) here.
_XYWH = [1, 0, 3, 2]
# Where the tree of a detector or a pretrained model may start.
_DETECTOR_ROOTS = ('optimizer/target/', 'params/', '')
_PRETRAINED_ROOTS = ('model_state/params/visual/', 'params/visual/', 'visual/')
# What a checkpoint holds beside them: the counter, the optimiser's moments
# and the text tower, of which the release uses an exported copy.
_BESIDE_DETECTOR = ('step', 'optimizer/state/', 'model_state/')
_BESIDE_PRETRAINED = (
    'step',
    'optimizer/',
    'model_state/params/text/',
    'params/text/',
    'text/',
)


class ParamTree:
    """A flat parameter tree that knows which of its arrays were read.

    Paths are such as 'transformer/resblocks.0/ln_1/scale'; errors name the
    part.
    """

    def __init__(self, params: Mapping[str, np.ndarray], part: str) -> None:
        self.params = params
        self.part = part
        self.unread = set(params)

    def read(self, path: str) -> np.ndarray:
        """One array as float32; ValueError if there is no such path."""
        if path not in self.params:
            raise ValueError(
                f'{self.part}: the parameter {path!r} is missing; is this '
                'the tree of another part?'
            )
        self.unread.discard(path)
        return np.asarray(self.params[path], dtype=np.float32)

    def conv(self, path: str) -> Tensor:
        """Convolution kernel (kh, kw, in, out) as (out, in, kh, kw)."""
        return to_tensor(self.read(f'{path}/kernel').transpose(3, 2, 0, 1))

    def conv_transpose(self, path: str) -> Tensor:
        """Transposed convolution (kh, kw, in, out) as (in, out, kh, kw).

        Flax kernels of this kind are flipped in space against PyTorch's.
        """
        kernel = self.read(f'{path}/kernel')[::-1, ::-1]
        return to_tensor(kernel.transpose(2, 3, 0, 1))

    def linear(self, path: str) -> Tensor:
        """Dense kernel (in, out) as (out, in)."""
        return to_tensor(self.read(f'{path}/kernel').T)

    def bias(self, path: str) -> Tensor:
        """Bias as one vector."""
        return to_tensor(self.read(f'{path}/bias').ravel())

    def whole(self, kind: str, path: str, name: str) -> StateDict:
        """Kernel, by the method of its kind, and bias as ``name``'s."""
        return {
            f'{name}.weight': getattr(self, kind)(path),
            f'{name}.bias': self.bias(path),
        }

    def norm(self, path: str, name: str) -> StateDict:
        """LayerNorm scale and bias as ``name``'s weight and bias."""
        return {
            f'{name}.weight': to_tensor(self.read(f'{path}/scale')),
            f'{name}.bias': to_tensor(self.read(f'{path}/bias')),
        }

    def finish(self) -> None:
        """Check that every array was read, else ValueError."""
        if self.unread:
            raise ValueError(
                f'{self.part}: the parameters {sorted(self.unread)} are not '
                'known; is this the tree of another part?'
            )


def to_tensor(array: np.ndarray) -> Tensor:
    """Copy an array to a float32 tensor."""
    return torch.from_numpy(np.array(array, dtype=np.float32, order='C'))


def convert_vit(params: Mapping[str, np.ndarray]) -> StateDict:
    """Convert the vision transformer to :class:`DITOViT`.

    The tower it fits has ``act='gelu_tanh'`` and ``norm_eps=1e-6``. Paths are
    such as 'conv1/kernel', 'transformer/resblocks.0/attn/query/kernel'.
    """
    tree = ParamTree(params, 'vision transformer')
    state = tree.whole('conv', 'conv1', 'patch_embed.proj')
    state['pos_embed'] = to_tensor(tree.read('positional_embedding')[None])
    prefix = 'transformer/resblocks.'
    numbers = {
        int(path[len(prefix) :].split('/')[0])
        for path in params
        if path.startswith(prefix)
    }
    for number in sorted(numbers):
        state |= _convert_block(tree, f'{prefix}{number}', f'blocks.{number}')
    state |= tree.norm('ln_post', 'norm')
    tree.finish()
    return state


def _convert_block(tree: ParamTree, path: str, name: str) -> StateDict:
    """Convert one transformer layer."""
    weights, biases = [], []
    for part in ('query', 'key', 'value'):
        # (C, heads, C / heads) -> (out, in)
        kernel = tree.read(f'{path}/attn/{part}/kernel')
        weights.append(to_tensor(kernel.reshape(len(kernel), -1).T))
        biases.append(tree.bias(f'{path}/attn/{part}'))
    # (heads, C / heads, C) -> (out, in)
    out = tree.read(f'{path}/attn/out/kernel')
    state = {
        f'{name}.attn.qkv.weight': torch.cat(weights),
        f'{name}.attn.qkv.bias': torch.cat(biases),
        f'{name}.attn.proj.weight': to_tensor(
            out.reshape(-1, out.shape[-1]).T
        ),
        f'{name}.attn.proj.bias': tree.bias(f'{path}/attn/out'),
    }
    for theirs, ours in (('c_fc', 'fc1'), ('c_proj', 'fc2')):
        state |= tree.whole(
            'linear', f'{path}/mlp/{theirs}', f'{name}.mlp.{ours}'
        )
    for number in (1, 2):
        state |= tree.norm(f'{path}/ln_{number}', f'{name}.norm{number}')
    return state


def convert_fpn(params: Mapping[str, np.ndarray]) -> StateDict:
    """Convert the feature pyramid to :class:`SimpleFPN`.

    Flax numbers unnamed layers in the order they were made: level by level,
    the 1x1 before the 3x3 convolution. Paths are such as 'Conv_0/kernel',
    'simfpn-l2-ln-out-1/scale'.
    """
    tree = ParamTree(params, 'feature pyramid')
    state = {
        'up4.0.weight': tree.conv_transpose('ConvTranspose_0'),
        'up4.3.weight': tree.conv_transpose('ConvTranspose_1'),
        'up2.weight': tree.conv_transpose('ConvTranspose_2'),
        **tree.norm('simfpn-l2-ln-d2', 'up4.1'),
    }
    for index, level in enumerate(range(2, 6)):
        for part, name in enumerate(('lateral_convs', 'fpn_convs')):
            state[f'{name}.{index}.conv.weight'] = tree.conv(
                f'Conv_{2 * index + part}'
            )
            state |= tree.norm(
                f'simfpn-l{level}-ln-out-{part + 1}', f'{name}.{index}.ln'
            )
    tree.finish()
    return state


def convert_rpn_head(params: Mapping[str, np.ndarray]) -> StateDict:
    """Convert the proposal head to :class:`DITORPNHead`.

    The box convolution gives (left, right, top, bottom) on both sides; there
    is one set of norms per level. Paths are such as 'rpn/kernel',
    'SubRpnHead_0/rpn-l2-bn/scale'.
    """
    tree = ParamTree(params, 'proposal head')
    state: StateDict = {}
    for path, name in (
        ('rpn', 'rpn_convs.0'),
        ('rpn-1', 'rpn_convs.1'),
        ('rpn-class', 'rpn_cls'),
        ('rpn-box', 'rpn_reg'),
    ):
        state |= tree.whole('conv', path, name)
    for index, level in enumerate(range(2, 6)):
        for conv, suffix in enumerate(('', '-1')):
            state |= tree.norm(
                f'SubRpnHead_{index}/rpn-l{level}-bn{suffix}',
                f'rpn_norms.{index}.{conv}',
            )
    tree.finish()
    return state


def convert_box_head(
    params: Mapping[str, np.ndarray], temperature: np.ndarray | None = None
) -> StateDict:
    """Convert the box head to :class:`DITOBBoxHead`.

    RoI features are flattened as (height, width, channel) in Flax and as
    (channel, height, width) here, and box deltas change places. Paths are such
    as 'conv_0/kernel', 'fc6_bn/scale', 'class-predict/kernel'; the learnt
    temperature, one number, is outside of this tree, 1 at the start.
    """
    tree = ParamTree(params, 'box head')
    state: StateDict = {}
    num_convs = sum(
        p.startswith('conv_') and p.endswith('/kernel') for p in params
    )
    channels = 1
    for i in range(num_convs):
        state |= tree.whole('conv', f'conv_{i}', f'shared_convs.{i}.conv')
        state |= tree.norm(f'conv_{i}_bn', f'shared_convs.{i}.ln')
        channels = len(state[f'shared_convs.{i}.conv.bias'])
    state |= tree.whole('linear', 'fc6', 'shared_fc')
    state['shared_fc.weight'] = _flatten_channels_first(
        state['shared_fc.weight'], channels
    )
    state |= tree.norm('fc6_bn', 'shared_norm')
    state['fc_embed.weight'] = tree.linear('class-predict')
    state['fc_reg.weight'] = tree.linear('box-predict')[_XYWH]
    state['fc_reg.bias'] = tree.bias('box-predict')[_XYWH]
    tree.finish()
    state['temperature_scale'] = (
        torch.ones(1)
        if temperature is None
        else to_tensor(temperature).reshape(1)
    )
    return state


def _flatten_channels_first(weight: Tensor, channels: int) -> Tensor:
    """Reorder the inputs (h, w, c) of a linear layer to (c, h, w)."""
    size = math.isqrt(weight.shape[1] // channels)
    if size * size * channels != weight.shape[1]:
        raise ValueError(
            f'box head: fc6 has {weight.shape[1]} inputs, which are no '
            f'square map of {channels} channels.'
        )
    weight = weight.view(len(weight), size, size, channels)
    return weight.permute(0, 3, 1, 2).reshape(len(weight), -1).contiguous()


def convert_mask_head(params: Mapping[str, np.ndarray]) -> StateDict:
    """Convert the mask head to :class:`DITOMaskHead`.

    Paths are such as 'mask-conv-l0/kernel', 'conv5-mask/kernel'.
    """
    tree = ParamTree(params, 'mask head')
    state: StateDict = {}
    for i in range(4):
        state |= tree.whole('conv', f'mask-conv-l{i}', f'convs.{i}.conv')
        state |= tree.norm(f'mask-conv-l{i}-bn', f'convs.{i}.ln')
    state |= tree.whole('conv_transpose', 'conv5-mask', 'upsample')
    state |= tree.norm('conv5-mask-bn', 'upsample_norm')
    state |= tree.whole('conv', 'mask_fcn_logits', 'conv_logits')
    tree.finish()
    return state


def convert_official(params: Mapping[str, np.ndarray]) -> StateDict:
    """Convert the release's whole Flax tree to :class:`DITO`.

    A finetuned tree, with 'vision_model', 'frozen_vision_model' and
    'task_heads_0', gives the whole detector; its frozen backbone becomes
    ``vlm_backbone``, and without a mask head there is none here. A pretrained
    tree ('visual') gives backbone, pyramid and box head, all that it has; the
    temperature starts at 1.

    Names are such as 'optimizer/target/vision_model/conv1/kernel',
    'vision_model/conv1/kernel' or 'model_state/params/visual/conv1/kernel'.
    Step counter, optimiser state and text tower are left out. ValueError if a
    name is missing or not known or an array has another shape; each is listed.
    """
    kind, tree = _select_tree(params)
    if kind == 'pretrained':
        return _convert_pretrained(tree)
    return _convert_detector(tree)


def _select_tree(params: Mapping[str, np.ndarray]) -> tuple[str, Tree]:
    """Find the 'finetuned' or 'pretrained' parameters of a checkpoint."""
    for kind, marker, roots, beside in (
        ('finetuned', 'vision_model/', _DETECTOR_ROOTS, _BESIDE_DETECTOR),
        ('pretrained', 'conv1/', _PRETRAINED_ROOTS, _BESIDE_PRETRAINED),
    ):
        for root in roots:
            if not any(k.startswith(root + marker) for k in params):
                continue
            left = [
                k
                for k in params
                if not k.startswith(root) and not k.startswith(beside)
            ]
            if left:
                raise ValueError(
                    f'{len(left)} parameters beside {root!r} are not known: '
                    f'{", ".join(sorted(left))}.'
                )
            return kind, {
                k[len(root) :]: v
                for k, v in params.items()
                if k.startswith(root)
            }
    raise ValueError(
        'Neither a finetuned detector (vision_model/...) nor a pretrained '
        "model (visual/...) of the release was found; the checkpoint's names "
        f'are such as {sorted(params)[:3]}.'
    )


def _split_groups(
    tree: Mapping[str, np.ndarray], groups: list[str]
) -> tuple[dict[str, Tree], Tree]:
    """Split a flat tree by leading names: each group, and the rest."""
    parts: dict[str, Tree] = {group: {} for group in groups}
    rest: Tree = {}
    for name, array in tree.items():
        group = next((g for g in groups if name.startswith(f'{g}/')), None)
        if group is None:
            rest[name] = array
        else:
            parts[group][name[len(group) + 1 :]] = array
    return parts, rest


def _prefixed(state: StateDict, prefix: str) -> StateDict:
    return {f'{prefix}.{k}': v for k, v in state.items()}


def _convert_detector(tree: Tree) -> StateDict:
    names = [
        'feature_pyramid_fn',
        'region_proposal_head_fn',
        'fastrcnn_head_fn',
        'maskrcnn_head_fn',
    ]
    towers = ['vision_model', 'frozen_vision_model']
    parts, rest = _split_groups(
        tree, towers + [f'task_heads_0/{n}' for n in names]
    )
    trained, frozen, pyramid, rpn, box, mask = parts.values()
    sizes = OfficialSizes.infer(trained, pyramid, box)
    compare(sizes.detector(mask=bool(mask)), tree)
    return {
        **_prefixed(convert_vit(trained), 'backbone'),
        **_prefixed(convert_vit(frozen), 'vlm_backbone'),
        **_prefixed(convert_fpn(pyramid), 'neck'),
        **_prefixed(convert_rpn_head(rpn), 'rpn_head'),
        **_prefixed(
            convert_box_head(box, rest['task_heads_0/temperature']),
            'roi_head.bbox_head',
        ),
        **(
            _prefixed(convert_mask_head(mask), 'roi_head.mask_head')
            if mask
            else {}
        ),
    }


def _convert_pretrained(tree: Tree) -> StateDict:
    parts, tower = _split_groups(
        tree, ['feature_pyramid_fn', 'fastrcnn_head_fn']
    )
    pyramid, box = parts.values()
    compare(OfficialSizes.infer(tower, pyramid, box).pretrained(), tree)
    return {
        **_prefixed(convert_vit(tower), 'backbone'),
        **_prefixed(convert_fpn(pyramid), 'neck'),
        **_prefixed(convert_box_head(box), 'roi_head.bbox_head'),
    }
