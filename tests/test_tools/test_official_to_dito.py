# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The tool that converts the release's checkpoints and embeddings."""

import json

import numpy as np
import pytest
import torch
from golden_arrays import group
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from official_detector import CONFIG, tiny_official_config

from dito.apis import DITOInferencer
from dito.cli.foreign_weights import official_to_dito as main
from dito.datasets.load_image import CLIP_MEAN, legacy_bilinear
from dito.models import Vocabulary
from dito.utils.checkpoint import load_from_safetensors
from dito.utils.official import convert_official


@pytest.fixture
def work(golden, tmp_path):
    """A finetuned and a pretrained checkpoint, embeddings and names."""
    arrays = golden('detector_end_to_end')
    params = group(arrays, 'params/')
    target = {f'optimizer/target/{k}': v for k, v in params.items()}
    target.update(
        {
            'step': np.int32(3),
            'optimizer/state/step': np.int32(3),
            'optimizer/state/param_states/x': np.zeros(2, 'f4'),
        }
    )
    visual = group(params, 'vision_model/')
    for name in ('feature_pyramid_fn', 'fastrcnn_head_fn'):
        part = group(params, f'task_heads_0/{name}/')
        visual.update({f'{name}/{k}': v for k, v in part.items()})
    pretrained = {
        f'model_state/params/visual/{k}': v for k, v in visual.items()
    }
    pretrained['model_state/params/text/ln_final/scale'] = np.ones(4, 'f4')
    embed_dims = arrays['in/text_features'].shape[-1]
    rows = np.random.default_rng(0).normal(size=(5, embed_dims))
    rows = rows.astype('f4')
    np.save(tmp_path / 'embed.npy', rows)
    (tmp_path / 'lvis.json').write_text(
        json.dumps(
            dict(
                categories=[
                    dict(id=3, name='yak_(animal)', frequency='r'),
                    dict(id=1, name='cat', frequency='f'),
                    dict(id=4, name='tea cup', frequency='c'),
                ]
            )
        )
    )
    return dict(
        params=params,
        finetuned=target,
        pretrained=pretrained,
        rows=rows,
        side=int(arrays['cfg/image_size']),
        dst=tmp_path / 'out.safetensors',
        folder=tmp_path,
    )


def run(work, arrays, *more):
    path = work['folder'] / 'src.npz'
    np.savez(path, **arrays)
    return main([str(path), str(work['dst']), *map(str, more)])


def load(work):
    content = load_from_safetensors(str(work['dst']))
    return content['state_dict'], content['meta']


def test_finetuned(work, capsys):
    assert run(work, work['finetuned']) == 0
    state, meta = load(work)
    expected = convert_official(work['params'])
    assert set(state) == set(expected)
    assert all(torch.equal(state[k], expected[k]) for k in expected)
    assert meta['source'] == 'DITO release, finetuned'
    frozen = sum(k.startswith('vlm_backbone.') for k in expected)
    assert f'vlm_backbone {frozen}' in capsys.readouterr().out
    init_default_scope('mmdet')
    model = MODELS.build(tiny_official_config())
    model.load_state_dict(state)


def test_finetuned_without_masks(work):
    assert (
        run(
            work,
            {
                k: v
                for k, v in work['finetuned'].items()
                if 'maskrcnn' not in k
            },
        )
        == 0
    )
    init_default_scope('mmdet')
    model = MODELS.build(tiny_official_config(mask=False))
    model.load_state_dict(load(work)[0])


def test_pretrained(work):
    assert run(work, work['pretrained']) == 0
    state, meta = load(work)
    assert meta['source'] == 'DITO release, pretrained'
    groups = {
        '.'.join(k.split('.')[:2]) if k.startswith('roi') else k.split('.')[0]
        for k in state
    }
    assert groups == {'backbone', 'neck', 'roi_head.bbox_head'}
    assert state['roi_head.bbox_head.temperature_scale'] == 1
    init_default_scope('mmdet')
    cfg = tiny_official_config()
    cfg.vlm_backbone.checkpoint = str(work['dst'])
    model = MODELS.build(cfg)
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert {k.split('.')[0] for k in missing} == {'rpn_head', 'roi_head'}
    assert not any('bbox_head' in k for k in missing)
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, model.vlm_backbone.state_dict()[key])


