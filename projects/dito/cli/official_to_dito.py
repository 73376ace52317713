# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Convert the authors' checkpoint, and their text embeddings."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from dito.converters.official import OfficialSizes, convert_official
from dito.converters.official.readers import read_checkpoint
from dito.converters.official.vocabulary import (
    convert_vocabulary,
    read_class_rows,
    read_embeddings,
)
from dito.models.text import Vocabulary
from dito.models.text.name_files import read_names
from dito.utils.checkpoint import save_safetensors

from .errors import one_sentence_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``official_to_dito.py``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'src',
        help='checkpoint of the release: .npz, Flax (msgpack) file or folder '
        'with checkpoint_N, orbax folder, or folder of the SavedModel',
    )
    parser.add_argument('dst', help='file to write, .safetensors')
    parser.add_argument(
        '--vocabulary',
        metavar='NPY',
        help='precomputed text embeddings, such as lvis_embed.npy; written '
        'beside DST as DST_vocabulary.safetensors',
    )
    parser.add_argument(
        '--names',
        metavar='FILE',
        help='classes of the embeddings: annotations of LVIS or COCO, the '
        "release's json from id to name, or a text file with row 1 first",
    )
    parser.add_argument(
        '--novel',
        metavar='FILE',
        help='names of more novel classes; the '
        'rare ones of LVIS annotations are',
    )
    parser.add_argument(
        '--keep-rest',
        action='store_true',
        help='keep rows without a class (padding), as the release does',
    )
    parser.add_argument(
        '--skip',
        nargs='+',
        default=[],
        metavar='PREFIX',
        help='leave out parameters whose names start so',
    )
    parser.add_argument(
        '--sizes',
        nargs='+',
        default=[],
        metavar='NAME=NUMBER',
        help='sizes of a SavedModel that is not ViT-L/16: '
        f'{", ".join(f.name for f in fields(OfficialSizes))}',
    )
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser.parse_args(argv)


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


def make_vocabulary(
    embeddings: str, names: str | None, novel: str | None, keep_rest: bool
) -> Vocabulary:
    """Read embeddings and names and join them."""
    if names is None:
        raise ValueError(
            'The embeddings have rows and no names: give --names too.'
        )
    return convert_vocabulary(
        read_embeddings(embeddings),
        read_class_rows(names),
        read_names(novel).names if novel else (),
        keep_rest,
    )


def check_paths(args: argparse.Namespace) -> tuple[Path, Path]:
    """Paths to write, refused before anything is read."""
    target = Path(args.dst)
    if target.suffix != '.safetensors':
        raise ValueError(f'DST must end in .safetensors, got {args.dst}.')
    if args.names and not args.vocabulary:
        raise ValueError('--names goes with --vocabulary: give both.')
    return target, target.with_name(f'{target.stem}_vocabulary.safetensors')


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the converted weights, and the vocabulary."""
    args = parse_args(argv)
    target, vocabulary_file = check_paths(args)
    # All is read and converted before anything is written.
    vocabulary = None
    if args.vocabulary:
        vocabulary = make_vocabulary(
            args.vocabulary, args.names, args.novel, args.keep_rest
        )
    form, params = read_checkpoint(args.src, read_sizes(args.sizes))
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
