# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of examples and of the search over many pictures."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_api import write_film

from dito.apis import DITOInferencer, Index
from dito.apis.examples import parse_example, typed_example
from dito.cli import search as search_module
from dito.cli.search import index as index_tool
from dito.cli.search import search as search_tool
from dito.models.text import Vocabulary
from dito.utils.configs import config_root

TWENTY = Path(__file__).parents[1] / 'data' / 'twenty'
SHIPPED = config_root() / 'symbols/assets/dito_symbols'


@pytest.fixture(scope='module')
def detector() -> Any:
    """The shipped detector, which knows what is drawn in the pictures."""
    return DITOInferencer(SHIPPED, device='cpu')


@pytest.fixture(scope='module')
def truth() -> list[tuple[str, str, tuple]]:
    """Picture, name and box x1, y1, x2, y2 of each annotated object."""
    content = json.loads((TWENTY / 'val.json').read_text())
    files = {i['id']: i['file_name'] for i in content['images']}
    names = {c['id']: c['name'] for c in content['categories']}
    found = []
    for one in content['annotations']:
        x, y, w, h = one['bbox']
        found.append(
            (
                str(TWENTY / 'images' / files[one['image_id']]),
                names[one['category_id']],
                (x, y, x + w, y + h),
            )
        )
    return found


@pytest.fixture(scope='module')
def index(detector: Any, truth: list) -> Index:
    """Index of the annotated pictures."""
    return Index.build(
        detector, sorted({path for path, _, _ in truth}), regions=20
    )


def overlap(one: Any, two: Any) -> float:
    """IoU of two boxes."""
    low, high = np.maximum(one[:2], two[:2]), np.minimum(one[2:], two[2:])
    inner = np.prod(np.maximum(high - low, 0))
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, two))
    return float(inner / (areas - inner))


def test_names_are_found(index: Index, truth: list) -> None:
    names = sorted({name for _, name, _ in truth})
    right = 0
    for name in names:
        hits = index.search(name, 5)
        assert {hit.name for hit in hits} == {name} and len(hits) == 5
        right += any(
            hit.path == path and overlap(hit.box, box) > 0.5
            for hit in hits
            for path, other, box in truth
            if other == name
        )
    assert right >= 0.8 * len(names)


def test_an_example_finds_itself_and_its_like(
    detector: Any, index: Index, truth: list
) -> None:
    right = 0
    for path, _, box in truth[:8]:
        (hit,) = index.search(detector.embed(examples={'it': (path, box)}), 1)
        right += hit.path == path and overlap(hit.box, box) > 0.5
    assert right >= 6


def test_similarity_is_the_mean_cosine(detector: Any, truth: list) -> None:
    scene = detector.encode(truth[0][0])
    index = Index.build(detector, [truth[0][0]], regions=7)
    (hit, *_) = index.search('anchor', 1)
    row = detector.embed('anchor').embeddings[0]
    head = detector.model.roi_head
    products = head.vectors(scene.image.regions) @ row
    assert float((products - hit.similarity).abs().min()) < 1e-5
    beta = head.ensemble.beta
    logs = torch.lerp(
        head.bbox_head.classify(
            scene.image.regions.embeds, head.bbox_head.classes(_one(row))
        )[:, 0],
        head.vlm_logits(
            scene.image.regions.vlm, head.bbox_head.classes(_one(row))
        )[:, 0],
        beta,
    )
    # One factor for all regions: a temperature.
    factor = logs.abs().max() / products.abs().max()
    torch.testing.assert_close(products * factor, logs, rtol=1e-4, atol=1e-4)


def _one(row: torch.Tensor) -> Vocabulary:
    """A vocabulary of one row."""
    return Vocabulary(('x',), row[None], row, torch.ones(1).bool(), 'any')


