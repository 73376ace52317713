# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The rules of reading annotation files, one at a time."""

import copy
import gzip
import json

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from detection_files import make_annotation, make_categories, make_image

from dito.datasets.annotation_content import as_id, as_number
from dito.datasets.annotations import (
    IdNumbers,
    left_out,
    normalise,
    read_annotations,
)
from dito.datasets.categories import build_category_table
from dito.datasets.checks.annotation_checks import gather
from dito.datasets.masks import read_mask, run_lengths, to_rle

NAN = float('nan')
BOX = [[4, 5, 24, 5, 24, 15, 4, 15]]


def read(annotation=None, image=None, category=None):
    """Read a file of one image, category and object with these changes."""
    content = dict(
        images=[make_image(1) | (image or {})],
        categories=make_categories(['a', 'b']),
        annotations=[make_annotation(1, 1, 1) | (annotation or {})],
    )
    content['categories'][1].update(category or {})
    before = copy.deepcopy(content)
    result = normalise(content, 'own.json')
    assert repr(content) == repr(before)
    return result


@pytest.mark.parametrize(
    'given, expected',
    [
        (0, 0), (-3, -3), (3.0, 3), ('3', 3), ('3.0', 3), (' 3 ', 3),
        ('0', 0), ('-0', 0), ('03', '03'), ('scan-15', 'scan-15'),
        (10**18 - 1, 10**18 - 1), (10**30, str(10**30)),
        (1e18, '1' + 18 * '0'), (np.int64(4), 4), (np.float32(4), 4),
        (3.5, None), (None, None), (NAN, None), (float('inf'), None),
        (True, None), ('', None), ([1], None), ({}, None),
    ],
)  # fmt: skip
def test_ids(given, expected):
    assert as_id(given) == expected
    assert type(as_id(given)) is type(expected)


@pytest.mark.parametrize(
    'given, expected',
    [
        (2, 2), (2.5, 2.5), ('2.5', 2.5), ('1e3', 1000), (10**400, None),
        (NAN, None), ('nan', None), ('inf', None), (1e300, None),
        ('1e999', None), (None, None), (True, None), ('wide', None),
        ([2], None),
    ],
)  # fmt: skip
def test_numbers(given, expected):
    assert as_number(given) == expected


@pytest.mark.parametrize('area', [None, 0, '0', NAN, -4, 'big', [], 1e300])
def test_area_comes_from_the_box_where_there_is_none(area):
    assert read(dict(area=area)).annotations[0]['area'] == 200
    assert read(dict(area='150.5')).annotations[0]['area'] == 150.5


@pytest.mark.parametrize(
    'bbox, area, expected',
    [
        ([0, 0, 20, 10], 1e10, 1e10),
        ([0, 0, 20, 10], 1.01e10, 200),
        ([0, 0, 1e5, 1e5], None, 1e10),
        ([0, 0, 1e6, 1e6], None, 1e10),
    ],
)
def test_areas_end_where_evaluation_does(bbox, area, expected):
    """COCO and LVIS leave out what is larger than 1e5 x 1e5."""
    (ann,) = read(dict(bbox=bbox, area=area)).annotations
    assert ann['area'] == expected


@pytest.mark.parametrize(
    'bbox, reason',
    [
        # Of a picture of 64 x 48: touching its edges from within and without.
        ((0, 0, 64, 48), None),
        ((63, 0, 1, 9), None),
        ((0, 47, 9, 1), None),
        ((0, 0, 1, 1), None),
        ((63, 47, 9, 9), None),
        ((-9, -9, 10, 10), None),
        ((63.5, 0, 9, 9), None),
        ((-9, 0, 9.5, 9), None),
        ((0, 47.5, 9, 9), None),
        ((0, -9, 9, 9.5), None),
        ((64, 0, 9, 9), 'outside the image'),
        ((-9, 0, 9, 9), 'outside the image'),
        ((0, 48, 9, 9), 'outside the image'),
        ((0, -9, 9, 9), 'outside the image'),
        ((0, 0, 0.99, 9), 'narrower than a pixel'),
    ],
)
def test_boxes_at_the_edge_are_left_out_as_mmdetection_does(bbox, reason):
    result = read(dict(bbox=list(bbox)))
    (ann,) = result.annotations
    assert left_out(ann, result.images[0]) == reason


