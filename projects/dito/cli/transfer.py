# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Point the test of a config at any annotated set, by its class names."""

import os.path as osp
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from dito.apis.model_file import hook_config, test_dataset
from dito.datasets.annotations import (
    Annotations,
    image_file,
    read_annotations,
)
from dito.datasets.categories import build_category_table, list_names
from dito.datasets.objects365 import (
    find_o365_version,
    o365_image_path,
    repair_o365_name,
)
from dito.models.text.name_checks import check_names, name_key
from dito.models.text.name_files import name_list
from dito.utils.checkpoint import load_from_file

_HOOK = 'DITOVocabularyHook'


def use_data(cfg: Config, args: Namespace) -> None:
    """Replace the test set and metric of a config, in place.

    Its work folder is named after the data, too, unless ``--work-dir`` is
    given.

    Raises:
        FileNotFoundError: If annotations, images or names are missing.
        ValueError: If the annotations contradict themselves.
    """
    read = read_annotations(args.data)
    head = (cfg.model.get('roi_head') or {}).get('mask_head')
    masks = bool(head and read.annotations) and all(
        ann.get('segmentation') for ann in read.annotations
    )
    read.refuse_faults(files=True, masks=bool(head))
    version = find_o365_version(cat['name'] for cat in read.categories)
    names = _class_names(read, version)
    _require_images(args.images, read, version)
    if args.work_dir is None:
        cfg.work_dir = osp.join(
            'work_dirs', f'{Path(cfg.filename).stem}_on_{Path(args.data).stem}'
        )
    novel = _novel(args.novel, names, args.checkpoint)
    federated = _is_federated(read)
    dataset: dict[str, Any] = dict(
        type='DITOLVISDataset' if federated else 'DITOCocoDataset',
        ann_file=osp.abspath(args.data),
        data_prefix=dict(img=osp.abspath(args.images)),
        metainfo=dict(classes=names, novel_classes=novel),
        test_mode=True,
        pipeline=test_dataset(cfg)['pipeline'],
    )
    if version:
        dataset.update(type='DITOObjects365Dataset', version=version)
    metric = dict(
        type='DITOLVISMetric' if federated else 'DITOCocoMetric',
        ann_file=osp.abspath(args.data),
        metric=['bbox', 'segm'] if masks else ['bbox'],
    )
    cfg.test_dataloader.dataset = dataset
    cfg.test_evaluator = metric
    _set_vocabulary(cfg, args.vocabulary)
    print_log(
        f'{args.data}: {len(read.images)} images, {len(names)} '
        f'classes, {len(novel)} of them novel; {metric["type"]} of '
        f'{" and ".join(metric["metric"])}',
        logger='current',
    )


def _class_names(read: Annotations, version: str) -> list[str]:
    """Names in order of category id, spelt so that a text tower can read."""
    try:
        table = build_category_table(
            read.categories, repair=repair_o365_name if version else None
        )
        return list(check_names(table.names))
    except ValueError as error:
        raise ValueError(f'{read.source}: {error}') from error


def _is_federated(read: Annotations) -> bool:
    """Whether it must be evaluated by the rules of LVIS."""
    return (
        bool(read.images)
        and all('neg_category_ids' in image for image in read.images)
        and all('frequency' in cat for cat in read.categories)
    )


def _require_images(folder: str, read: Annotations, version: str) -> None:
    """Stop before the model is loaded if images are missing."""
    if not osp.isdir(folder):
        raise FileNotFoundError(
            f'The folder of images {folder} does not exist; check --images.'
        )
    names = [image_file(image) for image in read.images]
    if version:
        names = [o365_image_path(name, version) for name in names]
    missing = [
        name
        for name in names
        if name and not osp.isfile(osp.join(folder, name))
    ]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(names)} images of {read.source} are not '
            f'in {folder}: {list_names(missing)}; file names in the '
            'annotations are relative to --images.'
        )


def _novel(wanted: str, names: Sequence[str], checkpoint: str) -> list[str]:
    """Names of the novel classes that the command line asks for."""
    if wanted == 'none':
        return []
    if wanted == 'all':
        return list(names)
    if wanted == 'unseen':
        meta = load_from_file(checkpoint).get('meta') or {}
        meta = {
            key.lower(): value
            for key, value in (meta.get('dataset_meta') or {}).items()
        }
        unboxed = {name_key(n) for n in meta.get('novel_classes') or ()}
        seen = meta.get('base_classes') or meta.get('classes') or ()
        seen = {name_key(n) for n in seen} - unboxed
        return [name for name in names if name_key(name) not in seen]
    given = name_list(wanted).names
    known = {name_key(name): name for name in names}
    stray = [name for name in given if name_key(name) not in known]
    if stray:
        raise ValueError(
            f'--novel has {len(stray)} names that are not among '
            f'the {len(names)} classes: {list_names(stray)}.'
        )
    return [known[name_key(name)] for name in given]


def _set_vocabulary(cfg: Config, path: Any) -> None:
    """Let the hook take the names of the data from a file or the tower."""
    if not hook_config(cfg, _HOOK):
        hooks = list(cfg.get('custom_hooks') or ())
        cfg.custom_hooks = [*hooks, dict(type=_HOOK)]
    hook_config(cfg, _HOOK)['test'] = path
