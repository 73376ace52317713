# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The authors' detector: downloaded, converted, and kept as a folder."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.datasets import CocoDataset, LVISV1Dataset
from mmengine.config import Config

from dito.converters.official.readers import read_checkpoint
from dito.converters.official.vocabulary import (
    ClassRows,
    convert_vocabulary,
    read_class_rows,
    read_embeddings,
)
from dito.models.text import Vocabulary
from dito.models.text.name_checks import resolve_synonyms
from dito.utils.configs import find_config
from dito.utils.download import Progress, check_known, download, unpack_zip
from dito.utils.files import new_folder
from dito.utils.official import OfficialSizes, convert_official

from .hub import package_model
from .published import OFFICIAL, dito_home

ADDRESS = (
    'https://storage.googleapis.com/cloud-tpu-checkpoints/detection/'
    'projects/dito/'
)
#: Archives of the release's download scripts that a detector needs.
ARCHIVES = ('demo_dito_large.zip', 'dito_large_embeddings.zip')
#: The backbone and heads after stages 1 and 2, for trainings.
PRETRAINED = 'pretrained_dito_large.zip'

#: What inference with the detector does.
CONFIG = 'dito_vitl_official_lvis'

# COCO's ids go to 90, with these left out.
_NO_COCO = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

# Of rows of embeddings that are one row: files may round.
_SAME = 1e-6


class Files(NamedTuple):
    """What was found in the unpacked archives: paths.

    ``detector`` is the folder of its SavedModel; ``lvis``, ``coco``, ``base``
    and ``background`` are arrays of text embeddings; ``text_model`` and
    ``tokenizer``, for other names, may be None.
    """

    detector: Path
    lvis: Path
    coco: Path
    base: Path
    background: Path
    text_model: Path | None
    tokenizer: Path | None


def fetch_archives(
    names: tuple[str, ...],
    source: Path | None = None,
    address: str = ADDRESS,
    accept_change: bool = False,
    progress: Callable[[str], Progress] | None = None,
) -> list[Path]:
    """Download archives, or take those of ``source``, and unpack them.

    ``accept_change`` takes archives that are not what they were; ``progress``
    makes a display for a name. Returns a folder for each.

    Raises:
        FileNotFoundError: If ``source`` lacks one.
        ValueError: If one cannot be fetched, is damaged or has changed.
    """
    home = dito_home() / OFFICIAL
    folders = []
    for name in names:
        if source is None:
            archive = download(
                f'{address}{name}',
                home / 'archives' / name,
                progress(name) if progress else None,
            )
            digest = check_known(archive, accept_change)
        else:
            archive = source / name
            if not archive.is_file():
                raise FileNotFoundError(
                    f'{source} has no {name}; it is at {ADDRESS}{name}.'
                )
            digest = check_known(archive, accept_change, home / 'archives')
        # By content, so that another archive goes elsewhere.
        folder = home / 'files' / f'{Path(name).stem}-{digest[:8]}'
        folders.append(
            folder if folder.is_dir() else unpack_zip(archive, folder)
        )
    return folders


def find_files(folders: list[Path]) -> Files:
    """Find what a detector needs in the archives; ValueError if it lacks."""
    every = sorted(p for f in folders for p in f.rglob('*') if p.is_file())
    models = {p.parent for p in every if p.name == 'saved_model.pb'}
    texts = {p for p in models if 'text' in p.name.lower()}
    arrays = {p.name: p for p in every if p.suffix == '.npy'}
    pieces = [p for p in every if p.suffix == '.model']
    wanted = {
        'lvis_embed.npy': arrays.get('lvis_embed.npy'),
        'coco_embed.npy': arrays.get('coco_embed.npy'),
        'lvis_base_embed.npy': arrays.get('lvis_base_embed.npy'),
        'bg_empty_embed.npy': arrays.get('bg_empty_embed.npy'),
        'a saved_model.pb of the detector': next(
            iter(sorted(models - texts)), None
        ),
    }
    missing = [name for name, path in wanted.items() if path is None]
    if missing or len(models - texts) > 1:
        shown = ', '.join(_inside(p, folders) for p in every[:40])
        trouble = (
            f'lack {", ".join(missing)}'
            if missing
            else 'have several SavedModels beside the text model'
        )
        raise ValueError(
            f'The archives {trouble}; they hold: {shown}. Convert what is '
            'there by hand with "dito official-to-dito" (docs/'
            'official_weights.md).'
        )
    lvis, coco, base, background, detector = wanted.values()
    return Files(
        detector,
        lvis,
        coco,
        base,
        background,
        next(iter(sorted(texts)), None),
        pieces[0] if len(pieces) == 1 else None,
    )


