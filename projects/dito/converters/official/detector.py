# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Weights of the release's whole detector, pretrained or finetuned."""

from collections.abc import Mapping

import numpy as np

from .layout import OfficialSizes, compare
from .parts import (
    StateDict,
    convert_box_head,
    convert_fpn,
    convert_mask_head,
    convert_rpn_head,
    convert_vit,
)

Tree = dict[str, np.ndarray]

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


def convert_official(params: Mapping[str, np.ndarray]) -> StateDict:
    """Convert the release's whole Flax tree to :class:`DITO`.

    A finetuned tree, with 'vision_model', 'frozen_vision_model' and
    'task_heads_0', gives the whole detector; its frozen backbone becomes
    ``vlm_backbone``, and without a mask head there is none here. A
    pretrained tree ('visual') gives backbone, pyramid and box head, all that
    it has; the temperature starts at 1.

    Args:
        params (dict[str, ndarray]): Flat Flax tree of a checkpoint, names
            such as 'optimizer/target/vision_model/conv1/kernel',
            'vision_model/conv1/kernel' or
            'model_state/params/visual/conv1/kernel'. Step counter, optimiser
            state and text tower are left out.

    Returns:
        dict[str, Tensor]: State dict of the detector, float32.

    Raises:
        ValueError: If a name is missing or not known or an array has another
            shape; each is listed.
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
