# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What reads files, kind by kind, for ``fuzz.py``.

Each function writes one damaged input into a folder and yields readers of it:
functions that return 'right', 'counted', or 'lost: WHAT' where something went
missing without a count.
"""

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz_inputs as inputs
import numpy as np

Steps = Iterator[Callable[[], str]]
_SHARD_SAMPLES = 5
# Kinds whose inputs name files, which are read wherever they are.
NAMES_FILES = ('tables', 'json', 'pictures')


def _images(folder: Path, rng: np.random.Generator) -> Steps:
    """Images, to the transform of pretraining and to the detector's."""
    from dito.datasets import DITOLoadImageFromFile
    from dito.datasets.image_text import CropTransform
    from dito.datasets.shard_files.write import prepare_image

    sound = inputs.images()
    suffix = inputs.pick(rng, sorted(sound))
    data = sound[suffix]
    if rng.random() < 0.95:
        data, _ = inputs.damage(
            data, rng, sound[inputs.pick(rng, sorted(sound))]
        )
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
    from dito.utils.errors import BrokenDataError

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
            path,
            16,
            epochs=1,
            max_broken_share=1,
            captions=dict(keys=['txt', 'json.text']),
            filters=[dict(field='similarity', min=0, missing='keep')],
        )
        keys: list[str] = []
        with contextlib.suppress(BrokenDataError):
            keys += [sample['keys'] for sample in dataset]
        counter = dataset.counter
        left_out = counter.num_broken + counter.num_filtered
        if whole and len(keys) < _SHARD_SAMPLES and not left_out:
            return f'lost: {len(keys)} of {_SHARD_SAMPLES} samples read'
        walked = counter.read - counter.broken_shards
        (report,) = check_shards([path], captions=['txt', 'json.text'])
        found = {
            walked,
            count_samples(path),
            report['samples'],
            shard_statistics([path])['samples'],
        }
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
        sound = inputs.table(kind, rows)
        text, whole = inputs.damage(sound, rng)
        # An overwritten end of line makes one row of two.
        whole = whole and text.count(b'\n') >= sound.count(b'\n')
        source.write_bytes(text)

    def write() -> str:
        pairs = read_pairs(str(source))
        made = write_shards(
            pairs, str(folder / 'out'), ShardOptions(max_broken_share=1)
        )
        skipped = sum(made['skipped'].values())
        if made['samples'] + skipped != len(pairs):
            return f'lost: {made["samples"]} + {skipped} of {len(pairs)}'
        if whole and not skipped and made['samples'] < rows:
            return f'lost: {made["samples"]} of {rows} rows'
        return 'counted' if skipped else 'right'

    yield write


def _annotations(folder: Path, rng: np.random.Generator) -> Steps:
    """Annotation files, to the check and the data sets with their masks."""
    path = _write_annotations(folder, rng)
    for i in range(3):
        (folder / f'{i}.jpg').write_bytes(inputs.images()['jpg'])
    problems: list[Any] = []

    def check() -> str:
        problems.extend(_check(path)[0])
        return 'counted' if problems else 'right'

    yield check
    for kind in ('DITOCocoDataset', 'DITOLVISDataset'):
        yield lambda kind=kind: _load_all(path, kind, bool(problems))


def _pictures(folder: Path, rng: np.random.Generator) -> Steps:
    """Pictures of a sound annotation file, some damaged or missing."""
    path = str(folder / 'a.json')
    Path(path).write_text(json.dumps(inputs.annotations()))
    sound = inputs.images()
    for i in range(3):
        data = sound[inputs.pick(rng, sorted(sound))]
        kind = rng.random()
        if kind < 0.5:
            data, _ = inputs.damage(data, rng)
        if kind < 0.9:
            (folder / f'{i}.jpg').write_bytes(data)
    report: list[Any] = []

    def check() -> str:
        report.extend(_check(path)[0])
        return 'counted' if report else 'right'

    def load() -> str:
        dataset = _dataset(path, 'DITOCocoDataset')
        broken = 0
        for i in range(len(dataset)):
            try:
                image = dataset.prepare_data(i)['img']
                broken += image.shape[:2] != (40, 52)
            except (ValueError, FileNotFoundError):
                broken += 1
        listed = sum(f.number for f in report)
        if listed != broken:
            return (
                f'lost: {broken} pictures cannot be used, the check '
                f'lists {listed}'
            )
        return 'counted' if broken else 'right'

    yield check
    yield load


