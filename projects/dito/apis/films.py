# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Films and cameras, read and written a frame at a time."""

import contextlib
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np

from dito.utils.files import replacing, require_plain_file

#: Suffixes of files that are read as films.
SUFFIXES = frozenset(
    '.mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .mts .m2ts .3gp '
    '.ogv'.split()
)
_CAMERA = re.compile(r'camera:(\d{1,3})')
_STREAMS = ('rtsp', 'rtsps')
# Where neither the film nor the camera says how many frames a second has.
_USUAL_FPS = 30.0
# MPEG-4 has no slower films.
_LEAST_FPS = 0.01
_OPEN_SECONDS = 20
# Containers say how long a film is to within so many frames, or this share.
_SLACK_FRAMES, _SLACK = 2, 0.02


class Frame(NamedTuple):
    """One picture of a film.

    Attributes:
        number (int): Its place in the film, from 0 on.
        time (float): Seconds since the beginning.
        pixels (ndarray): uint8, (H, W, 3), BGR.
    """

    number: int
    time: float
    pixels: np.ndarray


def is_film(item: Any) -> bool:
    """Whether what is given for pictures is a film or a camera.

    Args:
        item: Path or address of any kind, or something else.

    Returns:
        bool: By its suffix, or 'camera:0' or 'rtsp://...'.
    """
    if not isinstance(item, (str, Path)):
        return isinstance(item, Film)
    return _is_live(str(item)) or Path(item).suffix.lower() in SUFFIXES


def _is_live(source: str) -> bool:
    scheme = source.partition('://')[0].lower()
    return bool(_CAMERA.fullmatch(source)) or (
        '://' in source and scheme in _STREAMS
    )


