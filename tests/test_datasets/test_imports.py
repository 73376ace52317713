# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Labels of other tools become annotations that pass the check."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dito.cli import check_dataset
from dito.cli.annotations import import_ as import_labels
from dito.datasets import imports

VOC = """<annotation><filename>{name}</filename>
<size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>red kite</name><bndbox>
<xmin>5</xmin><ymin>3</ymin><xmax>20</xmax><ymax>12</ymax></bndbox></object>
</annotation>"""
CVAT = """<annotations><version>1.1</version><meta><task><labels>
<label><name>red kite</name></label><label><name>dog</name></label>
</labels></task></meta>
<image id="0" name="a.png" width="40" height="30">
<box label="red kite" occluded="0" xtl="4" ytl="2" xbr="20" ybr="12"
 z_order="0"></box>
<box label="dog" occluded="0" xtl="4" ytl="2" xbr="20" ybr="12"
 rotation="30.0" z_order="0"></box>
<polygon label="dog" occluded="0" points="1,1;9,1;9,9" z_order="0"></polygon>
<points label="dog" occluded="0" points="3,3" z_order="0"></points>
</image>
</annotations>"""
BOX = [4.0, 2.0, 16.0, 10.0]


def images(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((30, 40, 3), np.uint8))
    return folder


def yolo(root: Path, parts=('images', 'labels')) -> Path:
    """A folder of Label Studio or Ultralytics."""
    images(root / parts[0], 'a.png', 'empty.png')
    (root / parts[1]).mkdir(exist_ok=True, parents=True)
    for name in ('a', 'gone'):
        # The second box leaves the image and is cut, the third is outside.
        (root / parts[1] / f'{name}.txt').write_text(
            f'1 {12 / 40} {7 / 30} {16 / 40} {10 / 30}\n'
            '1 0.9 0.5 0.4 0.5\n1 1.5 0.5 0.2 0.2\n'
        )
    (root / 'classes.txt').write_text('dog\nred kite\n')
    return root


def run(kind, root, *options):
    """Convert, check the result, and return it."""
    out = root / 'out' / 'labels.json'
    out.parent.mkdir()
    assert import_labels([kind, str(root), str(out), *options]) == 0
    content = json.loads(out.read_text())
    found = imports.import_labels(kind, root, options[1] if options else None)
    assert found.content == content
    where = ['--data', str(out), '--images', str(found.images)]
    assert check_dataset.main(where) == 0
    return content, dict(found.dropped)


def test_yolo(tmp_path, capsys):
    pytest.importorskip('supervision')
    content, dropped = run('yolo', yolo(tmp_path))
    assert [c['name'] for c in content['categories']] == ['red kite']
    assert [i['file_name'] for i in content['images']] == [
        'a.png',
        'empty.png',
    ]
    boxes = [a['bbox'] for a in content['annotations']]
    np.testing.assert_allclose(boxes[0], BOX, atol=1e-4)
    np.testing.assert_allclose(boxes[1], [28, 7.5, 12, 15], atol=1e-4)
    assert dropped == {
        'files of labels without their image': 1,
        'boxes without area or name': 1,
        'names without a box (dog)': 1,
    }
    text = capsys.readouterr().out
    assert 'left out: 1 files of labels without their image' in text
    assert '2 images, 2 annotations, 1 categories' in text


@pytest.mark.parametrize(
    'parts',
    [('train/images', 'train/labels'), ('images/train', 'labels/train')],
)
def test_yolo_of_roboflow_and_ultralytics(tmp_path, parts, capsys):
    pytest.importorskip('supervision')
    yolo(tmp_path, parts)
    images(tmp_path / parts[0].replace('train', 'valid'), 'b.png')
    (tmp_path / 'classes.txt').unlink()
    (tmp_path / 'data.yaml').write_text('names: {0: dog, 1: red kite}\n')
    assert import_labels(['yolo', str(tmp_path), 'x.json']) == 2
    assert "the splits ['train', 'valid']" in capsys.readouterr().err
    content, _ = run('yolo', tmp_path, '--split', 'train')
    assert len(content['annotations']) == 2


def test_yolo_1_1_of_cvat(tmp_path):
    """Labels beside the images, names in obj.names."""
    pytest.importorskip('supervision')
    yolo(tmp_path, ('obj_train_data', 'obj_train_data'))
    (tmp_path / 'classes.txt').rename(tmp_path / 'obj.names')
    content, _ = run('yolo', tmp_path)
    assert len(content['annotations']) == 2


def test_polygons_of_yolo_become_masks(tmp_path):
    pytest.importorskip('supervision')
    yolo(tmp_path)
    (tmp_path / 'labels' / 'a.txt').write_text('0 0.1 0.1 0.5 0.1 0.5 0.5\n')
    content, _ = run('yolo', tmp_path)
    (record,) = content['annotations']
    assert record['segmentation']['size'] == [30, 40]
    np.testing.assert_allclose(record['bbox'], [4, 3, 16, 12], atol=1e-4)


