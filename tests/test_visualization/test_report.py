# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of the report, the picture of the README and their tools."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from quickstart_files import write_quickstart

from dito.apis import DITOInferencer
from dito.apis.similarity import SimilarityMaps
from dito.cli import similarity_map
from dito.cli.reports import make_report
from dito.reports.figures import quickstart_figure, readme_figure, write_figure
from dito.reports.logs import StageLog
from dito.reports.report import (
    ReportData,
    duration,
    quickstart_report,
    write_report,
)
from dito.reports.samples import (
    PointingGame,
    detect_samples,
    pointing_game,
    query_text,
    read_annotated,
    similarity_samples,
)
from dito.visualization.objects import LEGEND

VOID = {'meta', 'img', 'br'}


class Page(HTMLParser):
    """Checks that tags are closed in order; gathers addresses and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.addresses, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [
            v for k, v in attrs if k in ('src', 'href', 'srcset', 'action')
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    return write_quickstart(tmp_path_factory.mktemp('run'))


@pytest.fixture(scope='module')
def report(folders: tuple) -> str:
    path = quickstart_report(*folders)
    assert path == folders[0] / 'report.html'
    assert [
        p.name
        for p in folders[0].iterdir()
        if p.is_file() and 'report' in p.name
    ] == ['report.html']
    return path.read_text(encoding='utf-8')


def test_report_needs_nothing_from_outside(report: str):
    page = Page(report)
    assert page.addresses
    assert all(a.startswith('data:image/jpeg;base64,') for a in page.addresses)
    assert not {'script', 'link', 'iframe', 'object'} & set(page.tags)
    # Clip paths of charts are in the page.
    ids = set(re.findall(r'id="(\w+)"', report))
    assert set(re.findall(r'url\((.*?)\)', report)) <= {f'#{i}' for i in ids}
    assert '@import' not in report
    outside = set(re.findall(r'https?://[^"\' <]+', report))
    assert outside <= {
        'http://www.w3.org/2000/svg',
        'http://www.w3.org/1999/xlink',
    }  # names, no addresses
    assert 'prefers-color-scheme: dark' in report
    assert 'width=device-width' in report


def test_pictures_of_the_report(report: str):
    page = Page(report)
    # Two images have novel objects: annotated and found; picture, before
    # and after.
    assert len(page.addresses) == 2 * 2 + 2 * 3
    for address in page.addresses:
        content = base64.b64decode(address.split(',', 1)[1])
        image = cv2.imdecode(np.frombuffer(content, np.uint8), 1)
        assert min(image.shape[:2]) > 200
    assert '1.png' in report and '0.png' not in report


def test_curves_of_the_report_are_svg(report: str):
    found = re.findall(
        r'role="img" aria-label="([^"]*)">(<svg.*?</svg>)', report, re.DOTALL
    )
    assert all(ElementTree.fromstring(svg) for _, svg in found)
    assert [title for title, _ in found] == 2 * [
        'Contrastive loss',
        'R@1 within the batch',
        'Proposal head',
        'Box and mask head, distillation',
    ]
    assert [title for title, _ in found] == re.findall(
        r'<figcaption>(.*?)</figcaption>\n<div class="chart"', report
    )


def test_figures_of_the_report(report: str, folders: tuple):
    text = ' '.join(Page(report).texts)
    for part in (
        '12.5 %',
        '50.0 %',
        '6.2 %',
        '75.0 %',
        '3 min 20 s',
        '1 min 20 s',
        "tools/train.py 'a <b> c.py'",
        'extra',
        'over 6 objects of the first 3 validation images',
        'not chosen by result',
        '3 classes, 1 of them novel',
        'at most 20 detections',
    ):
        assert part in text, part
    assert '<b> c.py' not in report
    # What region-centric pretraining changes comes first.
    metrics = json.loads((folders[0] / 'metrics.json').read_text())
    assert list(metrics)[:3] == [
        'rep_map_hits_before',
        'rep_map_hits_after',
        'novel_ap50',
    ]
    rows = [
        text.index(part)
        for part in ('before REP', 'after REP', 'AP50, novel', 'AP50, base')
    ]
    assert rows == sorted(rows)
    for _, _, meaning in LEGEND:
        assert meaning in text


def test_same_report_twice(folders: tuple, report: str, tmp_path: Path):
    again = quickstart_report(*folders, out=tmp_path / 'a' / 'again.html')
    assert again.read_text(encoding='utf-8') == report


def test_detections_are_those_of_the_inferencer(folders: tuple):
    quickstart, root = folders
    data = read_annotated(root / 'annotations/val.json', root)
    files = quickstart / 'dito/stage.py', quickstart / 'dito/iter_40.pth'
    inferencer = DITOInferencer(*files)
    samples = detect_samples(inferencer, data, data.images[1:], 0.0)
    assert inferencer.vocabulary.novel.tolist() == [False, False, True]
    wanted = DITOInferencer(*files)(
        [i.path for i in data.images[1:]], data.names, score_thr=0.0
    )
    for sample, result in zip(samples, wanted['predictions'], strict=True):
        assert len(sample.found) > 0
        assert [f.name for f in sample.found] == result['names']
        assert [f.score for f in sample.found] == result['scores']
        assert [list(f.box) for f in sample.found] == result['bboxes']
        assert {f.novel for f in sample.found if f.name == 'chess knight'} <= {
            True
        }
        assert all(f.crop(sample.image.shape[:2]) for f in sample.found)
    assert detect_samples(inferencer, data, [], 0.0) == []


class PerfectAfter:
    """Maps that peak in the object asked for, after pretraining only."""

    def __init__(self, images: list) -> None:
        self.boxes = {
            query_text(o.name): o.box
            for image in images
            for o in image.objects
        }

    def __call__(self, image: np.ndarray, texts: list) -> SimilarityMaps:
        size = image.shape[:2]
        before = np.zeros((len(texts), *size), np.float32)
        before[:, -1, -1] = 1
        after = np.zeros_like(before)
        for number, text in enumerate(texts):
            x1, y1, x2, y2 = (int(v) for v in self.boxes[text])
            after[number, (y1 + y2) // 2, (x1 + x2) // 2] = 1
        return SimilarityMaps(before, after)


def test_queries(folders: tuple):
    root = folders[1]
    images = read_annotated(root / 'annotations/val.json', root).images[:1]
    assert query_text('anchor') == 'a photo of an anchor'
    game = pointing_game(PerfectAfter(images), images)
    assert game == PointingGame(1, 2, 0.0, 1.0, pytest.approx(320 / 48 / 80))
    (sample,) = similarity_samples(PerfectAfter(images), images, 3)
    assert (sample.text, sample.box) == (
        'a photo of a red umbrella',
        (4, 6, 24, 22),
    )
    assert pointing_game(PerfectAfter(images), []) is None


def test_failure_leaves_nothing(
    folders: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*args):
        raise OSError('disk full')

    monkeypatch.setattr('os.replace', fail)
    old = tmp_path / 'report.html'
    old.write_text('old')
    with pytest.raises(OSError, match='disk full'):
        write_report(ReportData(dict(novel_ap50=0.1)), old)
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(OSError, match='disk full'):
        write_figure(image, tmp_path / 'figure.png')
    assert [p.name for p in tmp_path.iterdir()] == ['report.html']
    assert old.read_text() == 'old'


def test_incomplete_quickstart(folders: tuple, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match='metrics.json'):
        quickstart_report(tmp_path, folders[1])
    (tmp_path / 'metrics.json').write_text('{}')
    with pytest.raises(FileNotFoundError, match='rep holds no log'):
        quickstart_report(tmp_path, folders[1])
    assert not (tmp_path / 'report.html').exists()


def test_report_without_parts(tmp_path: Path):
    stage = StageLog('rep', 'Nothing', [dict(step=1, loss=1.0)])
    path = write_report(ReportData(stages=[stage]), tmp_path / 'r.html')
    page = Page(path.read_text(encoding='utf-8'))
    assert page.addresses == [] and 'svg' not in page.tags
    assert 'Versions' in page.texts and 'Detections' not in page.texts


def test_figure(folders: tuple, tmp_path: Path):
    path = quickstart_figure(*folders, tmp_path / 'figure.png')
    image = cv2.imread(str(path))[..., ::-1]
    # Two pictures have a novel object: found, before, after; the legend.
    assert image.shape == (620 * 2 + 16 + 52, 576 * 3 + 32, 3)
    for _, color, _ in LEGEND:
        # Fewer colours are left where the file would be too large.
        far = np.abs(image[-52:].astype(int) - color).sum(axis=2)
        assert far.min() < 75  # half of how far they are apart
    assert path.stat().st_size < 1_000_000
    with pytest.raises(ValueError, match='pictures with a novel object'):
        readme_figure([], [])


def test_figure_of_any_checkpoint(
    folders: tuple, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (run, root) = folders
    arguments = [
        '--data-root',
        str(root),
        '--figure',
        str(tmp_path / 'f.png'),
        '--count',
        '1',
    ]
    one = [
        '--checkpoint',
        str(run / 'dito/iter_40.pth'),
        '--config',
        str(run / 'dito/stage.py'),
    ]
    rep = [
        '--rep-checkpoint',
        str(run / 'rep/iter_40.pth'),
        '--rep-config',
        str(run / 'rep/stage.py'),
    ]
    for options, columns in (([*one, *rep], 3), (one, 1)):
        assert make_report([*arguments, *options]) == 0
        image = cv2.imread(str(tmp_path / 'f.png'))
        assert image.shape[1] == 576 * columns + 16 * (columns - 1)
    capsys.readouterr()
    with pytest.raises(SystemExit, match='2'):
        make_report([*arguments, *rep])
    assert 'belong to --figure with --checkpoint' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        make_report([*arguments[:-1], '0', *one])
    assert 'a number from 1 on, got 0' in capsys.readouterr().err


def test_png_is_small_enough(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (700, 700, 3), np.uint8)
    path = write_figure(noise, tmp_path / 'noise.png')
    assert path.stat().st_size < 1_000_000
    assert cv2.imread(str(path)).shape == noise.shape
    path = write_figure(noise, tmp_path / 'noise.jpg')
    assert path.read_bytes()[:2] == b'\xff\xd8'
    assert cv2.imread(str(path)).shape == noise.shape


def test_duration():
    assert [duration(s) for s in (4.4, 60, 3599.6, 3900)] == [
        '4 s',
        '1 min 0 s',
        '1 h 0 min',
        '1 h 5 min',
    ]


def test_similarity_tool(
    folders: tuple, tmp_path: Path, capsys: pytest.CaptureFixture
):
    rep, image = folders[0] / 'rep', folders[1] / 'images/0.png'
    out = tmp_path / 'new' / 'strip.png'
    arguments = [
        '--config',
        str(rep / 'stage.py'),
        '--checkpoint',
        str(rep / 'iter_40.pth'),
        '--out',
        str(out),
    ]
    texts = ['red umbrella', 'anchor']
    assert similarity_map.main([str(image), '--text', *texts, *arguments]) == 0
    assert cv2.imread(str(out)).shape == (620 * 2 + 16, 576 * 3 + 32, 3)
    lines = capsys.readouterr().out.splitlines()
    assert sum(' to ' in line for line in lines) == 4
    assert (
        similarity_map.main(['none.png', '--text', 'anchor', *arguments]) == 2
    )
    assert 'none.png does not exist' in capsys.readouterr().err
    broken = str(tmp_path / 'film.mp4')
    Path(broken).write_bytes(b'no picture')
    assert similarity_map.main([broken, '--text', 'a', *arguments]) == 2
    assert '(10 bytes) cannot be decoded' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        similarity_map.main([str(image), '--text', ' ', *arguments])
    assert 'a --text is blank' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        similarity_map.main(
            [str(image), '--text', 'a', *arguments[:-1], 'strip.txt']
        )
    assert 'must end in .png or .jpg' in capsys.readouterr().err
    before = image.read_bytes()
    same = [*arguments[:-1], str(image)]
    assert similarity_map.main([str(image), '--text', 'a', *same]) == 2
    assert 'is read here and would be' in capsys.readouterr().err
    assert image.read_bytes() == before


def test_report_tool(
    folders: tuple, report: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    out = tmp_path / 'r.html'
    code = make_report(
        [str(folders[0]), '--data-root', str(folders[1]), '--out', str(out)]
    )
    assert code == 0 and out.read_text(encoding='utf-8') == report
    assert make_report([str(tmp_path / 'none')]) == 2
    assert 'metrics.json' in capsys.readouterr().err
