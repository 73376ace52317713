# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Files of what was found, written while it is found."""

import csv
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from dito.utils.files import (
    replacing,
    require_place,
    write_json,
    write_text,
)

from .films import Film, writing_film
from .results import Detections, write_picture


def refuse_source(source: str, target: Path) -> None:
    """Refuse to write over the picture or film that is read.

    Raises:
        ValueError: If both are one file.
    """
    both = source and os.path.exists(source) and target.exists()
    if both and os.path.samefile(source, target):
        raise ValueError(
            f'{target} is read here and would be written over; write to '
            'another place.'
        )


class OutputFolder:
    """A folder of drawn pictures, ``vis/``, and of results, ``preds/``.

    Of a picture there are ``NAME.jpg`` and ``NAME.json``, of a film
    ``NAME.mp4`` and ``NAME.jsonl``, a line for each frame. The files of a
    film appear when it has ended, and not at all after an error.

    Args:
        folder (str | Path): Its path; '' writes nothing.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder) if folder else None
        self._open = ExitStack()
        self._film: Film | None = None
        self._add: tuple[Callable[[Any], Any], ...] = ()

    def __enter__(self) -> 'OutputFolder':
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def add(self, stem: str, found: Detections, film: Film | None) -> None:
        """Write one result.

        Args:
            stem (str): Name of its files.
            found (Detections): With ``drawn``.
            film (Film, optional): That it is a frame of.
        """
        if self._folder is None:
            return
        vis, preds = self._folder / 'vis', self._folder / 'preds'
        suffix = '.jpg' if film is None else '.mp4'
        refuse_source(found.source, vis / f'{stem}{suffix}')
        if film is None:
            write_json(preds / f'{stem}.json', found.result)
            write_picture(vis / f'{stem}.jpg', found.drawn)
            return
        if film is not self._film:
            self.end_film()
            self._film = film
            lines = self._open.enter_context(
                replacing(preds / f'{stem}.jsonl')
            )
            file = self._open.enter_context(open(lines, 'w', encoding='utf-8'))
            draw = self._open.enter_context(
                writing_film(vis / f'{stem}.mp4', film.fps)
            )
            self._add = file.write, draw
        write, draw = self._add
        write(json.dumps(found.result, separators=(',', ':')) + '\n')
        draw(found.drawn)

    def end_film(self) -> None:
        """Give the files of a film their names."""
        self._open.close()
        self._film = None


class FileWriter:
    """One file of all detections, written while they are found.

    It appears when the block ends, and not at all after an error or where
    nothing was added. Memory does not grow with the detections.

    Args:
        path (str | Path): Target; its folder is made.
        root (str): Beginning of the paths of images that is left out.

    Example:
        >>> with CsvWriter('found.csv') as writer:
        ...     for item in detector.stream('photos', 'anchor, kite'):
        ...         writer.add(item)

    Raises:
        NotADirectoryError: If a folder of the path is a file.
        PermissionError: If nothing may be written there.
        ValueError: If the path is a folder, pipe or device.
    """

    def __init__(self, path: str | Path, root: str = '') -> None:
        require_place(path)
        self._path = Path(path)
        self._root = root
        self._open = ExitStack()
        self._file: Any = None
        self.count = 0

    def __enter__(self) -> 'FileWriter':
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        if kind is None and self.count:
            with self._open:
                self._end()
        else:
            self._open.__exit__(kind, *error)

    def add(self, found: Detections) -> None:
        """Write what was found in the next image or frame.

        Args:
            found (Detections): Of ``stream``; one with an error has nothing.
        """
        if found.error is not None:
            return
        refuse_source(found.source, self._path)
        self.count += 1
        if self._file is None:
            unfinished = self._open.enter_context(replacing(self._path))
            # Names of files need not be UTF-8: what is not is escaped, as
            # json does it.
            self._file = self._open.enter_context(
                open(
                    unfinished,
                    'w',
                    encoding='utf-8',
                    errors='backslashreplace',
                    newline='',
                )
            )
            self._begin()
        self._write(self._name(found), found, found.result)

    def _name(self, found: Detections) -> str:
        """File of an image; of a frame that of its picture."""
        name = found.source.removeprefix(self._root)
        if found.frame is not None:
            return f'{os.path.splitext(name)[0]}/{found.frame:06d}.jpg'
        return name or f'{self.count - 1:06d}'

    def _begin(self) -> None:
        """Write what comes before all."""

    def _write(
        self, name: str, found: Detections, result: dict[str, Any]
    ) -> None:
        """Write one image."""
        raise NotImplementedError

    def _end(self) -> None:
        """Write what comes after all."""


def _rows(result: dict[str, Any]) -> Any:
    """Name, score, box and track of each detection, best first."""
    names = result['names']
    tracks = result.get('track_ids') or [None] * len(names)
    return zip(names, result['scores'], result['bboxes'], tracks, strict=True)


class CsvWriter(FileWriter):
    """A table with a row for each box, see :class:`FileWriter`.

    Boxes are x1, y1, x2, y2 in pixels of the image, whose ``width`` and
    ``height`` are beside it; ``frame``, ``time`` and ``track`` are empty
    where there are none.
    """

    #: Titles of the columns.
    COLUMNS = (
        *('image', 'frame', 'time', 'track', 'name', 'score'),
        *('x1', 'y1', 'x2', 'y2', 'width', 'height'),
    )

    def _begin(self) -> None:
        self._table = csv.writer(self._file, lineterminator='\n')
        self._table.writerow(self.COLUMNS)

    def _write(
        self, name: str, found: Detections, result: dict[str, Any]
    ) -> None:
        height, width = found.shape
        image = name if found.frame is None else found.source
        place = image.removeprefix(self._root), found.frame, found.time
        for label, score, box, track in _rows(result):
            self._table.writerow(
                [*place, track, label, score, *box, width, height]
            )


class CocoWriter(FileWriter):
    """A file in COCO's format, see :class:`FileWriter`.

    ``categories`` are all names that were looked for, ``annotations`` have a
    ``score`` and are what pycocotools loads as results; of films they have a
    ``track_id`` where there is one, and images have ``frame`` and ``time``.
    """

    def _begin(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}
        self._annotations = 0
        self._file.write('{"annotations":[')

    def _write(
        self, name: str, found: Detections, result: dict[str, Any]
    ) -> None:
        height, width = found.shape
        image = dict(id=self.count, file_name=name, height=height, width=width)
        if found.frame is not None:
            image.update(frame=found.frame, time=found.time)
        self._images.append(image)
        for label in found.names:
            self._categories.setdefault(label, len(self._categories) + 1)
        masks = result.get('masks')
        for i, (label, score, box, track) in enumerate(_rows(result)):
            x1, y1, x2, y2 = box
            record = dict(
                id=self._annotations + 1,
                image_id=self.count,
                category_id=self._categories[label],
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=(x2 - x1) * (y2 - y1),
                iscrowd=0,
                score=score,
            )
            if masks:
                record['segmentation'] = masks[i]
            if track is not None:
                record['track_id'] = track
            self._file.write(',' if self._annotations else '')
            self._file.write(json.dumps(record, separators=(',', ':')))
            self._annotations += 1

    def _end(self) -> None:
        categories = [dict(id=i, name=n) for n, i in self._categories.items()]
        rest = json.dumps(dict(images=self._images, categories=categories))
        self._file.write(f'],{rest[1:]}\n')


class LabelStudioWriter(FileWriter):
    """Tasks with predictions for Label Studio, see :class:`FileWriter`.

    Boxes are in percent of the image, as Label Studio has them; masks are
    left out. The labelling interface with all names is written beside, with
    the suffix ``.xml``. Images are addresses below :attr:`document_root`,
    but for those of the web.
    """

    def __init__(self, path: str | Path, root: str = '') -> None:
        super().__init__(path, root)
        self._folder = Path(os.path.abspath(root or '.'))

    @property
    def document_root(self) -> Path:
        """What LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT must be."""
        return self._folder.parent

    @property
    def interface(self) -> Path:
        """File of the labelling interface."""
        return self._path.with_suffix('.xml')

    def _begin(self) -> None:
        self._labels: dict[str, None] = {}
        self._file.write('[')

    def _write(
        self, name: str, found: Detections, result: dict[str, Any]
    ) -> None:
        self._labels.update(dict.fromkeys(found.names))
        prediction = dict(
            model_version='dito',
            score=max(result['scores'], default=0.0),
            result=[
                _region(f'{i}', row, found.shape)
                for i, row in enumerate(_rows(result))
            ],
        )
        task = dict(
            data=dict(image=self._address(name, found)),
            predictions=[prediction],
        )
        self._file.write('\n' if self.count == 1 else ',\n')
        self._file.write(json.dumps(task, separators=(',', ':')))

    def _address(self, name: str, found: Detections) -> str:
        """Where Label Studio finds an image."""
        if found.source.lower().startswith(('http://', 'https://')):
            return found.source
        if Path(name).is_absolute():  # what was not below the root
            name = os.path.relpath(name, self._folder)
        path = f'{self._folder.name}/{name}'
        return f'/data/local-files/?d={quote(os.fsencode(path))}'

    def _end(self) -> None:
        self._file.write('\n]\n')
        write_text(self.interface, label_studio_interface(list(self._labels)))


def _region(
    name: str, row: tuple[Any, ...], shape: tuple[int, int]
) -> dict[str, Any]:
    """One box as Label Studio has it."""
    label, score, (x1, y1, x2, y2), _ = row
    height, width = shape
    left, right = (100 * min(max(x / width, 0), 1) for x in (x1, x2))
    top, bottom = (100 * min(max(y / height, 0), 1) for y in (y1, y2))
    return dict(
        id=name,
        type='rectanglelabels',
        from_name='label',
        to_name='image',
        original_width=width,
        original_height=height,
        image_rotation=0,
        score=score,
        value=dict(
            x=left,
            y=top,
            width=right - left,
            height=bottom - top,
            rotation=0,
            rectanglelabels=[label],
        ),
    )


def label_studio_interface(names: list[str]) -> str:
    """Labelling interface of Label Studio for boxes with names.

    Args:
        names (list[str]): The labels.

    Returns:
        str: XML, for the project's settings.
    """
    labels = ''.join(f'    <Label value={quoteattr(n)}/>\n' for n in names)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        '  <RectangleLabels name="label" toName="image">\n'
        f'{labels}  </RectangleLabels>\n</View>\n'
    )
