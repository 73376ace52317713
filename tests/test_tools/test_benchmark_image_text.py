# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import json

import benchmark_image_text
import numpy as np
import pytest
from PIL import Image


def run(capsys, *args):
    assert (
        benchmark_image_text.main(
            [
                '--number',
                '2',
                '--repeat',
                '2',
                '--batch',
                '2',
                '--batches',
                '2',
                '--width',
                '120',
                '--height',
                '90',
                '--img-size',
                '48',
                *args,
            ]
        )
        == 0
    )
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_both_sides_are_timed(capsys):
    result = run(capsys)
    for name in ('transform', 'loader'):
        rates = result[name]['images_per_second']
        assert result[name]['ratio'] == pytest.approx(
            rates['dito'] / rates['open_clip']
        )
    transform = result['transform']
    assert 0 < transform['ratio_with_normalising'] < transform['ratio']
    error = result['error']
    # Same decoder, same filter: rounding is what is left.
    assert error['at_size']['largest'] <= 1
    assert error['at_twice_the_size']['mean'] < 3


def test_images_of_a_folder(tmp_path, capsys):
    Image.fromarray(np.zeros((90, 120, 3), np.uint8)).save(tmp_path / 'a.jpg')
    result = run(capsys, 'transform', '--images', str(tmp_path))
    assert result['images'] == 1 and 'loader' not in result
    (tmp_path / 'a.jpg').unlink()
    assert benchmark_image_text.main(['--images', str(tmp_path)]) == 2
    assert 'holds no JPEG' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmark_image_text.main(['speed'])
