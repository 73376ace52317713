# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Whether a checkpoint is one that a training can go on from.

MMEngine takes what it finds: a weight that is missing or of another shape
stays random, and an optimizer that is not there starts anew, while the count
of iterations goes on; other files end in errors of dicts and of torch.
"""

from collections.abc import Mapping
from typing import Any

from mmengine.runner import FlexibleRunner

from dito.models.utils import unwrap_model

# Settings by which optimizers tell their states apart.
_SETTINGS = frozenset(('betas', 'momentum', 'alpha', 'rho', 'lr_decay'))
_WEIGHTS = (
    'it holds weights, not the state of a training; start from them '
    'with --cfg-options load_from={path}, or give --resume a '
    'checkpoint that a training wrote'
)


def check_training_state(runner: Any, checkpoint: dict[str, Any]) -> None:
    """Refuse to resume from what is no training of this model.

    ValueError if the checkpoint, not yet loaded, holds weights alone, or the
    state of another model or optimizer.
    """
    path = runner._load_from
    fault = _incomplete(checkpoint)
    # Strategies shard weights and optimizer, and compare them themselves.
    if fault is None and not isinstance(runner, FlexibleRunner):
        fault = _other_model(
            runner.model, checkpoint['state_dict']
        ) or _other_optimizer(
            runner.optim_wrapper, checkpoint.get('optimizer')
        )
    if fault is not None:
        raise ValueError(
            f'{path} cannot be resumed: {fault.format(path=path)}.'
        )
    schedulers = getattr(runner, 'param_schedulers', None)
    wanted = dict(optimizer=True, param_schedulers=bool(schedulers))
    for part in [k for k, v in wanted.items() if v and k not in checkpoint]:
        runner.logger.warning(
            f'{path} was saved without the state of the {part} '
            f'(save_{part.rstrip("s")}=False), which begins anew.'
        )


def _incomplete(checkpoint: dict[str, Any]) -> Any:
    """What a training has not written so."""
    meta = checkpoint.get('meta')
    if not isinstance(meta, Mapping) or not all(
        type(meta.get(key)) is int for key in ('epoch', 'iter')
    ):
        return _WEIGHTS
    if not isinstance(checkpoint.get('message_hub'), Mapping):
        return _WEIGHTS
    for key in ('state_dict', 'optimizer'):
        if not isinstance(checkpoint.get(key, {}), Mapping):
            return f'its {key} is a {type(checkpoint[key]).__name__}'
    return None if 'state_dict' in checkpoint else 'it has no weights'


def _other_model(model: Any, state: Mapping[str, Any]) -> Any:
    """Which trained weights are not in the file, or are others."""
    model = unwrap_model(model)
    state = {
        key.removeprefix('module.'): value
        for key, value in state.items()
        if isinstance(key, str)
    }
    faults = [
        f'{name} {tuple(value.shape)}'
        + (f', there {tuple(state[name].shape)}' if name in state else '')
        for name, value in model.named_parameters()
        if getattr(state.get(name), 'shape', None) != value.shape
    ]
    if not faults:
        return None
    more = f' and {len(faults) - 3} more' if len(faults) > 3 else ''
    return (
        f'it is of another model, {len(faults)} weights are not in it or '
        f'of another shape: {"; ".join(faults[:3])}{more}; resume with '
        'the config it was trained with, or start from its weights with '
        '--cfg-options load_from={path}'
    )


def _other_optimizer(wrapper: Any, state: Any) -> Any:
    """How the groups of parameters differ."""
    own = (
        _groups(wrapper.state_dict())
        if hasattr(wrapper, 'state_dict')
        else None
    )
    if not state or own is None or own == _groups(state):
        return None
    return (
        'its optimizer is another or has other groups of parameters; '
        'resume with the optim_wrapper it was trained with, or start from '
        'its weights with --cfg-options load_from={path}'
    )


def _groups(state: Mapping[str, Any]) -> list[Any]:
    """Sizes and kinds of the groups of one or several optimizers."""
    if 'param_groups' in state:
        return [
            (len(group['params']), _SETTINGS.intersection(group))
            for group in state['param_groups']
        ]
    return [
        (name, _groups(part))
        for name, part in state.items()
        if isinstance(part, Mapping) and 'param_groups' in part
    ]
