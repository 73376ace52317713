# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Embed class names once, so that a detector runs without its text tower."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import print_log

from dito.apis.model_file import templates_of
from dito.models.text import Vocabulary
from dito.models.text.name_checks import TEMPLATE_SETS
from dito.models.text.name_files import NameList, name_list, read_names
from dito.utils.checkpoint import load_state_dict_file

from . import common
from .errors import one_sentence_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``tools/misc/build_text_embeddings.py``."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', help='file with the text tower, of any stage'
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        '--names',
        nargs='+',
        help='class names; or one text, "red umbrella, anchor"; or a file',
    )
    source.add_argument(
        '--names-file',
        help='text file with a name a line; json or yaml: a list of names, a '
        'map from ids to names or from a name to its synonyms, or '
        'annotations of COCO or LVIS; a .pbtxt label map',
    )
    parser.add_argument(
        '--out', required=True, help='file to write, .safetensors'
    )
    parser.add_argument(
        '--templates',
        nargs='+',
        help=f'{", ".join(sorted(TEMPLATE_SETS))}, or texts with {{}} '
        '(default: those of the tests of the config, else openai, the 80 '
        'prompts of CLIP)',
    )
    parser.add_argument(
        '--novel',
        nargs='+',
        default=[],
        help='names of the novel classes, or one file of them',
    )
    parser.add_argument(
        '--rare-is-novel',
        action='store_true',
        help='classes of frequency r in LVIS annotations are novel',
    )
    parser.add_argument(
        '--synonyms',
        action='store_true',
        help='average over the synonyms in the file, too',
    )
    parser.add_argument(
        '--background',
        default='background',
        help='phrase of the background (default: background)',
    )
    parser.add_argument(
        '--device', default='cpu', help='such as cuda (default: cpu)'
    )
    parser.add_argument(
        '--cache-dir', help='folder that keeps embeddings for the next time'
    )
    return parser.parse_args(argv)


def load_text_encoder(cfg: Config, checkpoint: str) -> Any:
    """Build the text tower of a config and load its weights alone.

    Args:
        cfg (Config): Of any stage.
        checkpoint (str): File with keys ``text_encoder.*``.

    Returns:
        DITOTextEncoder: Frozen, on the CPU.

    Raises:
        ValueError: If the config or the file has no text tower, or they do
            not fit.
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


def given_names(given: list[str]) -> NameList:
    """Names of an option; one value is a text or a file."""
    return name_list(given[0] if len(given) == 1 else given)


def novel_names(given: list[str], names: NameList, rare: bool) -> list[str]:
    """Collect the novel classes from names, a file, and the rare ones."""
    if given:
        given = given_names(given).names
    if rare and not names.rare:
        raise ValueError(
            '--rare-is-novel needs LVIS annotations with frequencies as '
            '--names-file; none of the classes is rare.'
        )
    return [*given, *(names.rare if rare else [])]


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Build a vocabulary file."""
    args = parse_args(argv)
    if Path(args.out).suffix != '.safetensors':
        raise ValueError(f'--out must end in .safetensors, got {args.out}.')
    names = (
        read_names(args.names_file)
        if args.names_file
        else given_names(args.names)
    )
    novel = novel_names(args.novel, names, args.rare_is_novel)
    cfg = common.load_config(args.config, args.cfg_options)
    encoder = load_text_encoder(cfg, args.checkpoint).to(args.device)
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
