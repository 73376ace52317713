# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Fitting of a checkpoint to a model, and account of what was loaded."""

import math
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from torch import Tensor, nn

from dito.models.backbones.vit_layers import resize_pos_embed
from dito.models.utils import unwrap_model


def fit_state_dict(
    model: nn.Module,
    checkpoint: dict[str, Any],
    resampled: MutableMapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """Resize what can be resized, in place; returns the state dict.

    Modules with a method ``adapt_state_dict(state_dict, prefix)`` fit their
    own. ``resampled`` gets the names of what was resized, and from what to
    what.
    """
    state: MutableMapping[str, Any] = checkpoint.get('state_dict', checkpoint)
    for key in [k for k in state if k.startswith('module.')]:
        state[re.sub(r'^module\.', '', key)] = state.pop(key)
    for name, module in model.named_modules():
        if hasattr(module, 'adapt_state_dict'):
            module.adapt_state_dict(state, f'{name}.' if name else '')
    own = model.state_dict()
    for key, value in state.items():
        if key.endswith('pos_embed') and key in own:
            state[key] = fit_pos_embed(value, own[key])
            if resampled is not None and state[key] is not value:
                old, new = (math.isqrt(x.shape[1]) for x in (value, own[key]))
                resampled[key] = (
                    f'{key} from {old} x {old} to {new} x {new} positions'
                )
    return {k: v for k, v in state.items() if isinstance(v, Tensor)}


def fit_pos_embed(value: Tensor, target: Tensor) -> Tensor:
    """Resize a positional embedding (1, g * g, C) between square grids.

    It stays as it is if the shapes are one already or are not both square
    grids of one width.
    """
    if value.shape == target.shape or value.dim() != 3 or target.dim() != 3:
        return value
    old, new = math.isqrt(value.shape[1]), math.isqrt(target.shape[1])
    if (old * old, new * new, value.shape[2]) != (
        value.shape[1],
        target.shape[1],
        target.shape[2],
    ):
        return value
    grid = value.reshape(1, old, old, -1)
    return resize_pos_embed(grid, (new, new)).reshape(target.shape).to(value)


def _explain_mismatch(key: str, value: Tensor, target: Tensor) -> str:
    """Say how the shape of a weight differs, for a person."""
    shapes = (
        f'{key} {tuple(value.shape)} in the checkpoint, '
        f'{tuple(target.shape)} in the model'
    )
    if is_patch_mismatch(key, value, target):
        old, new = value.shape[-1], target.shape[-1]
        return (
            f'{key} is for patches of {old} x {old} pixels in the checkpoint '
            f'and of {new} x {new} in the model: set patch_size={old}, or '
            'convert the tower with dito clip-to-dito '
            f'--patch-size {new}'
        )
    if is_grid_mismatch(key, value, target):
        return (
            f'{key} has {value.shape[1]} positions in the checkpoint and '
            f'{target.shape[1]} in the model, and only square grids (without '
            'a class token) can be resized: set img_size to that of the '
            'checkpoint, or convert the tower with '
            'dito clip-to-dito'
        )
    return shapes


def is_patch_mismatch(key: str, value: Tensor, target: Tensor) -> bool:
    """Whether two patch embeddings differ in the patch's size alone."""
    return (
        key.endswith('patch_embed.proj.weight')
        and value.dim() == target.dim() == 4
        and value.shape[:2] == target.shape[:2]
    )


def is_grid_mismatch(key: str, value: Tensor, target: Tensor) -> bool:
    """Whether two position embeddings differ in their number alone."""
    return (
        key.endswith('pos_embed')
        and value.dim() == target.dim() == 3
        and value.shape[2] == target.shape[2]
    )


@dataclass
class LoadReport:
    """Keys of one loading: loaded, missing, unused, mismatched, resampled.

    Loaded ones are in both, with one shape, those resampled too; missing ones
    keep their start values. Texts tell of two shapes; ``tower`` are those of
    ``mismatched`` that come from another patch size or position grid.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    mismatched: dict[str, str] = field(default_factory=dict)
    resampled: dict[str, str] = field(default_factory=dict)
    tower: list[str] = field(default_factory=list)

    @classmethod
    def compare(
        cls,
        model: Mapping[str, Tensor],
        checkpoint: Mapping[str, Tensor],
        resampled: Mapping[str, str] | None = None,
    ) -> 'LoadReport':
        """Compare two state dicts by name and shape; the second is fitted."""
        report = cls(resampled=dict(resampled or {}))
        for key, value in model.items():
            if key not in checkpoint:
                report.missing.append(key)
            elif checkpoint[key].shape != value.shape:
                pair = key, checkpoint[key], value
                report.mismatched[key] = _explain_mismatch(*pair)
                if is_patch_mismatch(*pair) or is_grid_mismatch(*pair):
                    report.tower.append(key)
            else:
                report.loaded.append(key)
        report.unused = [k for k in checkpoint if k not in model]
        return report

    def table(self) -> str:
        """One line per group: how many keys went where."""
        columns = (
            self.loaded,
            self.resampled,
            self.missing,
            self.mismatched,
            self.unused,
        )
        groups: dict[str, list[int]] = {}
        for column, keys in enumerate(columns):
            for key in keys:
                groups.setdefault(group_of(key), [0] * 5)[column] += 1
        width = max(map(len, groups), default=5)
        lines = [
            f'{"group":<{width}}  loaded  resampled  missing  shape  unused'
        ]
        lines += [
            f'{name:<{width}}  {n[0]:6d}  {n[1]:9d}  {n[2]:7d}  {n[3]:5d}  '
            f'{n[4]:6d}'
            for name, n in sorted(groups.items())
        ]
        return '\n'.join(lines)


def group_of(key: str) -> str:
    """Top-level module of a key; of the RoI head its part."""
    parts = key.split('.')
    depth = 2 if parts[0] == 'roi_head' and len(parts) > 2 else 1
    return '.'.join(parts[:depth])


def under(key: str, prefixes: Sequence[str]) -> bool:
    """Whether a key is one of the prefixes or lies below one."""
    return any(key == p or key.startswith(f'{p}.') for p in prefixes)


@HOOKS.register_module()
class DITOLoadReportHook(Hook):
    """Report what ``load_from`` loads, and stop if something must not lack.

    mmengine loads what fits and warns about the rest in one long list, so a
    stage can start from random weights unnoticed. This hook counts loaded,
    missing, misshapen and unused keys by module, before the loading. The
    positional embedding is resized to the model's grid, the token table of
    the text tower is cut to its rows.

    In training the keys below ``required`` must be in the checkpoint. When
    a model is tested, all of its keys must. ``--resume`` is left alone.

    Args:
        required (Sequence[str]): Modules that the checkpoint of a training
            must hold, such as 'backbone' or 'roi_head.bbox_head'. Defaults
            to ().
        allowed_missing (Sequence[str]): Modules or keys that a training
            starts anew without a warning. Defaults to ().
        allowed_unused (Sequence[str]): Modules or keys of the checkpoint
            that may be left over without a warning. Defaults to ().
        test_allowed_missing (Sequence[str]): Modules or keys that may lack
            in a test. Defaults to ().
    """

    def __init__(
        self,
        required: Sequence[str] = (),
        allowed_missing: Sequence[str] = (),
        allowed_unused: Sequence[str] = (),
        test_allowed_missing: Sequence[str] = (),
    ) -> None:
        self.required = tuple(required)
        self.allowed_missing = tuple(allowed_missing)
        self.allowed_unused = tuple(allowed_unused)
        self.test_allowed_missing = tuple(test_allowed_missing)

    def before_train(self, runner: Any) -> None:
        """Warn if nothing was loaded although something must be."""
        if self.required and not runner._has_loaded:
            runner.logger.warning(
                'No checkpoint is loaded, all weights start at random; this '
                f'stage should get {", ".join(self.required)} from the stage '
                'before: set load_from.'
            )

    def after_load_checkpoint(
        self, runner: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Compare, report, and refuse, by a ValueError, what must not be.

        The state dict, not yet loaded, is fitted to the model in place.
        """
        if runner._resume:
            return
        model = unwrap_model(runner.model)
        resampled: dict[str, str] = {}
        state = fit_state_dict(model, checkpoint, resampled)
        report = LoadReport.compare(model.state_dict(), state, resampled)
        runner.logger.info(f'Weights by module:\n{report.table()}')
        if resampled:
            runner.logger.info(
                f'Resampled to the model: {", ".join(resampled.values())}'
            )
        training = isinstance(runner._train_loop, BaseLoop)
        self._warn(runner, report, training)
        self._check(model, report, training)

    def _warn(self, runner: Any, report: LoadReport, training: bool) -> None:
        """Name what was not foreseen."""
        foreseen = (
            self.allowed_missing if training else (self.test_allowed_missing)
        )
        missing = [k for k in report.missing if not under(k, foreseen)]
        unused = [
            k for k in report.unused if not under(k, self.allowed_unused)
        ]
        texts = {
            'not found in the checkpoint': missing,
            'of another shape, not loaded': list(report.mismatched.values()),
            'in the checkpoint but not used': unused,
        }
        for text, keys in texts.items():
            if keys:
                more = f' and {len(keys) - 8} more' if len(keys) > 8 else ''
                runner.logger.warning(
                    f'{len(keys)} keys {text}: {", ".join(keys[:8])}{more}'
                )

    def _check(
        self, model: nn.Module, report: LoadReport, training: bool
    ) -> None:
        """Raise for what must be there."""
        if not report.loaded:
            raise ValueError(
                'None of the weights of the checkpoint fits the model: it '
                f'has keys such as {report.unused[:3]}, the model such as '
                f'{report.missing[:3]}; convert it first: '
                'see "dito clip-to-dito" and "dito official-to-dito".'
            )
        failed = [*report.missing, *report.mismatched]
        if training:
            failed = [
                k
                for k in failed
                if under(k, self.required)
                and not under(k, self.allowed_missing)
            ]
            failed += [
                p
                for p in self.required
                if not any(under(k, (p,)) for k in model.state_dict())
            ]
        else:
            failed = [
                k for k in failed if not under(k, self.test_allowed_missing)
            ]
        for key in report.tower:
            if key in failed:
                raise ValueError(f'{report.mismatched[key]}.')
        if failed:
            shapes = [report.mismatched.get(k, k) for k in failed[:5]]
            raise ValueError(
                f'{len(failed)} weights that '
                f'{"this stage" if training else "the model"} must get from '
                f'the checkpoint are not in it: {", ".join(shapes)}'
                f'{" ..." if len(failed) > 5 else ""}; give the checkpoint '
                'of the stage before, or change the load report hook of the '
                'config.'
            )
