# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What the page of ``dito demo`` answers, without the page."""

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dito.apis import DITOInferencer, TextSimilarity
from dito.apis.results import write_picture
from dito.datasets.image_text.image_header import image_size
from dito.datasets.load_image import DITOLoadImageFromFile
from dito.models.text.name_checks import (
    name_key,
    readable_name,
    trained_names,
)
from dito.models.text.name_files import typed_names
from dito.models.text.vocabulary import Vocabulary
from dito.utils.files import write_json
from dito.visualization.local_visualizer import reduce_picture

from .figures import similarity_strip
from .samples import query_text

#: Names that have similarity maps at a time.
MOST_MAPS = 4
#: Examples that a visitor may show.
MOST_EXAMPLES = 8
#: IoU above which one object has one name.
ONE_NAME_IOU = 0.5
# Of the pictures that similarity maps are laid over.
_MAP_PIXELS = 1 << 20
# Of the cut-out of an example.
_CROP_PIXELS = 1 << 16
# Letters a name may have on average; longer texts are not even read.
_LETTERS = 100
_T = TypeVar('_T')


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for."""

    mbytes: int  #: Size of a picture's file, in 10^6 bytes.
    megapixels: int  #: Its pixels in millions.
    names: int  #: To look for, and as many negative ones.
    seconds: float  #: Until a question is answered or given up.


class Shown(NamedTuple):
    """An example: what a visitor showed instead of a name."""

    name: str  #: What it is called.
    path: str  #: Of the uploaded picture.
    box: tuple[float, ...]  #: Where it is there: x1, y1, x2, y2 in pixels.


@dataclass(frozen=True)
class Answer:
    """What was found in a picture."""

    picture: np.ndarray  #: What was found, drawn: RGB, uint8, (H, W, 3).
    rows: list[list[Any]]  #: Name, score, x1, y1, x2, y2 in pixels.
    record: dict[str, Any]  #: Of :func:`dito.apis.results.to_dict`, and more.
    message: str  #: A sentence.


def read_picture(path: Path, limits: Limits) -> np.ndarray:
    """Read an uploaded file, upright, (H, W, 3) uint8 BGR, within the limits.

    Nothing is concluded from its name; ValueError if it is too large, no
    picture, or gone.
    """
    if not path.is_file():
        raise ValueError('The picture is no longer kept; give it again.')
    if path.stat().st_size > limits.mbytes * 1_000_000:
        raise ValueError(
            f'The file has more than {limits.mbytes} MB; give a smaller '
            'picture.'
        )
    content = path.read_bytes()
    size = image_size(content)
    if size is None:
        raise ValueError(
            'The file is no picture that can be read; give a JPEG, PNG, WebP '
            'or the like.'
        )
    if size[0] * size[1] > limits.megapixels * 1_000_000:
        raise ValueError(
            f'The picture has {size[1]} x {size[0]} pixels, more than the '
            f'{limits.megapixels} million that are taken; give a smaller one.'
        )
    try:
        return DITOLoadImageFromFile().decode('', content)
    except ValueError as error:
        # Its own sentence is about files of data sets.
        raise ValueError(
            'The picture is damaged and cannot be decoded; save it anew.'
        ) from error


def read_names(text: str, limits: Limits) -> tuple[str, ...]:
    """Read the names that a visitor typed; no file is opened for them.

    ValueError if there are none or too many, or they are not written as names.
    """
    if not text.strip(' ,\n\r\t'):
        raise ValueError('There is no name; type what to look for.')
    if len(text) > _LETTERS * max(limits.names, 100):
        raise ValueError(
            f'The names have {len(text):,} letters; at most {limits.names:,} '
            'names are taken, leave some out.'
        )
    names = typed_names(text)
    if len(names) > limits.names:
        raise ValueError(
            f'There are {len(names):,} names; at most {limits.names:,} are '
            'taken, leave some out.'
        )
    return names


def read_box(text: str) -> tuple[float, ...]:
    """Read 'x1, y1, x2, y2'; ValueError if it is something else."""
    try:
        box = tuple(map(float, re.split(r'[,;\s]+', text.strip(' ,;\n'))))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise ValueError(
            'A box is four numbers, x1, y1, x2, y2 in pixels; click two '
            'opposite corners in the picture or type them.'
        )
    return box


def add_corner(text: str, x: int, y: int) -> str:
    """A box as text, after a click on its first corner or its second.

    A click on a whole box begins another one.
    """
    try:
        left, top = map(int, text.split(','))
    except ValueError:
        return f'{x}, {y}'
    (x1, x2), (y1, y2) = sorted((left, x)), sorted((top, y))
    return f'{x1}, {y1}, {x2}, {y2}'


class Demo:
    """A detector that answers within limits, one question at a time.

    Without a text tower there are no similarity maps.
    """

    def __init__(
        self,
        detector: DITOInferencer,
        similarity: TextSimilarity | None,
        limits: Limits,
    ) -> None:
        self.detector = detector
        self.similarity = similarity
        self.limits = limits
        self.trained = trained_names(detector.train_meta)
        self._worker = ThreadPoolExecutor(1, 'demo')
        # Used by the worker alone.
        self._embedded = lru_cache(64)(self._embed)

    def find(
        self,
        path: str | None,
        names: str,
        negative_names: str = '',
        trained: bool = False,
        score_thr: float = 0.3,
        one_name: bool = False,
        masks: bool = True,
        examples: Sequence[Shown] = (),
    ) -> Answer:
        """Find what a visitor named or showed; names are as typed.

        ``trained``: whether the classes of the training are negative names
        too. ``one_name``: whether of detections that overlap by an IoU above
        0.5 the best alone is kept. ValueError if it cannot be done, or takes
        too long. ``examples`` of one name, or of a name among the others, are
        averaged.
        """
        asked: tuple[str, ...] = ()
        if names.strip() or not examples:
            asked = read_names(names, self.limits)
        others: list[str] = []
        if negative_names.strip():
            others += read_names(negative_names, self.limits)
        if trained:
            typed = set(map(name_key, others))
            others += [n for n in self.trained if name_key(n) not in typed]
        return self._in_time(
            self._find,
            path,
            asked,
            others,
            score_thr,
            one_name,
            masks,
            tuple(examples),
        )

    def show(
        self, path: str | None, box: str, name: str, before: Sequence[Shown]
    ) -> tuple[Shown, np.ndarray]:
        """Take an example: what a box, as typed, shows of a picture.

        Returns it with its cut-out, RGB, uint8, (h, w, 3); ValueError if it
        cannot be used, or there are :data:`MOST_EXAMPLES` before it.
        """
        if len(before) >= MOST_EXAMPLES:
            raise ValueError(
                f'At most {MOST_EXAMPLES} examples are taken; remove them to '
                'show others.'
            )
        names = read_names(name, self.limits)
        if len(names) > 1:
            raise ValueError(
                f'An example has one name, not {len(names)}; leave the comma '
                'out.'
            )
        corners = read_box(box)
        return self._in_time(self._show, path, corners, names[0])

    def maps(self, path: str | None, names: str) -> np.ndarray:
        """Draw where a model sees the first 4 names, before and after REP.

        RGB, uint8, (H, W, 3), a row for each; ValueError as in :meth:`find`.
        """
        if self.similarity is None:
            raise ValueError(
                'This model has no text tower, so there are no maps.'
            )
        asked = read_names(names, self.limits)[:MOST_MAPS]
        return self._in_time(
            self._maps, path, [query_text(name) for name in asked]
        )

    def _in_time(self, answer: Callable[..., _T], path: Any, *args: Any) -> _T:
        """Answer in the worker, or give up waiting for it."""
        if not path:
            raise ValueError('There is no picture; upload or take one.')
        job = self._worker.submit(answer, Path(path), *args)
        try:
            return job.result(self.limits.seconds)
        except TooLate:
            # What has begun goes on, and the next one waits for it.
            job.cancel()
            raise ValueError(
                f'It took longer than {self.limits.seconds:g} seconds; give '
                'a smaller picture or fewer names, or try again later.'
            ) from None

    def _find(
        self,
        path: Path,
        names: Sequence[str],
        others: Sequence[str],
        score_thr: float,
        one_name: bool,
        masks: bool,
        examples: tuple[Shown, ...],
    ) -> Answer:
        image = read_picture(path, self.limits)
        vocabulary: Any = list(names)
        if examples:
            vocabulary = self._embedded(examples)
            if names:
                vocabulary = self.detector.embed(list(names)).mix(vocabulary)
        (found,) = self.detector.stream(
            [image],
            vocabulary,
            score_thr=score_thr,
            agnostic_nms=ONE_NAME_IOU if one_name else None,
            negative_names=list(others) or None,
        )
        if not masks:
            found.kept.pred_instances.pop('box_masks', None)
        result = found.result
        count = len(result['scores'])
        message = f'{count} found with a score of {score_thr:g} or more.'
        if not count and len(found.every.pred_instances):
            best = float(found.every.pred_instances.scores.max())
            message = (
                f'Nothing has a score of {score_thr:g} or more; the best '
                f'has {best:.2f}.'
            )
        if found.negative:
            message += f' Negative names took {found.negative} boxes.'
        return Answer(
            self.detector.draw(np.ascontiguousarray(image[..., ::-1]), found),
            [
                [readable_name(name), round(score, 3), *map(round, box)]
                for name, score, box in zip(
                    result['names'],
                    result['scores'],
                    result['bboxes'],
                    strict=True,
                )
            ],
            dict(
                height=image.shape[0],
                width=image.shape[1],
                vocabulary=list(getattr(vocabulary, 'names', vocabulary)),
                examples=[
                    dict(name=shown.name, box=list(shown.box))
                    for shown in examples
                ],
                negative_names=list(others),
                score_thr=score_thr,
                **result,
            ),
            message,
        )

    def _show(
        self, path: Path, box: tuple[float, ...], name: str
    ) -> tuple[Shown, np.ndarray]:
        shown = Shown(name, str(path), box)
        self._embedded((shown,))  # refuses what cannot be used
        x1, y1, x2, y2 = (round(value) for value in box)
        crop = read_picture(path, self.limits)[y1:y2, x1:x2, ::-1]
        return shown, reduce_picture(np.ascontiguousarray(crop), _CROP_PIXELS)

    def _embed(self, examples: tuple[Shown, ...]) -> Vocabulary:
        given: dict[str, list[Any]] = {}
        for shown in examples:
            image = read_picture(Path(shown.path), self.limits)
            given.setdefault(shown.name, []).append((image, shown.box))
        return self.detector.embed(examples=given)

    def _maps(self, path: Path, texts: Sequence[str]) -> np.ndarray:
        image = read_picture(path, self.limits)
        image = np.ascontiguousarray(image[..., ::-1])
        image = reduce_picture(image, _MAP_PIXELS)
        assert self.similarity is not None
        return similarity_strip(image, texts, self.similarity(image, texts))


def write_answer(answer: Answer, folder: Path) -> tuple[str, str]:
    """Write what a visitor downloads, picture and json, to a new folder."""
    own = Path(tempfile.mkdtemp(dir=folder))
    write_picture(own / 'found.jpg', answer.picture)
    write_json(own / 'found.json', answer.record)
    return str(own / 'found.jpg'), str(own / 'found.json')


def forget(folder: Path, seconds: float) -> int:
    """Remove files older than some seconds; bytes of those that stay.

    Folders in ``folder`` are searched too, and stay.
    """
    now, total = time.time(), 0
    for path in folder.rglob('*'):
        try:
            found = path.lstat()
            if path.is_dir() and not path.is_symlink():
                continue
            if now - found.st_mtime >= seconds:
                path.unlink()
            else:
                total += found.st_size
        except FileNotFoundError:
            continue  # another thread was faster
    return total


def draw_samples(folder: Path, count: int) -> list[tuple[str, str]]:
    """Draw pictures to try, the first of the validation of ``symbols``.

    Of each its path, and what is in it, 'red umbrella, anchor'.
    """
    from dito.datasets.symbols import SymbolsConfig, load_glyphs
    from dito.datasets.symbols.detection import (
        draw_detection_image,
        image_rng,
        split_plan,
    )
    from dito.datasets.symbols.rasterizer import GlyphAtlas

    cfg, glyphs = SymbolsConfig(), load_glyphs()
    atlas = GlyphAtlas(glyphs)
    plan = split_plan(glyphs, 'val', cfg.val_images, cfg.seed)
    samples = []
    for number, scene in enumerate(plan[:count], 1):
        name = f'sample_{number}.jpg'
        record = draw_detection_image(
            atlas,
            scene,
            str(folder),
            name,
            cfg.size,
            image_rng(cfg.seed, 'val', number),
        )
        shown = {glyphs[o['category_id'] - 1].name for o in record['objects']}
        text = ', '.join(map(readable_name, sorted(shown)))
        samples.append((str(folder / name), text))
    return samples
