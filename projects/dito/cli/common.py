# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Steps that the training and test tools share."""

import difflib
import inspect
import os
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from dito.datasets.annotations import read_annotations
from dito.models.text.name_checks import name_key
from dito.utils.configs import find_config
from dito.utils.env import require_device

_OTHER_PACKAGE = re.compile(r'(?!dito::)\w+::')


def set_own_data(cfg: Config, args: Namespace) -> None:
    """Replace the config's files by the user's, in place.

    Raises:
        FileNotFoundError: If a file or folder is missing.
        ValueError: If the config has no ``OpenVocabularyDataset``.
    """
    if args.data is None:
        return
    kind = cfg.train_dataloader.dataset.get('type')
    if kind != 'OpenVocabularyDataset':
        raise ValueError(
            f'--data is for configs of own data, such as '
            f'dito_vitb_own_openclip; the set of {cfg.filename} is a {kind}.'
        )
    _point(cfg.train_dataloader, args.data, args.images)
    _point(
        cfg.test_dataloader,
        args.val_data or args.data,
        args.val_images or args.images,
    )
    cfg.test_evaluator.ann_file = args.val_data or args.data
    if args.val_data is None:
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
        return
    names = _names_of(args.val_data)
    known = set(map(name_key, _names_of(args.data)))
    cfg.test_dataloader.dataset.metainfo = dict(
        classes=names,
        novel_classes=[n for n in names if name_key(n) not in known],
    )
    cfg.val_dataloader, cfg.val_evaluator = (
        cfg.test_dataloader,
        cfg.test_evaluator,
    )


def _point(dataloader: Any, file: str, images: str) -> None:
    """Let a loader read other annotations and images."""
    if not Path(file).is_file():
        raise FileNotFoundError(f'There is no file {file} of annotations.')
    if not Path(images).is_dir():
        raise FileNotFoundError(f'There is no folder {images} of images.')
    dataloader.dataset.update(
        data_root='', ann_file=file, data_prefix=dict(img=images)
    )


def _names_of(file: str) -> list[str]:
    """Categories of annotations, in the order of their ids."""
    read = read_annotations(file).refuse_faults(files=True)
    return [c['name'] for c in read.categories]


def load_config(name: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config by path or name and apply overrides.

    ``name`` may also be ``package::path`` of another OpenMMLab package.
    """
    if _OTHER_PACKAGE.match(name):
        from mmengine.hub import get_config

        cfg = get_config(name)
    else:
        cfg = Config.fromfile(find_config(name))
    if options:
        _refuse_slips(cfg, options)
        try:
            cfg.merge_from_dict(options)
        except (KeyError, IndexError, TypeError, AssertionError) as error:
            raise ValueError(
                f'--cfg-options {options} do not fit the config {name}: '
                f'{_list_hint(cfg, options) or error}'
            ) from error
    return cfg


def _list_hint(cfg: Config, options: dict[str, Any]) -> str | None:
    """Say so where a key of a dict is asked of a list of dicts."""
    for option in options:
        place, done = cfg, []
        for key in option.split('.'):
            if isinstance(place, (list, tuple)) and not key.isdigit():
                path = '.'.join(done)
                kinds = [p.get('type') for p in place if isinstance(p, dict)]
                return (
                    f'{path} is a list of {len(place)} ({kinds}); say '
                    f'which, as in {path}.0.{key}'
                )
            try:
                place = (
                    place[int(key)]
                    if isinstance(place, (list, tuple))
                    else place[key]
                )
            except (KeyError, IndexError, TypeError):
                break
            done.append(key)
    return None


def _refuse_slips(cfg: Config, options: dict[str, Any]) -> None:
    """Refuse a misspelt setting, which mmengine would add and ignore."""
    known = {*cfg, *inspect.signature(Runner.__init__).parameters}
    for option in options:
        key = option.split('.', 1)[0]
        close = difflib.get_close_matches(key, known, 1, 0.8)
        if key not in known and close:
            raise ValueError(
                f'--cfg-options {option}: the config has no '
                f'"{key}"; did you mean "{close[0]}"?'
            )


def require_keys(cfg: Config, keys: dict[str, str]) -> None:
    """Refuse a config without a key; ``keys`` has what to say in each case."""
    for key, remedy in keys.items():
        if cfg.get(key) is None:
            raise ValueError(
                f'The config {cfg.filename} has no "{key}"; {remedy}.'
            )


def require_checkpoint(path: str) -> None:
    """Refuse a checkpoint path that leads nowhere, before anything loads.

    One with a scheme such as https:// is left alone.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a folder.
    """
    if Path(os.path.expanduser(path)).is_dir():
        raise ValueError(
            f'{path} is a folder; give the checkpoint file inside it.'
        )
    if '://' not in path and not Path(os.path.expanduser(path)).is_file():
        raise FileNotFoundError(
            f'The checkpoint {path} does not exist; check the path (relative '
            'ones start at the working directory).'
        )


def find_checkpoint(source: str) -> str:
    """File of weights to test: itself, or that of a published detector.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a folder is no published one.
    """
    from dito.apis.published import resolve_published

    found = str(resolve_published(None, source)[1])
    require_checkpoint(found)
    return found


def set_work_dir(cfg: Config, given: str | None) -> None:
    """Set ``work_dir``: the flag, else the config's, else by its name."""
    if given is not None:
        cfg.work_dir = given
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('./work_dirs', Path(cfg.filename).stem)


def set_launcher(cfg: Config, launcher: str, local_rank: int = 0) -> None:
    """Set the launcher; without a GPU, start the process group on gloo.

    mmengine selects a CUDA device for every rank it starts and hands the
    device to DistributedDataParallel, neither of which works on CPUs.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    cfg.launcher = launcher
    if launcher == 'none' or torch.cuda.is_available():
        return
    if launcher != 'pytorch':
        raise ValueError(
            f'--launcher {launcher} needs GPUs and PyTorch finds none here; '
            'on CPUs use tools/dist_train.sh, which has --launcher pytorch.'
        )
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    wrapper['device_ids'] = None
    cfg.model_wrapper_cfg = wrapper
    cfg.setdefault('env_cfg', dict())
    cfg.env_cfg.dist_cfg = dict(backend='gloo')
    torch.distributed.init_process_group('gloo')


def build_runner(cfg: Config) -> Runner:
    """Build the default runner, or the one that ``runner_type`` names."""
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)


def device_of(args: Namespace) -> str:
    """``--device``, else a GPU if there is one."""
    require_device(args.device)
    return args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
