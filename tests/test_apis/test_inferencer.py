# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of DITOInferencer, and that it agrees with tools/test.py."""

import copy
import io
import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from PIL import Image
from pycocotools import mask as coco_mask
from tiny_api import NAMES, write_detector
from torchvision.ops import box_iou

from dito.apis import DITOInferencer, parse_names, pictures, save_model
from dito.apis.pictures import list_images
from dito.apis.results import to_supervision, to_transformers
from dito.cli import test as test_tool
from dito.datasets import reduced_image
from dito.models.text import Vocabulary


@pytest.fixture(scope='module')
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Images, config and the weights of an untrained detector."""
    return write_detector(tmp_path_factory.mktemp('api'))


def test_names() -> None:
    assert parse_names(' red umbrella ,anchor, ') == ('red umbrella', 'anchor')
    assert parse_names(['a', ' b ']) == parse_names(('a', 'b')) == ('a', 'b')
    with pytest.raises(ValueError, match='1 of 3 class names are blank'):
        parse_names('anchor,,kite')
    with pytest.raises(ValueError, match='more than once'):
        parse_names(['Anchor', 'anchor'])
    with pytest.raises(FileNotFoundError, match='none.txt does not exist'):
        parse_names('none.txt')
    with pytest.raises(ValueError, match='more than once'):
        parse_names(['caf\u00e9', 'cafe\u0301'])  # looks the same


@pytest.mark.parametrize(
    'names',
    [
        np.array(['key', 'anchor']),
        np.array(['key', 'anchor'], object),
        (n for n in ['key', 'anchor']),
        dict(key=1, anchor=2).keys(),
        {4: 'anchor', 2: 'key'},
        dict(anchor=4, key=2),
        np.array('key, anchor'),
    ],
)
def test_names_of_other_kinds(names: Any) -> None:
    assert parse_names(names) == ('key', 'anchor')


@pytest.mark.parametrize(
    'names, message',
    [
        ({'key', 'anchor'}, 'set of names has no order'),
        (b'key', "a list of texts, got b'key'"),
        (None, 'got None'),
        (5, 'got 5'),
        ([['key']], 'must be texts'),
    ],
)
def test_names_of_no_kind(names: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        parse_names(names)


def test_names_file(tmp_path: Path) -> None:
    path = tmp_path / 'names.txt'
    path.write_text('# harbour\nanchor\n\n red umbrella \n')
    assert parse_names(path) == ('anchor', 'red umbrella')
    path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ValueError, match='not a text file'):
        parse_names(str(path))


@pytest.mark.parametrize('hook', [False, True])
def test_agrees_with_test_tool(
    parts: dict[str, Any], tmp_path: Path, hook: bool
) -> None:
    cfg = copy.deepcopy(parts['cfg'])
    if hook:
        cfg.custom_hooks.append(dict(type='DITORunLengthMasksHook'))
    cfg.dump(tmp_path / 'tiny.py')
    out = tmp_path / 'results.pkl'
    code = test_tool.main(
        [
            str(tmp_path / 'tiny.py'),
            str(parts['weights']),
            '--work-dir',
            str(tmp_path / 'work'),
            '--out',
            str(out),
        ]
    )
    assert code == 0
    wanted = pickle.loads(out.read_bytes())
    inferencer = DITOInferencer(parts['weights'], vocabulary=NAMES)
    found = inferencer(
        parts['images'], score_thr=0, batch_size=1, out_dir=tmp_path / 'out'
    )
    assert len(found['predictions']) == len(wanted) == 2
    for mine, theirs in zip(found['predictions'], wanted, strict=True):
        theirs = theirs['pred_instances']
        order = theirs['scores'].argsort(descending=True, stable=True)
        assert len(mine['scores']) == len(order) > 0
        np.testing.assert_array_equal(mine['labels'], theirs['labels'][order])
        torch.testing.assert_close(
            torch.tensor(mine['scores']), theirs['scores'][order]
        )
        torch.testing.assert_close(
            torch.tensor(mine['bboxes']), theirs['bboxes'][order]
        )
        counts = [theirs['masks'][i]['counts'].decode() for i in order]
        assert [m['counts'] for m in mine['masks']] == counts
        assert mine['names'] == [NAMES[i] for i in mine['labels']]


def test_files_and_threshold(parts: dict[str, Any], tmp_path: Path) -> None:
    inferencer = DITOInferencer(parts['weights'])
    images = [str(parts['images'][0]), str(parts['images'][0])]
    everything = inferencer(images[0], 'anchor, blue kite', score_thr=0)
    scores = everything['predictions'][0]['scores']
    assert scores == sorted(scores, reverse=True)
    threshold = scores[3]
    result = inferencer(
        images,
        'anchor, blue kite',
        score_thr=threshold,
        out_dir=tmp_path,
        return_vis=True,
        batch_size=2,
    )
    kept = result['predictions'][0]
    assert len(kept['scores']) == sum(s >= threshold for s in scores)
    assert set(kept['names']) <= {'anchor', 'blue kite'}
    written = json.loads((tmp_path / 'preds' / '0_2.json').read_text())
    assert written == result['predictions'][1]
    picture = cv2.imread(str(tmp_path / 'vis' / '0.jpg'))
    # 48 x 80 pixels, enlarged for the labels.
    drawn = result['visualization'][0]
    assert picture.shape == drawn.shape == (8 * 48, 8 * 80, 3)
    plain = cv2.resize(
        cv2.imread(images[0])[..., ::-1],
        (640, 384),
        interpolation=cv2.INTER_CUBIC,
    )
    assert (drawn != plain).any()
    assert sorted(p.name for p in tmp_path.rglob('*.*')) == [
        '0.jpg',
        '0.json',
        '0_2.jpg',
        '0_2.json',
    ]


def test_large_pictures_are_read_reduced(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inferencer = DITOInferencer(parts['weights'], vocabulary=NAMES)
    small = cv2.imread(str(parts['images'][0]))
    alone = inferencer(small, score_thr=0)['predictions'][0]
    large = np.repeat(np.repeat(small, 4, 0), 4, 1)
    path = tmp_path / 'large.png'
    cv2.imwrite(str(path), large)
    monkeypatch.setattr(
        reduced_image, 'FULL_PIXELS', small.shape[0] * small.shape[1]
    )
    found = inferencer([large, path], score_thr=0, out_dir=tmp_path)[
        'predictions'
    ]
    assert found[0] == found[1] and len(alone['scores']) > 5
    assert found[0]['labels'] == alone['labels']
    np.testing.assert_allclose(found[0]['scores'], alone['scores'], rtol=1e-4)
    np.testing.assert_allclose(
        found[0]['bboxes'], 4 * np.array(alone['bboxes']), rtol=1e-4, atol=1e-3
    )
    assert {tuple(m['size']) for m in found[0]['masks']} == {(192, 320)}
    monkeypatch.setattr(reduced_image, 'MOST_BYTES', 100_000)
    with pytest.raises(ValueError, match='large.png has 320 x 192 pixels'):
        inferencer(path)


def test_data_samples_have_run_lengths(parts: dict[str, Any]) -> None:
    inferencer = DITOInferencer(parts['weights'], vocabulary=NAMES)
    image = parts['images'][1]
    plain = inferencer(image, score_thr=0)['predictions'][0]
    sample = inferencer(image, score_thr=0, return_datasamples=True)[
        'predictions'
    ][0]
    masks = sample.pred_instances.masks
    assert masks.shape == (len(plain['scores']), 90, 70)
    order = sample.pred_instances.scores.argsort(descending=True, stable=True)
    for mask, rle in zip(masks[order].numpy(), plain['masks'], strict=True):
        np.testing.assert_array_equal(mask, coco_mask.decode(rle))


def test_results_of_transformers(parts: dict[str, Any]) -> None:
    detector = DITOInferencer(parts['weights'], device='cpu')
    for threshold in (0.1, 1):
        (result,) = detector(parts['images'][0], score_thr=threshold)[
            'predictions'
        ]
        found = to_transformers(result)
        assert found['scores'].tolist() == pytest.approx(result['scores'])
        assert found['labels'].dtype == torch.int64
        assert found['boxes'].shape == (len(result['names']), 4)
        assert found['text_labels'] == result['names']
    assert found['text_labels'] == []


def test_results_of_supervision(parts: dict[str, Any]) -> None:
    pytest.importorskip('supervision')
    detector = DITOInferencer(parts['weights'], device='cpu')
    for threshold in (0.1, 1):
        (result,) = detector(parts['images'][0], score_thr=threshold)[
            'predictions'
        ]
        found = to_supervision(result)
        assert len(found) == len(result['names'])
        np.testing.assert_allclose(
            found.xyxy, np.reshape(result['bboxes'], (-1, 4)), rtol=1e-6
        )
        assert found.data['class_name'].tolist() == result['names']
        assert found.class_id.tolist() == result['labels']
        if result['names']:
            assert found.mask.shape == (len(found), 48, 80)
    assert len(found) == 0


def test_supervision_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'supervision', None)
    with pytest.raises(ValueError, match='pip install supervision'):
        to_supervision(dict(bboxes=[], scores=[], labels=[], names=[]))


def test_array_input_is_the_same(parts: dict[str, Any]) -> None:
    inferencer = DITOInferencer(parts['weights'], vocabulary=NAMES)
    path = parts['images'][1]
    array = cv2.imread(str(path))
    before = array.copy()
    one, two = inferencer([path, array], score_thr=0)['predictions']
    assert one == two
    np.testing.assert_array_equal(array, before)


def test_pictures_in_memory_are_the_same(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes, Pillow images and tensors, and Pillow's of a turned photo."""
    inferencer = DITOInferencer(parts['weights'], vocabulary=NAMES)
    path = parts['images'][1]
    rgb = cv2.imread(str(path))[..., ::-1].copy()
    turned = Image.fromarray(np.rot90(rgb, 1).copy())
    coded = io.BytesIO()
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(coded, 'png', exif=exif)
    forms = [
        path,
        path.read_bytes(),
        memoryview(path.read_bytes()),
        Image.open(path),
        Image.fromarray(rgb),
        torch.from_numpy(rgb).permute(2, 0, 1),
        coded.getvalue(),
        Image.open(coded),
    ]
    first, *others = inferencer(forms, score_thr=0)['predictions']
    assert first['names'] and all(one == first for one in others)
    assert inferencer(Image.open(path), score_thr=0)['predictions'] == [first]
    # Larger ones are reduced, and boxes are in pixels of the whole.
    monkeypatch.setattr(reduced_image, 'FULL_PIXELS', rgb.size // 6)
    found = inferencer(forms, score_thr=0)['predictions']
    assert {tuple(m['size']) for f in found for m in f['masks']} == {(90, 70)}
    with pytest.raises(ValueError, match='Pillow image of 70 x 90 .* cannot'):
        inferencer(Image.open(io.BytesIO(path.read_bytes()[:9000])))


def test_patterns_of_files(parts: dict[str, Any], tmp_path: Path) -> None:
    for name in ('b.png', 'a.png', 'a.txt', 'in/c.png', 'x[1].png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(parts['images'][0].read_bytes())

    def names(pattern: str) -> list[str]:
        found = list_images(str(tmp_path / pattern))
        return [str(Path(p).relative_to(tmp_path)) for p in found]

    assert names('?.png') == ['a.png', 'b.png']
    assert names('**/[a-c].png') == ['a.png', 'b.png', 'in/c.png']
    with pytest.raises(FileNotFoundError, match='No file fits .*none'):
        names('none*')
    # A file of this name comes before what the pattern fits.
    assert names('x[1].png') == ['x[1].png']


def test_vocabulary_of_call_and_of_inferencer(parts: dict[str, Any]) -> None:
    inferencer = DITOInferencer(parts['weights'])
    image = parts['images'][0]
    first = inferencer(image, score_thr=0)['predictions'][0]
    assert set(first['names']) <= {'red umbrella', 'anchor'}
    inferencer.set_vocabulary(['wheel'])
    inferencer(image, ['anchor'])
    assert inferencer.vocabulary.names == ('wheel',)


def test_each_image_has_its_own_names(parts: dict[str, Any]) -> None:
    inferencer = DITOInferencer(parts['weights'])
    inferencer.train_meta = {}
    images = parts['images']
    own = ['anchor, wheel', ['blue kite']]
    found = inferencer(
        images, vocabularies=own, score_thr=0, batch_size=2, return_vis=True
    )
    assert inferencer.vocabulary is None and len(found['visualization']) == 2
    for image, names, prediction in zip(
        images, own, found['predictions'], strict=True
    ):
        alone = inferencer(image, names, score_thr=0)['predictions'][0]
        assert alone['names'] == prediction['names'] != []
        assert alone['labels'] == prediction['labels']
        np.testing.assert_allclose(
            alone['scores'], prediction['scores'], rtol=1e-4
        )
    inferencer.set_vocabulary('wheel')
    found = inferencer(
        images, vocabularies=iter([None, ['anchor']]), score_thr=0
    )['predictions']
    assert [set(p['names']) for p in found] == [{'wheel'}, {'anchor'}]
    for wrong in (['anchor'], 'anchor', {'a': ['anchor'], 'b': ['wheel']}):
        with pytest.raises(ValueError, match='each of the 2 images'):
            inferencer(images, vocabularies=wrong)


def test_threads_with_other_names_get_what_one_gets(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    inferencer = DITOInferencer(parts['weights'], vocabulary=['wheel'])
    images = parts['images']
    asked = [
        ['anchor', 'wheel'],
        ['blue kite', 'red umbrella', 'anchor'],
        None,
    ]
    want = [
        inferencer(images, n, score_thr=0, out_dir=tmp_path / 'one')
        for n in asked
    ]

    def work(turn: int) -> Any:
        return inferencer(
            images,
            asked[turn % 3],
            score_thr=0,
            out_dir=tmp_path / f'{turn}',
            return_vis=turn % 2,
        )

    with ThreadPoolExecutor(3) as pool:
        for turn, found in enumerate(pool.map(work, range(12))):
            assert found['predictions'] == want[turn % 3]['predictions']
    assert inferencer.vocabulary.names == ('wheel',)
    assert inferencer.model.vocabulary.names == ('wheel',)


def test_names_of_a_call_do_not_stay(parts: dict[str, Any]) -> None:
    inferencer = DITOInferencer(parts['weights'])
    image = parts['images'][0]
    trained = inferencer(image, score_thr=0)
    inferencer(image, ['blue kite', 'wheel'])
    assert inferencer.vocabulary is None
    assert inferencer.model.vocabulary is None
    assert inferencer(image, score_thr=0) == trained


def test_novel_are_names_outside_the_training(parts: dict[str, Any]) -> None:
    inferencer = DITOInferencer(parts['weights'])
    vocabulary = inferencer.set_vocabulary(['Anchor', 'wheel'])
    assert vocabulary.novel.tolist() == [False, True]


@pytest.mark.parametrize('negatives', ['trained', 'Blue Kite, wheel'])
def test_negative_names_compete_and_are_not_found(
    parts: dict[str, Any], negatives: str
) -> None:
    asked = ['anchor', 'wheel']
    names = dict(trained=['red umbrella', 'anchor']).get(
        negatives, ['Blue Kite', 'wheel']
    )
    every = [*asked, *(n for n in names if n not in asked)]
    image = parts['images'][0]
    plain = DITOInferencer(parts['weights'])
    wanted = plain(image, every, score_thr=0)['predictions'][0]
    rows = [i for i, label in enumerate(wanted['labels']) if label < 2]
    assert 0 < len(rows) < len(wanted['labels'])
    inferencer = DITOInferencer(parts['weights'], negative_names=negatives)
    for found in (
        inferencer(image, asked, score_thr=0),
        inferencer([image], vocabularies=[asked], score_thr=0),
    ):
        found = found['predictions'][0]
        assert set(found['names']) <= set(asked)
        for key in ('labels', 'names', 'bboxes'):
            assert found[key] == [wanted[key][i] for i in rows], key
        np.testing.assert_allclose(
            found['scores'], [wanted['scores'][i] for i in rows], rtol=1e-5
        )
    inferencer.set_vocabulary(asked)
    assert inferencer.vocabulary.names == tuple(asked)


def test_agnostic_nms_keeps_one_name_an_object(parts: dict[str, Any]) -> None:
    inferencer = DITOInferencer(parts['weights'], vocabulary=NAMES)
    image = parts['images'][0]
    every = inferencer(image, score_thr=0)['predictions'][0]
    kept = inferencer(image, score_thr=0, agnostic_nms=0.4)['predictions'][0]
    boxes = torch.tensor(every['bboxes'])
    overlap = box_iou(boxes, boxes) > 0.4
    wanted: list[int] = []
    for row in range(len(boxes)):  # Best first.
        if not any(overlap[row, other] for other in wanted):
            wanted.append(row)
    assert 0 < len(wanted) < len(boxes)
    for key in ('names', 'scores', 'bboxes'):
        assert kept[key] == [every[key][i] for i in wanted], key
    inferencer = DITOInferencer(parts['weights'], negative_names=NAMES[1:])
    asked = inferencer(image, NAMES[:1], score_thr=0, agnostic_nms=0.4)[
        'predictions'
    ][0]
    assert asked['bboxes'] == [  # Negative names suppress too.
        box
        for box, name in zip(kept['bboxes'], kept['names'], strict=True)
        if name == NAMES[0]
    ]
    with pytest.raises(ValueError, match='IoU in \\(0, 1\\], got 50'):
        inferencer(image, agnostic_nms=50)


def test_negative_names_need_a_known_training(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    weights = tmp_path / 'model.safetensors'
    model = DITOInferencer(parts['weights']).model
    save_model(weights, model, parts['cfg'], {})
    with pytest.raises(ValueError, match='this one does not; give the names'):
        DITOInferencer(weights, negative_names='trained')


def test_vocabulary_file(parts: dict[str, Any], tmp_path: Path) -> None:
    inferencer = DITOInferencer(parts['weights'])
    path = tmp_path / 'v.safetensors'
    inferencer.set_vocabulary(NAMES).save(path)
    image = parts['images'][0]
    assert inferencer(image, path, score_thr=0) == inferencer(
        image, NAMES, score_thr=0
    )
    other = Vocabulary.load(path)
    object.__setattr__(other, 'fingerprint', 'f' * 64)
    with pytest.raises(ValueError, match='text tower ffffffff'):
        inferencer(image, other)


def test_pth_of_a_training_holds_its_config(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    cfg = parts['cfg']
    inferencer = DITOInferencer(cfg, parts['weights'], NAMES)
    path = tmp_path / 'epoch_1.pth'
    # The file of the token table is not at hand; the weights have it.
    moved = copy.deepcopy(cfg)
    moved.model.text_encoder.token_ids = 'gone.json'
    torch.save(
        dict(
            state_dict=inferencer.model.state_dict(),
            meta=dict(
                cfg=moved.pretty_text, dataset_meta=inferencer.train_meta
            ),
        ),
        path,
    )
    image = parts['images'][0]
    assert DITOInferencer(path, vocabulary=NAMES)(image) == inferencer(image)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_pipeline_of_several_test_sets(
    parts: dict[str, Any], tmp_path: Path, suffix: str
) -> None:
    cfg = copy.deepcopy(parts['cfg'])
    one = cfg.test_dataloader.dataset.to_dict()
    cfg.test_dataloader.dataset = dict(
        type='RepeatDataset',
        times=1,
        dataset=dict(type='ConcatDataset', datasets=[one, one]),
    )
    inferencer = DITOInferencer(cfg, parts['weights'], NAMES)
    path = tmp_path / f'model{suffix}'
    if suffix == '.pth':
        meta = dict(cfg=cfg.pretty_text, dataset_meta=inferencer.train_meta)
        torch.save(
            dict(state_dict=inferencer.model.state_dict(), meta=meta), path
        )
    else:
        save_model(path, inferencer.model, cfg, inferencer.train_meta)
    image = parts['images'][0]
    assert DITOInferencer(path, vocabulary=NAMES)(image) == inferencer(image)


def test_refuses_code_in_the_embedded_config(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    state = MODELS.build(parts['cfg'].model).state_dict()
    for text, message in (
        ("import os\nmodel = dict(type='DITO')", 'more than plain values'),
        ("model = dict(type=open('x'))", 'more than plain values'),
        ("model = dict(type='os.system', command='true')", 'os.system'),
        ("model = dict(type='DITO'", 'not readable'),
    ):
        path = tmp_path / 'bad.pth'
        torch.save(dict(state_dict=state, meta=dict(cfg=text)), path)
        with pytest.raises(ValueError, match=message):
            DITOInferencer(path)


def test_refuses_a_config_without_model(tmp_path: Path) -> None:
    (tmp_path / 'none.py').write_text('a = 1\n')
    with pytest.raises(ValueError, match='none.py has no "model"'):
        DITOInferencer(tmp_path / 'none.py')


def test_refuses_weights_of_another_model(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict={'backbone.norm.weight': torch.ones(16)}), path)
    with pytest.raises(ValueError, match='weights do not fit the config'):
        DITOInferencer(parts['cfg'], path)
    with pytest.raises(ValueError, match='holds no config'):
        DITOInferencer(path)


def test_saved_file_is_self_contained(parts: dict[str, Any]) -> None:
    inferencer = DITOInferencer(parts['weights'])
    text = inferencer.cfg.pretty_text
    assert str(parts['folder']) not in text
    assert inferencer.cfg.model.text_encoder.token_ids == len(
        inferencer.model.text_encoder.token_ids
    )
    with pytest.raises(ValueError, match='saved as .safetensors'):
        save_model('x.pth', inferencer.model, parts['cfg'])


def test_bad_images(parts: dict[str, Any], tmp_path: Path) -> None:
    inferencer = DITOInferencer(parts['weights'], vocabulary=NAMES)
    broken = tmp_path / 'broken.jpg'
    broken.write_bytes(b'no image')
    with pytest.raises(ValueError, match='broken.jpg.*cannot be decoded'):
        inferencer(broken, out_dir=tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    with pytest.raises(FileNotFoundError, match='gone.jpg does not exist'):
        inferencer(tmp_path / 'gone.jpg')
    with pytest.raises(ValueError, match=r'got \(4, 4\)'):
        inferencer(np.zeros((4, 4), np.uint8))
    empty = tmp_path / 'empty'
    empty.mkdir()
    with pytest.raises(ValueError, match='no image in'):
        inferencer(empty)


def test_sound_images_beside_a_broken_one(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    inferencer = DITOInferencer(parts['weights'], vocabulary=NAMES)
    broken = tmp_path / 'broken.jpg'
    broken.write_bytes(b'no image')
    first, last = parts['images']
    alone = inferencer([first, last], score_thr=0)['predictions']
    for size in (1, 3):
        found = inferencer(
            [first, broken, last, tmp_path / 'gone.png'],
            score_thr=0,
            batch_size=size,
            on_error='collect',
        )
        assert (
            [p is None for p in found['predictions']]
            == [e is not None for e in found['errors']]
            == [False, True, False, True]
        )
        assert 'broken.jpg' in found['errors'][1]
        assert 'gone.png does not exist' in found['errors'][3]
        got = found['predictions'][::2]
        for a, b in zip(alone, got, strict=True):
            assert a['labels'] == b['labels']
            np.testing.assert_allclose(a['scores'], b['scores'], rtol=1e-4)


@pytest.mark.parametrize(
    'image, message',
    [
        (np.zeros((4, 4, 3), np.float32), r'\(image \* 255\)'),
        (np.full((4, 4, 3), 200.0), r'image.astype\(np.uint8\)'),
        (np.full((4, 4, 3), np.nan, np.float32), 'NaN'),
        (np.zeros((4, 4, 3), np.int64), 'uint8, from 0 to 255, got int64'),
        (np.zeros((4, 4, 4), np.uint8), r'got \(4, 4, 4\)'),
        (np.zeros((0, 0, 3), np.uint8), r'got \(0, 0, 3\)'),
        (np.full((4, 4, 3), 300), 'its values, 300 to 300, must be scaled'),
        (np.ones((4, 4, 3), bool), r'image.astype\(np.uint8\) \* 255'),
        (np.ones((4, 4, 3), complex), 'numbers from 0 to 255'),
        (np.array(5, np.uint8), r'got \(\)'),
        (np.ma.masked_less(np.zeros((4, 4, 3), np.uint8), 1), r'filled\(0\)'),
        (torch.zeros(3, 4, 4), r'\(image \* 255\).*not normalised'),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r'permute\(2, 0, 1\)'),
        (torch.zeros(2, 3, 4, 4), r'got \(2, 3, 4, 4\); of a batch give list'),
        (torch.zeros(1, 4, 4), r'expand\(3, -1, -1\)'),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), r'got \(3, 0, 4\)'),
        (Image.new('I;16', (4, 4)), "mode 'I;16' must be scaled"),
        (Image.new('RGB', (0, 4)), 'of 0 x 4 has no pixels'),
        (b'encoded', r'given as bytes \(7 bytes\) cannot be decoded'),
        (b'', r'given as bytes \(0 bytes\) cannot be decoded'),
        (io.BytesIO(b'encoded'), r'or file.read\(\)'),
        ({'a.jpg'}, 'got set; several images go into one list'),
        (5, 'got int; give one of these'),
        ('', 'path of the image is empty'),
        ('s9://bucket/a.jpg', 'not read from s9://'),
        ('file://server/a.jpg', "machine 'server'; write file:///"),
        ('http://127.0.0.1:9/a.jpg', 'cannot be fetched .*refused'),
        ([], 'empty list'),
    ],
)
def test_what_is_no_picture_is_refused(
    parts: dict[str, Any], image: Any, message: str
) -> None:
    inferencer = DITOInferencer(parts['weights'], vocabulary=NAMES)
    with pytest.raises(ValueError, match=message):
        inferencer(image)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(batch_size=0), 'batch_size is a whole number'),
        (dict(batch_size=1.5), 'batch_size is a whole number'),
        (dict(score_thr=float('nan')), 'score_thr is a score'),
        (dict(score_thr='high'), 'score_thr is a score'),
        (dict(score_thr=30), 'from 0 to 1, got 30'),
        (dict(score_thr=True), 'score_thr is a score'),
        (dict(batch_size=True), 'batch_size is a whole number'),
        (dict(agnostic_nms=float('nan')), 'agnostic_nms is an IoU'),
        (dict(on_error='ignore'), "on_error is 'raise' or 'collect'"),
        (dict(out_dir=5), 'out_dir is the path of a folder, got 5'),
    ],
)
def test_options_out_of_range_are_refused(
    parts: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    inferencer = DITOInferencer(parts['weights'], vocabulary=NAMES)
    with pytest.raises(ValueError, match=message):
        inferencer(parts['images'][0], **options)


def test_nothing_of_a_folder_is_left_out_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that leads nowhere, and a folder within."""
    folder = tmp_path / 'photos'
    (folder / 'more').mkdir(parents=True)
    with pytest.raises(ValueError, match='0 files.*it has 1 folder, whose'):
        list_images(folder)
    (folder / 'a.png').touch()
    (folder / 'b.png').symlink_to('nowhere.png')
    with pytest.raises(FileNotFoundError, match='b.png does not exist'):
        list_images(folder)
    assert len(list_images(folder, check=False)) == 2
    monkeypatch.setenv('HOME', str(tmp_path))
    assert list_images([Path('~/photos/a.png')]) == [str(folder / 'a.png')]
    said: list[str] = []
    monkeypatch.setattr(
        pictures, 'print_log', lambda text, **_: said.append(text)
    )
    (folder / 'b.png').unlink()
    with pytest.raises(FileNotFoundError, match='~nouser/a.png does not'):
        list_images('~nouser/a.png')
    assert list_images('~/photos') == [str(folder / 'a.png')]
    assert len(said) == 1 and 'has 1 folder, whose images' in said[0]


@pytest.mark.parametrize('shape', [(1, 4000), (4000, 1), (1, 1)])
def test_thin_pictures(parts: dict[str, Any], shape: tuple) -> None:
    inferencer = DITOInferencer(parts['weights'], vocabulary=NAMES)
    image = np.full((*shape, 3), 128, np.uint8)
    try:
        found = inferencer(image, score_thr=0)['predictions'][0]
    except ValueError as error:
        assert 'cannot be prepared' in str(error)
    else:
        assert all(m['size'] == list(shape) for m in found['masks'])
    sides = inferencer(
        [image, parts['images'][0]], score_thr=0, on_error='collect'
    )
    assert sides['errors'][1] is None


def test_folders_and_addresses(parts: dict[str, Any], tmp_path: Path) -> None:
    inferencer = DITOInferencer(parts['weights'], vocabulary=NAMES)
    image = cv2.imread(str(parts['images'][0]))
    names = ['A.JPG', 'b.Png', 'c d.webp', 'e.tif', 'f.BMP', 'g.ppm']
    more = ['h.gif', 'i.TGA', 'j.Jp2', 'k.JFIF', 'l.Avif']
    for name in names:
        coded = cv2.imencode(Path(name).suffix.lower(), image)[1]
        (tmp_path / name).write_bytes(coded.tobytes())
    for name in more:
        picture = Image.fromarray(image[..., ::-1])
        if Path(name).suffix.lower() in Image.registered_extensions():
            picture.save(tmp_path / name)
    more = [name for name in more if (tmp_path / name).exists()]
    assert len(more) >= 3
    (tmp_path / 'notes.txt').write_text('no picture')
    (tmp_path / '.hidden.jpg').write_bytes(b'x')
    paths = inferencer.list_images(tmp_path)
    assert [Path(p).name for p in paths] == [*names, *more]
    found = inferencer(tmp_path, score_thr=0)['predictions']
    assert len(found) == 6 + len(more) and found[1] == found[4] == found[5]
    assert inferencer.list_images(map(str, paths)) == paths
    assert inferencer.list_images(np.array(paths)) == paths
    address = (tmp_path / 'c d.webp').as_uri()
    assert '%20' in address
    for form in (address, address.replace('file://', 'file:')):
        assert inferencer(form, score_thr=0)['predictions'] == found[2:3]
    assert inferencer(tmp_path.as_uri(), score_thr=0)['predictions'] == found


def test_arguments_of_detinferencer_are_answered(
    parts: dict[str, Any],
) -> None:
    with pytest.raises(TypeError, match="write device='cuda:0'"):
        DITOInferencer(parts['cfg'], parts['weights'], 'cuda:0')
    with pytest.raises(TypeError, match='"palette".*a colour of its own'):
        DITOInferencer(parts['cfg'], parts['weights'], palette='coco')
    inferencer = DITOInferencer(parts['weights'])
    image = parts['images'][0]
    with pytest.raises(TypeError, match='"texts".* take vocabulary'):
        inferencer(image, texts='anchor')
    with pytest.raises(TypeError, match='"pred_score_thr".* take score_thr'):
        inferencer(image, ['anchor'], pred_score_thr=0.1)
    with pytest.raises(TypeError, match='"scor_thr"; see help'):
        inferencer(image, ['anchor'], scor_thr=0.1)


def test_needs_names(parts: dict[str, Any]) -> None:
    inferencer = DITOInferencer(parts['cfg'])
    with pytest.raises(ValueError, match='Name what to look for'):
        inferencer(parts['images'][0])