@pytest.mark.parametrize('block', [3, 1 << 17])
def test_the_nearest_come_first(
    index: Index, detector: Any, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setitem(sys.modules, 'faiss', None)
    monkeypatch.setattr('dito.apis.index._BLOCK', block)
    asked = detector.embed('anchor, heart, key')
    wanted = (index.vectors @ asked.embeddings.numpy().T).max(1)
    wanted = np.sort(wanted)[::-1][:9]
    found = [hit.similarity for hit in index.search(asked, 9)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert len(index.search(asked, 10**6)) == len(index)


def test_faiss_gives_the_same(index: Index, detector: Any) -> None:
    pytest.importorskip('faiss')
    by_faiss = index.search('anchor, heart', 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'faiss', None)
        by_numpy = index.search('anchor, heart', 9)
    assert [h.box for h in by_faiss] == [h.box for h in by_numpy]


def test_negatives_take_what_is_nearer_to_them(
    index: Index, detector: Any
) -> None:
    asked = detector.embed('anchor')
    plain = index.search(asked, 5)
    box = plain[0].box
    against = detector.embed(examples={'no': (plain[0].path, box)})
    rest = index.search(asked, len(index), negative_names=against)
    rows = torch.cat([asked.embeddings, against.embeddings]).numpy()
    nearer = (index.vectors @ rows.T).argmax(1) == 0
    # A tie may fall to either side by the last bit.
    assert abs(len(rest) - int(nearer.sum())) <= 1 < len(index) - len(rest)
    few = index.search(asked, 3, negative_names=against)
    assert [hit.box for hit in few] == [hit.box for hit in rest[:3]]


def test_saved_and_refused(
    index: Index, detector: Any, tmp_path: Path
) -> None:
    path = tmp_path / 'i.safetensors'
    index.save(path)
    loaded = Index.load(path, detector)
    assert loaded.paths == index.paths
    np.testing.assert_allclose(loaded.vectors, index.vectors, atol=1e-3)
    assert [h.path for h in loaded.search('anchor', 3)] == [
        h.path for h in index.search('anchor', 3)
    ]
    own = detector.fingerprint()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detector, 'fingerprint', lambda: 'f' * 64)
        with pytest.raises(ValueError, match=f'{own[:8]}, this one is ffff'):
            Index.load(path, detector)
    with pytest.raises(ValueError, match='is not an index'):
        Index.load(next(SHIPPED.glob('*.safetensors')), detector)
    with pytest.raises(ValueError, match='saved as .safetensors'):
        index.save(tmp_path / 'i.npz')
    for count in 0, True:
        with pytest.raises(ValueError, match='from 1 on'):
            index.search('anchor', count)


# ---------------------------------------------------------------- examples


def test_examples_beside_names(
    detector: Any, truth: list, tmp_path: Path
) -> None:
    path, name, box = truth[0]
    crop = cv2.imread(path)[
        int(box[1]) : int(box[3]), int(box[0]) : int(box[2])
    ]
    scene = detector.encode(path)
    made = detector.embed(
        'airplane',
        examples=dict(
            crop=crop, box=(path, box), scene=[(scene, box)], Airplane=crop
        ),
    )
    assert made.names == ('airplane', 'crop', 'box', 'scene')
    assert made.examples == (1, 1, 1, 1)
    assert made.novel.tolist() == [False, True, True, True]
    torch.testing.assert_close(made.embeddings[1], made.embeddings[2])
    torch.testing.assert_close(
        made.embeddings.norm(dim=1), torch.ones(4), rtol=1e-5, atol=1e-5
    )
    plain = detector.embed('airplane')
    mean = plain.embeddings[0] + made.embeddings[1]
    torch.testing.assert_close(made.embeddings[0], mean / mean.norm())
    found = scene.find(detector.embed('airplane', examples=dict(it=crop)))
    assert any(
        n == 'it' and overlap(b, box) > 0.5
        for n, b in zip(found['names'], found['bboxes'], strict=True)
    )
    made.save(tmp_path / 'mine.safetensors')
    loaded = Vocabulary.load(tmp_path / 'mine.safetensors')
    assert (loaded.names, loaded.examples) == (made.names, made.examples)
    assert scene.find(tmp_path / 'mine.safetensors', score_thr=0) == (
        scene.find(loaded, score_thr=0)
    )


def test_one_example_needs_no_list(detector: Any) -> None:
    """A picture in any form, alone or with a box, and a scene with one."""
    path = TWENTY / 'images/01.jpg'
    pixels = cv2.imread(str(path))
    forms = dict(
        path=path,
        array=pixels,
        coded=path.read_bytes(),
        memory=memoryview(path.read_bytes()),
        pillow=Image.fromarray(pixels[..., ::-1]),
        tensor=torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1),
    )
    made = detector.embed(examples=forms)
    assert made.examples == (1,) * len(forms)
    torch.testing.assert_close(
        made.embeddings, made.embeddings[:1].expand(len(forms), -1)
    )
    box = (10, 10, 100, 90)
    boxed = detector.embed(
        examples={name: (form, box) for name, form in forms.items()}
    )
    assert boxed.examples == made.examples
    with pytest.raises(ValueError, match='needs a box'):
        detector.embed(examples=dict(a=detector.encode(path)))


def test_groups_in_a_query(detector: Any, truth: list) -> None:
    made = detector.embed(
        'anchor', groups={'vehicle': ['airplane', 'sailboat']}
    )
    assert made.labels == ('anchor', 'vehicle')
    found = detector(truth[0][0], made, score_thr=0)['predictions'][0]
    assert set(found['names']) <= {'anchor', 'vehicle'}


