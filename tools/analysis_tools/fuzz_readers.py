# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What reads files, kind by kind, for ``fuzz.py``.

Each function writes one damaged input into a folder and yields readers of it:
functions that return 'right', 'counted', or 'lost: WHAT' where something went
missing without a count.
"""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import fuzz_inputs as inputs
import numpy as np

Steps = Iterator[Callable[[], str]]
_SHARD_SAMPLES = 5


def _images(folder: Path, rng: np.random.Generator) -> Steps:
    """Images, to the transform of pretraining and to the detector's."""
    from dito.datasets import DITOLoadImageFromFile
    from dito.datasets.image_text import CropTransform
    from dito.datasets.shard_files.encode import prepare_image
    sound = inputs.images()
    suffix = inputs.pick(rng, sorted(sound))
    data = sound[suffix]
    if rng.random() < 0.95:
        data, _ = inputs.damage(data, rng, sound[
            inputs.pick(rng, sorted(sound))])
    path = folder / f'0.{suffix}'
    path.write_bytes(data)

    def right(result: Any) -> str:
        return 'right' if result is not None else 'lost: no result'

    yield lambda: right(CropTransform(32)(data, rng))
    yield lambda: right(prepare_image(data, 16))
    yield lambda: right(DITOLoadImageFromFile()(dict(img_path=str(path))))


def _tars(folder: Path, rng: np.random.Generator) -> Steps:
    """Shards, to the loader, check, statistics and retrieval."""
    from dito.datasets import DITORetrievalDataset
    from dito.datasets.image_text import ImageTextShards
    from dito.datasets.image_text.tar_reader import count_samples
    from dito.datasets.shard_files import check_shards, shard_statistics
    from dito.utils.data_errors import BrokenDataError
    data = inputs.shard(_SHARD_SAMPLES, inputs.pick(rng, (0, 1, 2)))
    whole = True
    if rng.random() < 0.4:
        data = inputs.damage_header(data, rng)
    else:
        data, whole = inputs.damage(data, rng)
    if rng.random() < 0.2:
        import bz2
        import gzip
        import lzma
        data = inputs.pick(rng, (gzip, bz2, lzma)).compress(data)
        if rng.random() < 0.7:
            data, whole = inputs.damage(data, rng)
    path = str(folder / '0.tar')
    Path(path).write_bytes(data)

    def load() -> str:
        dataset = ImageTextShards(
            path, 16, epochs=1, max_broken_share=1, captions=dict(
                keys=['txt', 'json.text']),
            filters=[dict(field='similarity', min=0, missing='keep')])
        keys: List[str] = []
        with contextlib.suppress(BrokenDataError):
            keys += [sample['keys'] for sample in dataset]
        counter = dataset.counter
        left_out = counter.num_broken + counter.num_filtered
        if whole and len(keys) < _SHARD_SAMPLES and not left_out:
            return f'lost: {len(keys)} of {_SHARD_SAMPLES} samples read'
        walked = counter.read - counter.broken_shards
        report, = check_shards([path], captions=['txt', 'json.text'])
        found = {walked, count_samples(path), report['samples'],
                 shard_statistics([path])['samples']}
        if len(found) > 1:
            return f'lost: loader and tools disagree, {sorted(found)}'
        if left_out and not report['problems'] and not counter.num_filtered:
            return 'lost: the check passes what the loader leaves out'
        return 'counted' if left_out else 'right'

    yield load
    yield lambda: 'right' if len(DITORetrievalDataset(path, 16)) else 'lost'


def _tables(folder: Path, rng: np.random.Generator) -> Steps:
    """Lists of pairs, to the writer of shards."""
    from dito.datasets.shard_files import (
        ShardOptions,
        read_pairs,
        write_shards,
    )
    for i in range(3):
        (folder / f'{i}.jpg').write_bytes(inputs.images()['jpg'])
    kind = inputs.pick(rng, ('csv', 'tsv', 'jsonl', 'txt'))
    rows = 6
    if kind == 'txt':
        source, rows = folder, 3
        for i in range(3):
            text, whole = inputs.damage('größer \u2602'.encode(), rng)
            (folder / f'{i}.txt').write_bytes(text)
        whole = True
    else:
        source = folder / f'a.{kind}'
        text, whole = inputs.damage(inputs.table(kind, rows), rng)
        source.write_bytes(text)

    def write() -> str:
        pairs = read_pairs(str(source))
        made = write_shards(pairs, str(folder / 'out'), ShardOptions(
            max_broken_share=1))
        skipped = sum(made['skipped'].values())
        if made['samples'] + skipped != len(pairs):
            return f'lost: {made["samples"]} + {skipped} of {len(pairs)}'
        if whole and not skipped and made['samples'] < rows:
            return f'lost: {made["samples"]} of {rows} rows'
        return 'counted' if skipped else 'right'

    yield write