@pytest.mark.parametrize(
    'given, expected',
    [
        (None, 0), (NAN, 0), ('0', 0), ('0.0', 0), ('', 0), ('False', 0),
        (False, 0), (0.0, 0), (1, 1), ('1', 1), (True, 1), ('true', 1),
        (1.0, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize('name', ['iscrowd', 'ignore'])
def test_flags(name, given, expected):
    (ann,) = read({name: given}).annotations
    assert ann[name] == expected and type(ann[name]) is int


@pytest.mark.parametrize('value', ['perhaps', 2, -1, [], {}, [0]])
def test_other_flags_are_named(value):
    with pytest.raises(ValueError, match='annotation 1 has the iscrowd .*0 o'):
        read(dict(iscrowd=value)).refuse_faults()


@pytest.mark.parametrize(
    'box',
    [
        None, '[1, 2, 3, 4]', [1, 2, 3], [1, 2, NAN, 4], [1, 2, None, 4],
        [1, 2, 'wide', 4], [1, 2, 1e9, 4], [1, 2, 10**400, 4], 7, {}, [[1]],
        [True, 1, 2, 3],
    ],
)  # fmt: skip
def test_other_boxes_are_named(box):
    result = read(dict(bbox=box))
    assert result.annotations == [] and result.number == 1
    with pytest.raises(ValueError, match='own.json: annotation 1 has the bbo'):
        result.refuse_faults()


def test_boxes_of_text_are_numbers():
    assert read(dict(bbox=['1', 2.5, '3e0', 4])).annotations[0]['bbox'] == [
        1,
        2.5,
        3,
        4,
    ]


@pytest.mark.parametrize('mask', [None, NAN, [], {}, [[]], [[], []], '', 0])
def test_no_mask(mask):
    result = read(dict(segmentation=mask)).refuse_faults()
    assert result.annotations[0]['segmentation'] == []


@pytest.mark.parametrize(
    'mask',
    [
        BOX,
        BOX[0],
        BOX + [[]],
        BOX + [[1, 2, 3, 4]],
        [[str(v) for v in BOX[0]]],
        [[float(v) for v in BOX[0]]],
    ],
)
def test_polygons(mask):
    (found,) = read(dict(segmentation=mask)).refuse_faults().annotations
    assert found['segmentation'] == BOX
    rle = to_rle(found['segmentation'], 48, 64)
    assert mask_utils.area(rle) == 200


@pytest.mark.parametrize(
    'mask, fault',
    [
        ([[2, 8, 1e9, 8, 22, 32]], 'vertex at 1000000000'),
        ([[2, 8, -65, 8, 22, 32]], r'vertex at -65, .* \(from -64 to 128\)'),
        ([[2, 8, NAN, 8, 22, 32]], 'vertex at'),
        ([[2, 8, float('inf'), 8, 22, 32]], 'vertex at inf'),
        ([[2, 8, 10**400, 8, 22, 32]], ''),
        ([[2, 8, None, 8, 22, 32]], 'not a list of polygons'),
        ([[[2, 8], [22, 8], [22, 32]]], 'not a list of polygons'),
        ([BOX[0], 5], 'not a list of polygons'),
        ([[1, 2, 3, 4]], 'no polygon has three points'),
        ([[1, 2, 3, 4, 5, 6, 7]], 'no polygon has three points'),
        ('polygon', 'no list and no RLE'),
        (5, 'no list and no RLE'),
        (dict(size=[48, 64]), 'needs counts and size'),
        (dict(size=[64, 48], counts='PPY12'), 'RLE of .64, 48.'),
        (dict(size='48', counts=[3072]), "RLE of '48'"),
        (dict(size=[48, 64], counts=[3000]), 'do not add up to 48 x 64'),
        (dict(size=[48, 64], counts=[3080, -8]), 'do not add up'),
        (dict(size=[48, 64], counts=[3072.5]), 'cannot be read'),
        (dict(size=[48, 64], counts='PP!'), 'cannot be read'),
        (dict(size=[48, 64], counts='PPé'), 'cannot be read'),
        (dict(size=[48, 64], counts='oooooooooooooooo1'), 'cannot be read'),
        (dict(size=[48, 64], counts=''), 'cannot be read'),
        (dict(size=[48, 64], counts=5), 'cannot be read'),
    ],
)
def test_other_masks_are_named(mask, fault):
    result = read(dict(segmentation=mask))
    assert result.annotations[0]['segmentation'] == []
    with pytest.raises(ValueError, match=f'annotation 1: .*{fault}.*; rep'):
        result.refuse_faults()
    assert result.refuse_faults(masks=False) is result


def test_outlines_that_would_fill_the_memory_are_refused():
    zigzag = [[0, 0, 20000, 20000] * 500]
    assert 'outline of 4e+07' in read_mask(zigzag, 20000, 20000)[1]
    circle = np.linspace(0, 2 * np.pi, 2000)
    circle = np.stack([np.cos(circle), np.sin(circle)], 1) * 9000 + 10000
    assert read_mask([circle.ravel().tolist()], 20000, 20000)[1] == ''


@pytest.mark.parametrize('seed', range(20))
def test_run_lengths_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 200, 2)
    pixels = rng.random((height, width)) < rng.choice([0, 0.01, 0.5, 1])
    rle = mask_utils.encode(np.asfortranarray(pixels.astype(np.uint8)))
    runs = run_lengths(rle['counts'].decode())
    flags = np.arange(len(runs)) % 2 == 1
    assert (np.repeat(flags, runs) == pixels.ravel(order='F')).all()
    for counts in (rle['counts'].decode(), runs.tolist()):
        mask, fault = read_mask(
            dict(size=[int(height), int(width)], counts=counts), height, width
        )
        assert fault == ''
        assert (mask_utils.decode(to_rle(mask, height, width)) == pixels).all()


def test_ids_of_several_forms_are_the_same():
    content = dict(
        images=[make_image(1) | dict(id=i) for i in ('15', 0, 'scan')],
        categories=[dict(id='0', name='a'), dict(id='pet', name='b')],
        annotations=[
            make_annotation(0, 15.0, 0), make_annotation('x', '0', 'pet'),
            make_annotation('7', 'scan', '0'),
        ],
    )  # fmt: skip
    result = normalise(content, 'own.json').refuse_faults(files=True)
    ids = [
        (a['id'], a['image_id'], a['category_id']) for a in result.annotations
    ]
    assert ids == [(0, 15, 0), ('x', 0, 'pet'), (7, 'scan', 0)]
    assert result.spelling == dict(images={15: '15'}, categories={0: '0'})


@pytest.mark.parametrize(
    'value', [None, 0, -5, 1.5, 'wide', NAN, 1 << 21, 10**400, True, []]
)
def test_images_need_a_size(value):
    with pytest.raises(ValueError, match=r"an image has no \['width'\]: {'"):
        read(image=dict(width=value)).refuse_faults()
    assert read(image=dict(width='64', height=48.0)).images[0]['width'] == 64


def test_images_that_cannot_be_decoded_are_refused():
    with pytest.raises(ValueError, match='of 40000 x 40000 is too large'):
        read(image=dict(width=40000, height=40000)).refuse_faults()


@pytest.mark.parametrize('name', [None, '', 5, [], '\ud800.jpg'])
def test_images_need_a_file_where_they_are_read(name):
    result = read(image=dict(file_name=name)).refuse_faults()
    with pytest.raises(ValueError, match='image 1 has neither file_name nor'):
        result.refuse_faults(files=True)
    url = dict(file_name=name, coco_url='http://x.org/val2017/1.jpg')
    assert read(image=url).refuse_faults(files=True)


@pytest.mark.parametrize('name', [None, '', ' ', 5, ['a'], 'a\ud800', NAN])
def test_categories_need_a_name(name):
    result = read(category=dict(name=name))
    with pytest.raises(ValueError, match='the category .* needs an id and'):
        result.refuse_faults()
    assert [cat['name'] for cat in result.categories] == ['a']


@pytest.mark.parametrize(
    'field', ['neg_category_ids', 'not_exhaustive_category_ids']
)
def test_lists_of_lvis(field):
    def ids(given):
        result = read(image={field: given})
        return result.images[0].get(field), result.faults.numbers['listed_ids']

    assert ids(['1', 2.0, 2]) == ([1, 2], 0)
    assert ids(None) == ids(NAN) == (None, 0)
    assert ids([]) == ([], 0)
    assert ids([1, 9]) == ids([1, None]) == ids([1, 'x']) == ([1], 1)
    assert ids(5) == ids('12') == ids({'1': 2}) == ([], 1)


def test_of_many_faults_the_first_and_their_number_are_said():
    content = dict(
        images=[make_image(1)],
        categories=make_categories('a'),
        annotations=[
            make_annotation(i, 1, 1) | dict(bbox=None) for i in range(3000)
        ],
    )
    with pytest.raises(ValueError) as error:
        normalise(content, 'own.json').refuse_faults()
    assert 'annotation 0 has the bbox None (and 2999 more' in str(error.value)


def test_ids_that_lead_nowhere_are_said_once_each():
    content = dict(
        images=[make_image(1)],
        categories=make_categories('a'),
        annotations=[
            make_annotation(k, image, category)
            for k, (image, category) in enumerate(
                [(1, 9), (1, 7), (8, 9), (1, 1), (1, 'x')]
            )
        ],
    )
    faults = normalise(content, 'own.json').faults
    assert faults.numbers == dict(unknown_category=4, unknown_image=1)
    assert faults.examples == dict(
        unknown_category=[
            'the category_id 7 of 1 annotation is not in categories',
            'the category_id 9 of 2 annotations is not in categories',
            "the category_id 'x' of 1 annotation is not in categories",
        ],
        unknown_image=['the image_id 8 of 1 annotation is not in images'],
    )
    with pytest.raises(ValueError) as error:
        normalise(content, 'own.json').refuse_faults()
    assert str(error.value) == (
        'own.json: the category_id 7 of 1 annotation is not in categories '
        '(and 2 more like it); add the category, or remove its annotations'
    )


def test_long_values_are_cut():
    with pytest.raises(ValueError) as error:
        read(dict(bbox=['x' * 100_000] * 4)).refuse_faults()
    assert len(str(error.value)) < 500
    with pytest.raises(ValueError) as error:
        read(dict(bbox=list(range(100_000)))).refuse_faults()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    'text, message',
    [
        ('[' * 100_000, 'nested too deeply'),
        ('{"a":' * 100_000, 'nested too deeply'),
        ('{"images": [', 'not valid JSON .* incomplete'),
        (b'\xff\xfe\x00', 'not valid JSON'),
        ('9' * 5000, 'not valid JSON'),
        ('[]', r"no \['images', 'categories'\]"),
        ('7', r"no \['images', 'categories'\]"),
        ('{"images": {}, "categories": []}', r"no \['images'\]"),
        ('{"images": [], "categories": [], "annotations": 7}', 'annotations'),
    ],
)
def test_other_files_are_refused_in_a_sentence(tmp_path, text, message):
    path = tmp_path / 'own.json'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_annotations(path)


@pytest.mark.parametrize(
    'content',
    [
        dict(
            images=[1, None], categories=[None, 'a', []], annotations=[3, None]
        ),
        dict(images=[[]], categories=[{}], annotations=[{}, []]),
    ],
)
def test_entries_of_other_forms_are_faults(content):
    result = normalise(content, 'own.json')
    assert result.images == result.categories == result.annotations == []
    assert set(result.faults.numbers) == {
        'bad_image',
        'bad_category',
        'bad_annotation',
    }
    with pytest.raises(ValueError, match='own.json: the category'):
        result.refuse_faults()


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-32'])
def test_files_of_other_encodings_are_read(tmp_path, encoding):
    path = tmp_path / 'own.json'
    text = json.dumps(
        dict(images=[], categories=make_categories(['Käse'])),
        ensure_ascii=False,
    )
    path.write_text(text, encoding=encoding)
    assert read_annotations(path).categories[0]['name'] == 'Käse'


def test_a_file_too_large_for_the_machine_is_refused(tmp_path):
    path = tmp_path / 'own.json'
    with open(path, 'wb') as file:
        file.truncate(1 << 42)
    with pytest.raises(ValueError, match='own.json has 4,194,304 MiB'):
        read_annotations(path)


def test_long_ids_are_text_and_keep_their_spelling():
    # A dictionary takes these numbers for the same at first, so that as
    # keys they would take time of the square of their number.
    given = [k * (2**61 - 1) for k in range(1, 4)]
    content = dict(
        images=[make_image(i) for i in given],
        categories=make_categories('a'),
        annotations=[make_annotation(k, i, 1) for k, i in enumerate(given)],
    )
    result = normalise(content, 'own.json').refuse_faults()
    ids = [str(i) for i in given]
    assert [ann['image_id'] for ann in result.annotations] == ids
    numbers = IdNumbers('images', result)
    assert [numbers.spell(numbers.find(i)) for i in given] == given


@pytest.mark.parametrize(
    'text, message',
    [
        ('{"images": [], "images": [{}]}', "an object has 'images' twice"),
        (
            '{"images": [{"id": 1, "id": 2}]}',
            "own.json: an object has 'id' tw",
        ),
        (
            '{"a": {"' + 'x' * 10**6 + '": 1, "' + 'x' * 10**6 + '": 2}}',
            'twice',
        ),
        (
            gzip.compress(b'{}', mtime=0),
            'own.json is compressed by gzip; unpack it',
        ),
    ],
)
def test_unclear_files_are_refused_in_a_short_sentence(
    tmp_path, text, message
):
    path = tmp_path / 'own.json'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_annotations(path)
    assert len(str(error.value)) < len(str(path)) + 200


def test_a_key_that_says_the_same_twice_is_read(tmp_path):
    path = tmp_path / 'own.json'
    path.write_text('{"images": [], "images": [], "categories": []}')
    assert read_annotations(path).images == []


def test_names_and_paths_of_megabytes_are_cut():
    assert read(image=dict(file_name='x' * 4096)).refuse_faults(files=True)
    with pytest.raises(ValueError, match='has neither file_name') as error:
        read(image=dict(file_name='x' * 10**6)).refuse_faults(files=True)
    assert len(str(error.value)) < 300
    content = read(category=dict(name='x' * 10**6)).categories
    with pytest.raises(ValueError, match='1 of 1 classes are not') as error:
        build_category_table(content, classes=['y' * 10**6])
    assert len(str(error.value)) < 1000
    (finding,) = gather('missing_image', ['x' * 10**6])
    assert len(finding.examples[0]) == 5000
    size = dict(size=[[1] * 10**6], counts=[1])
    assert len(read_mask(size, 48, 64)[1]) < 200
