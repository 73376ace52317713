# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The authors' checkpoint and text embeddings."""

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from dito.converters.official.readers import read_checkpoint
from dito.converters.official.vocabulary import (
    convert_vocabulary,
    read_class_rows,
    read_embeddings,
)
from dito.models.text.name_files import name_list
from dito.utils.checkpoint import save_safetensors
from dito.utils.official import OfficialSizes, convert_official

from .options import command


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
def main(args: Namespace) -> int:
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