def _inside(path: Path, folders: list[Path]) -> str:
    return str(
        next(
            path.relative_to(f.parent)
            for f in folders
            if path.is_relative_to(f)
        )
    )


def make_vocabulary(files: Files, lvis: str | None = None) -> Vocabulary:
    """Join the precomputed embeddings of LVIS' and COCO's names.

    Rows are category ids. LVIS' 1,203 classes come first, then those of COCO
    that LVIS names otherwise; of LVIS those outside the rows of
    ``lvis_base_embed.npy`` are novel. Annotations of LVIS v1 (``lvis``) give
    the synonyms.

    Raises:
        ValueError: If the arrays have too few rows, or others than numbers.
    """
    table, base = read_embeddings(files.lvis), read_embeddings(files.base)
    rows = (
        read_class_rows(lvis)
        if lvis
        else ClassRows(
            dict(enumerate(LVISV1Dataset.METAINFO['classes'], 1)), []
        )
    )
    ids = (i for i in range(1, 91) if i not in _NO_COCO)
    coco = ClassRows(
        dict(zip(ids, CocoDataset.METAINFO['classes'], strict=True)), []
    )
    vocabulary = convert_vocabulary(table, rows)
    vocabulary = vocabulary.with_novel(
        _absent(table[list(rows.names)], base).tolist()
    )
    if rows.synonyms:
        vocabulary = replace(
            vocabulary,
            synonyms=resolve_synonyms(rows.synonyms, vocabulary.names),
        )
    return vocabulary.join(
        convert_vocabulary(read_embeddings(files.coco), coco)
    )


def _absent(rows: np.ndarray, among: np.ndarray) -> torch.Tensor:
    """Which rows are no row of another table; none if tables don't fit."""
    if rows.shape[1:] != among.shape[1:] or among.dtype.kind != 'f':
        raise ValueError(
            f'lvis_base_embed.npy has the shape {among.shape}, lvis_embed.npy '
            f'rows of {rows.shape[1:]}; they do not go together.'
        )
    unit = [
        torch.nn.functional.normalize(
            torch.from_numpy(t.astype(np.float32)), dim=1
        )
        for t in (rows, among)
    ]
    return (unit[0] @ unit[1].T).amax(1) < 1 - _SAME


def make_detector(
    files: Files,
    lvis: str | None = None,
    config: str = CONFIG,
    sizes: OfficialSizes = OfficialSizes(),  # noqa: B008
) -> Iterator[str]:
    """Convert the detector into the published folder.

    Yields what is done next, then what was made; ``lvis`` is as in
    :func:`make_vocabulary`.

    Raises:
        ValueError: If the arrays are not those of the detector.
    """
    yield 'Reading the text embeddings'
    vocabulary = make_vocabulary(files, lvis)
    yield f'Converting {files.detector}'
    form, params = read_checkpoint(files.detector, sizes)
    state = convert_official(params)
    cfg = Config.fromfile(find_config(config))
    folder = dito_home() / OFFICIAL / 'detector'
    notes = dict(
        source=f'{ADDRESS} ({form}), converted',
        paper='Region-centric Image-Language Pretraining for Open-Vocabulary '
        'Detection (ECCV 2024)',
    )
    with new_folder(folder) as parts:  # one that is there is replaced
        weights = package_model(
            parts,
            state,
            cfg,
            name='dito_vitl_official',
            vocabulary=vocabulary,
            dataset_meta=_meta(vocabulary),
            notes=notes,
        )
    yield (
        f'{folder / weights.name}: {len(state)} arrays; '
        f'{len(vocabulary)} names, '
        f'{int(vocabulary.novel.sum())} of them novel'
    )


def _meta(vocabulary: Vocabulary) -> dict[str, Any]:
    novel = vocabulary.novel.tolist()
    return dict(
        classes=list(vocabulary.names),
        novel_classes=[
            n for n, new in zip(vocabulary.names, novel, strict=True) if new
        ],
    )
