# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Reading of public image-text models from local files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from open_clip.constants import (
    HF_SAFE_WEIGHTS_NAME,
    HF_WEIGHTS_NAME,
    OPENAI_DATASET_MEAN,
    OPENAI_DATASET_STD,
)
from open_clip.convert import convert_state_dict
from open_clip.model import (
    CLIP,
    CustomTextCLIP,
    convert_to_custom_text_state_dict,
)
from torch import Tensor, nn

from dito.models.text.text_tower import text_arch_of
from dito.utils.checkpoint import load_state_dict_file
from dito.utils.files import PathLike, read_json, sha256_of

_CONFIG = 'open_clip_config.json'
_WEIGHTS = (
    HF_SAFE_WEIGHTS_NAME,
    'open_clip_pytorch_model.safetensors',
    HF_WEIGHTS_NAME,
    'model.safetensors',
    'pytorch_model.bin',
)
# Numbers that OpenAI's files hold beside the weights.
_NUMBERS = ('input_resolution', 'context_length', 'vocab_size')


@dataclass
class TowerSource:
    """A public model with its weights, in evaluation mode, on the CPU.

    Attributes:
        name: open_clip's or timm's name, or that of a folder.
        state: Weights as in the file.
        config: open_clip's config of the model; empty for timm.
        preprocess: ``mean`` and ``std`` of RGB in [0, 1], ``interpolation``,
            ``resize_mode``.
        meta: Where it is from: names, file, sha256.
    """

    name: str
    library: str
    model: nn.Module
    state: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    preprocess: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


def read_source(
    name: str, weights: PathLike | None = None, tag: str | None = None
) -> TowerSource:
    """Read a model; nothing is downloaded.

    ``name`` is that of an open_clip model, ``timm:`` and that of a timm one,
    or a folder with ``open_clip_config.json`` and weights, as the hub of
    Hugging Face has them; ``weights`` a safetensors or torch file; ``tag``
    open_clip's name of these weights, such as 'openai', which decides
    activation and normalisation.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the name is not known or the weights do not fit it.
    """
    if Path(name).is_dir():
        if tag is not None:
            raise ValueError(
                f'A tag goes with a name of open_clip; the folder {name} says '
                'by itself what it holds.'
            )
        return _read_folder(Path(name), weights)
    if weights is None:
        raise ValueError(
            f'{name} is no folder, so the file with its weights is needed: '
            'give --weights.'
        )
    if name.startswith('timm:'):
        return _read_timm(name.partition(':')[2], Path(weights))
    config = open_clip.get_model_config(name) if ':' not in name else None
    if config is None:
        raise ValueError(
            f'{name!r} is neither a folder nor a model of open_clip; take one '
            'of open_clip.list_models(), or "timm:" and a name of timm.'
        )
    preprocess = _preprocess_of(name, tag)
    if preprocess.pop('quick_gelu', False):
        config['quick_gelu'] = True
    return read_open_clip(
        name, config, Path(weights), preprocess, dict(tag=tag)
    )


def read_open_clip(
    name: str,
    config: dict[str, Any],
    weights: Path,
    preprocess: dict[str, Any],
    meta: dict[str, Any],
) -> TowerSource:
    """Build a model of open_clip, by its config, and load its weights."""
    if 'multimodal_cfg' in config:
        raise ValueError(
            f'{name} is a CoCa model, whose towers are not those of a CLIP; '
            'take another.'
        )
    # Refuses text towers of other libraries before anything is built.
    text_arch_of(config, name)
    trunk = config['vision_cfg'].get('timm_model_name')
    # 'hf-hub:...' and 'local-dir:...' would lead to other files.
    if trunk is not None and not (
        isinstance(trunk, str) and ':' not in trunk and timm.is_model(trunk)
    ):
        raise ValueError(
            f'{name} has timm_model_name={ascii(trunk)[:80]}, which is no '
            'model of timm; see timm.list_models("vit_*").'
        )
    build = dict(config)
    custom = build.pop('custom_text', False)
    # Never a download of ImageNet weights that a config asks for.
    build['vision_cfg'] = dict(
        build['vision_cfg'], timm_model_pretrained=False
    )
    model = (CustomTextCLIP if custom else CLIP)(**build)
    state = convert_state_dict(model, load_state_dict_file(weights))
    if custom:
        state = convert_to_custom_text_state_dict(state)
    state = {
        k.removeprefix('' if custom else 'text.'): v
        for k, v in state.items()
        if k not in _NUMBERS
    }
    _load(model, state, name, weights)
    return TowerSource(
        name,
        'open_clip',
        model.eval(),
        state,
        config,
        preprocess,
        dict(
            _origin(weights),
            library='open_clip',
            model=name,
            **{k: v for k, v in meta.items() if v is not None},
        ),
    )