def _write_annotations(folder: Path, rng: np.random.Generator) -> str:
    """Write a damaged annotation file."""
    path = folder / 'a.json'
    path.write_bytes(
        inputs.to_json(inputs.damage_tree(inputs.annotations(), rng), rng)
    )
    return str(path)


def _check(path: str) -> tuple[list[Any], Any]:
    """Problems of an annotation file with its pictures; the report."""
    from dito.datasets.checks import check_files

    report = check_files(path, str(Path(path).parent))
    return report.problems(), report


def _dataset(path: str, kind: str) -> Any:
    """A data set of all classes of a file, with its masks."""
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    from dito.datasets.annotations import read_annotations

    init_default_scope('mmdet')  # of the pipeline's transforms
    # Without names the sets are of the classes of their benchmarks.
    names = [c['name'] for c in read_annotations(path).categories]
    return DATASETS.build(
        dict(
            type=kind,
            ann_file=path,
            metainfo=dict(classes=names),
            data_prefix=dict(img=str(Path(path).parent)),
            test_mode=True,
            pipeline=[
                dict(type='DITOLoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            ],
        )
    )


def _load_all(path: str, kind: str, problems: bool) -> str:
    """Load all that a file has; compare with the check where it passes."""
    dataset = _dataset(path, kind)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    objects = [o for info in infos for o in info['instances']]
    if problems:
        return 'right'
    loaded = [dataset.prepare_data(i) for i in range(len(dataset))]
    if sum(len(item['gt_bboxes']) for item in loaded) != len(objects):
        return 'lost: boxes, between the data set and its pipeline'
    report = _check(path)[1]
    used = sum(not o['ignore_flag'] for o in objects)
    if report.counts['used_boxes'] != used:
        return (
            f'lost: {used} objects are loaded, the check counts '
            f'{report.counts["used_boxes"]}'
        )
    return 'right'


def _metrics(folder: Path, rng: np.random.Generator) -> Steps:
    """Annotation files, to the metrics; what is right scores 1."""
    from dito.datasets.annotations import read_annotations
    from dito.evaluation.ground_truth import LVISGroundTruth

    path = _write_annotations(folder, rng)
    for kind in ('DITOCocoMetric', 'DITOLVISMetric'):
        for metric in (['bbox'], ['bbox', 'segm']):
            yield lambda k=kind, m=metric: _evaluate(
                k, m, path, read_annotations(path)
            )
    yield lambda: 'right' if LVISGroundTruth.from_file(path) else 'lost'


def _evaluate(kind: str, metric: list[str], path: str, read: Any) -> str:
    """Evaluate what the file itself says; its AP must be 1."""
    import torch
    from mmdet.registry import METRICS

    from dito.datasets.annotations import left_out
    from dito.datasets.masks import to_rle

    judge = METRICS.build(dict(type=kind, ann_file=path, metric=metric))
    ids = [category['id'] for category in read.categories]
    judge.dataset_meta = dict(
        classes=tuple(category['name'] for category in read.categories)
    )
    plain = 0
    for image in read.images:
        size = image['height'], image['width']
        own = [a for a in read.annotations if a['image_id'] == image['id']]
        boxes = torch.tensor([a['bbox'] for a in own]).reshape(-1, 4).double()
        boxes[:, 2:] += boxes[:, :2]
        masks = [
            to_rle(a.get('segmentation') or [[0] * 6], *size) for a in own
        ]
        judge.process(
            {},
            [
                dict(
                    img_id=image['id'],
                    ori_shape=size,
                    pred_instances=dict(
                        bboxes=boxes,
                        scores=torch.linspace(1, 0.5, len(own)),
                        labels=torch.tensor(
                            [ids.index(a['category_id']) for a in own]
                        ),
                        masks=masks,
                    ),
                )
            ],
        )
        plain += sum(not (a['iscrowd'] or a.get('ignore')) for a in own)
    figures = judge.evaluate(len(read.images))
    wrong = {
        k: v
        for k, v in figures.items()
        if re.search('(bbox|segm)_(mAP|AP)$', k) and not (v == -1 or v > 0.999)
    }
    # What training leaves out may have no pixel that could be found.
    sizes = {image['id']: image for image in read.images}
    if wrong and all(
        a['area'] > 0 and not left_out(a, sizes[a['image_id']])
        for a in read.annotations
    ):
        return f'lost: what is right scores {wrong}, of {plain} objects'
    return 'right'


def _vocabularies(folder: Path, rng: np.random.Generator) -> Steps:
    """Vocabulary files."""
    import torch

    from dito.models.text import Vocabulary

    path = folder / 'v.safetensors'
    draw = torch.Generator().manual_seed(0)
    Vocabulary(
        ('cat', 'dog'),
        torch.randn(2, 8, generator=draw),
        torch.randn(8, generator=draw),
        torch.tensor([False, True]),
        'print',
        ('a photo of {}',),
        (('cat',), ('dog',)),
        'background',
    ).save(path)
    path.write_bytes(inputs.damage_safetensors(path.read_bytes(), rng))
    yield lambda: 'right' if len(Vocabulary.load(path)) else 'lost'
    yield lambda: _read_names(path)


def _checkpoints(folder: Path, rng: np.random.Generator) -> Steps:
    """Files of weights, of PyTorch and of safetensors."""
    import torch

    from dito.utils.checkpoint import load_state_dict_file, save_safetensors

    state = dict(a=torch.arange(12.0).view(3, 4), b=torch.ones(2).half())
    if rng.random() < 0.5:
        path = folder / 'w.pth'
        torch.save(
            dict(state_dict=state, meta=dict(epoch=1, x=[1, (2,)])), path
        )
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
    from dito.utils.files import sha256_of

    if rng.random() < 0.4:
        (folder / '0.tar').write_bytes(inputs.shard(1))
        tree = dict(
            format_version=1,
            samples=1,
            skipped={},
            options={},
            shards=[
                dict(
                    name='0.tar',
                    samples=1,
                    bytes=10240,
                    sha256='0' * 64,
                    skipped={},
                    plan='x',
                )
            ],
        )
        (folder / 'manifest.json').write_bytes(
            inputs.to_json(inputs.damage_tree(tree, rng), rng)
        )
        yield (
            lambda: (
                'counted'
                if check_shards([str(folder)])[0]['problems']
                else 'right'
            )
        )
        return
    weights = folder / 'w.safetensors'
    weights.write_bytes(_published())
    inside = rng.random() < 0.2
    if inside:
        weights.write_bytes(inputs.damage_safetensors(_published(), rng))
    tree = dict(
        format='dito-model-1',
        version='1',
        weights=weights.name,
        sha256=sha256_of(weights),
        vocabulary=None,
        metrics=None,
    )
    (folder / 'dito.json').write_bytes(
        json.dumps(tree).encode()
        if inside
        else inputs.to_json(inputs.damage_tree(tree, rng), rng)
    )
    yield lambda: 'right' if read_manifest(folder) else 'lost'
    if inside:
        yield (
            lambda: (
                'right' if load_pretrained(folder, device='cpu') else 'lost'
            )
        )


_made: dict[str, bytes] = {}


def _published() -> bytes:
    """Weights with the config of a detector of the embedded data set."""
    if 'weights' not in _made:
        from mmdet.registry import MODELS
        from mmengine.config import Config
        from mmengine.registry import init_default_scope

        from dito.apis.model_file import save_model
        from dito.utils.configs import find_config

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
        data, _ = inputs.damage(
            data, rng, sound[inputs.pick(rng, sorted(sound))]
        )
    path = folder / f'names{kind}'
    path.write_bytes(data)
    yield lambda: _read_names(path)
    yield (
        lambda: (
            'right'
            if parse_names(data.decode('utf-8', 'surrogateescape'))
            else 'lost'
        )
    )


def _read_names(path: Path) -> str:
    """Read a file as names, and tokenize them."""
    from dito.models.text.name_files import parse_names
    from dito.models.text.tokenizers import collect_token_ids

    found = parse_names(path)
    if not found or not all(isinstance(n, str) and n for n in found):
        return f'lost: names {found!r:.100}'
    collect_token_ids(found[:20])
    return 'right'


# Each with its share of the inputs.
KINDS: dict[str, tuple[Callable[[Path, np.random.Generator], Steps], float]]
KINDS = dict(
    images=(_images, 0.25),
    tars=(_tars, 0.2),
    tables=(_tables, 0.1),
    json=(_annotations, 0.09),
    pictures=(_pictures, 0.03),
    metrics=(_metrics, 0.06),
    vocabularies=(_vocabularies, 0.08),
    checkpoints=(_checkpoints, 0.1),
    manifests=(_manifests, 0.05),
    names=(_names, 0.07),
)
