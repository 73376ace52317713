# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Files of what was found, written while it is found."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dito.utils.files import replacing, write_json

from .films import Film, writing_film
from .results import Detections, write_picture


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
