# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of the reading of annotations."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from quickstart_files import write_data

from dito.reports.samples import first_with_novel, read_annotated


def test_read(tmp_path: Path):
    data = read_annotated(write_data(tmp_path), tmp_path)
    assert data.names == ['red umbrella', 'anchor', 'chess knight']
    assert data.novel == ['chess knight']
    assert [i.path.name for i in data.images] == ['0.png', '1.png', '2.png']
    first = data.images[0].objects[1]
    assert (first.name, first.novel, first.score) == ('anchor', False, None)
    assert first.box == (28, 6, 48, 22)
    assert first.mask.shape == data.images[0].read().shape[:2] == (48, 80)
    assert first.mask[10, 35] and not first.mask[10, 55]


def test_images_with_novel_objects_come_in_the_order_of_the_file(tmp_path):
    data = read_annotated(write_data(tmp_path), tmp_path)
    chosen = first_with_novel(data.images, 5)
    assert [i.path.name for i in chosen] == ['1.png', '2.png']
    assert first_with_novel(data.images, 1) == chosen[:1]


def test_run_lengths(tmp_path: Path):
    path = write_data(tmp_path)
    content = json.loads(path.read_text())
    mask = np.zeros((48, 80), np.uint8)
    mask[5:9, 2:50] = 1
    code = coco_mask.encode(np.asfortranarray(mask))
    flat = mask.flatten(order='F')
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, len(flat)]).tolist()
    pair = content['annotations'][:2]
    pair[0]['segmentation'] = dict(
        size=[48, 80], counts=code['counts'].decode()
    )
    pair[1]['segmentation'] = dict(size=[48, 80], counts=counts)
    path.write_text(json.dumps(content))
    for item in read_annotated(path, tmp_path).images[0].objects:
        np.testing.assert_array_equal(item.mask, mask.astype(bool))


def test_missing(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match='none.json do not exist'):
        read_annotated(tmp_path / 'none.json', tmp_path)
