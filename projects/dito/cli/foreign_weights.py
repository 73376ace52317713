# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Weights of public image-text towers and of the authors' release."""

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from dito.converters.official.readers import read_checkpoint
from dito.converters.official.vocabulary import (
    ClassRows,
    Encode,
    convert_vocabulary,
    embed_names,
    load_text_model,
    read_class_rows,
    read_embeddings,
)
from dito.converters.towers import (
    ConvertedTower,
    TowerSource,
    convert_tower,
    feature_error,
    read_source,
    resample_tower,
)
from dito.models.text import Vocabulary
from dito.models.text.name_checks import readable_name, resolve_templates
from dito.models.text.name_files import name_list
from dito.utils.checkpoint import save_safetensors
from dito.utils.official import OfficialSizes, convert_official
from dito.utils.printable import printable

from .build_text_embeddings import novel_names
from .options import command

# Largest difference of a component of the unit embeddings.
_TOLERANCE = 1e-4


def check(source: TowerSource, tower: ConvertedTower) -> dict[str, float]:
    """Largest difference of 'image' and 'text'; ValueError above 1e-4."""
    errors = feature_error(source, tower)
    # A difference that is no number is no small one.
    wrong = {k: v for k, v in errors.items() if not v <= _TOLERANCE}
    if wrong:
        raise ValueError(
            f'The converted tower does not give the embeddings of the source '
            f'(largest differences {wrong}, allowed {_TOLERANCE}); nothing '
            'was written, please report the model.'
        )
    return errors


def config_text(tower: ConvertedTower) -> str:
    """Settings to copy into a config, as Python."""
    meta = tower.metadata()
    model: dict[str, Any] = dict(meta['model'])
    model['data_preprocessor'] = {
        key: [round(x, 4) for x in meta['preprocess'][key]]
        for key in ('mean', 'std')
    }
    return Config(dict(model=model)).pretty_text


@command
def clip_to_dito(args: Namespace) -> int:
    """Convert, report and write."""
    source = read_source(args.source, args.weights, args.tag)
    tower = convert_tower(source)
    errors = {} if args.no_check else check(source, tower)
    resample_tower(tower, args.patch_size, args.img_size, args.patch_method)
    if args.dense is not None:
        tower.set_dense(args.dense)
    print(printable(tower.report.text()))
    for kind, value in errors.items():
        print(
            f'{kind} embeddings differ from the source by at most '
            f'{value:.1e} (before any resampling).'
        )
    save_safetensors(tower.state, args.out, tower.metadata())
    size = Path(args.out).stat().st_size / 1e6
    print(
        f'{args.out}: {len(tower.state)} tensors, {size:.1f} MB\n'
        f'Settings for a config:\n{config_text(tower)}'
    )
    if 'tokenizer' in tower.meta:
        print(
            printable(
                'Its texts need the tokenizer '
                f'{tower.meta["tokenizer"]}: '
                'see docs/pretrained_towers.md.'
            )
        )
    return 0


def read_sizes(texts: Sequence[str]) -> OfficialSizes:
    """Sizes from ``NAME=NUMBER`` texts."""
    known = {f.name for f in fields(OfficialSizes)}
    pairs = dict(t.partition('=')[::2] for t in texts)
    wrong = [k for k, v in pairs.items() if k not in known or not v.isdigit()]
    if wrong:
        raise ValueError(
            f'--sizes takes NAME=NUMBER with names of '
            f'{sorted(known)}, got {wrong[0]!r}.'
        )
    return OfficialSizes(**{k: int(v) for k, v in pairs.items()})


@command
def official_to_dito(args: Namespace) -> int:
    """Write the converted weights, and the vocabulary."""
    target = Path(args.out)
    vocabulary_file = target.with_name(f'{target.stem}_vocabulary.safetensors')
    # All is read and converted before anything is written.
    vocabulary = None
    if args.embeddings:
        vocabulary = convert_vocabulary(
            read_embeddings(args.embeddings),
            read_class_rows(args.names),
            name_list(args.novel).names if args.novel else (),
            args.keep_rest,
        )
    form, params = read_checkpoint(args.source, read_sizes(args.sizes))
    skipped = [k for k in params if k.startswith(tuple(args.skip))]
    state = convert_official(
        {k: v for k, v in params.items() if k not in set(skipped)}
    )
    if vocabulary is not None:
        size = len(state['roi_head.bbox_head.fc_embed.weight'])
        if vocabulary.embeddings.shape[1] != size:
            raise ValueError(
                f'The text embeddings have size '
                f'{vocabulary.embeddings.shape[1]}, the region embeddings of '
                f'the checkpoint {size}; they do not go together.'
            )
        vocabulary.save(vocabulary_file)
        print(f'{vocabulary_file}: {vocabulary}')
    kind = 'finetuned' if 'rpn_head.rpn_cls.weight' in state else 'pretrained'
    save_safetensors(
        state,
        target,
        dict(source=f'DITO release, {kind}', form=form, skipped=skipped),
    )
    groups = Counter(
        '.'.join(k.split('.')[: 2 if k.startswith('roi_head') else 1])
        for k in state
    )
    print(
        f'{target}: {kind} ({form}), {len(params)} arrays read, '
        f'{len(skipped)} skipped, {len(state)} written: '
        + ', '.join(f'{k} {n}' for k, n in groups.items())
    )
    return 0


def build(
    names: Sequence[str],
    encode: Encode,
    background: np.ndarray,
    novel: Sequence[str],
    pad_to: int | None = None,
) -> Vocabulary:
    """Make a vocabulary of new names, by the release's text model.

    ``encode`` gives (D, ) of a prompt; ``background`` has the embeddings of
    background and padding, (2, D); ``pad_to`` counts rows with both.
    ValueError if the sizes do not go together.
    """
    if background.ndim != 2 or len(background) != 2:
        raise ValueError(
            'The file of the background must have 2 rows, background and '
            f'padding; it has shape {background.shape}.'
        )
    missing = 0 if pad_to is None else pad_to - 1 - len(names)
    if missing < 0:
        raise ValueError(
            f'--pad-to {pad_to} is less than the {len(names)} names and the '
            'background.'
        )
    rows = embed_names(
        [readable_name(n) for n in names], encode, resolve_templates('openai')
    )
    if rows.shape[1] != background.shape[1]:
        raise ValueError(
            f'The text model gives embeddings of size {rows.shape[1]}, the '
            f'background has {background.shape[1]}; they do not go together.'
        )
    table = np.concatenate(
        [background[:1], rows, background[1:].repeat(missing, 0)]
    )
    return convert_vocabulary(
        table, ClassRows(dict(enumerate(names, 1)), []), novel, keep_rest=True
    )


@command
def official_text_embeddings(args: Namespace) -> int:
    """Write a vocabulary file."""
    background = np.load(args.background_embeddings, allow_pickle=False)
    names = name_list(args.names)
    novel = novel_names(args.novel, names, args.rare_is_novel)
    encode = load_text_model(args.text_model, args.tokenizer)
    vocabulary = build(
        names.names,
        encode,
        background,
        novel or names.names,
        args.pad_to,
    )
    vocabulary.save(args.out)
    print(f'{args.out}: {vocabulary}')
    return 0
