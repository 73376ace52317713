# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A user's files instead of a config's."""

import json

import pytest
from mmengine.config import Config

from dito.cli import common
from dito.cli.options import parse
from dito.utils.configs import find_config


def annotations(path, names):
    path.write_text(
        json.dumps(
            dict(
                images=[dict(id=1, file_name='a.jpg', width=8, height=8)],
                annotations=[
                    dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 4, 4])
                ],
                categories=[
                    dict(id=i, name=n) for i, n in enumerate(names, 1)
                ],
            )
        )
    )
    return str(path)


@pytest.fixture
def files(tmp_path):
    return (
        annotations(tmp_path / 'train.json', ['cat', 'Red_kite']),
        annotations(tmp_path / 'val.json', ['dog', 'red kite']),
        str(tmp_path),
    )


def config(name='dito_vitb_own_openclip'):
    return Config.fromfile(find_config(name))


def arguments(*options):
    return parse('train', ['config', *options])


def test_files_of_the_user(files):
    cfg = config()
    common.set_own_data(
        cfg,
        arguments(
            '--data', files[0], '--images', files[2], '--val-data', files[1]
        ),
    )
    dataset = cfg.train_dataloader.dataset
    assert (dataset.ann_file, dataset.data_prefix.img) == (files[0], files[2])
    assert dataset.get('metainfo') is None and not dataset.data_root
    tested = cfg.val_dataloader.dataset
    assert (tested.ann_file, tested.data_prefix.img) == (files[1], files[2])
    assert tested.metainfo == dict(
        classes=['dog', 'red kite'], novel_classes=['dog']
    )
    assert cfg.val_evaluator.ann_file == files[1]
    assert cfg.test_dataloader == cfg.val_dataloader


def test_without_files_to_evaluate_on(files):
    cfg = config('dito_vitb_own_openclip_mask_1024')
    common.set_own_data(
        cfg, arguments('--data', files[0], '--images', files[2])
    )
    assert cfg.val_dataloader is cfg.val_evaluator is cfg.val_cfg is None
    # Inference takes its pipeline from here.
    assert cfg.test_dataloader.dataset.ann_file == files[0]
    assert cfg.test_evaluator.metric == ['bbox', 'segm']
    untouched = config()
    common.set_own_data(untouched, arguments())
    assert untouched.to_dict() == config().to_dict()


@pytest.mark.parametrize(
    'options, message',
    [
        (['--data', 'no.json', '--images', '.'], 'no file no.json'),
        (['--data', 'TRAIN', '--images', 'nowhere'], 'no folder nowhere'),
    ],
)
def test_what_is_missing_is_said(files, options, message):
    options = [files[0] if o == 'TRAIN' else o for o in options]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        common.set_own_data(config(), arguments(*options))


@pytest.mark.parametrize(
    'options, message',
    [
        (['--images', '.'], '--data and --images go together'),
        (['--data', 'no.json'], '--data and --images go together'),
        (['--val-images', '.'], '--val-data and --val-images need --data'),
    ],
)
def test_options_that_lack_another(options, message, capsys):
    with pytest.raises(SystemExit, match='2'):
        arguments(*options)
    assert message in capsys.readouterr().err


def test_other_configs_are_refused(files):
    with pytest.raises(ValueError, match='such as dito_vitb_own_openclip'):
        common.set_own_data(
            config('dito_vitb_lvis'),
            arguments('--data', files[0], '--images', files[2]),
        )