def _annotations(folder: Path, rng: np.random.Generator) -> Steps:
    """Annotation files, to the check, the data sets and the metrics."""
    from mmdet.registry import DATASETS

    from dito.datasets.checks import check_files
    from dito.evaluation.lvis_ground_truth import LVISGroundTruth
    path = str(folder / 'a.json')
    tree = inputs.damage_tree(inputs.annotations(), rng)
    Path(path).write_bytes(inputs.to_json(tree, rng))
    found: List[Any] = []

    def check() -> str:
        report = check_files(path, str(folder), max_images=0)
        found.extend(report.findings)
        return 'counted' if found else 'right'

    def load(kind: str) -> str:
        dataset = DATASETS.build(dict(
            type=kind, ann_file=path, data_prefix=dict(img=str(folder)),
            pipeline=[], test_mode=True))
        boxes = sum(len(dataset.get_data_info(i)['instances'])
                    for i in range(len(dataset)))
        listed = tree.get('annotations') if isinstance(tree, dict) else None
        if isinstance(listed, list) and boxes < len(listed) and not found:
            return (f'lost: {boxes} of {len(listed)} objects are loaded, the '
                    'check found nothing')
        return 'right'

    yield check
    yield lambda: load('DITOCocoDataset')
    yield lambda: load('DITOLVISDataset')
    yield lambda: _evaluate('DITOCocoMetric', path)
    yield lambda: _evaluate('DITOLVISMetric', path)
    yield lambda: 'right' if LVISGroundTruth.from_file(path) else 'lost'


def _evaluate(kind: str, path: str) -> str:
    """Evaluate one detection an image of the sound file."""
    import torch
    from mmdet.registry import METRICS
    metric = METRICS.build(dict(type=kind, ann_file=path, metric='bbox'))
    content = inputs.annotations()
    metric.dataset_meta = dict(
        classes=tuple(c['name'] for c in content['categories']))
    for image in content['images']:
        metric.process({}, [dict(
            img_id=image['id'], ori_shape=(40, 52), pred_instances=dict(
                bboxes=torch.tensor([[3., 2, 15, 11]]),
                scores=torch.tensor([0.5]), labels=torch.tensor([0])))])
    metric.evaluate(len(content['images']))
    return 'right'


def _vocabularies(folder: Path, rng: np.random.Generator) -> Steps:
    """Vocabulary files."""
    import torch

    from dito.models.text import Vocabulary
    path = folder / 'v.safetensors'
    draw = torch.Generator().manual_seed(0)
    Vocabulary(('cat', 'dog'), torch.randn(2, 8, generator=draw),
               torch.randn(8, generator=draw), torch.tensor([False, True]),
               'print', ('a photo of {}', ), (('cat', ), ('dog', )),
               'background').save(path)
    path.write_bytes(inputs.damage_safetensors(path.read_bytes(), rng))
    yield lambda: 'right' if len(Vocabulary.load(path)) else 'lost'
    yield lambda: _read_names(path)


def _checkpoints(folder: Path, rng: np.random.Generator) -> Steps:
    """Files of weights, of PyTorch and of safetensors."""
    import torch

    from dito.utils.checkpoint import load_state_dict_file, save_safetensors
    state = dict(a=torch.arange(12.).view(3, 4), b=torch.ones(2).half())
    if rng.random() < 0.5:
        path = folder / 'w.pth'
        torch.save(dict(state_dict=state, meta=dict(epoch=1, x=[1, (2, )])),
                   path)
        data = inputs.damage_pickle(path.read_bytes(), rng)
    else:
        path = folder / 'w.safetensors'
        save_safetensors(state, path, dict(cfg='model = dict()', x=[1, 'a']))
        data = inputs.damage_safetensors(path.read_bytes(), rng)
    path.write_bytes(data)
    yield lambda: 'right' if load_state_dict_file(path) else 'lost'