def _load(
    model: nn.Module, state: dict[str, Tensor], name: str, weights: PathLike
) -> None:
    """Load strictly, with an error that names what does not fit."""
    own = model.state_dict()
    for key in ('logit_scale', 'logit_bias'):
        if key in state and key in own:
            state[key] = state[key].reshape(own[key].shape)
    wrong: list[str] = [f'{k} is missing' for k in own if k not in state]
    wrong += [f'{k} is not known' for k in state if k not in own]
    wrong += [
        f'{k} is {tuple(v.shape)} instead of {tuple(own[k].shape)}'
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    if wrong:
        raise ValueError(
            f'{weights} does not hold the weights of {name}: '
            f'{"; ".join(wrong[:6])}'
            f'{f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""}.'
        )
    model.load_state_dict(state)


def _read_folder(folder: Path, weights: PathLike | None) -> TowerSource:
    """Read a folder as the hub of Hugging Face has them for open_clip."""
    path = folder / _CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f'{folder} has no {_CONFIG}; only folders of open_clip models '
            'can be read, give the name of a model and its weights instead.'
        )
    try:
        content = read_json(path)
        config = content['model_cfg']
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path} is no config of an open_clip model: {error!r}.'
        ) from error
    files = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    if weights is None and not files:
        raise FileNotFoundError(
            f'{folder} holds none of {", ".join(_WEIGHTS)}; give the file '
            'with --weights.'
        )
    given = content.get('preprocess_cfg', {})
    preprocess = {
        **_default_preprocess(),
        **{k: given[k] for k in _default_preprocess() if k in given},
    }
    return read_open_clip(
        folder.resolve().name,
        config,
        Path(weights or files[0]),
        preprocess,
        {},
    )


def _read_timm(name: str, weights: Path) -> TowerSource:
    """Read an image tower alone."""
    if not timm.is_model(name):
        raise ValueError(
            f'timm has no model {name!r}; see timm.list_models("vit_*").'
        )
    state = load_state_dict_file(weights)
    classes = len(state['head.weight']) if 'head.weight' in state else 0
    model = timm.create_model(name, pretrained=False, num_classes=classes)
    _load(model, state, name, weights)
    cfg = model.pretrained_cfg
    preprocess = dict(
        mean=cfg['mean'],
        std=cfg['std'],
        interpolation=cfg.get('interpolation', 'bicubic'),
        resize_mode='shortest',
    )
    return TowerSource(
        name,
        'timm',
        model.eval(),
        state,
        {},
        preprocess,
        dict(_origin(weights), library='timm', model=name),
    )


def _default_preprocess() -> dict[str, Any]:
    return dict(
        mean=OPENAI_DATASET_MEAN,
        std=OPENAI_DATASET_STD,
        interpolation='bicubic',
        resize_mode='shortest',
    )


def _preprocess_of(name: str, tag: str | None) -> dict[str, Any]:
    """What open_clip knows of a model's published weights."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag is not None and tag not in tags:
        raise ValueError(
            f'open_clip knows no weights {tag!r} of {name}: choose from '
            f'{tags}, or leave the tag out.'
        )
    known = [
        open_clip.get_pretrained_cfg(name, t) for t in ([tag] if tag else tags)
    ]
    keys = _default_preprocess()
    found = [{k: c.get(k, keys[k]) for k in keys} for c in known]
    if any(_statistics(f) != _statistics(found[0]) for f in found):
        raise ValueError(
            f'The published weights of {name} differ in mean and std: say '
            f'which they are with --tag, one of {tags}.'
        )
    result = found[0] if found else keys
    if tag is not None:
        result['quick_gelu'] = known[0].get('quick_gelu', False)
    return result


def _statistics(preprocess: dict[str, Any]) -> tuple[Sequence[float], ...]:
    return tuple(preprocess['mean']), tuple(preprocess['std'])


def _origin(weights: PathLike) -> dict[str, Any]:
    """Name and hash of a file, and what read it."""
    return dict(
        file=Path(weights).name,
        sha256=sha256_of(weights),
        versions=dict(
            open_clip=open_clip.__version__,
            timm=timm.__version__,
            torch=torch.__version__,
        ),
    )
