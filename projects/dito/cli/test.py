# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Evaluation of a checkpoint."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmdet.utils import setup_cache_size_limit_of_dynamo

from dito.models.roi_heads.box_masks import RunLengthMasks

from . import common, transfer
from .options import command


class DumpedDetections(DumpDetResults):
    """The file of ``--out``, which takes masks as run lengths."""

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the ``pred_instances`` of a batch; others as they are."""
        plain, masks = [], []
        for sample in data_samples:
            if 'pred_instances' not in sample:
                masks.append(None)
                plain.append(sample)
                continue
            found = dict(sample['pred_instances'])
            rles = None
            if isinstance(found.get('masks'), RunLengthMasks):
                # Copies: other metrics write into them.
                rles = [dict(rle) for rle in found.pop('masks')]
            masks.append(rles)
            plain.append(dict(sample, pred_instances=found))
        first = len(self.results)
        super().process(data_batch, plain)
        for result, rles in zip(self.results[first:], masks, strict=True):
            if rles is not None:
                result['pred_instances']['masks'] = rles


@command
def main(args: Namespace) -> int:
    """Evaluate."""
    setup_cache_size_limit_of_dynamo()
    cfg = common.load_config(args.config, args.cfg_options)
    args.checkpoint = common.find_checkpoint(args.checkpoint)
    common.require_keys(
        cfg,
        dict(
            model='it is a part to inherit from, not a config to run',
            test_dataloader='it cannot be tested',
            test_evaluator='it cannot be tested',
        ),
    )
    if args.data is not None:
        transfer.use_data(cfg, args)
    common.set_work_dir(cfg, args.work_dir)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.show or args.show_dir:
        if 'visualization' not in cfg.get('default_hooks', {}):
            raise ValueError(
                f'--show and --show-dir need default_hooks.visualization, '
                f'which {cfg.filename} does not set; add '
                "dict(type='DetVisualizationHook')."
            )
        cfg = trigger_visualization_hook(cfg, args)
    common.set_launcher(cfg, args.launcher, args.local_rank)
    runner = common.build_runner(cfg)
    if args.out:
        runner.test_evaluator.metrics.append(
            DumpedDetections(out_file_path=args.out)
        )
    runner.test()
    return 0
