# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Films and cameras: read, detected in and written a frame at a time."""

import json
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from tiny_api import write_detector, write_film

from dito.apis import DITOInferencer, Film
from dito.apis import films as films_module
from dito.apis.films import is_film, writing_film
from dito.apis.results import to_supervision
from dito.apis.tracks import Tracks
from dito.visualization import ShownObject

NAMES = 'anchor, red umbrella'
# Frames of the fixture.
COUNT = 8


@pytest.fixture(scope='module')
def detector(tmp_path_factory: pytest.TempPathFactory) -> DITOInferencer:
    parts = write_detector(tmp_path_factory.mktemp('films'))
    return DITOInferencer(parts['weights'], vocabulary=NAMES)


@pytest.fixture(scope='module')
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('clip') / 'clip.avi'
    write_film(path, COUNT, 32)
    return path


def cut(path: Path, target: Path, share: float = 0.5) -> Path:
    """Write the beginning of a file."""
    content = path.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


@pytest.mark.parametrize('suffix', ['.avi', '.mp4', '.mkv'])
def test_frames_come_in_order_with_their_times(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f'clip{suffix}'
    wanted = write_film(path)
    film = Film(path)
    assert (film.count, film.fps, film.stem) == (12, 10, 'clip')
    frames = list(film)
    assert [f.number for f in frames] == list(range(12))
    assert [f.time for f in frames] == pytest.approx(np.arange(12) / 10)
    got = np.stack([f.pixels for f in frames]).astype(int)
    assert np.abs(got - wanted).mean() < 20
    for every in (5, 6, 100):
        some = Film(path, every)
        assert some.count == len(range(0, 12, every))
        assert some.fps == pytest.approx(10 / every)
        for frame, number in zip(some, range(0, 12, every), strict=True):
            assert frame.number == number
            np.testing.assert_array_equal(frame.pixels, got[number])


def test_a_frame_is_found_in_as_its_picture(
    detector: DITOInferencer, clip: Path, tmp_path: Path
) -> None:
    """One by one, in batches, as a film or as pictures of a generator."""
    pixels = [frame.pixels for frame in Film(clip)]
    alone = detector(pixels, score_thr=0)['predictions']
    for size in (1, 5):
        found = list(detector.stream(clip, score_thr=0, batch_size=size))
        assert [f.frame for f in found] == list(range(COUNT))
        assert {f.source for f in found} == {str(clip)}
        for one, item in zip(alone, found, strict=True):
            assert item.result['labels'] == one['labels'] != []
            np.testing.assert_allclose(
                item.result['scores'], one['scores'], rtol=1e-4
            )
    (first, *_) = detector(Film(clip, 4), score_thr=0)['predictions']
    assert list(first)[:2] == ['frame', 'time'] and first['frame'] == 0
    del first['frame'], first['time']
    assert first == alone[0]


def test_nothing_of_a_stream_is_kept(
    detector: DITOInferencer, clip: Path
) -> None:
    """Neither frames of a film nor pictures of a generator pile up."""
    given: list[weakref.ref] = []

    def watched(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for pixels in frames:
            given.append(weakref.ref(pixels))
            yield pixels

    most = 0
    pictures = watched(frame.pixels for frame in Film(clip))
    for item in detector.stream(pictures, batch_size=2):
        del item
        most = max(most, sum(ref() is not None for ref in given))
    assert len(given) == COUNT and most <= 4


def test_film_and_lines_are_written(
    detector: DITOInferencer, clip: Path, tmp_path: Path
) -> None:
    stream = detector.stream(
        [clip, np.zeros((40, 40, 3), np.uint8), Film(clip, 3)],
        score_thr=0.2,
        out_dir=tmp_path,
        draw=True,
    )
    found = list(stream)
    files = {p.name for p in tmp_path.rglob('*.*')}
    assert files == {
        *('clip.mp4', 'clip.jsonl', '000001.jpg', '000001.json'),
        *('clip_2.mp4', 'clip_2.jsonl'),
    }
    lines = (tmp_path / 'preds/clip.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        item.result for item in found[:COUNT]
    ]
    written = Film(tmp_path / 'vis/clip.mp4')
    frames = [frame.pixels[..., ::-1] for frame in written]
    assert len(frames) == COUNT and written.fps == pytest.approx(10)
    for frame, item in zip(frames, found, strict=False):
        assert frame.shape == item.drawn.shape
        assert np.abs(frame.astype(int) - item.drawn).mean() < 12
    third = Film(tmp_path / 'vis/clip_2.mp4')
    assert (third.count, third.fps) == (3, pytest.approx(10 / 3, 1e-3))


def test_a_film_that_breaks_off(
    detector: DITOInferencer, clip: Path, tmp_path: Path
) -> None:
    """What was read of it is kept; then it is said."""
    broken = cut(clip, tmp_path / 'broken.avi')
    out = tmp_path / 'out'
    *frames, last = detector.stream(
        broken, out_dir=out, batch_size=4, on_error='collect'
    )
    assert 1 <= len(frames) < COUNT
    assert f'breaks off: {len(frames)} of its {COUNT} frames' in last.error
    assert last.source == str(broken) and last.frame is None
    assert Film(out / 'vis/broken.mp4').count == len(frames)
    lines = (out / 'preds/broken.jsonl').read_text().splitlines()
    assert len(lines) == len(frames)
    count = 0
    with pytest.raises(ValueError, match='broken.avi breaks off'):
        for _ in detector.stream(broken, out_dir=tmp_path / 'two'):
            count += 1
    assert count == len(frames)
    assert Film(tmp_path / 'two/vis/broken.mp4').count == count


def test_a_stream_that_is_left_writes_no_film(
    detector: DITOInferencer, clip: Path, tmp_path: Path
) -> None:
    stream = detector.stream(clip, out_dir=tmp_path)
    next(stream)
    stream.close()
    assert not [p for p in tmp_path.rglob('*') if p.is_file()]


def test_what_is_no_film_is_said(
    detector: DITOInferencer, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / 'text.mp4').write_text('no film')
    (tmp_path / 'folder.mp4').mkdir()
    for source, kind, message in (
        (tmp_path / 'gone.mp4', FileNotFoundError, 'gone.mp4 does not exist'),
        (tmp_path / 'text.mp4', ValueError, r'text.mp4 \(7 bytes\) cannot be'),
        (tmp_path / 'folder.mp4', ValueError, 'folder.mp4 is a folder'),
        ('https://a.b/c.mp4', ValueError, 'on the web.*download it'),
        ('camera:99', ValueError, 'There is no camera:99 .*connect it'),
        ('rtsp://me:word@127.0.0.1:9/x', ValueError, '^rtsp://127.*answer'),
    ):
        with pytest.raises(kind, match=message):
            detector(source)
        (item,) = detector.stream([source], on_error='collect')
        assert item.error and 'word' not in item.error
    with pytest.raises(ValueError, match='every is a whole number'):
        Film(clip, 0)
    with pytest.raises(ValueError, match='is a film, and a picture'):
        detector.encode(clip)


def test_a_frame_a_day_makes_a_film(tmp_path: Path) -> None:
    """MPEG-4 knows no films as slow as that."""
    path = tmp_path / 'slow.mp4'
    with writing_film(path, 1 / 86400) as add:
        for _ in range(3):
            add(np.zeros((32, 48, 3), np.uint8))
    assert Film(path).count == 3


def test_what_is_taken_for_a_film() -> None:
    for item in ('a.MP4', Path('a.mkv'), 'camera:0', 'rtsp://a/b', Film('x')):
        assert is_film(item)
    for item in ('a.gif', 'camera', 'camera:x', 'mp4', 5, None, b'a.mp4'):
        assert not is_film(item)


OPENED = cv2.VideoCapture


class FakeCamera:
    """OpenCV's capture of a camera that gives a film and falls away."""

    def __init__(self, path: Path) -> None:
        self._film = OPENED(str(path))

    def get(self, key: int) -> float:
        return -1.0 if key == cv2.CAP_PROP_FRAME_COUNT else 0.0

    def set(self, *_: Any) -> None:
        """Take no setting."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._film, name)


def test_a_camera_is_stopped_or_falls_away(
    detector: DITOInferencer,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Any] = []

    def capture(source: Any, *_: Any) -> Any:
        opened.append(source)
        return FakeCamera(clip)

    camera = Film('camera:3')
    with monkeypatch.context() as patch:
        patch.setattr(films_module.cv2, 'VideoCapture', capture)
        assert camera.live and camera.count is None and camera.fps == 30
        times = []
        for frame in camera:
            times.append(frame.time)
            if frame.number == 4:
                camera.stop()
        assert times == sorted(times) and len(times) == 5
        assert opened == [3]  # once
        lost = list(detector.stream('camera:3', on_error='collect'))
    assert len(lost) == COUNT + 1
    assert f'no more pictures after {COUNT} frames' in lost[-1].error


def test_a_film_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / 'a.mp4'
    with pytest.raises(ValueError, match='a.mp4 of 0 frames could not be'):
        with writing_film(path, 10):
            pass
    # Odd sides lose a pixel, and what has another size is resized.
    with writing_film(path, 12.5) as add:
        add(np.full((31, 45, 3), 200, np.uint8))
        add(np.full((50, 50, 3), 200, np.uint8))
    film = Film(path)
    assert film.fps == pytest.approx(12.5)
    assert {f.pixels.shape for f in film} == {(30, 44, 3)}
    assert [p.name for p in tmp_path.iterdir()] == ['a.mp4']


def moving(number: int, hidden: bool = False) -> InstanceData:
    """Two objects that cross a picture, the first found twice, and a weak."""
    step = 4.0 * number
    boxes = [[step, 10, step + 30, 40], [200 - step, 100, 240 - step, 150]]
    boxes += [[step + 1, 11, step + 31, 40], [300, 300, 310, 310]]
    scores = torch.tensor([0.9, 0.8, 0.5, 0.2])
    found = InstanceData(bboxes=torch.tensor(boxes), scores=scores)
    return found[torch.tensor([0, 2, 3])] if hidden else found


def test_objects_keep_their_numbers() -> None:
    pytest.importorskip('trackers')
    tracks = Tracks(30, 0.3)
    numbers = [tracks.follow(moving(n)).tolist() for n in range(6)]
    assert numbers[0] == [-1] * 4  # one frame is no track
    first, second, twice, weak = numbers[1]
    assert first != second and min(first, second) >= 0 > max(twice, weak)
    assert numbers[1:] == [numbers[1]] * 5
    assert tracks.follow(InstanceData(**moving(6)[:0])).tolist() == []
    # Hidden for some frames, it is the same one when it is back.
    for n in range(7, 10):
        assert tracks.follow(moving(n, hidden=True)).tolist()[0] == first
    assert tracks.follow(moving(10)).tolist() == numbers[1]


def test_tracks_of_films(
    detector: DITOInferencer, clip: Path, tmp_path: Path
) -> None:
    """Each film has its own; pictures have none."""
    pytest.importorskip('trackers')
    options = dict(score_thr=0.1, track=True)
    given = [clip, np.zeros((40, 40, 3), np.uint8), Film(clip)]
    found = list(detector.stream(given, out_dir=tmp_path, **options))
    assert 'track_ids' not in found[COUNT].result
    first, again = found[:COUNT], found[COUNT + 1 :]
    ids = [item.result['track_ids'] for item in first]
    assert [item.result['track_ids'] for item in again] == ids
    assert ids[0] == [None] * len(ids[0]) and any(map(any, ids))
    for item in first:
        result = item.result
        own = [t for t in result['track_ids'] if t is not None]
        assert len(own) == len(set(own))
        assert len(result['track_ids']) == len(result['names'])
        supervised = to_supervision(result)
        assert [t for t in supervised.tracker_id if t >= 0] == own
    line = (tmp_path / 'preds/clip.jsonl').read_text().splitlines()[-1]
    assert json.loads(line)['track_ids'] == ids[-1]
    # The numbers are drawn.
    plain = list(detector.stream(clip, score_thr=0.1, draw=True))
    assert (plain[0].drawn == first[0].drawn).all()
    assert (plain[-1].drawn != first[-1].drawn).any()
    assert ShownObject((0, 0, 1, 1), 'a', False, 0.5, track=3).label == (
        '#3 a 50 %'
    )


def test_trackers_are_optional(
    detector: DITOInferencer, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'trackers', None)
    with pytest.raises(ValueError, match='trackers, which is not installed'):
        next(detector.stream(clip, track=True))
