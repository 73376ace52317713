# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of scenes: encoded once, asked for any names."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_api import NAMES, write_detector

from dito.apis import DITOInferencer, Scene

#: Settings of the backbone's windows.
WINDOWS = (
    {},
    dict(window=dict(size=4), shift=None),
    dict(window=None, global_layers='all', shift=None),
    dict(shift='swin'),
)


@pytest.fixture(scope='module')
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Images, config and the weights of an untrained detector."""
    return write_detector(tmp_path_factory.mktemp('scene'))


def make(parts: dict[str, Any], masks: bool = True, **kwargs: Any) -> Any:
    """Detector with other windows, or without a mask head."""
    cfg = copy.deepcopy(parts['cfg'])
    # Not by update, which merges the dicts of windows.
    cfg.model.backbone = {**cfg.model.backbone, **kwargs}
    if not masks:
        for part in 'mask_head', 'mask_roi_extractor':
            cfg.model.roi_head.pop(part)
    return DITOInferencer(cfg, parts['weights'])


@pytest.fixture(scope='module')
def detector(parts: dict[str, Any]) -> Any:
    """The detector of the config."""
    return make(parts)


def fresh(detector: Any, image: Any, names: Any, **options: Any) -> dict:
    """What a call gives."""
    return detector(image, names, **options)['predictions'][0]


@pytest.mark.parametrize('masks', [True, False])
@pytest.mark.parametrize('windows', WINDOWS)
def test_a_scene_answers_as_a_call(
    parts: dict[str, Any], tmp_path: Path, masks: bool, windows: dict
) -> None:
    detector = make(parts, masks, **windows)
    path = str(parts['images'][0])
    scene = detector.encode(path)
    scene.save(tmp_path / 'scene.safetensors')
    loaded = Scene.load(tmp_path / 'scene.safetensors', detector)
    assert loaded.path == path and loaded.shape == (48, 80)
    assert not loaded.image.maps.pyramid  # it is made again
    for names, options in (
        (NAMES, dict(score_thr=0.0)),
        ('wheel, red umbrella', dict(return_all=True, agnostic_nms=0.5)),
        (NAMES[:1], dict(score_thr=0.0, negative_names='trained')),
        (NAMES[:1], dict(score_thr=0.0, negative_names=['wheel'])),
    ):
        wanted = fresh(detector, path, names, **options)
        assert len(wanted['scores']) and ('masks' in wanted) == masks
        for one in scene, loaded, scene:
            assert one.find(names, **options) == wanted


def test_masks_are_made_of_what_is_kept(
    detector: Any, parts: dict[str, Any]
) -> None:
    image = parts['images'][0]
    (whole,) = detector.stream(image, NAMES, return_all=True, score_thr=0.0)
    scores = whole.every.pred_instances.scores
    threshold = float(scores[len(scores) // 2])
    options = dict(score_thr=threshold, negative_names=['wheel'])
    (all_made,) = detector.stream(image, NAMES, return_all=True, **options)
    (some,) = detector.stream(image, NAMES, **options)
    made, full = some.every.pred_instances, all_made.every.pred_instances
    kept = made.scores >= threshold
    assert 0 < kept.sum() < len(kept)
    assert made.bboxes.equal(full.bboxes) and made.scores.equal(full.scores)
    assert not made.box_masks[~kept].any() and full.box_masks[~kept].any()
    assert torch.equal(made.box_masks[kept], full.box_masks[kept])
    (none,) = detector.stream(image, NAMES, score_thr=1.0)
    assert none.result['masks'] == []


def test_nothing_is_encoded_again(
    detector: Any, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = detector.encode(parts['images'][0])
    wanted = fresh(detector, parts['images'][0], NAMES, score_thr=0)
    for part in 'backbone', 'neck', 'rpn_head':
        monkeypatch.setattr(getattr(detector.model, part), 'forward', None)
    assert scene.find(NAMES, score_thr=0) == wanted
    with pytest.raises(TypeError):
        fresh(detector, parts['images'][0], NAMES)


def test_very_many_names(
    detector: Any, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = detector.encode(parts['images'][1])
    names = [f'thing {i}' for i in range(300)]
    plain = scene.find(names, return_all=True)
    monkeypatch.setattr(detector.model.roi_head, 'class_chunk', 64)
    found = scene.find(names, return_all=True)
    assert found == fresh(detector, parts['images'][1], names, return_all=True)
    torch.testing.assert_close(
        torch.tensor(found['scores']), torch.tensor(plain['scores'])
    )


def test_data_samples(detector: Any, parts: dict[str, Any]) -> None:
    options = dict(return_datasamples=True, return_all=True)
    found = detector.encode(parts['images'][0]).find(NAMES, **options)
    wanted = fresh(detector, parts['images'][0], NAMES, **options)
    assert found.classes == wanted.classes == tuple(NAMES)
    assert torch.equal(
        found.pred_instances.bboxes, wanted.pred_instances.bboxes
    )
    assert set(found.keys()) == set(wanted.keys())


def test_objects_without_names(detector: Any, parts: dict[str, Any]) -> None:
    scene = detector.encode(parts['images'][0])
    found = scene.objects(return_all=True)
    assert set(found['names']) == {'object'} and len(found['masks'])
    best = scene.image.regions.objectness.max()
    assert found['scores'][0] == pytest.approx(float(best))
    assert found['scores'] == sorted(found['scores'], reverse=True)
    called = detector(parts['images'][0], objects=True, return_all=True)
    assert called['predictions'] == [found]
    few = scene.objects(score_thr=found['scores'][3])
    assert few['bboxes'] == found['bboxes'][: len(few['bboxes'])]
    assert 4 <= len(few['bboxes']) < len(found['bboxes'])
    with pytest.raises(ValueError, match='or the names'):
        detector(parts['images'][0], NAMES, objects=True)


def test_objects_are_drawn(
    detector: Any, parts: dict[str, Any], tmp_path: Path
) -> None:
    (found,) = detector.stream(
        parts['images'][0], objects=True, out_dir=tmp_path, score_thr=0
    )
    assert found.drawn is not None and (tmp_path / 'vis' / '0.jpg').is_file()


def test_many_pictures(
    detector: Any, parts: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / 'bad.png').write_bytes(b'no picture')
    images = [*parts['images'], tmp_path / 'bad.png']
    scenes = list(
        detector.encode_each(images, on_error='collect', batch_size=2)
    )
    assert [s.path for s in scenes[:2]] == list(map(str, parts['images']))
    assert len(scenes[0]) > 9 < len(scenes[1]) and 'bad.png' in scenes[2]
    with pytest.raises(ValueError, match='cannot be decoded'):
        list(detector.encode_each(images))
    with pytest.raises(ValueError, match='one image, got 2'):
        detector.encode(parts['images'])


def test_without_maps(detector: Any, parts: dict[str, Any]) -> None:
    scene = detector.encode(parts['images'][0], maps=False)
    with pytest.raises(ValueError, match='without maps'):
        scene.find(NAMES)
    found = scene.find(NAMES, score_thr=0, masks=False)
    wanted = fresh(detector, parts['images'][0], NAMES, score_thr=0)
    assert wanted.pop('masks') and found == wanted
    assert scene.objects(masks=False)['bboxes']
    boxes = make(parts, masks=False)
    assert boxes.encode(parts['images'][0], maps=False).find(
        NAMES, score_thr=0
    ) == fresh(boxes, parts['images'][0], NAMES, score_thr=0)


def test_files_that_are_refused(
    detector: Any, parts: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / 'scene.safetensors'
    scene = detector.encode(parts['images'][0])
    with pytest.raises(ValueError, match='saved as .safetensors'):
        scene.save(tmp_path / 'scene.pth')
    scene.save(path)
    with pytest.raises(ValueError, match='scene.* made by the detector'):
        Scene.load(path, make(parts, shift='swin'))
    other = make(parts)
    assert other.fingerprint() == detector.fingerprint()
    with torch.no_grad():
        next(other.model.neck.parameters()).add_(1)
    with pytest.raises(ValueError, match='this one is'):
        Scene.load(path, other)
    with pytest.raises(ValueError, match='is not a scene'):
        Scene.load(parts['weights'], detector)
    from safetensors import safe_open

    with safe_open(path, 'pt') as file:
        meta = file.metadata()
    for key, value in (
        ('boxes', torch.zeros(3, 4)),
        ('embeds', torch.full((50, 16), torch.nan)),
        ('deltas', None),
    ):
        state = load_file(path)
        state.pop(key)
        if value is not None:
            state[key] = value
        save_file(state, tmp_path / 'damaged.safetensors', meta)
        with pytest.raises(ValueError, match='damaged scene'):
            Scene.load(tmp_path / 'damaged.safetensors', detector)


# ------------------------------------------- what results do not depend on


def close(found: dict, wanted: dict) -> None:
    """Compare predictions up to rounding."""
    assert len(found['scores']) == len(wanted['scores']) > 0
    assert found['names'] == wanted['names']
    for key, error in (('scores', 1e-5), ('bboxes', 1e-3)):
        torch.testing.assert_close(
            torch.tensor(found[key]),
            torch.tensor(wanted[key]),
            rtol=error,
            atol=error,
        )


def test_order_of_names(detector: Any, parts: dict[str, Any]) -> None:
    scene = detector.encode(parts['images'][0])
    close(
        scene.find(NAMES[::-1], return_all=True),
        scene.find(NAMES, return_all=True),
    )


def test_other_pictures_and_batch_size(
    detector: Any, parts: dict[str, Any]
) -> None:
    first, second = parts['images']
    alone = fresh(detector, first, NAMES, return_all=True)
    for images in [first, second], [second, first], [first, first, second]:
        for size in 1, 2, 3:
            found = detector(images, NAMES, return_all=True, batch_size=size)
            close(found['predictions'][images.index(first)], alone)


def test_threads_share_a_scene(detector: Any, parts: dict[str, Any]) -> None:
    scene = detector.encode(parts['images'][0])
    asked = [NAMES, ['wheel'], ['blue kite', 'anchor']]
    wanted = [scene.find(names, score_thr=0) for names in asked]
    with ThreadPoolExecutor(3) as pool:
        found = pool.map(
            lambda turn: scene.find(asked[turn % 3], score_thr=0), range(12)
        )
    for turn, one in enumerate(found):
        assert one == wanted[turn % 3]
