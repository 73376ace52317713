# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The symbols data set as a whole: shards, annotations, files, the tool."""

import json
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils

from dito.cli.data_sets import make_symbols
from dito.datasets.symbols import (
    SymbolsConfig,
    build_symbols,
    load_glyphs,
)
from dito.datasets.symbols.rasterizer import GlyphAtlas
from dito.datasets.symbols.renderer import COLOUR_NAMES
from dito.datasets.symbols.shards import (
    lone_samples,
    retrieval_samples,
    scene_samples,
    single_samples,
    write_tar,
)

TOOL = Path(__file__).parents[2] / 'dito make-symbols'
TINY = SymbolsConfig(
    train_images=80,
    val_images=160,
    val_drawings_images=60,
    size=96,
    single_shards=1,
    scene_shards=1,
    lone_shards=1,
    shard_size=30,
    retrieval_images=20,
    zero_shot_images=1,
)
EMPTY = SymbolsConfig(
    train_images=0,
    val_images=0,
    val_drawings_images=0,
    single_shards=0,
    scene_shards=0,
    lone_shards=0,
    retrieval_images=0,
    zero_shot_images=0,
)


@pytest.fixture(scope='module')
def atlas() -> GlyphAtlas:
    return GlyphAtlas(load_glyphs())


@pytest.fixture(scope='module')
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('symbols') / 'set'
    build_symbols(str(out), TINY, workers=1)
    return out


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def tree(root: Path) -> dict[str, bytes]:
    files = sorted(path for path in root.rglob('*') if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


# ------------------------------------------------------------------- shards


def test_single_samples_come_in_permutation_blocks(
    atlas: GlyphAtlas,
) -> None:
    names = [glyph.name for glyph in atlas.glyphs]
    seen: list[int] = []
    number = 2 * len(names) + 7
    for _, picture, caption in single_samples(atlas, 3, 5, number, 32):
        placed = picture.objects[0]
        assert names[placed.index] in caption
        named = [c for c in COLOUR_NAMES if c in caption.split()]
        assert named in ([], [placed.colour])
        seen.append(placed.index)
    first, second = seen[: len(names)], seen[len(names) : 2 * len(names)]
    assert sorted(first) == sorted(second) == list(range(len(names)))
    assert first != second
    assert len(set(seen[2 * len(names) :])) == 7


def test_lone_samples_have_one_object_of_detection_size(
    atlas: GlyphAtlas,
) -> None:
    samples = list(lone_samples(atlas, 0, 0, 40, 128, (22.0, 80.0)))
    indices = [picture.objects[0].index for _, picture, _ in samples]
    assert len(set(indices)) == len(samples)
    for _, picture, caption in samples:
        (placed,) = picture.objects
        assert atlas.glyphs[placed.index].name in caption
        assert picture.image.shape == (128, 128, 3)
        x, y, width, height = placed.bbox()
        assert 15 < max(width, height) <= 80 * 1.3  # turned up to 20°
        assert x + width <= 128 and y + height <= 128


def test_scene_samples_name_what_is_visible(atlas: GlyphAtlas) -> None:
    novel_named = 0
    for _, picture, caption in scene_samples(atlas, 0, 0, 40, 128):
        assert 1 <= len(picture.objects) <= 4
        indices = [placed.index for placed in picture.objects]
        assert len(set(indices)) == len(indices)
        for placed in picture.objects:
            glyph = atlas.glyphs[placed.index]
            assert placed.visible >= 0.5
            assert f'{placed.colour} {glyph.name}' in caption
            novel_named += glyph.novel
    assert novel_named > 0


def test_held_out_singles_are_distinct(atlas: GlyphAtlas) -> None:
    samples = list(retrieval_samples(atlas, 0, 300, 32, 64))
    pairs = [
        (picture.objects[0].index, picture.objects[0].colour)
        for _, picture, _ in samples[::2]
    ]
    assert len(set(pairs)) == len(pairs) == 150
    assert {picture.image.shape[0] for _, picture, _ in samples} == {32, 64}


def test_tar_has_triples_and_no_trace_of_its_maker(
    atlas: GlyphAtlas, tmp_path: Path
) -> None:
    path = tmp_path / 'a.tar'
    count = write_tar(str(path), single_samples(atlas, 0, 0, 5, 64))
    assert count == 5 and [p.name for p in tmp_path.iterdir()] == ['a.tar']
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        content = {m.name: tar.extractfile(m).read() for m in members}
    assert len(members) == 15
    for member in members:
        assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
        assert (member.uname, member.gname) == ('', '')
    names = [glyph.name for glyph in atlas.glyphs]
    for key in {name.split('.')[0] for name in content}:
        record = json.loads(content[f'{key}.json'])
        caption = content[f'{key}.txt'].decode()
        image = cv2.imdecode(
            np.frombuffer(content[f'{key}.jpg'], np.uint8), cv2.IMREAD_COLOR
        )
        assert image.shape[:2] == (record['height'], record['width'])
        assert record['caption'] == caption and record['key'] == key
        assert names[record['category_ids'][0] - 1] in caption


# ---------------------------------------------------------------- whole set


def test_processes_do_not_change_the_set(built: Path, tmp_path: Path) -> None:
    build_symbols(str(tmp_path / 'set'), TINY, workers=3)
    assert tree(built) == tree(tmp_path / 'set')


def test_another_seed_gives_other_pictures(atlas: GlyphAtlas) -> None:
    first, second = (
        next(iter(single_samples(atlas, seed, 0, 1, 64)))[1].jpeg()
        for seed in (0, 1)
    )
    assert first != second


def test_layout_and_manifest(built: Path) -> None:
    manifest = read_json(built / 'manifest.json')
    assert manifest['images'] == dict(
        image_text_single=30,
        image_text_scenes=30,
        image_text_lone=30,
        image_text_val=20,
        zero_shot=len(load_glyphs()),
        zero_shot_drawings=sum(g.held_out is not None for g in load_glyphs()),
        train=80,
        val=160,
        val_drawings=60,
    )
    assert set(manifest['sha256']) == {
        'categories.json',
        'annotations/train_all.json',
        'annotations/train_base.json',
        'annotations/val.json',
        'annotations/val_drawings.json',
    }
    categories = read_json(built / 'categories.json')
    assert [c['name'] for c in categories] == [g.name for g in load_glyphs()]
    assert {'id', 'synonyms', 'frequency', 'drawings'} <= set(categories[0])
    folders = sorted(path.name for path in (built / 'zero_shot').iterdir())
    assert folders == sorted(glyph.name for glyph in load_glyphs())
    for shard in (
        'single-000000',
        'scenes-000000',
        'lone-000000',
        'val-000000',
    ):
        assert tarfile.is_tarfile(built / 'image_text' / f'{shard}.tar')


def test_base_file_knows_nothing_of_novel_categories(built: Path) -> None:
    novel = {g.category_id for g in load_glyphs() if g.novel}
    base = read_json(built / 'annotations/train_base.json')
    whole = read_json(built / 'annotations/train_all.json')
    used = {c['id'] for c in base['categories']}
    used |= {a['category_id'] for a in base['annotations']}
    for image in base['images']:
        used |= set(image['neg_category_ids'])
        used |= set(image['not_exhaustive_category_ids'])
    assert not used & novel
    kept = [a for a in whole['annotations'] if a['category_id'] not in novel]
    assert len(base['annotations']) == len(kept) < len(whole['annotations'])
    assert len(base['images']) == len(whole['images']) == 80


def test_every_category_can_be_learnt_or_tested(built: Path) -> None:
    train = read_json(built / 'annotations/train_base.json')
    counts = Counter(a['category_id'] for a in train['annotations'])
    for category in train['categories']:
        assert category['instance_count'] == counts[category['id']] >= 1
    val = read_json(built / 'annotations/val.json')
    counts = Counter(a['category_id'] for a in val['annotations'])
    for category in val['categories']:
        if category['frequency'] == 'r':
            assert counts[category['id']] >= 3


def test_held_out_drawings_have_a_validation_set(built: Path) -> None:
    held_out = {g.category_id for g in load_glyphs() if g.held_out}
    content = read_json(built / 'annotations/val_drawings.json')
    counts = Counter(a['category_id'] for a in content['annotations'])
    assert set(counts) == held_out and min(counts.values()) >= 2
    # Asked among all names, as the other validation set is.
    assert len(content['categories']) == len(load_glyphs())
    files = {image['file_name'] for image in content['images']}
    assert all(name.startswith('images/val_drawings/') for name in files)
    names = {path.name for path in (built / 'zero_shot_drawings').iterdir()}
    assert names == {g.name for g in load_glyphs() if g.held_out}


def test_annotations_agree_with_their_masks(built: Path) -> None:
    val = read_json(built / 'annotations/val.json')
    assert [a['id'] for a in val['annotations']] == list(
        range(1, len(val['annotations']) + 1)
    )
    for item in val['annotations'][:150]:
        mask = mask_utils.decode(item['segmentation'])
        assert mask.shape == (96, 96)
        assert mask.sum() == item['area'] > 0
        ys, xs = np.nonzero(mask)
        size = np.ptp(xs) + 1, np.ptp(ys) + 1
        assert item['bbox'] == [xs.min(), ys.min(), *size]
    present: dict[int, set] = {image['id']: set() for image in val['images']}
    for item in val['annotations']:
        present[item['image_id']].add(item['category_id'])
    everything = {c['id'] for c in val['categories']}
    for image in val['images']:
        absent = set(image['neg_category_ids'])
        hidden = set(image['not_exhaustive_category_ids'])
        assert not absent & present[image['id']]
        assert absent | hidden | present[image['id']] == everything


def test_mmdet_reads_the_set(built: Path) -> None:
    from mmdet.datasets import LVISV1Dataset

    names = tuple(glyph.name for glyph in load_glyphs())
    dataset = LVISV1Dataset(
        ann_file='annotations/val.json',
        data_root=str(built),
        data_prefix=dict(img=''),
        metainfo=dict(classes=names),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
        ],
    )
    sample = dataset[0]
    assert sample['img'].shape == (96, 96, 3)
    val = read_json(built / 'annotations/val.json')
    items = [a for a in val['annotations'] if a['image_id'] == 1]
    labels = [names[label] for label in sample['gt_bboxes_labels']]
    assert labels == [names[a['category_id'] - 1] for a in items]
    areas = sample['gt_masks'].masks.sum(axis=(1, 2))
    assert areas.tolist() == [a['area'] for a in items]


