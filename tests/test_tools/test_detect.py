# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of tools/detect.py."""

import csv
import io
import json
import os
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from tiny_api import write_detector, write_film

from dito.apis import DITOInferencer, Film, parse_names
from dito.cli import detect
from dito.utils.printable import Console

TWENTY = Path(__file__).parents[1] / 'data/twenty'


@pytest.fixture(scope='module')
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An image and the file of an untrained detector."""
    parts = write_detector(tmp_path_factory.mktemp('detect'))
    return dict(
        image=str(parts['images'][0]),
        weights=str(parts['weights']),
        folder=parts['folder'],
    )


def test_detect(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = detect.main(
        [
            parts['image'],
            '--names',
            'red umbrella, anchor',
            '--checkpoint',
            parts['weights'],
            '--out-dir',
            str(tmp_path),
            '--score-thr',
            '0.99',
            '--list-top-k',
            '3',
        ]
    )
    text = capsys.readouterr().out
    assert code == 0
    note, *lines = text.splitlines()
    assert 'taken for one of 2 names' in note
    assert ': 0 found with a score of 0.99 or more' in lines[0]
    scores = [float(line.split()[0]) for line in lines[1:4]]
    assert scores == sorted(scores, reverse=True) and len(lines) == 5
    assert all(
        ('anchor' in line) != ('red umbrella' in line) for line in lines[1:4]
    )
    written = json.loads((tmp_path / 'preds' / '0.json').read_text())
    assert written['scores'] == []
    assert (tmp_path / 'vis' / '0.jpg').is_file()


def check_table(folder: Path) -> None:
    """Rows of the table are what the json files have, to the last digit."""
    with open(folder / 'f.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    for image, number, size in (
        ('b/0.png', 0, '80x48'),
        ('1.png', 1, '70x90'),
    ):
        one = json.loads((folder / f'preds/{number}.json').read_text())
        own = [row for row in rows if row['image'] == image]
        assert [float(r['score']) for r in own] == one['scores'] != []
        assert [r['name'] for r in own] == one['names']
        assert [
            [float(r[k]) for k in ('x1', 'y1', 'x2', 'y2')] for r in own
        ] == one['bboxes']
        assert {f'{r["width"]}x{r["height"]}' for r in own} == {size}
        assert {r['frame'] + r['time'] + r['track'] for r in own} == {''}


def check_tasks(folder: Path) -> None:
    """Label Studio's tasks fit its labelling interface and give the boxes."""
    tasks = json.loads((folder / 'tasks.json').read_text())
    view = ElementTree.parse(folder / 'tasks.xml').getroot()
    image, control = view.find('Image'), view.find('RectangleLabels')
    labels = [label.get('value') for label in control]
    assert labels == ['red umbrella', 'anchor']
    assert image.get('value') == '$image'
    assert control.get('toName') == image.get('name')
    assert [task['data']['image'] for task in tasks] == [
        '/data/local-files/?d=photos/b/0.png',
        '/data/local-files/?d=photos/1.png',
    ]
    for number, task in enumerate(tasks):
        one = json.loads((folder / f'preds/{number}.json').read_text())
        (prediction,) = task['predictions']
        regions = prediction['result']
        assert len({region['id'] for region in regions}) == len(regions)
        assert prediction['score'] == one['scores'][0]
        for region, box, name in zip(
            regions, one['bboxes'], one['names'], strict=True
        ):
            value = region['value']
            assert region['type'] == 'rectanglelabels'
            assert region['from_name'] == control.get('name')
            assert region['to_name'] == image.get('name')
            assert value['rectanglelabels'] == [name]
            width, height = region['original_width'], region['original_height']
            x, y = value['x'] * width / 100, value['y'] * height / 100
            right = x + value['width'] * width / 100
            bottom = y + value['height'] * height / 100
            assert [x, y, right, bottom] == pytest.approx(box, abs=1e-3)