@pytest.mark.parametrize('flat', [True, False])
def test_pascal_voc(tmp_path, flat):
    pytest.importorskip('supervision')
    folder = images(
        tmp_path / ('train' if flat else 'JPEGImages'), 'a.png', 'empty.png'
    )
    labels = folder if flat else tmp_path / 'Annotations'
    labels.mkdir(exist_ok=True)
    (labels / 'a.xml').write_text(VOC.format(name='a.png'))
    content, dropped = run('voc', tmp_path)
    assert [c['name'] for c in content['categories']] == ['red kite']
    # Pascal's pixels count from 1 and belong to the box.
    assert [a['bbox'] for a in content['annotations']] == [BOX]
    assert len(content['images']) == 2 and dropped == {}


def test_cvat(tmp_path):
    pytest.importorskip('datumaro')
    images(tmp_path / 'images', 'a.png')
    (tmp_path / 'annotations.xml').write_text(CVAT)
    content, dropped = run('cvat', tmp_path)
    assert [c['name'] for c in content['categories']] == ['dog', 'red kite']
    box, polygon = content['annotations']
    assert (box['bbox'], polygon['bbox']) == (BOX, [1, 1, 8, 8])
    # Masks are of use where all have them.
    assert 'segmentation' not in {*box, *polygon}
    assert dropped == {
        'masks, as not every object has one': 1,
        'labels of the kind points': 1,
        'labels of the kind rotated_bbox': 1,
    }
    (tmp_path / 'images' / 'a.png').unlink()
    with pytest.raises(ValueError, match='image which has name=a.png'):
        imports.import_labels('cvat', tmp_path)


def test_coco_of_roboflow_and_label_studio(tmp_path):
    images(tmp_path / 'images', 'a.png')
    shape = [[4, 2, 20, 2, 20, 12, 4, 12]]
    boxes = [
        dict(bbox=BOX, segmentation=shape),
        dict(bbox=BOX, iscrowd=1),
        dict(bbox=[]),
    ]
    content = dict(
        images=[
            dict(id=7, file_name='..\\up/images/a.png', width=1, height=1),
            dict(id=8, file_name='gone.png', width=40, height=30),
        ],
        categories=[
            dict(id=0, name='animals', supercategory='none'),
            dict(id=1, name='red kite', supercategory='animals'),
        ],
        annotations=[
            dict(box, id=i, image_id=7, category_id=1)
            for i, box in enumerate(boxes)
        ],
    )
    (tmp_path / 'result.json').write_text(json.dumps(content))
    content, dropped = run('coco', tmp_path)
    assert content['categories'] == [dict(id=1, name='red kite')]
    (record,) = content['annotations']
    assert (record['bbox'], record['segmentation']) == (BOX, shape)
    assert content['images'][0]['width'] == 40  # what the image is
    assert dropped == {
        'images that are not there': 1,
        'crowds': 1,
        'labels without a box': 1,
        'names without a box (animals)': 1,
    }


def test_splits_of_roboflows_coco(tmp_path):
    for split in ('train', 'valid'):
        images(tmp_path / split, f'{split}.png')
        content = dict(
            images=[dict(id=0, file_name=f'{split}.png')],
            categories=[dict(id=1, name='kite')],
            annotations=[dict(image_id=0, category_id=1, bbox=BOX)],
        )
        path = tmp_path / split / '_annotations.coco.json'
        path.write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match=r"\['train', 'valid'\] with"):
        imports.import_labels('coco', tmp_path)
    content, _ = run('coco', tmp_path, '--split', 'valid')
    assert [i['file_name'] for i in content['images']] == ['valid.png']


@pytest.mark.parametrize(
    'kind, files, message',
    [
        ('yolo', {}, 'has no images where'),
        ('yolo', {'images/a.png': ''}, 'has no labels'),
        ('yolo', {'images/a.png': '', 'labels/a.txt': ''}, 'no data.yaml'),
        ('cvat', {'images/a.png': ''}, 'CVAT for images 1.1'),
        ('coco', {'images/a.png': ''}, 'one .json of annotations'),
        (
            'coco',
            {'images/a.png': '', 'a.json': '{"images": []}'},
            "export of coco \\(KeyError: 'categories'",
        ),
    ],
)
def test_other_folders_are_refused(tmp_path, kind, files, message):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        imports.import_labels(kind, tmp_path)


def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch):

    def fail(name):
        raise ImportError(name)

    monkeypatch.setattr(imports.importlib, 'import_module', fail)
    with pytest.raises(ValueError, match='pip install supervision'):
        imports.import_labels('yolo', yolo(tmp_path))
    with pytest.raises(FileNotFoundError, match='unpack the export'):
        imports.import_labels('voc', tmp_path / 'export.zip')


def test_nothing_is_written_without_a_box(tmp_path, capsys):
    images(tmp_path / 'images', 'a.png')
    empty = dict(images=[], categories=[], annotations=[])
    (tmp_path / 'a.json').write_text(json.dumps(empty))
    out = tmp_path / 'out.json'
    assert import_labels(['coco', str(tmp_path), str(out)]) == 2
    assert 'has no box' in capsys.readouterr().err and not out.exists()