# ------------------------------------------------------- targets and errors


def test_a_folder_with_files_is_kept(tmp_path: Path) -> None:
    target = tmp_path / 'set'
    target.mkdir()
    (target / 'mine.txt').write_text('keep')
    with pytest.raises(FileExistsError, match='--overwrite'):
        build_symbols(str(target), TINY)
    with pytest.raises(ValueError, match='not a symbols data set'):
        build_symbols(str(target), TINY, overwrite=True)
    assert (target / 'mine.txt').read_text() == 'keep'
    with pytest.raises(ValueError, match='is a file'):
        build_symbols(str(target / 'mine.txt'), TINY)


def test_overwrite_replaces_an_earlier_build(tmp_path: Path) -> None:
    target = tmp_path / 'set'
    build_symbols(str(target), EMPTY)
    (target / 'old.txt').write_text('old')
    build_symbols(str(target), EMPTY, overwrite=True)
    assert not (target / 'old.txt').exists()
    assert (target / 'manifest.json').is_file()
    assert [path.name for path in tmp_path.iterdir()] == ['set']


def test_a_failed_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError('disk full')

    monkeypatch.setattr('dito.datasets.symbols.build.write_json', fail)
    with pytest.raises(OSError, match='disk full'):
        build_symbols(str(tmp_path / 'set'), EMPTY)
    assert list(tmp_path.iterdir()) == []


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match='size must be at least 48, got 8'):
        SymbolsConfig(size=8)
    with pytest.raises(ValueError, match='seed'):
        SymbolsConfig(seed=-1)


def test_the_tool_builds_and_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = [
        *('--out-dir', str(tmp_path / 'set')),
        *('--pictures', '3', '2', '--single-shards', '1'),
        *('--drawings', '2'),
        *('--scene-shards', '0', '--lone-shards', '0'),
        *('--shard-size', '4', '--workers', '1'),
        *('--retrieval-images', '2', '--zero-shot-images', '0'),
    ]
    assert make_symbols(command) == 0
    said = capsys.readouterr().out
    assert f'{len(load_glyphs())} categories, 13 pictures' in said
    # Too few pictures for every category: said, not hidden.
    assert 'base_without_train_box: ' in said
    assert not (tmp_path / 'set' / 'zero_shot').exists()
    assert make_symbols(command) == 2
    assert '--overwrite' in capsys.readouterr().err
