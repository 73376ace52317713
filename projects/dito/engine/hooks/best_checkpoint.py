# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Checkpoints of the best figure so far."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import BaseLoop

# Figures of DITO's metrics, under their own prefix or any other one.
_OURS = re.compile(
    r'(coco|lvis|zero_shot|retrieval|region)/|.*(AP|AR|R@\d)'
    r'|(.*/)?(all|base|novel)_(ap50|mean|top\d+)$'
)


class BestCheckpointHook(CheckpointHook):
    """MMEngine's :obj:`CheckpointHook` with ``save_best`` for DITO's figures.

    ``save_best`` takes the names of DITO's figures, with or without the
    metric's prefix, those of MMDetection ('coco/bbox_mAP' is
    'coco/bbox_AP'), and 'auto', the first figure. Of all of DITO's figures
    greater is better.

    Args:
        Those of :obj:`CheckpointHook`.

    Raises:
        ValueError: If one of them is of another type, or ``save_best`` does
            not tell whether greater or less is better.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except (AssertionError, TypeError) as error:
            reason = (
                str(error)
                .replace('"', '')
                .removeprefix('CheckpointHook.__init__() ')
            )
            raise ValueError(
                f'default_hooks.checkpoint={kwargs} cannot be set up: '
                f'{reason or "a value is of another type"}.'
            ) from error

    def before_train(self, runner: Any) -> None:
        """Prepare the folder; ValueError if ``save_best`` is not there."""
        self._check_best(runner)
        super().before_train(runner)
        if isinstance(self.file_backend, LocalBackend):
            self._find_best(runner)

    def _find_best(self, runner: Any) -> None:
        """Look for best checkpoints here, where the folder was moved."""
        if not self.save_best:
            return
        keys = self.key_indicators
        names = (
            ['best_ckpt']
            if len(keys) == 1
            else [f'best_ckpt_{key}' for key in keys]
        )
        for key, name in zip(keys, names, strict=True):
            path = runner.message_hub.runtime_info.get(name)
            if (
                path is None
                or Path(path).resolve().parent == Path(self.out_dir).resolve()
            ):
                continue
            own = Path(self.out_dir) / Path(path).name
            found = str(own) if own.is_file() else None
            runner.message_hub.update_info(name, found)
            if len(keys) == 1:
                self.best_ckpt_path = found
            else:
                self.best_ckpt_path_dict[key] = found

    def _init_rule(
        self, rules: list[str | None], key_indicators: list[str]
    ) -> None:
        """Tell whether greater or less is better; not left to a guess."""
        rules = rules * len(key_indicators) if len(rules) == 1 else rules
        rules = [
            'greater' if rule is None and _OURS.match(key) else rule
            for rule, key in zip(rules, key_indicators, strict=True)
        ]
        try:
            super()._init_rule(rules, key_indicators)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f'save_best={key_indicators} with rule={rules} does not say '
                "whether greater or less is better: set rule='greater' or "
                "rule='less' beside it."
            ) from error

    def _check_best(self, runner: Any) -> None:
        """Refuse a figure whose metric the validation does not have."""
        loop = getattr(runner, '_val_loop', None)
        if not self.save_best or not isinstance(loop, BaseLoop):
            return
        prefixes = {
            metric.prefix
            for part in (loop, *getattr(loop, 'extra', ()))
            for metric in part.evaluator.metrics
        }
        for name in self.key_indicators:
            prefix, slash, _ = name.partition('/')
            if slash and None not in prefixes and prefix not in prefixes:
                raise ValueError(
                    f'save_best={name!r} is a figure of a metric {prefix!r}, '
                    'but those of the validation are '
                    f'{sorted(prefixes)}: name one of their figures, such as '
                    "'coco/bbox_AP', or 'auto' for the first."
                )

    def _save_best_checkpoint(
        self, runner: Any, metrics: dict[str, float]
    ) -> None:
        """Save the weights if they are the best so far."""
        if not self.save_best:
            return
        figures = dict(metrics)
        for name in self.key_indicators:
            key = (
                next(iter(metrics))
                if name == 'auto'
                else find_figure(name, metrics)
            )
            if key is None:
                # Hours into a run, a message is better than an end.
                runner.logger.error(
                    f'save_best={name!r} is none of the figures of this '
                    f'validation, and no best checkpoint is saved: '
                    f'{", ".join(metrics)}.'
                )
            elif name != 'auto':
                figures[name] = metrics[key]
            figures.setdefault(name, None)
        try:
            super()._save_best_checkpoint(runner, figures)
        except ValueError as error:
            if self.key_indicators != ['auto']:
                raise
            runner.logger.error(f'No best checkpoint is saved: {error}')


def find_figure(name: str, figures: Mapping[str, Any]) -> str | None:
    """Key of a figure, by its name here or in MMDetection ('coco/bbox_mAP').

    None if there is none, or several.
    """
    ours = re.sub(r'mAP(?:_(?=\w))?', 'AP', name)
    for wanted in (name, ours):
        if wanted in figures:
            return wanted
        ends = [key for key in figures if key.partition('/')[2] == wanted]
        if len(ends) == 1:
            return ends[0]
    return None
