# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""MMDetection's own clients, and what is built on them, on our checkpoints."""

import copy
import json
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.registry import MODELS
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask
from tiny_api import write_detector

from dito.apis import DITOInferencer, package_model

CLASSES = ('red umbrella', 'anchor')
OTHER = ['blue kite', 'wheel', 'anchor']


@pytest.fixture(scope='module')
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A detector as .safetensors, and as .pth of a training with config."""
    parts = write_detector(tmp_path_factory.mktemp('clients'))
    inferencer = DITOInferencer(parts['weights'])
    folder, cfg = parts['folder'], parts['cfg']
    cfg.dump(folder / 'config.py')
    torch.save(
        dict(
            state_dict=inferencer.model.state_dict(),
            meta=dict(cfg=cfg.pretty_text, dataset_meta=dict(classes=CLASSES)),
        ),
        folder / 'iter_9.pth',
    )
    return dict(
        parts,
        config=folder / 'config.py',
        pth=folder / 'iter_9.pth',
        image=str(parts['images'][0]),
        inferencer=inferencer,
    )


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """MMDetection warns of a missing palette."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def open_client(parts: dict[str, Any], kind: str) -> DetInferencer:
    """MMDetection's inferencer, opened as image_demo.py does."""
    given = dict(
        both=dict(model=str(parts['config']), weights=str(parts['pth'])),
        pth=dict(weights=str(parts['pth'])),
        safetensors=dict(weights=str(parts['weights'])),
    )[kind]
    return DetInferencer(device='cpu', show_progress=False, **given)


def ours(
    parts: dict[str, Any], names: Any = None, image: Any = None
) -> dict[str, Any]:
    """What DITOInferencer finds."""
    image = parts['image'] if image is None else image
    found = parts['inferencer'](image, names, score_thr=0)
    return found['predictions'][0]