@pytest.mark.parametrize(
    ('examples', 'message'),
    [
        (dict(a=(TWENTY / 'images/01.jpg', (0, 0, 1, 1))), '1 x 1 pixels'),
        (dict(a=np.zeros((1, 1, 3), np.uint8)), '1 x 1 pixels'),
        (dict(a=(TWENTY / 'images/01.jpg', (9, 9, 999, 50))), 'not lie in'),
        (dict(a=(TWENTY / 'images/01.jpg', (50, 9, 20, 50))), 'not lie in'),
        (
            dict(a=(TWENTY / 'images/01.jpg', (np.nan, 9, 50, 50))),
            'not lie in',
        ),
        (dict(a=[]), 'empty list of examples'),
        (dict(a=None), 'got NoneType'),
        (dict(a=(TWENTY / 'images/01.jpg', (9, 9, 50))), 'got 3 values'),
        (['01.jpg'], 'given by name'),
        ({' ': np.zeros((9, 9, 3), np.uint8)}, 'blank'),
        ({}, 'no names and no examples'),
    ],
)
def test_examples_that_show_nothing(
    detector: Any, examples: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        detector.embed(examples=examples)


def test_groups_and_counts_of_no_kind(detector: Any, index: Index) -> None:
    with pytest.raises(ValueError, match='given by label'):
        detector.embed(groups=['toy'])
    for count in (0, 1.5, '5', None, True):
        with pytest.raises(ValueError, match='count is a whole number'):
            index.search('anchor', count)
        with pytest.raises(ValueError, match='regions is a whole number'):
            Index.build(detector, TWENTY / 'images', regions=count)


def test_a_missing_example(detector: Any) -> None:
    with pytest.raises(FileNotFoundError, match='none.png does not exist'):
        detector.embed(examples=dict(a='none.png'))


def test_examples_as_typed(tmp_path: Path) -> None:
    assert parse_example('a b.png') == 'a b.png'
    assert parse_example('a@b.png@1,2.5,3,4') == ('a@b.png', (1, 2.5, 3, 4))
    with pytest.raises(ValueError, match='x1,y1,x2,y2'):
        parse_example('a.png@1,2,3,4-')


# ---------------------------------------------------------------- commands


def test_commands(
    tmp_path: Path, truth: list, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = tmp_path / 'photos', str(tmp_path / 'i.safetensors')
    photos.mkdir()
    for number in '15.jpg', '16.jpg':
        shutil.copy(TWENTY / 'images' / number, photos)
    assert index_tool([str(photos), '--out', out, '--regions', '9']) == 0
    assert '18 objects of 2 pictures' in capsys.readouterr().out
    (photos / 'bad.jpg').write_bytes(b'no picture')
    assert index_tool([str(photos), '--out', out]) == 3
    said = capsys.readouterr().err
    assert 'bad.jpg' in said and '1 of 3 images' in said
    path, _, box = truth[0]
    example = f'{path}@{",".join(map(str, box))}'
    common = ['--top-k', '2']
    assert search_tool([out, 'anchor, heart', *common]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == 3
    assert search_tool([out, '--example', example, *common]) == 0
    line = capsys.readouterr().out.strip().splitlines()[-2]
    assert '  example  ' in line and '15.jpg' in line
    with pytest.raises(SystemExit):
        search_tool([out])
    assert 'nothing to look for' in capsys.readouterr().err


def test_commands_refuse(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / 'empty').mkdir()
    for given, message in (
        ([str(tmp_path / 'empty')], 'There is no image in'),
        ([str(TWENTY / 'none')], 'does not exist'),
    ):
        assert index_tool(given) == 2
        assert message in capsys.readouterr().err
    no_index = next(SHIPPED.glob('*.safetensors'))
    film = tmp_path / 'f.avi'
    write_film(film, 2)
    one = [str(TWENTY / 'images' / '15.jpg')]
    monkeypatch.setattr(search_module, 'DITOInferencer', None)
    for tool, given, message in (
        (search_tool, ['i.safetensors', 'a'], 'does not exist; give an index'),
        (search_tool, [__file__, 'a'], 'is not an index (no .safetensors'),
        (search_tool, [str(no_index), 'a'], 'is not an index (format '),
        (index_tool, [str(film)], 'f.avi is a film'),
        (index_tool, one + ['--out', f'{film}/i.safetensors'], 'no folder'),
    ):
        assert tool(given) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match='f.avi is a film'):
        typed_example(str(film))
    # Before anything is looked at, let alone encoded.
    with pytest.raises(SystemExit):
        index_tool([str(TWENTY / 'none'), '--out', 'i.npz'])
    assert 'must end in .safetensors' in capsys.readouterr().err