def test_vocabulary(work):
    folder = work['folder']
    assert (
        run(
            work,
            work['finetuned'],
            '--embeddings',
            folder / 'embed.npy',
            '--names',
            folder / 'lvis.json',
        )
        == 0
    )
    got = Vocabulary.load(folder / 'out_vocabulary.safetensors')
    assert got.names == ('cat', 'yak_(animal)', 'tea cup')
    assert got.novel.tolist() == [False, True, False]
    unit = work['rows'] / np.linalg.norm(work['rows'], axis=1, keepdims=True)
    np.testing.assert_allclose(got.embeddings, unit[[1, 3, 4]], atol=1e-6)
    np.testing.assert_allclose(got.background, unit[0], atol=1e-6)


def test_vocabulary_with_the_rows_left_over(work):
    folder = work['folder']
    (folder / 'map.json').write_text('{"4": "tea cup", "1": "cat"}')
    assert (
        run(
            work,
            work['finetuned'],
            '--embeddings',
            folder / 'embed.npy',
            '--names',
            folder / 'map.json',
            '--keep-rest',
        )
        == 0
    )
    got = Vocabulary.load(folder / 'out_vocabulary.safetensors')
    assert got.names == ('cat', 'empty 1', 'empty 2', 'tea cup')
    assert not got.novel.any()


def test_names_one_a_line(work):
    folder = work['folder']
    (folder / 'names.txt').write_text('cat\ndog\nyak\n')
    (folder / 'novel.txt').write_text('dog\n')
    assert (
        run(
            work,
            work['finetuned'],
            '--embeddings',
            folder / 'embed.npy',
            '--names',
            folder / 'names.txt',
            '--novel',
            folder / 'novel.txt',
        )
        == 0
    )
    got = Vocabulary.load(folder / 'out_vocabulary.safetensors')
    assert got.novel.tolist() == [False, True, False]


def fails(work, capsys, arrays, *more):
    assert run(work, arrays, *more) == 2
    assert not work['dst'].exists()
    assert [p.name for p in work['folder'].glob('.*')] == []
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    return error


@pytest.mark.parametrize(
    'kind, first, second',
    [
        (
            'finetuned',
            'optimizer/target/vision_model/conv1/bias',
            'optimizer/target/task_heads_0/temperature',
        ),
        (
            'pretrained',
            'model_state/params/visual/ln_post/scale',
            'model_state/params/visual/fastrcnn_head_fn/fc6/bias',
        ),
    ],
)
def test_every_name_that_does_not_match_is_listed(
    work, capsys, kind, first, second
):
    arrays = dict(work[kind])
    root = (
        first[: first.index('v')]
        if kind == 'finetuned'
        else ('model_state/params/visual/')
    )
    arrays[f'{root}extra/kernel'] = arrays.pop(first)
    del arrays[second]
    wrong = next(k for k in arrays if k.endswith('mlp/c_fc/bias'))
    size = len(arrays[wrong])
    arrays[wrong] = arrays[wrong][:-1]
    error = fails(work, capsys, arrays)
    for text in (
        '2 missing',
        first[len(root) :],
        second[len(root) :],
        '1 not known: extra/kernel',
        '1 of another shape',
        f'{wrong[len(root) :]} ({size - 1},) instead of ({size},)',
    ):
        assert text in error, text


def test_names_beside_the_model_must_be_known(work, capsys):
    arrays = {**work['pretrained'], 'model_state/params/scale': np.ones(1)}
    error = fails(work, capsys, arrays)
    assert 'model_state/params/scale' in error
    assert run(work, arrays, '--skip', 'model_state/params/scale') == 0
    assert load(work)[1]['skipped'] == ['model_state/params/scale']