def check(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Compare detections, in whatever order they are."""
    order = np.argsort(-np.array(found['scores']), kind='stable')
    assert len(order) == len(wanted['scores']) > 0
    np.testing.assert_array_equal(
        np.array(found['labels'])[order], wanted['labels']
    )
    np.testing.assert_allclose(
        np.array(found['scores'])[order], wanted['scores'], rtol=1e-5
    )
    np.testing.assert_allclose(
        np.array(found['bboxes'])[order],
        wanted['bboxes'],
        rtol=1e-4,
        atol=1e-3,
    )
    assert [found['masks'][i]['counts'] for i in order] == [
        m['counts'] for m in wanted['masks']
    ]


def as_dict(sample: Any) -> dict[str, Any]:
    """Predictions of a data sample as :func:`check` takes them."""
    found = sample.pred_instances
    masks = np.asfortranarray(found.masks.numpy().transpose(1, 2, 0), np.uint8)
    return dict(
        labels=found.labels,
        scores=found.scores,
        bboxes=found.bboxes,
        masks=[
            dict(counts=m['counts'].decode()) for m in coco_mask.encode(masks)
        ],
    )


@pytest.mark.parametrize('weights', ['pth', 'weights'])
def test_init_and_inference_detector(
    parts: dict[str, Any], weights: str
) -> None:
    model = init_detector(
        str(parts['config']), str(parts[weights]), device='cpu'
    )
    assert model.dataset_meta['classes'] in (CLASSES, list(CLASSES))
    wanted = ours(parts)
    check(as_dict(inference_detector(model, parts['image'])), wanted)
    both = inference_detector(model, [str(p) for p in parts['images']])
    check(as_dict(both[1]), ours(parts, image=parts['images'][1]))
    # The names of the checkpoint are base ones, others are novel.
    assert model.vocabulary.novel.tolist() == [False, False]
    model.build_vocabulary(OTHER)
    assert model.dataset_meta['classes'] == tuple(OTHER)
    assert model.vocabulary.novel.tolist() == [True, True, False]
    for image in cv2.imread(parts['image']), parts['image']:
        check(as_dict(inference_detector(model, image)), ours(parts, OTHER))


@pytest.mark.parametrize('kind', ['both', 'pth', 'safetensors'])
def test_detinferencer(
    parts: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    client = open_client(parts, kind)
    array = cv2.imread(parts['image'])
    found = client(
        [parts['image'], array, str(parts['images'][1])],
        batch_size=2,
        out_dir=str(tmp_path),
        return_vis=True,
    )
    for result, image in zip(
        found['predictions'], (None, None, parts['images'][1]), strict=True
    ):
        check(result, ours(parts, image=image))
    assert tuple(client.model.dataset_meta['classes']) == CLASSES
    assert found['visualization'][0].shape == array.shape
    assert {p.name for p in (tmp_path / 'vis').iterdir()} == {
        '0.png',
        '00000001.jpg',
        '1.png',
    }
    client.model.build_vocabulary(OTHER)
    check(client(parts['image'])['predictions'][0], ours(parts, OTHER))
    # Pictures are drawn with the names of now.
    assert client.visualizer.dataset_meta['classes'] == tuple(OTHER)


def test_flow_of_image_demo(parts: dict[str, Any], tmp_path: Path) -> None:
    """The calls of demo/image_demo.py with --texts and --custom-entities."""
    client = open_client(parts, 'pth')
    client.model.test_cfg.chunked_size = -1
    client(
        inputs=str(parts['folder']),
        out_dir=str(tmp_path),
        texts='blue kite . wheel . anchor',
        pred_score_thr=0.0,
        batch_size=1,
        show=False,
        no_save_vis=False,
        no_save_pred=False,
        print_result=False,
        custom_entities=True,
        tokens_positive=None,
    )
    written = json.loads((tmp_path / 'preds' / '0.json').read_text())
    check(written, ours(parts, OTHER))
    drawn = cv2.imread(str(tmp_path / 'vis' / '0.png'))
    assert (drawn != cv2.imread(parts['image'])).any()


@pytest.mark.parametrize(
    'texts',
    [
        'blue kite . wheel . anchor .',
        'blue kite, wheel, anchor',
        'blue kite. wheel. anchor',
        [tuple(OTHER), OTHER],
    ],
)
@pytest.mark.parametrize('entities', [True, False])
def test_texts_of_detinferencer_are_names(
    parts: dict[str, Any], texts: Any, entities: bool
) -> None:
    client = open_client(parts, 'safetensors')
    before = copy.deepcopy(client.model.dataset_meta)
    inputs = [parts['image'], cv2.imread(parts['image'])]
    samples = client(
        inputs, texts=texts, custom_entities=entities, return_datasamples=True
    )['predictions']
    wanted = ours(parts, OTHER)
    for sample in samples:
        check(as_dict(sample), wanted)
        labels = sample.pred_instances.labels.tolist()
        assert sample.pred_instances.label_names == [OTHER[i] for i in labels]
        assert 'vocabulary' not in sample
    # Names of a call do not stay.
    assert client.model.dataset_meta == before
    assert client.model.vocabulary is None
    check(client(parts['image'])['predictions'][0], ours(parts))


def test_each_image_may_have_texts_of_its_own(parts: dict[str, Any]) -> None:
    client = open_client(parts, 'safetensors')
    # Of two names each: of one alone, all scores are 1 and their order free.
    texts = [
        'wheel . anchor',
        'anchor . blue kite',
        'blue kite . wheel',
        'anchor . wheel',
    ]
    found = client([parts['image']] * 4, texts=texts, batch_size=3)
    for result, text in zip(found['predictions'], texts, strict=True):
        check(result, ours(parts, text.split(' . ')))
    # A client that has built its own pipeline takes other calls too.
    client.model.build_vocabulary(OTHER)
    check(
        as_dict(inference_detector(client.model, parts['image'])),
        ours(parts, OTHER),
    )


def test_text_prompt_of_inference_detector(parts: dict[str, Any]) -> None:
    model = init_detector(
        str(parts['config']), str(parts['pth']), device='cpu'
    )
    for image in cv2.imread(parts['image']), parts['image']:
        sample = inference_detector(
            model,
            image,
            text_prompt='blue kite . wheel . anchor',
            custom_entities=True,
        )
        check(as_dict(sample), ours(parts, OTHER))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(tokens_positive=[[[0, 3]]]), 'tokens_positive=.*no sentence'),
        (dict(stuff_texts='sky'), "stuff_text='sky' has no meaning"),
        (dict(texts='anchor, anchor'), 'more than once'),
        (dict(texts=' . '), 'empty'),
    ],
)
def test_what_has_no_meaning_is_refused(
    parts: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    client = open_client(parts, 'safetensors')
    with pytest.raises(ValueError, match=message):
        client([parts['image']], **{'texts': 'anchor', **options})


@pytest.mark.parametrize('kind', ['jpg', 'webp'])
def test_boxes_are_of_the_upright_picture(
    parts: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    """Orientation 6: stored turned to the left, wider than it is."""
    upright = cv2.imread(str(parts['images'][1]))  # 90 x 70
    exif = Image.Exif()
    exif[0x0112] = 6
    path = str(tmp_path / f'turned.{kind}')
    Image.fromarray(np.rot90(upright)[..., ::-1].copy()).save(
        path, exif=exif, **(dict(lossless=True) if kind == 'webp' else {})
    )
    with Image.open(path) as stored:
        assert stored.size == (90, 70)
        pixels = np.array(ImageOps.exif_transpose(stored).convert('RGB'))
    wanted = ours(parts, image=path)
    assert all(mask['size'] == [90, 70] for mask in wanted['masks'])
    assert max(box[3] for box in wanted['bboxes']) > 71
    assert max(box[2] for box in wanted['bboxes']) <= 70
    if kind == 'webp':  # JPEG decoders differ by a grey level.
        check(ours(parts, image=pixels[..., ::-1]), wanted)
    check(open_client(parts, 'pth')(path)['predictions'][0], wanted)
    model = init_detector(
        str(parts['config']), str(parts['pth']), device='cpu'
    )
    check(as_dict(inference_detector(model, path)), wanted)


def test_broken_picture_is_named_to_detinferencer(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / 'broken.jpg').write_bytes(b'no image')
    with pytest.raises(ValueError, match='broken.jpg.*cannot be decoded'):
        open_client(parts, 'pth')(str(tmp_path / 'broken.jpg'))


def test_without_classes_the_sentence_says_what_to_do(
    parts: dict[str, Any],
) -> None:
    model = init_detector(
        str(parts['config']), str(parts['weights']), device='cpu'
    )
    model.dataset_meta = dict(classes=())
    with pytest.raises(ValueError, match='build_vocabulary'):
        inference_detector(model, parts['image'])


def test_vocabulary_file_of_the_config(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    """Without a text tower names come from the file of the config's test."""
    parts['inferencer'].model.embed_names(
        [*OTHER, 'red umbrella'], novel=[True, True, False, False]
    ).save(tmp_path / 'names.safetensors')
    cfg = copy.deepcopy(parts['cfg'])
    cfg.model.text_encoder = None
    cfg.custom_hooks[0].test = str(tmp_path / 'names.safetensors')
    model = init_detector(cfg, str(parts['pth']), device='cpu')
    check(as_dict(inference_detector(model, parts['image'])), ours(parts))


def test_dataset_meta_follows_the_inferencer(parts: dict[str, Any]) -> None:
    detector = DITOInferencer(parts['weights'], negative_names=['wheel'])
    assert list(detector.model.dataset_meta['classes']) == list(CLASSES)
    detector.set_vocabulary(['blue kite'])
    # Labels of the model itself go on to the negative names.
    assert detector.model.dataset_meta['classes'] == ('blue kite', 'wheel')
    before = dict(detector.model.dataset_meta)
    sample = detector(
        parts['image'], ['anchor'], score_thr=0, return_datasamples=True
    )['predictions'][0]
    assert sample.metainfo['classes'] == ('anchor',)
    assert detector.model.dataset_meta == before
    sample = inference_detector(detector.model, parts['image'])
    assert set(sample.pred_instances.labels.tolist()) == {0, 1}


def test_short_palette_gives_way(parts: dict[str, Any]) -> None:
    model = MODELS.build(parts['cfg'].model)
    model.dataset_meta = dict(classes=('a',), palette=[(1, 2, 3)])
    model.build_vocabulary(['anchor'])
    assert model.dataset_meta['palette'] == [(1, 2, 3)]
    model.build_vocabulary(OTHER)
    assert model.dataset_meta['palette'] == 'random'


def test_init_detector_of_a_published_folder(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    model = parts['inferencer'].model
    weights = package_model(
        tmp_path / 'out',
        model.state_dict(),
        model.cfg,
        dataset_meta=dict(classes=CLASSES),
    )
    model = init_detector(
        str(tmp_path / 'out' / 'config.py'), str(weights), device='cpu'
    )
    check(as_dict(inference_detector(model, parts['image'])), ours(parts))
    # What was published is a config that DITOInferencer opens too.
    found = DITOInferencer(weights)(parts['image'], score_thr=0)
    assert found['predictions'][0] == ours(parts)


def test_sahi(parts: dict[str, Any]) -> None:
    sahi = pytest.importorskip('sahi')
    predict = pytest.importorskip('sahi.predict')
    image = cv2.imread(parts['image'])[..., ::-1].copy()
    named = DITOInferencer(parts['weights'], vocabulary=OTHER)
    for given, names in (
        (dict(model_path=str(parts['weights'])), CLASSES),
        (
            dict(
                model_path=str(parts['pth']), config_path=str(parts['config'])
            ),
            CLASSES,
        ),
        (dict(model=named), OTHER),
    ):
        model = sahi.AutoDetectionModel.from_pretrained(
            model_type='mmdet', device='cpu', confidence_threshold=0.3, **given
        )
        assert list(model.category_names) == list(names)
        assert model.has_mask
        found = predict.get_prediction(image, model).object_prediction_list
        wanted = ours(parts, list(names))
        # It drops detections of low scores, and of masks with no area.
        pairs = {(f.category.name, round(f.score.value, 4)) for f in found}
        assert len({name for name, _ in pairs}) > 1
        assert pairs <= {
            (name, round(score, 4))
            for name, score in zip(
                wanted['names'], wanted['scores'], strict=True
            )
            if score >= 0.3
        }
        sliced = predict.get_sliced_prediction(
            image, model, slice_height=40, slice_width=48, verbose=0
        )
        assert {f.category.name for f in sliced.object_prediction_list} <= set(
            names
        )


def test_supervision(parts: dict[str, Any]) -> None:
    supervision = pytest.importorskip('supervision')
    model = init_detector(
        str(parts['config']), str(parts['pth']), device='cpu'
    )
    sample = inference_detector(model, parts['image'])
    detector = parts['inferencer']
    mine = detector(
        parts['image'], OTHER, score_thr=0, return_datasamples=True
    )['predictions'][0]
    for result, classes, names in (
        (sample, model.dataset_meta['classes'], None),
        (mine, mine.classes, OTHER),
    ):
        found = supervision.Detections.from_mmdetection(result)
        wanted = ours(parts, names)
        order = np.argsort(-found.confidence, kind='stable')
        assert [classes[i] for i in found.class_id[order]] == wanted['names']
        np.testing.assert_allclose(
            found.xyxy[order], wanted['bboxes'], rtol=1e-4, atol=1e-3
        )
        assert found.mask.shape[1:] == cv2.imread(parts['image']).shape[:2]


def test_clients_in_threads_get_what_one_gets(parts: dict[str, Any]) -> None:
    """Five kinds of callers share one model, each call with its names."""
    words = ['anchor', 'blue kite', 'wheel', 'red', 'kite', 'red umbrella']

    def callers() -> list[Callable[[Any, list[str]], Any]]:
        first = DITOInferencer(parts['weights'], vocabulary='wheel')
        second = DITOInferencer(parts['weights'], negative_names=['photo'])
        client = open_client(parts, 'pth')
        second.model = client.model = model = first.model

        def step(image: str, names: list[str]) -> Any:
            data = first._reader.prepare(first._reader.read(image))
            data['data_samples'].vocabulary = model.embed_names(names)
            with torch.no_grad():
                (sample,) = model.test_step(first.collate_fn([data]))
            return as_dict(sample)['scores'].tolist()

        return [
            lambda image, names: first(image, names, score_thr=0),
            lambda image, names: second(image, names, score_thr=0),
            lambda image, names: client(image, texts=[names]),
            step,
            lambda image, names: (
                as_dict(inference_detector(model, image)),
                model.dataset_meta['classes'],
            ),
        ]

    def call(turn: int, kinds: Any) -> Any:
        start = turn % len(words)
        return kinds[turn % len(kinds)](
            str(parts['images'][turn % 2]), words[start : start + 3]
        )

    kinds = callers()
    want = [call(turn, kinds) for turn in range(24)]
    kinds = callers()  # with nothing remembered
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda turn: call(turn, kinds), range(24)))
    for turn in range(24):
        assert str(got[turn]) == str(want[turn]), turn
    for turn in 4, 9:  # the model's own names
        found, classes = got[turn]
        assert classes == ('wheel',)
        check(found, ours(parts, ['wheel'], parts['images'][turn % 2]))
