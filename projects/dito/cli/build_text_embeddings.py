# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Files of class names with their embeddings."""

from argparse import Namespace
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import print_log

from dito.apis.model_file import templates_of
from dito.models.text import Vocabulary
from dito.models.text.name_files import NameList, name_list
from dito.utils.checkpoint import load_state_dict_file

from . import common
from .options import command


def load_text_encoder(cfg: Config, checkpoint: str) -> Any:
    """Build the text tower of a config and load its weights alone.

    ValueError if the config or the file has no text tower, or they do not fit.
    """
    tower = (cfg.get('model') or {}).get('text_encoder')
    if tower is None:
        raise ValueError(
            f'The config {cfg.filename} has no model.text_encoder; give one '
            'that has the text tower.'
        )
    common.require_checkpoint(checkpoint)
    prefix = 'text_encoder.'
    state: dict[str, Any] = {
        key[len(prefix) :]: value
        for key, value in load_state_dict_file(checkpoint).items()
        if key.startswith(prefix)
    }
    if not state:
        raise ValueError(
            f'{checkpoint} has no text tower (no key starts with {prefix}); '
            'give a checkpoint of stage 1 or 2, or of a detector with one.'
        )
    encoder = MODELS.build(dict(tower, freeze=True))
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f'The text tower of {checkpoint} does not fit the config '
            f'{cfg.filename}: {str(error)[:300]}'
        ) from error
    return encoder


def novel_names(given: str | None, names: NameList, rare: bool) -> list[str]:
    """Collect the novel classes from names, a file, and the rare ones."""
    if rare and not names.rare:
        raise ValueError(
            '--rare-is-novel needs LVIS annotations with frequencies as '
            '--names; none of the classes is rare.'
        )
    novel = name_list(given).names if given else []
    return [*novel, *(names.rare if rare else [])]


@command
def main(args: Namespace) -> int:
    """Build a vocabulary file."""
    names = name_list(args.names)
    novel = novel_names(args.novel, names, args.rare_is_novel)
    cfg = common.load_config(args.config, args.cfg_options)
    encoder = load_text_encoder(cfg, args.checkpoint).to(
        common.device_of(args)
    )
    templates = args.templates or templates_of(cfg)
    if isinstance(templates, str):
        templates = [templates]
    vocabulary = Vocabulary.from_names(
        names.names,
        encoder,
        templates=templates[0] if len(templates) == 1 else templates,
        novel=novel,
        synonyms=names.synonyms if args.synonyms else None,
        background=args.background,
        cache_dir=args.cache_dir,
    )
    vocabulary.save(args.out)
    print_log(f'Wrote {args.out}: {vocabulary}', logger='current')
    return 0