def test_other_mistakes_are_one_sentence(work, capsys):
    folder, fine = work['folder'], work['finetuned']
    embed = ('--embeddings', folder / 'embed.npy', '--names')
    assert 'Neither a finetuned' in fails(work, capsys, dict(a=np.ones(1)))
    (folder / 'many.txt').write_text('\n'.join('abcdefg'))
    error = fails(work, capsys, fine, *embed, folder / 'many.txt')
    assert '5 rows, too few for 3 classes: 5 (e)' in error
    (folder / 'zero.json').write_text('{"0": "cat"}')
    error = fails(work, capsys, fine, *embed, folder / 'zero.json')
    assert "'0' of 'cat' must be a number from 1" in error
    size = work['rows'].shape[1]
    np.save(folder / 'embed.npy', work['rows'][:, :-1])
    error = fails(work, capsys, fine, *embed, folder / 'lvis.json')
    assert f'size {size - 1}' in error and f'checkpoint {size}' in error
    np.save(folder / 'embed.npy', np.zeros((5, size), 'f4'))
    error = fails(work, capsys, fine, *embed, folder / 'lvis.json')
    assert '4 embeddings are zero' in error
    assert 'NAME=NUMBER' in fails(work, capsys, fine, '--sizes', 'width')


@pytest.mark.parametrize(
    'argv, message',
    [
        (['a', 'b.safetensors', '--embeddings', 'c'], 'give both'),
        (['a', 'b.safetensors', '--names', 'c'], 'give both'),
        (['a', 'b.pth'], 'must end in .safetensors'),
    ],
)
def test_wrong_options(argv, message, capsys):
    with pytest.raises(SystemExit, match='2'):
        main(argv)
    assert message in capsys.readouterr().err


def test_from_the_checkpoint_to_detections(work):
    # Converted files, the shipped config's pipeline, an image file's pixels.
    folder = work['folder']
    names = [
        '--embeddings',
        folder / 'embed.npy',
        '--names',
        folder / 'lvis.json',
    ]
    assert run(work, work['finetuned'], *names) == 0
    cfg = Config.fromfile(CONFIG)
    cfg.model = tiny_official_config()
    steps = cfg.test_dataloader.dataset.pipeline
    assert steps[1].type == 'DITOReleaseResize'
    side = steps[1].size = work['side']
    detector = DITOInferencer(
        cfg, work['dst'], folder / 'out_vocabulary.safetensors', 'cpu'
    )
    image = np.random.randint(
        0, 256, (side // 2, side * 3 // 4, 3), dtype=np.uint8
    )
    (got,) = detector(image, score_thr=0)['predictions']
    assert got['labels'] and set(got['names']) <= {
        'cat',
        'yak_(animal)',
        'tea cup',
    }
    # By hand: RGB in [0, 1] at 4/3 the size, over a ground of mean colour.
    pixels = torch.tensor(CLIP_MEAN)[:, None, None].repeat(1, side, side)
    height, width = image.shape[:2]
    new = round(height * side / width)
    small = legacy_bilinear(image, (new, side))[..., ::-1] / 255
    pixels[:, :new] = torch.from_numpy(small.copy()).permute(2, 0, 1)
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(side, side),
            batch_input_shape=(side, side),
            ori_shape=(height, width),
            scale_factor=(side / width, new / height),
        )
    )
    with torch.no_grad():
        (expected,) = detector.model.predict(
            pixels.bfloat16().float()[None], [sample]
        )
    expected = expected.pred_instances
    np.testing.assert_allclose(got['scores'], expected.scores, atol=1e-4)
    assert got['labels'] == expected.labels.tolist()
    np.testing.assert_allclose(got['bboxes'], expected.bboxes, atol=1e-2)
