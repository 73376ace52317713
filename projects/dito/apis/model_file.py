# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A detector in one file: weights, and the config to build it from."""

import copy
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

from mmengine.config import Config, ConfigDict
from torch import nn

from dito.utils.checkpoint import (
    load_from_file,
    save_safetensors,
)
from dito.utils.config_finder import find_config
from dito.utils.config_text import parse_config_text

Source = Union[str, Path, Config, ConfigDict, dict]

_WEIGHTS = ('.safetensors', '.pth', '.pt')
# What inference needs of a config.
_KEPT = ('default_scope', 'model', 'visualizer')


def load_model_source(
    model: Optional[Source] = None,
    weights: Union[str, Path, None] = None
) -> Tuple[Config, Optional[Dict[str, Any]]]:
    """Find the config and the weights that a user means.

    Args:
        model (str | Path | Config | dict, optional): Config file, name of one
            of DITO's configs, a config, or a file of weights that holds its
            config.
        weights (str | Path, optional): ``.safetensors`` or ``.pth`` file.

    Returns:
        tuple: A Config that may be changed, and the checkpoint or None.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If neither holds a config, or both are weights.
        TypeError: If ``model`` is something else.
    """
    if isinstance(model, (str, Path)) and str(model).endswith(_WEIGHTS):
        if weights is not None:
            raise ValueError(f'Both {model} and {weights} are files of '
                             'weights; give one, or a config and one.')
        model, weights = None, model
    checkpoint = None if weights is None else load_from_file(str(weights))
    if isinstance(model, (str, Path)):
        return Config.fromfile(find_config(model)), checkpoint
    if isinstance(model, dict):
        return Config(copy.deepcopy(dict(model))), checkpoint
    if isinstance(model, Config):
        return copy.deepcopy(model), checkpoint
    if model is not None:
        raise TypeError('model must be a path, a config name, a Config or a '
                        f'dict, got {type(model).__name__}.')
    if checkpoint is None:
        raise ValueError('Give a config, or a file of weights that holds one.')
    return _embedded_config(checkpoint, weights), checkpoint


def save_model(path: Union[str, Path],
               model: nn.Module,
               cfg: Config,
               dataset_meta: Optional[Dict[str, Any]] = None) -> None:
    """Write a detector as one file that :class:`DITOInferencer` reads.

    Args:
        path (str | Path): Target, ending in ``.safetensors``.
        model (nn.Module): The trained detector.
        cfg (Config): Config it was built from; of it only what inference
            needs is kept, no paths of data.
        dataset_meta (dict, optional): ``classes`` and ``novel_classes`` of
            the training, so that the file knows which names are base ones.

    Raises:
        ValueError: If the path has another suffix.
    """
    if Path(path).suffix != '.safetensors':
        raise ValueError(f'A model is saved as .safetensors, got {path}.')
    state = model.state_dict()
    small = inference_config(cfg, state)
    save_safetensors(state, path, weights_meta(small, dataset_meta))


def weights_meta(cfg: Config,
                 dataset_meta: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    """Metadata of a file of weights that says by itself what it is.

    Args:
        cfg (Config): Output of :func:`inference_config`.
        dataset_meta (dict, optional): Of the training.

    Returns:
        dict: Values that json can hold.
    """
    meta = {
        key: list((dataset_meta or {}).get(key) or ())
        for key in ('classes', 'base_classes', 'novel_classes')
    }
    return dict(cfg=cfg.pretty_text, dataset_meta=meta)


def inference_config(cfg: Config, state: Dict[str, Any]) -> Config:
    """Reduce a config to what inference needs, without data paths.

    Args:
        cfg (Config): Config of a training or test.
        state (dict): The model's weights; their token table says how many
            rows the text tower has.

    Returns:
        Config: A new config.
    """
    plain = cfg.to_dict()
    small = {key: plain[key] for key in _KEPT if key in plain}
    small['model'].pop('teacher', None)
    small['model'].pop('init_cfg', None)
    # Its weights are in the model's file.
    (small['model'].get('vlm_backbone') or {}).pop('checkpoint', None)
    set_token_rows(small['model'], state)
    pipeline = test_dataset(cfg)['pipeline']
    small['test_dataloader'] = dict(dataset=dict(pipeline=[
        _without_backend(step) for step in Config(dict(p=pipeline)).to_dict()
        ['p']
    ]))
    small['custom_hooks'] = [
        hook for hook in plain.get('custom_hooks') or ()
        if hook['type'] == 'DITOLoadReportHook'
    ] + [dict(type='DITOVocabularyHook', templates=templates_of(cfg))]
    return Config(small)


def set_token_rows(model: Dict[str, Any], state: Dict[str, Any]) -> None:
    """Take the text tower's token table from the weights, in place.

    The config may name a file for it that is not at hand any more.

    Args:
        model (dict): Config of the detector.
        state (dict): Its weights.
    """
    tower = model.get('text_encoder')
    ids = state.get('text_encoder.token_ids')
    if tower and ids is not None:
        tower['token_ids'] = len(ids)


def test_dataset(cfg: Config) -> Dict[str, Any]:
    """Innermost test data set of a config.

    Raises:
        ValueError: If the config has none with a pipeline.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    if not dataset.get('pipeline'):
        raise ValueError('The config has no test_dataloader with a pipeline; '
                         'detection needs one to prepare images.')
    return dataset


def hook_config(cfg: Config, kind: str) -> Dict[str, Any]:
    """Settings of the first custom hook of a type, empty without one."""
    for hook in cfg.get('custom_hooks') or ():
        if hook['type'] == kind:
            return hook
    return {}


def templates_of(cfg: Config) -> Any:
    """Prompt templates that the config's tests use."""
    return hook_config(cfg, 'DITOVocabularyHook').get('templates', 'openai')


def _without_backend(step: Dict[str, Any]) -> Dict[str, Any]:
    return {k: v for k, v in step.items() if k != 'backend_args'}


def _embedded_config(checkpoint: Dict[str, Any], path: Any) -> Config:
    """Config that mmengine, or :func:`save_model`, put into a checkpoint."""
    hub = checkpoint.get('message_hub') or {}
    text = (hub.get('runtime_info') or {}).get('cfg')
    meta = checkpoint.get('meta') or {}
    text = text or meta.get('cfg') or meta.get('config')
    if not isinstance(text, str):
        raise ValueError(f'{path} holds no config; give the config too.')
    return Config(parse_config_text(text))
