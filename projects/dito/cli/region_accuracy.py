# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The annotated boxes of a test set, classified."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from dito.utils.printable import printable

from . import common
from .options import command


def use_given_boxes(cfg: Config, score: str) -> None:
    """Turn the test of a detector into one on annotated boxes, in place.

    For ``score`` see :class:`DITORegionClassifier`; ValueError if the config
    is not a detector's.
    """
    if cfg.model.type != 'DITO':
        raise ValueError(
            f'{cfg.filename} is a config of {cfg.model.type}; '
            'give one of a detector (DITO).'
        )
    cfg.model.type = 'DITORegionClassifier'
    cfg.model.score = score
    cfg.model.teacher = None
    # Given boxes have no masks.
    cfg.model.roi_head.update(mask_roi_extractor=None, mask_head=None)
    if cfg.model.get('test_cfg'):
        cfg.model.test_cfg.pop('given_boxes', None)
    evaluators = cfg.test_evaluator
    if not isinstance(evaluators, (list, tuple)):
        evaluators = [evaluators]
    cfg.test_evaluator = [
        dict(type='DITORegionMetric'),
        *(
            dict(e, metric='bbox') if 'metric' in e else e
            for e in evaluators
            if e['type'] != 'DITORegionMetric'
        ),
    ]
    for hook in cfg.get('custom_hooks') or ():
        if hook['type'] == 'DITOLoadReportHook':
            hook['test_allowed_missing'] = _not_needed(score)
            hook['allowed_unused'] = ['logit_scale', 'roi_head.mask_head']


def _not_needed(score: str) -> Sequence[str]:
    """Modules that a checkpoint may lack; a lacking projection is none."""
    if score == 'vlm':
        return ['neck', 'rpn_head', 'roi_head']
    return ['rpn_head', 'roi_head.vlm_proj']


@command
def main(args: Namespace) -> int:
    """Classify the boxes and print the figures."""
    run(args)
    return 0


def run(args: Namespace) -> dict[str, Any]:
    """Evaluate, and print a line a figure."""
    cfg = common.load_config(args.config, args.cfg_options)
    args.checkpoint = common.find_checkpoint(args.checkpoint)
    common.require_keys(
        cfg,
        dict(
            test_dataloader='it cannot be tested',
            test_evaluator='it cannot be tested',
        ),
    )
    common.set_work_dir(cfg, args.work_dir)
    use_given_boxes(cfg, args.score)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    common.set_launcher(cfg, args.launcher, args.local_rank)
    figures = common.build_runner(cfg).test()
    for name, value in figures.items():
        if name.startswith('region/') or 'AP' in name:
            print(printable(f'{name}: {value:.4f}'))
    return figures
