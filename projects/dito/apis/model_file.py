# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A detector in one file: weights, and the config to build it from."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from torch import nn

from dito.utils.checkpoint import (
    check_suffix,
    load_from_file,
    save_safetensors,
    state_dict_of,
)
from dito.utils.configs import find_config
from dito.utils.printable import printable

from .config_text import (
    SETTINGS_HOOKS,
    check_config,
    imports_by_name_refused,
    parse_config_text,
)

Source = str | Path | Config | ConfigDict | dict

_WEIGHTS = ('.safetensors', '.pth', '.pt')
# What inference needs of a config.
_KEPT = ('default_scope', 'model', 'visualizer')


class EmbeddedConfig(Config):
    """A config out of a file of weights: checked, and data to the last."""


@contextmanager
def building(cfg: Config) -> Iterator[None]:
    """Build from a config of :func:`load_model_source` in this context.

    For one out of a file of weights MMEngine imports no name that is not
    registered; what cannot be built is a ValueError.
    """
    if not isinstance(cfg, EmbeddedConfig):
        yield
        return
    try:
        with imports_by_name_refused():
            yield
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:  # whatever arguments lead to
        reason = printable(' '.join(str(error).split()))[:200]
        raise ValueError(
            'No detector can be built from the config inside the weights '
            f'({type(error).__name__}: {reason}); give a config file of your '
            'own.'
        ) from error


def load_model_source(
    model: Source | None = None, weights: str | Path | None = None
) -> tuple[Config, dict[str, Any] | None]:
    """The config, which may be changed, and checkpoint that a user means.

    ``model`` is a config, the file or the name of one, or a file of weights
    that holds its config; ``weights`` a ``.safetensors`` or ``.pth`` file.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If neither holds a config, or both are weights.
        TypeError: If ``model`` is something else.
    """
    if isinstance(model, (str, Path)) and str(model).lower().endswith(
        _WEIGHTS
    ):
        if weights is not None:
            raise ValueError(
                f'Both {model} and {weights} are files of '
                'weights; give one, or a config and one.'
            )
        model, weights = None, model
    checkpoint = None if weights is None else load_from_file(str(weights))
    if checkpoint is not None:
        _check_meta(checkpoint, weights)
    if isinstance(model, (str, Path)):
        return Config.fromfile(find_config(model)), checkpoint
    if isinstance(model, dict):
        return Config(copy.deepcopy(dict(model))), checkpoint
    if isinstance(model, Config):
        return copy.deepcopy(model), checkpoint
    if model is not None:
        raise TypeError(
            'model must be a path, a config name, a Config or a '
            f'dict, got {type(model).__name__}.'
        )
    if checkpoint is None:
        raise ValueError('Give a config, or a file of weights that holds one.')
    return _embedded_config(checkpoint, weights), checkpoint


def save_model(
    path: str | Path,
    model: nn.Module,
    cfg: Config,
    dataset_meta: dict[str, Any] | None = None,
) -> None:
    """Write a detector as one file that :class:`DITOInferencer` reads.

    Of the config only what inference needs is kept, no paths of data.
    ``dataset_meta`` has ``classes`` and ``novel_classes`` of the training, so
    that the file knows which names are base ones.

    Raises:
        ValueError: If the path does not end in ``.safetensors``.
    """
    check_suffix(path, 'A model')
    state = model.state_dict()
    small = inference_config(cfg, state)
    save_safetensors(state, path, weights_meta(small, dataset_meta))


def weights_meta(
    cfg: Config, dataset_meta: dict[str, Any] | None
) -> dict[str, Any]:
    """Metadata of a file of weights that says by itself what it is."""
    meta = {
        key: list((dataset_meta or {}).get(key) or ())
        for key in ('classes', 'base_classes', 'novel_classes')
    }
    return dict(cfg=cfg.pretty_text, dataset_meta=meta)


def inference_config(cfg: Config, state: dict[str, Any]) -> Config:
    """Reduce a config to what inference needs, without data paths.

    The token table among the weights says how many rows the text tower has.
    """
    plain = cfg.to_dict()
    small = {key: plain[key] for key in _KEPT if key in plain}
    _drop_sources(small['model'], state)
    pipeline = test_dataset(cfg)['pipeline']
    small['test_dataloader'] = dict(
        dataset=dict(
            pipeline=[
                _without_backend(step)
                for step in Config(dict(p=pipeline)).to_dict()['p']
            ]
        )
    )
    small['custom_hooks'] = [
        hook
        for hook in plain.get('custom_hooks') or ()
        if hook['type'] == 'DITOLoadReportHook'
    ] + [dict(type='DITOVocabularyHook', templates=templates_of(cfg))]
    return Config(small)


def set_token_rows(model: dict[str, Any], state: dict[str, Any]) -> None:
    """Take the text tower's token table from the weights, in place.

    The config may name a file for it that no longer exists.
    """
    tower = model.get('text_encoder')
    ids = state.get('text_encoder.token_ids')
    if isinstance(tower, dict) and ids is not None:
        tower['token_ids'] = len(ids)


