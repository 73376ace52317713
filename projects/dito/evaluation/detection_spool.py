# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detections on disk instead of in memory, until they are evaluated.

20,000 validation images with 300 detections and masks each are several GB as
Python objects. On disk they are 68 bytes each and the mask's run lengths, and
only what sorting needs (image, category, score: 24 bytes) is held as a whole.
"""

import os
import shutil
import socket
import tempfile
import weakref
from dataclasses import dataclass, field, replace
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from mmengine.dist import all_gather_object, get_world_size

from ..datasets.annotations import Id
from .lvis_detections import LVISDetections
from .spool_columns import (
    BODY,
    FILE_BITS,
    KEY,
    SpooledBoxes,
    SpooledMasks,
    SpoolFiles,
)


@dataclass
class SpoolEntry:
    """Where the detections of one image are.

    Args:
        image_id (int | str): Image.
        folder (str): Folder of the spool.
        start (int): First row.
        count (int): Number of rows.
        seen (int): Number of detections of the image, those not kept too.
        lowest (float): Lowest score seen, or infinity.
        parts (tuple[bytes], optional): The rows themselves, for a process
            that cannot read the folder.
    """

    image_id: Id
    folder: str
    start: int
    count: int
    seen: int = 0
    lowest: float = float('inf')
    parts: Optional[Tuple[bytes, ...]] = field(default=None, repr=False)


class DetectionSpool:
    """Files that take the detections of a process, image by image.

    The folder is made with the first image and removed by :meth:`clear`, or
    when the process ends.

    Args:
        folder (str, optional): Where the temporary folder is made. Defaults
            to the system's folder for temporary files.
    """

    _NAMES = ('keys', 'bodies', 'masks')

    def __init__(self, folder: Optional[str] = None) -> None:
        self._parent = folder
        self._files: Optional[list] = None
        self._rows = self._mask_bytes = 0
        self.folder = ''

    def _open(self) -> None:
        if self._parent is not None:
            os.makedirs(self._parent, exist_ok=True)
        self.folder = tempfile.mkdtemp('', 'dito-eval-', self._parent)
        self._remove = weakref.finalize(
            self, shutil.rmtree, self.folder, ignore_errors=True
        )
        self._files = [
            open(os.path.join(self.folder, name), 'wb') for name in self._NAMES
        ]
        self._rows = self._mask_bytes = 0

    def add(
        self,
        image_id: Id,
        category: np.ndarray,
        scores: np.ndarray,
        boxes: np.ndarray,
        masks: Optional[Sequence[Optional[dict]]] = None,
        seen: Optional[int] = None,
        lowest: float = float('inf'),
    ) -> SpoolEntry:
        """Write the detections of an image.

        Args:
            image_id (int | str): Image.
            category (np.ndarray): Category, as any integer, shape (N,).
            scores (np.ndarray): Shape (N,).
            boxes (np.ndarray): x1, y1, x2, y2, shape (N, 4).
            masks (Sequence[dict | None], optional): N compressed RLE masks.
            seen (int, optional): Number of detections of the image, those
                not kept too. Defaults to N.
            lowest (float): Lowest score seen.

        Returns:
            SpoolEntry: Where they are.
        """
        keys = np.empty(len(scores), dtype=KEY)
        keys['category'] = category
        keys['score'] = scores
        bodies = np.zeros(len(scores), dtype=BODY)
        bodies['box'] = boxes
        counts = [b''] * len(scores)
        if masks is not None:
            counts = [_bytes(mask) for mask in masks]
            sizes = [mask['size'] if mask else (0, 0) for mask in masks]
            bodies['size'] = np.array(sizes, np.int64).reshape(-1, 2)
        bodies['length'] = [len(c) for c in counts]
        parts = (keys.tobytes(), bodies.tobytes(), b''.join(counts))
        number = len(scores) if seen is None else seen
        return self._append(SpoolEntry(image_id, '', 0, 0, number, lowest),
                            parts)

    def _append(
        self, entry: SpoolEntry, parts: Tuple[bytes, ...]
    ) -> SpoolEntry:
        """Write what :meth:`add` has laid out; mask offsets are set here."""
        if self._files is None:
            self._open()
        bodies = np.frombuffer(parts[1], BODY).copy()
        ends = self._mask_bytes + np.cumsum(bodies['length'], dtype=np.int64)
        bodies['offset'] = ends - bodies['length']
        for file, content in zip(
            self._files, (parts[0], bodies.tobytes(), parts[2]), strict=True
        ):
            file.write(content)
        start, count = self._rows, len(bodies)
        self._rows += count
        self._mask_bytes += len(parts[2])
        return SpoolEntry(entry.image_id, self.folder, start, count,
                          entry.seen, entry.lowest)

    def share(self, entries: Sequence[SpoolEntry]) -> List[SpoolEntry]:
        """Make entries readable for the process that evaluates.

        On one machine it reads this process's files. Between machines the
        rows travel with the entries.

        Args:
            entries (Sequence[SpoolEntry]): Entries of this spool.

        Returns:
            list[SpoolEntry]: The same, or with their rows.
        """
        for file in self._files or ():
            file.flush()
        if get_world_size() == 1:
            return list(entries)
        if len(set(all_gather_object(socket.gethostname()))) == 1:
            return list(entries)
        files = SpoolFiles(self.folder)
        return [
            replace(e, folder='', parts=files.parts(e.start, e.count))
            for e in entries
        ]

    def load(
        self,
        entries: Sequence[SpoolEntry],
        category_ids: np.ndarray,
        with_masks: bool = False,
        image_numbers: Optional[Sequence[int]] = None,
    ) -> LVISDetections:
        """Detections of the entries, with boxes and masks left on disk.

        Args:
            entries (Sequence[SpoolEntry]): Of any number of spools.
            category_ids (np.ndarray): What the stored categories stand for.
            with_masks (bool): Whether there are masks.
            image_numbers (Sequence[int], optional): What stands for the
                image of each entry. Defaults to its id.

        Returns:
            LVISDetections: In order of the entries. Readable until the
            spools are cleared.
        """
        entries = [
            e if e.parts is None else self._append(e, e.parts)
            for e in entries
        ]
        for file in self._files or ():
            file.flush()
        if image_numbers is None:
            image_numbers = [e.image_id for e in entries]
        folders = list(dict.fromkeys(e.folder for e in entries if e.count))
        opened = [SpoolFiles(folder) for folder in folders]
        number: Dict[str, int] = {f: i for i, f in enumerate(folders)}
        rows = [
            (number[e.folder] << FILE_BITS) + e.start + np.arange(e.count)
            for e in entries
            if e.count
        ]
        row = np.concatenate([np.zeros(0, np.int64), *rows])
        keys = np.empty(len(row), dtype=KEY)
        file = row >> FILE_BITS
        for i, source in enumerate(opened):
            own = file == i
            keys[own] = source.keys[row[own] & ((1 << FILE_BITS) - 1)]
        bodies = [source.bodies for source in opened]
        masks = None
        if with_masks:
            masks = SpooledMasks(bodies, [s.masks for s in opened], row)
        return LVISDetections(
            image_ids=np.repeat(
                np.array(image_numbers, np.int64),
                np.array([e.count for e in entries], np.int64),
            ),
            category_ids=category_ids[keys['category']],
            scores=keys['score'].astype(np.float64),
            boxes=SpooledBoxes(bodies, row),
            masks=masks,
        )

    def clear(self) -> None:
        """Remove the files."""
        if self._files is not None:
            for file in self._files:
                file.close()
            self._files = None
            self._remove()


def _bytes(mask: Optional[dict]) -> bytes:
    """Run lengths of a mask; nothing for a mask that does not count."""
    if mask is None:
        return b''
    counts = mask['counts']
    return counts.encode() if isinstance(counts, str) else counts