def test_all_detections_in_one_file_of_coco(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two images of two sizes, as pycocotools reads them."""
    out, folder = tmp_path / 'found.json', tmp_path / 'photos' / 'b'
    folder.mkdir(parents=True)
    for number, place in enumerate((folder, folder.parent)):
        source = Path(parts['image']).with_stem(str(number))
        (place / source.name).write_bytes(source.read_bytes())
    code = detect.main(
        [
            *map(str, (folder / '0.png', folder.parent / '1.png')),
            *('--names', 'red umbrella, anchor'),
            *('--checkpoint', parts['weights']),
            *('--out-dir', str(tmp_path), '--score-thr', '0.1'),
            *('--save-json', str(out), '--save-csv', str(tmp_path / 'f.csv')),
            *('--save-label-studio', str(tmp_path / 'tasks.json')),
        ]
    )
    said = capsys.readouterr().out
    assert code == 0 and f'COCO are in {out}' in said
    assert f'DOCUMENT_ROOT={tmp_path}.' in said
    check_table(tmp_path)
    check_tasks(tmp_path)
    content = json.loads(out.read_text())
    assert [
        (i['file_name'], i['height'], i['width']) for i in (content['images'])
    ] == [('b/0.png', 48, 80), ('1.png', 90, 70)]
    assert [c['name'] for c in content['categories']] == [
        'red umbrella',
        'anchor',
    ]
    read = COCO(str(out))
    read.loadRes(content['annotations'])
    for number in (0, 1):
        one = json.loads((tmp_path / f'preds/{number}.json').read_text())
        rows = read.loadAnns(read.getAnnIds(imgIds=number + 1))
        assert [r['score'] for r in rows] == one['scores'] and rows
        assert [r['category_id'] - 1 for r in rows] == one['labels']
        for row, (x1, y1, x2, y2) in zip(rows, one['bboxes'], strict=True):
            assert row['bbox'] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
        assert [r['segmentation'] for r in rows] == one['masks']


def test_names_of_files_need_not_be_utf8(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    picture = tmp_path / os.fsdecode(b'b\xe4r.png')
    picture.write_bytes(Path(parts['image']).read_bytes())
    names = 'found.csv', 'found.json', 'tasks.json'
    kinds = '--save-csv', '--save-json', '--save-label-studio'
    options = [
        *('--checkpoint', parts['weights'], '--score-thr', '0'),
        *('--names', 'anchor', '--out-dir', str(tmp_path / 'out')),
    ]
    for kind, name in zip(kinds, names, strict=True):
        options += kind, str(tmp_path / name)
    assert detect.main([str(picture), *options]) == 0
    rows = (tmp_path / 'found.csv').read_text('utf-8').splitlines()
    assert rows[1].startswith('b\\udce4r.png,')
    (image,) = json.loads((tmp_path / 'found.json').read_text())['images']
    assert image['file_name'] == picture.name
    (task,) = json.loads((tmp_path / 'tasks.json').read_text())
    assert task['data']['image'].endswith('/b%E4r.png')
    assert os.path.lexists(tmp_path / f'out/vis/{picture.stem}.jpg')


@pytest.mark.parametrize('threshold', ['0', '0.3', '1'])
def test_list_top_k_does_not_depend_on_the_threshold(
    parts: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    threshold: str,
) -> None:
    options = ['--checkpoint', parts['weights'], '--out-dir', str(tmp_path)]
    asked = [parts['image'], '--names', 'red umbrella, anchor', *options]
    assert detect.main([*asked, '--score-thr', '0']) == 0
    every = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith('  ')
    ]
    assert len(every) > 5
    assert (
        detect.main([*asked, '--score-thr', threshold, '--list-top-k', '5'])
        == 0
    )
    rows = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith('  ')
    ]
    assert rows == every[:5]
    with pytest.raises(SystemExit, match='2'):
        detect.main([*asked, '--list-top-k', '0'])
    assert '--list-top-k: must be a number' in capsys.readouterr().err


def test_negative_names(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for negatives in ([], ['--negative-names', 'red umbrella']):
        code = detect.main(
            [
                parts['image'],
                '--names',
                'anchor',
                '--checkpoint',
                parts['weights'],
                '--out-dir',
                str(tmp_path),
                '--score-thr',
                '0',
                *negatives,
            ]
        )
        assert code == 0
        lines = capsys.readouterr().out.splitlines()
        assert ('every object is taken for' in lines[0]) == (not negatives)
        found.append(json.loads((tmp_path / 'preds' / '0.json').read_text()))
    alone, among = found
    assert set(alone['names']) == set(among['names']) == {'anchor'}
    assert max(among['scores']) < max(alone['scores'])


def found_in(out: Path, image: str) -> dict[str, Any]:
    """What a run wrote of a picture."""
    return json.loads((out / 'preds' / f'{Path(image).stem}.json').read_text())


def test_names_examples_and_groups(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    """As Python finds them, by the labels of all three."""
    image, out = parts['image'], tmp_path / 'all.json'
    code = detect.main(
        [
            image,
            *('--names', 'anchor'),
            *('--example', f'it={image}@5,5,35,35', '--example'),
            *(f'it={image}', '--example', f'Anchor={image}'),
            *('--group', 'toy=wheel, blue kite', '--group', 'toy=anchor'),
            *('--checkpoint', parts['weights'], '--save-json', str(out)),
            *('--out-dir', str(tmp_path), '--score-thr', '0'),
        ]
    )
    assert code == 0
    detector = DITOInferencer(parts['weights'])
    asked = detector.embed(
        'anchor',
        examples={'it': [(image, (5, 5, 35, 35)), image], 'Anchor': image},
        groups={'toy': ['wheel', 'blue kite', 'anchor']},
    )
    wanted = detector(image, asked, score_thr=0)['predictions'][0]
    found = found_in(tmp_path, image)
    assert set(found['names']) == {'it', 'toy'}
    assert found['bboxes'] == wanted['bboxes']
    content = json.loads(out.read_text())
    assert {c['name'] for c in content['categories']} == {'it', 'toy'}


def test_common_names(parts: dict[str, Any], tmp_path: Path) -> None:
    """With a text tower, and of a detector that has few embeddings alone."""
    image, out = parts['image'], tmp_path / 'all.json'
    options = ['--out-dir', str(tmp_path), '--save-json', str(out)]
    weights = ['--checkpoint', parts['weights'], '--names', 'common']
    assert detect.main([image, *options, *weights]) == 0
    names = [c['name'] for c in json.loads(out.read_text())['categories']]
    assert names == list(parse_names('common'))
    inferencer = DITOInferencer(parts['weights'])
    inferencer._known = inferencer.embed('anchor, hovercraft, Umbrella')
    inferencer.model.text_encoder = None
    found = inferencer(image, 'common', return_all=True)['predictions'][0]
    assert set(found['names']) <= {'anchor', 'umbrella'} and found['names']


def test_objects_without_names(parts: dict[str, Any], tmp_path: Path) -> None:
    image, out = parts['image'], tmp_path / 'all.json'
    options = ['--out-dir', str(tmp_path), '--score-thr', '0', '--objects']
    weights = ['--checkpoint', parts['weights'], '--save-json', str(out)]
    assert detect.main([image, *options, *weights]) == 0
    found = found_in(tmp_path, image)
    assert set(found['names']) == {'object'} and len(found['scores']) > 5
    (category,) = json.loads(out.read_text())['categories']
    assert category['name'] == 'object'


def test_tiles(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, weights = parts['image'], ['--checkpoint', parts['weights']]
    options = ['--out-dir', str(tmp_path), '--names', 'anchor', *weights]
    assert detect.main([image, *options, '--tile', '40']) == 0
    assert 'taken for this name or' in capsys.readouterr().out
    detector = DITOInferencer(parts['weights'])
    (wanted,) = detector(image, 'anchor', tile=40)['predictions']
    assert found_in(tmp_path, image) == wanted
    (plain,) = detector(image, 'anchor')['predictions']
    assert len(wanted['names']) > 0 and plain != wanted


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of a refused command, which must leave no 'none'."""
    try:
        code = detect.main(argv)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2 and not Path('none').exists()
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ([], 'there is nothing to look for; give --names, --example,'),
        (['--objects', '--names', 'a'], '--objects looks for objects without'),
        (['--example', '0.png'], "NAME=PICTURE@x1,y1,x2,y2, got '0.png'"),
        (['--group', 'toy='], "is written LABEL=NAME,NAME, got 'toy='"),
        (['--group', 'a=b, b'], 'more than once'),
        (['--group', 'a=b', '--group', 'c=b'], "the groups 'a' and 'c'"),
        (['--example', 'a=none.png'], 'none.png does not exist'),
        (['--example', 'a=0.png@0,0,99,9'], 'does not lie in 0.png'),
        (['--example', 'a=0.png@0,0,1,1'], 'of 1 x 1 pixels (0.png) shows'),
        (['--example', 'a=0.png@0,0,1-,1'], 'has no box x1,y1,x2,y2'),
        (['--names', 'a', '--tile-overlap', '0.5'], 'needs --tile'),
        (
            ['--names', 'a', '--tile', '32', '--tile-overlap', '1'],
            '--tile-overlap is in [0, 1), got 1',
        ),
        (['--names', 'anchor', '--tile', '1'], 'tile is the side of a tile'),
        (['--names', 'a', '--save-csv', '.'], '. is a folder; give the path'),
        (
            '--names a --save-csv f --save-json f'.split(),
            'f would be written twice',
        ),
        (
            '--names a --save-json f.xml --save-label-studio f.json'.split(),
            'f.xml would be written twice',
        ),
        (['--names', 'a', '--device', 'gpu'], "The device 'gpu' cannot be"),
        (['--names', 'a', '--device', 'meta'], "'meta' cannot be used here"),
        (['--names', 'a', '--score-thr', 'nan'], 'from 0 to 1, got nan'),
        (['--names', 'a', '--agnostic-nms', '7'], 'from 0 to 1, got 7'),
    ],
)
def test_what_is_asked_for_wrongly(
    parts: dict[str, Any],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(parts['folder'])
    weights = ['--checkpoint', parts['weights'], '--out-dir', 'none']
    assert message in refusal(['0.png', *options, *weights], capsys)


@pytest.mark.parametrize(
    'argv, message',
    [
        (['0.png', '--score-thr', '2'], 'must be a number from 0 to 1, got 2'),
        (['0.png', '--score-thr', '-1'], 'from 0 to 1, got -1'),
        (['0.png', '--agnostic-nms', '0'], '--agnostic-nms is in (0, 1]'),
        (['camera:x'], 'There is no camera:x; cameras have numbers'),
        (['camera:99'], 'There is no camera:99 that gives pictures'),
        (
            ['0.png', '--example', 'a=0.png@1,2,800,9'],
            'example does not lie in 0.png, which has 80 x 48 pixels',
        ),
        (['0.png', '--example', 'a=one.png'], 'An example of 1 x 1 pixels'),
        (['0.png', '--example', 'a=no.png'], 'no.png does not exist'),
        (['0.png', '--save-csv', '0.png/f'], '0.png is no folder; give'),
        (['0.png', '--save-json', ''], "is a path to write to, got ''"),
        (['0.png', '--out-dir', ' '], "is a path to write to, got ' '"),
        (['0.png', '--out-dir', '0.png'], '0.png is no folder; give'),
    ],
)
def test_refused_before_a_model_loads(
    parts: dict[str, Any],
    argv: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(parts['folder'])
    monkeypatch.setattr(detect, 'DITOInferencer', None)
    cv2.imwrite('one.png', np.zeros((1, 1, 3), np.uint8))
    said = refusal(['--names', 'b', '--out-dir', 'none', *argv], capsys)
    Path('one.png').unlink()
    assert message in said


def test_one_bad_file_of_a_folder_stops_nothing(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link that leads nowhere, a pipe, and a name of two lines."""
    folder, out = tmp_path / 'photos', tmp_path / 'out'
    folder.mkdir()
    good = folder / 'a\n\tb.png'
    good.write_bytes(Path(parts['image']).read_bytes())
    (folder / 'link.png').symlink_to('nowhere.png')
    os.mkfifo(folder / 'pipe.png')
    options = ['--names', 'anchor', '--checkpoint', parts['weights']]
    options += '--out-dir', str(out)
    for given in (folder, folder / '*.png'):
        assert detect.main([str(given), *options]) == 3
        said = capsys.readouterr()
        assert 'photos/a\\n\\tb.png: ' in said.out
        first, second, last = said.err.splitlines()
        assert 'link.png does not exist' in first
        assert 'pipe.png is no plain file' in second
        assert last.startswith('error: 2 of 3 images')
    assert detect.main([str(folder / 'link.png'), *options]) == 2


def test_what_is_read_is_not_written_over(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / 'vis' / 'a.jpg'
    picture.parent.mkdir()
    content = cv2.imencode('.jpg', cv2.imread(parts['image']))[1].tobytes()
    picture.write_bytes(content)
    options = ['--names', 'anchor', '--checkpoint', parts['weights']]
    for more in (
        ['--out-dir', str(tmp_path)],
        ['--out-dir', str(tmp_path / 'o'), '--save-json', str(picture)],
    ):
        assert detect.main([str(picture), *options, *more]) == 2
        assert 'is read here and would be' in capsys.readouterr().err
        assert picture.read_bytes() == content
    assert not (tmp_path / 'preds').exists()


def test_report() -> None:
    result = dict(
        scores=[0.5, 0.2],
        names=['anchor', 'kite'],
        bboxes=[[0, 0, 4.4, 5], [1, 2, 3, 4]],
    )
    assert detect.report('a.jpg', result, 0.3, None) == (
        'a.jpg: 1 found with a score of 0.3 or more\n'
        '  0.500  anchor  (0, 0, 4, 5)'
    )
    assert detect.report('a.jpg', result, 0.6, None).endswith(
        'the best has 0.500'
    )
    for threshold in (0, 0.3, 0.6):
        for lines in (1, 2):
            text = detect.report('a.jpg', result, threshold, lines)
            assert len(text.splitlines()) == 1 + lines
            assert 'boxes' not in text
    first, *rows = detect.report('a.jpg', result, 0.6, 9).splitlines()
    assert first.endswith('; there are 2 boxes in all') and len(rows) == 2


def test_boxes_of_negative_names_are_said() -> None:
    result = dict(scores=[0.2], names=['kite'], bboxes=[[1, 2, 3, 4]])
    text = detect.report('a.jpg', result, 0.3, 5, negative=9)
    assert 'of the best 10 boxes 9 went to negative names' in text
    assert 'negative' not in detect.report('a.jpg', result, 0.3, 1, 9)


def test_all_boxes_to_negative_names(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        detect.main(
            [
                parts['image'],
                '--names',
                'wheel',
                '--negative-names',
                'red umbrella, anchor, blue kite',
                '--checkpoint',
                parts['weights'],
                '--out-dir',
                str(tmp_path),
                '--list-top-k',
                '400',
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith('  ')]
    assert len(rows) == 400 or 'went to negative names' in text


def test_a_broken_image_of_a_folder_ends_nothing(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / 'photos'
    folder.mkdir()
    content = Path(parts['image']).read_bytes()
    for name in ('a.png', 'c.PNG'):
        (folder / name).write_bytes(content)
    (folder / 'b.png').write_bytes(content[:60])
    (folder / 'notes.txt').write_text('no picture')
    code = detect.main(
        [
            str(folder),
            '--names',
            'anchor, wheel',
            '--checkpoint',
            parts['weights'],
            '--out-dir',
            str(tmp_path / 'out'),
        ]
    )
    assert code == 3
    said = capsys.readouterr()
    for name in ('a.png', 'c.PNG'):
        assert f'{folder / name}: ' in said.out
    errors = said.err.splitlines()[-2:]
    assert 'b.png' in errors[0] and 'cannot be decoded' in errors[0]
    assert errors[1].startswith('error: 1 of 3 images could not be read')
    assert sorted(p.name for p in (tmp_path / 'out').rglob('*.*')) == [
        'a.jpg',
        'a.json',
        'c.jpg',
        'c.json',
    ]


def test_a_film_ended_by_ctrl_c(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is kept."""
    monkeypatch.chdir(tmp_path)
    write_film(Path('long.avi'), 8, 32)
    add = detect.Reports.add

    def press(self: Any, found: Any) -> None:
        add(self, found)
        if self.count == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(detect.Reports, 'add', press)
    options = ['--names', 'anchor', '--checkpoint', parts['weights']]
    assert detect.main(['long.avi', *options]) == 130
    lines = Path('outputs/preds/long.jsonl').read_text().splitlines()
    assert 3 <= len(lines) < 8
    assert Film('outputs/vis/long.mp4').count == len(lines)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_films(
    parts: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A whole one, one that breaks off, and a camera that is not there."""
    monkeypatch.chdir(tmp_path)
    write_film(Path('whole.avi'), 8, 32)
    content = Path('whole.avi').read_bytes()
    Path('broken.avi').write_bytes(content[: len(content) // 2])
    options = [
        *('--names', 'anchor, red umbrella', '--checkpoint', parts['weights']),
        *('--score-thr', '0', '--every', '3', '--batch-size', '2'),
        *('--save-csv', 'all.csv', '--save-json', 'all.json'),
    ]
    code = detect.main(['whole.avi', 'broken.avi', *options])
    said = capsys.readouterr()
    assert code == 3
    reports = [x for x in said.out.splitlines() if x.startswith(('wh', 'br'))]
    lines = Path('outputs/preds/whole.jsonl').read_text().splitlines()
    frames = [json.loads(line) for line in lines]
    assert [frame['frame'] for frame in frames] == [0, 3, 6]
    names = [name for frame in frames for name in frame['names']]
    assert 'whole.avi: in 3 frames ' in reports[0] and len(reports) == 2
    for name in set(names):
        assert f'{names.count(name)} {name}' in reports[0]
    assert Film('outputs/vis/whole.mp4').count == 3
    assert Path('outputs/vis/broken.mp4').is_file()
    errors = [x for x in said.err.splitlines() if x.startswith('error')]
    assert 'broken.avi breaks off' in errors[0]
    assert '1 of 2 images could not be read' in errors[1] and len(errors) == 2
    assert 'detecting' not in said.err  # no terminal
    with open('all.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert {(r['image'], r['frame']) for r in rows} >= {
        ('whole.avi', '6'),
        ('broken.avi', '0'),
    }
    coco = json.loads(Path('all.json').read_text())
    assert coco['images'][2]['file_name'] == 'whole/000006.jpg'
    assert coco['images'][2]['time'] == pytest.approx(0.6)
    # Alone, the beginning of a film is something; no camera ends all at once.
    assert detect.main(['broken.avi', *options]) == 3
    assert detect.main(['whole.avi', 'camera:99', *options]) == 2
    said = capsys.readouterr()
    assert 'error: There is no camera:99' in said.err.splitlines()[-1]
    assert 'whole.avi' not in said.out


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(
        detect,
        'Console',
        lambda **_: Console(force_terminal=True, file=shown, width=90),
    )
    with detect._progress(['a.jpg', 'b.jpg', Film('gone.mp4')]) as advance:
        advance()
        advance()
    assert 'detecting' in shown.getvalue() and '2/2' in shown.getvalue()


@pytest.mark.parametrize(
    'argv, message',
    [
        (['gone.jpg', '--names', 'a'], 'gone.jpg does not exist'),
        (['broken.jpg', '--names', 'a'], 'broken.jpg (8 bytes) cannot be'),
        (
            ['empty.jpg', '--names', 'a'],
            'empty.jpg (0 bytes) cannot be decoded: the file is',
        ),
        (['0.png', '--names', ' , '], 'blank'),
        (['0.png', '--names', 'a,a'], 'more than once'),
        (['0.png', '--names', 'none.txt'], 'none.txt does not exist'),
        (['0.png', '--names', 'a', '--config', 'dito_vitl_lvsi'], 'no config'),
    ],
)
def test_errors(
    parts: dict[str, Any],
    argv: list,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(parts['folder'])
    Path('broken.jpg').write_bytes(b'no image')
    Path('empty.jpg').write_bytes(b'')
    code = detect.main(
        [*argv, '--checkpoint', parts['weights'], '--out-dir', 'none']
    )
    assert code == 2
    error = capsys.readouterr().err.splitlines()
    assert [line for line in error if message in line] == [error[-1]]
    assert not Path('none').exists()


def test_config_without_weights(
    parts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    picture = parts['image']
    assert detect.main([picture, '--names', 'a', '--config', 'x']) == 2
    assert 'needs --checkpoint too' in capsys.readouterr().err


def test_shipped_detector(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the first command of a user gives, on a held-out drawing."""
    image = str(TWENTY / 'images/01.jpg')
    out = tmp_path / 'out'
    assert (
        detect.main(
            [
                image,
                '--names',
                'umbrella, anchor',
                '--negative-names',
                'trained',
                '--out-dir',
                str(out),
            ]
        )
        == 0
    )
    assert 'drawings only' in capsys.readouterr().out
    assert (out / 'vis/01.jpg').is_file() and (out / 'preds/01.json').is_file()


def test_folder_that_is_not_published(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = [parts['image'], '--names', 'a', '--checkpoint', str(tmp_path)]
    assert detect.main(argv) == 2
    assert 'it is not a folder written by' in capsys.readouterr().err