def _manifests(folder: Path, rng: np.random.Generator) -> Steps:
    """Manifests of shards and published folders, with their weights."""
    from dito.apis.hub import load_pretrained, read_manifest
    from dito.datasets.shard_files import check_shards
    from dito.evaluation.files import sha256_of
    if rng.random() < 0.4:
        (folder / '0.tar').write_bytes(inputs.shard(1))
        tree = dict(format_version=1, samples=1, skipped={}, options={},
                    shards=[dict(name='0.tar', samples=1, bytes=10240,
                                 sha256='0' * 64, skipped={}, plan='x')])
        (folder / 'manifest.json').write_bytes(
            inputs.to_json(inputs.damage_tree(tree, rng), rng))
        yield lambda: 'counted' if check_shards([str(folder)])[0][
            'problems'] else 'right'
        return
    weights = folder / 'w.safetensors'
    weights.write_bytes(_published())
    inside = rng.random() < 0.2
    if inside:
        weights.write_bytes(inputs.damage_safetensors(_published(), rng))
    tree = dict(format='dito-model-1', version='1', weights=weights.name,
                sha256=sha256_of(weights), vocabulary=None, metrics=None)
    (folder / 'dito.json').write_bytes(json.dumps(tree).encode() if inside
                                       else inputs.to_json(
                                           inputs.damage_tree(tree, rng), rng))
    yield lambda: 'right' if read_manifest(folder) else 'lost'
    if inside:
        yield lambda: 'right' if load_pretrained(
            folder, device='cpu') else 'lost'


_made: Dict[str, bytes] = {}


def _published() -> bytes:
    """Weights with the config of a detector of the embedded data set."""
    if 'weights' not in _made:
        from mmdet.registry import MODELS
        from mmengine.config import Config
        from mmengine.registry import init_default_scope

        from dito.apis.model_file import save_model
        from dito.utils.config_finder import find_config
        init_default_scope('mmdet')
        cfg = Config.fromfile(find_config('symbols/dito_symbols'))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, 'w.safetensors')
            cfg.model.pop('teacher', None)
            cfg.load_from = None
            save_model(path, MODELS.build(cfg.model), cfg)
            _made['weights'] = path.read_bytes()
    return _made['weights']


def _names(folder: Path, rng: np.random.Generator) -> Steps:
    """Files and texts of names."""
    from dito.models.text.name_files import parse_names
    sound = inputs.names()
    kind = inputs.pick(rng, sorted(sound))
    data = sound[kind]
    if kind.endswith('.json') and rng.random() < 0.6:
        data = inputs.to_json(inputs.damage_tree(json.loads(data), rng), rng)
    elif rng.random() < 0.95:
        data, _ = inputs.damage(data, rng, sound[
            inputs.pick(rng, sorted(sound))])
    path = folder / f'names{kind}'
    path.write_bytes(data)
    yield lambda: _read_names(path)
    yield lambda: 'right' if parse_names(
        data.decode('utf-8', 'surrogateescape')) else 'lost'


def _read_names(path: Path) -> str:
    """Read a file as names, and tokenize them."""
    from dito.models.text.name_files import parse_names
    from dito.models.text.token_table import collect_token_ids
    found = parse_names(path)
    if not found or not all(isinstance(n, str) and n for n in found):
        return f'lost: names {found!r:.100}'
    collect_token_ids(found[:20])
    return 'right'


# Each with its share of the inputs.
KINDS: Dict[str, Tuple[Callable[[Path, np.random.Generator], Steps], float]]
KINDS = dict(
    images=(_images, 0.25), tars=(_tars, 0.2), tables=(_tables, 0.1),
    json=(_annotations, 0.15), vocabularies=(_vocabularies, 0.08),
    checkpoints=(_checkpoints, 0.1), manifests=(_manifests, 0.05),
    names=(_names, 0.07))