def _drop_sources(model: dict[str, Any], state: dict[str, Any]) -> None:
    """Forget where a training took weights from: the file has them all."""
    model.pop('teacher', None)
    if isinstance(model.get('vlm_backbone'), dict):
        model['vlm_backbone'].pop('checkpoint', None)
    _drop_init(model, pretrained=True)
    set_token_rows(model, state)


def _drop_init(value: Any, pretrained: bool) -> None:
    """Drop ``init_cfg`` at any depth; that of files only if asked to."""
    if isinstance(value, dict):
        if pretrained or 'checkpoint' not in str(value.get('init_cfg')):
            value.pop('init_cfg', None)
        value = list(value.values())
    for item in value if isinstance(value, (list, tuple)) else ():
        _drop_init(item, pretrained)


def test_dataset(cfg: Config) -> dict[str, Any]:
    """Innermost test data set; ValueError if none has a pipeline."""
    dataset = _innermost(cfg)
    if not dataset.get('pipeline'):
        raise ValueError(
            'The config has no test_dataloader with a pipeline; '
            'detection needs one to prepare images.'
        )
    return dataset


def _innermost(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Test data set within its wrappers, the first of several; {} if none."""
    dataset = cfg.get('test_dataloader')
    while isinstance(dataset, dict):
        inner = dataset.get('dataset')
        if inner is None and isinstance(
            dataset.get('datasets'), (list, tuple)
        ):
            inner = next(iter(dataset['datasets']), None)
        if inner is None:
            return dataset
        dataset = inner
    return {}


def hook_config(cfg: Config, kind: str) -> dict[str, Any]:
    """Settings of the first custom hook of a type, empty without one."""
    for hook in cfg.get('custom_hooks') or ():
        if hook['type'] == kind:
            return hook
    return {}


def templates_of(cfg: Config) -> Any:
    """Prompt templates that the config's tests use."""
    return hook_config(cfg, 'DITOVocabularyHook').get('templates', 'openai')


def _without_backend(step: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in step.items() if k != 'backend_args'}


def _check_meta(checkpoint: dict[str, Any], path: Any) -> None:
    """Refuse what is read of ``meta`` where it is of another type."""
    meta = checkpoint.get('meta')
    dataset = meta.get('dataset_meta') if isinstance(meta, dict) else None
    wrong = [] if isinstance(meta, (dict, type(None))) else [('meta', meta)]
    if isinstance(dataset, dict):
        for key in ('classes', 'base_classes', 'novel_classes'):
            names = dataset.get(key)
            if names is not None and not (
                isinstance(names, (list, tuple))
                and all(isinstance(name, str) for name in names)
            ):
                wrong.append((f'meta.dataset_meta.{key}', names))
    elif dataset is not None:
        wrong.append(('meta.dataset_meta', dataset))
    for key, value in wrong:
        raise ValueError(
            f'{path} has {key}={ascii(value)[:60]}, which should hold lists '
            'of class names; save its weights alone and give a config.'
        )


def _embedded_config(checkpoint: dict[str, Any], path: Any) -> Config:
    """Config that mmengine, or :func:`save_model`, put into a checkpoint."""
    hub = checkpoint.get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, dict) else None
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    text = info.get('cfg') if isinstance(info, dict) else None
    text = text or meta.get('cfg') or meta.get('config')
    if not isinstance(text, str):
        raise ValueError(f'{path} holds no config; give the config too.')
    config = parse_config_text(text, path)
    if not isinstance(config.get('model'), dict):
        raise ValueError(
            f'The config inside {path} has no model; give the config too.'
        )
    if str(path).lower().endswith('.safetensors'):
        _drop_init(config['model'], pretrained=False)
    else:
        config = _without_training(config, state_dict_of(checkpoint, path))
    config.setdefault('default_scope', 'mmdet')
    # Results are written by the inferencer, wherever it is asked to.
    for key in ('vis_backends', 'save_dir'):
        if isinstance(config.get('visualizer'), dict):
            config['visualizer'].pop(key, None)
    check_config(config, path)
    return EmbeddedConfig(config)


def _without_training(
    config: dict[str, Any], state: dict[str, Any]
) -> dict[str, Any]:
    """What inference reads of the config of a whole training."""
    small = {key: config[key] for key in _KEPT if key in config}
    _drop_sources(small['model'], state)
    dataset = _innermost(config)
    if dataset.get('pipeline'):
        pipeline = [
            _without_backend(step) if isinstance(step, dict) else step
            for step in dataset['pipeline']
        ]
        small['test_dataloader'] = dict(dataset=dict(pipeline=pipeline))
    hooks = [
        hook
        for hook in config.get('custom_hooks') or ()
        if isinstance(hook, dict) and hook.get('type') in SETTINGS_HOOKS
    ]
    return dict(small, custom_hooks=hooks)
