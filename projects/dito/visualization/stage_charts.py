# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Which logged values are drawn together."""

import re
from typing import Dict, List

from .curves import Chart, Series
from .training_log import StageLog

_LEVEL = re.compile(r'_p(\d)$')
_NAMES = {
    'loss_rpn': 'objectness loss (L1)',
    'rpn_target': 'mean target (cosine)',
    'loss_rpn_center': 'centerness',
    'loss_rpn_bbox': 'proposal boxes',
    'loss_cls': 'classes',
    'loss_bbox': 'boxes',
    'loss_mask': 'masks',
    'loss_distill': 'distillation',
}


def _series(log: StageLog, keys: List[str]) -> List[Series]:
    return [Series(_name(key), log.curve(key)) for key in keys]


def _name(key: str) -> str:
    level = _LEVEL.search(key)
    if level:
        return f'level P{level.group(1)}'
    return _NAMES.get(key, key.removeprefix('loss_').replace('_', ' '))


def stage_charts(log: StageLog) -> List[Chart]:
    """Charts of a training of any stage.

    Contrastive losses and R@1 of the pyramid's levels, what the proposal
    head does, and all other losses, each where it was logged.

    Args:
        log (StageLog): Log of a training.

    Returns:
        list[Chart]: Charts with at least one line.
    """
    losses = log.keys('loss_')
    rpn = [k for k in losses if 'rpn' in k]
    contrastive = [k for k in losses if f'recall_{k[5:]}' in
                   log.keys('recall_')]
    others = [k for k in losses if k not in rpn + contrastive]
    groups: Dict[str, List[str]] = {
        'Contrastive loss': contrastive,
        'R@1 within the batch': log.keys('recall_'),
        'Proposal head': rpn + log.keys('rpn_target'),
        'Box and mask head, distillation': others,
    }
    return [
        Chart(title, _series(log, keys), from_zero=title[0] != 'C')
        for title, keys in groups.items() if keys
    ]