class Film:
    """The frames of a film or a camera, one at a time.

    It is opened when it is asked for something, and its frames are read once
    they are wanted, so that memory does not grow with the length.

    Args:
        source (str | Path): File, 'camera:0', the first camera, or the
            'rtsp://' address of one.
        every (int): Give each so many-th frame. Defaults to 1, all.

    Raises:
        ValueError: If ``every`` is no number from 1 on.

    Example:
        >>> for frame in Film('clip.mp4', every=10):
        ...     print(frame.number, frame.time, frame.pixels.shape)
    """

    def __init__(self, source: str | Path, every: int = 1) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(
                f'every is a whole number of frames from 1 on, got {every!r}.'
            )
        self._source = str(source)
        self.every = every
        self.live = _is_live(self._source)
        self._capture: Any = None
        self._header: tuple[float, int] | None = None
        self.stopped = False

    @property
    def name(self) -> str:
        """Path or address, without a password."""
        if '://' not in self._source:
            return self._source
        address = urlsplit(self._source)
        return address._replace(netloc=address.netloc.split('@')[-1]).geturl()

    @property
    def stem(self) -> str:
        """Name for files about it."""
        if self.live:
            return re.sub(r'\W+', '_', self.name).strip('_')
        return Path(self._source).stem

    @property
    def fps(self) -> float:
        """Frames a second that are given."""
        return self.check()._known()[0] / self.every

    @property
    def count(self) -> int | None:
        """Frames that are given, as the file says; None where none can."""
        frames = self.check()._known()[1]
        return -(-frames // self.every) if frames else None

    def check(self) -> 'Film':
        """Look whether it can be read, without reading frames.

        Returns:
            Film: Itself.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be read, or there is no such camera.
        """
        if self._header is None:
            capture = self._open()
            fps = capture.get(cv2.CAP_PROP_FPS)
            frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
            self._header = (
                fps if 0 < fps < 1000 else _USUAL_FPS,
                max(int(frames), 0) if not self.live else 0,
            )
            if self.live:  # it takes seconds, and others may take it
                self._capture = capture
            else:
                capture.release()
        return self

    def stop(self) -> None:
        """End after the frame that is being worked on, as for a camera."""
        self.stopped = True

    def __iter__(self) -> Iterator[Frame]:
        """Give the frames.

        Raises:
            ValueError: After the last, if it breaks off.
        """
        self.check()
        capture, self._capture = self._capture or self._open(), None
        begin, number, seconds = time.monotonic(), 0, 0.0
        try:
            while not self.stopped:
                wanted = number % self.every == 0
                there, pixels = (
                    capture.read() if wanted else (capture.grab(), None)
                )
                if not there:
                    break
                seconds = (
                    time.monotonic() - begin
                    if self.live
                    else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                )
                if wanted:
                    yield Frame(number, seconds, pixels)
                number += 1
        finally:
            capture.release()
        if not self.stopped:
            self._check_end(number, seconds)

    def _known(self) -> tuple[float, int]:
        """Frames a second and in all, 0 where it is not known."""
        return self._header or (_USUAL_FPS, 0)

    def _open(self) -> Any:
        """Open it by OpenCV."""
        camera = _CAMERA.fullmatch(self._source)
        if not self.live:
            require_plain_file(self._source)
            if '://' in self._source:
                raise ValueError(
                    f'{self.name} is a film on the web, which is not read '
                    'from there; download it and give its path.'
                )
            if not Path(self._source).exists():
                raise FileNotFoundError(
                    f'The film {self.name} does not exist; check the path.'
                )
        with _silence():
            capture = (
                cv2.VideoCapture(int(camera[1]))
                if camera
                else cv2.VideoCapture(
                    self._source,
                    cv2.CAP_FFMPEG,
                    [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 1000 * _OPEN_SECONDS],
                )
            )
        if not capture.isOpened():
            raise ValueError(self._not_open())
        if camera:  # old frames would wait in it
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture

    def _not_open(self) -> str:
        """Why it cannot be opened."""
        if not self.live:
            return (
                f'The film {self.name} '
                f'({os.path.getsize(self._source):,} bytes) cannot be read; '
                'it is not whole, or no film that OpenCV decodes.'
            )
        if _CAMERA.fullmatch(self._source):
            return (
                f'There is no {self.name} that gives pictures; connect it, '
                'or give the number of another (camera:0 is the first).'
            )
        return (
            f'{self.name} does not answer with pictures; check the address, '
            'and whether the camera is on.'
        )

    def _check_end(self, number: int, seconds: float) -> None:
        """Refuse an end before the end."""
        if self.live:
            raise ValueError(
                f'{self.name} gives no more pictures after {number} frames; '
                'what was read is kept.'
            )
        if not number:
            raise ValueError(
                f'No frame of the film {self.name} can be decoded.'
            )
        fps, frames = self._known()
        slack = max(_SLACK_FRAMES, math.ceil(_SLACK * frames))
        # Where frames have various lengths, their number is a guess.
        if max(number, fps * seconds) < frames - slack:
            raise ValueError(
                f'The film {self.name} breaks off: {number} of its {frames} '
                'frames can be read; what was read is kept.'
            )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Leave it to the caller to say what OpenCV and FFmpeg would print."""
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    level = cv2.getLogLevel()
    cv2.setLogLevel(0)
    try:
        yield
    finally:
        cv2.setLogLevel(level)


@contextlib.contextmanager
def writing_film(
    path: str | Path, fps: float
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a film that appears whole or not at all.

    Args:
        path (str | Path): Target, .mp4; its folder is made.
        fps (float): Frames a second.

    Yields:
        Callable: Takes the frames, RGB, uint8, (H, W, 3). Later ones are
        brought to the size of the first.

    Raises:
        ValueError: If it cannot be written.
    """
    with replacing(path) as unfinished:
        writer, size, count = cv2.VideoWriter(), (0, 0), 0

        def add(image: np.ndarray) -> None:
            nonlocal size, count
            if not count:
                # MPEG-4's sides are even.
                size = image.shape[1] & ~1 or 2, image.shape[0] & ~1 or 2
                kind = cv2.VideoWriter.fourcc(*'mp4v')
                with _silence():
                    rate = max(fps, _LEAST_FPS)
                    writer.open(str(unfinished), kind, rate, size)
            if image.shape[1::-1] != size:
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            count += 1

        try:
            yield add
        finally:
            writer.release()
        if not _has_frames(unfinished, count):
            raise ValueError(
                f'The film {path} of {count} frames could not be written; is '
                'the disk full?'
            )


def _has_frames(path: Path, count: int) -> bool:
    """Whether a film that was written is whole; OpenCV does not say it."""
    if not path.exists():
        return False
    with _silence():
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    there = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return there >= count
