# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Objects of many pictures, encoded once and searched by any names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dito.utils.checkpoint import check_suffix

from .results import check_count
from .scene import Scene, check_encoded, load_encoded, save_encoded

_FORMAT = 'dito-index-1'
# Vectors that are compared at a time, which bounds the memory.
_BLOCK = 1 << 17


class Hit(NamedTuple):
    """An object that was found in an index.

    Attributes:
        path: Picture, as it was given to the index.
        box: x1, y1, x2, y2 in pixels of the picture.
        similarity: Mean of the cosines of both embeddings of the region with
            the query, from -1 to 1.
        name: Which of the names that were asked for.
    """

    path: str
    box: tuple[float, float, float, float]
    similarity: float
    name: str


@dataclass
class Index:
    """What a detector saw in a set of pictures.

    Of each picture it has the regions that are the likeliest objects, after
    NMS, and of each region one vector: the mix of its two embeddings whose
    product with a name's is the logarithm of the name's score, up to a number
    of the region (:meth:`DITORoIHead.vectors`).

    Attributes:
        detector (DITOInferencer): What encoded the pictures.
        paths (list[str]): The pictures.
        pictures (ndarray): Picture of each region, int32, (R,).
        boxes (ndarray): x1, y1, x2, y2 in pixels, float32, (R, 4).
        objectness (ndarray): Of the regions, float32, (R,).
        vectors (ndarray): Float32, (R, D); of half precision in files.
        errors (list[str]): Why pictures could not be read.

    Example:
        >>> index = Index.build(detector, 'photos')
        >>> index.search('red umbrella', 5)
    """

    detector: Any
    paths: list[str]
    pictures: np.ndarray
    boxes: np.ndarray
    objectness: np.ndarray
    vectors: np.ndarray
    errors: list[str] = field(default_factory=list)
    _faiss: Any = field(default=None, repr=False)

    def __len__(self) -> int:
        """Number of regions."""
        return len(self.vectors)

    @classmethod
    def build(
        cls,
        detector: Any,
        inputs: Any,
        *,
        regions: int = 50,
        batch_size: int = 1,
        on_picture: Callable[[int], Any] | None = None,
    ) -> 'Index':
        """Encode pictures, given in any form of a call.

        Of each at most ``regions`` are kept. ``on_picture`` is told after each
        how many are done; ``errors`` names those that could not be read.

        Raises:
            ValueError: If there is no picture, none could be read, or an
                option is out of its range.
        """
        check_count(regions, 'regions')
        images = detector.list_images(inputs, check=False)
        scenes = detector.encode_each(
            images, batch_size=batch_size, maps=False, on_error='collect'
        )
        paths, errors, parts = [], [], []
        for number, (image, scene) in enumerate(
            zip(images, scenes, strict=True), 1
        ):
            if isinstance(scene, str):
                errors.append(scene)
            else:
                parts.append(_parts_of(scene, regions))
                paths.append(image if isinstance(image, str) else str(number))
            if on_picture is not None:
                on_picture(number)
        if not paths:
            raise ValueError(
                f'None of {len(images)} pictures could be read: {errors[0]}'
            )
        counts = [len(part[0]) for part in parts]
        return cls(
            detector,
            paths,
            np.repeat(np.arange(len(paths), dtype=np.int32), counts),
            *(np.concatenate(column) for column in zip(*parts, strict=True)),
            errors,
        )

    def search(
        self,
        names: Any,
        count: int = 20,
        *,
        negative_names: Any = None,
    ) -> list[Hit]:
        """Find the objects nearest to names or examples, nearest first.

        Names come in any form of a call, such as what
        :meth:`DITOInferencer.embed` makes of examples. An object that is near
        to several has the nearest one; one that is nearer to a negative name
        (by default those of the detector) counts for nothing.

        Raises:
            ValueError: If no names are known, or a vocabulary was made by
                another text tower.
        """
        check_count(count, 'count')
        query = self.detector.query(names, negative_names)
        asked = query.vocabulary
        if self.detector.model.text_encoder is not None:
            asked.check_encoder(self.detector.model.text_encoder.fingerprint())
        labels = asked.label_index.numpy()
        rows = asked.embeddings.numpy()
        own = labels < len(query.labels)
        wanted = count
        while True:
            found = self._nearest(rows[own], labels[own], wanted)
            # Of negative names all that is found counts, near or not.
            against = self.vectors[list(found)] @ rows[~own].T
            nearest = against.max(1, initial=-np.inf).tolist()
            hits = [
                (value, region, label)
                for (region, (value, label)), other in zip(
                    found.items(), nearest, strict=True
                )
                if value >= other
            ]
            if len(hits) >= count or wanted >= len(self):
                break
            wanted = min(wanted * 4, len(self))
        hits.sort(key=lambda hit: (-hit[0], hit[1]))
        return [
            Hit(
                self.paths[self.pictures[region]],
                tuple(self.boxes[region].tolist()),
                value,
                query.labels[label],
            )
            for value, region, label in hits[:count]
        ]

    def _nearest(
        self, rows: np.ndarray, labels: np.ndarray, count: int
    ) -> dict[int, tuple[float, int]]:
        """Regions nearest to any row, with similarity and label."""
        best: dict[int, tuple[float, int]] = {}
        for values, regions, label in zip(
            *self._top(rows, count), labels.tolist(), strict=True
        ):
            for value, region in zip(
                values.tolist(), regions.tolist(), strict=True
            ):
                if region >= 0 and value > best.get(region, (-np.inf, 0))[0]:
                    best[region] = value, label
        return best

    def _top(
        self, rows: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest regions of each row, by faiss where it is installed."""
        count = min(count, len(self))
        faiss = _faiss_library()
        if faiss is not None:
            if self._faiss is None:
                self._faiss = faiss.IndexFlatIP(self.vectors.shape[1])
                self._faiss.add(self.vectors)
            return self._faiss.search(np.ascontiguousarray(rows), count)
        values = np.empty((len(rows), 0), np.float32)
        places = np.empty((len(rows), 0), np.int64)
        for start in range(0, len(self), _BLOCK):
            more = rows @ self.vectors[start : start + _BLOCK].T
            values = np.concatenate([values, more], 1)
            index = np.arange(start, start + more.shape[1])
            places = np.concatenate(
                [places, np.broadcast_to(index, more.shape)], 1
            )
            if values.shape[1] > count:
                keep = np.argpartition(-values, count - 1, 1)[:, :count]
                values = np.take_along_axis(values, keep, 1)
                places = np.take_along_axis(places, keep, 1)
        return values, places

    # --------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Write a ``.safetensors`` file; it appears whole or not at all."""
        check_suffix(path, 'An index')
        save_encoded(
            dict(
                pictures=torch.from_numpy(self.pictures),
                boxes=torch.from_numpy(self.boxes),
                objectness=torch.from_numpy(self.objectness),
                vectors=torch.from_numpy(self.vectors).half(),
            ),
            path,
            _FORMAT,
            self.detector,
            paths=self.paths,
        )

    @staticmethod
    def check(path: str | Path) -> None:
        """Look whether a file is an index, before a detector loads.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is something else.
        """
        check_encoded(path, _FORMAT, _WORDS)

    @classmethod
    def load(cls, path: str | Path, detector: Any) -> 'Index':
        """Read a file of :meth:`save`, made with the same detector.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is of another detector, damaged or something
                else.
        """
        state, meta = load_encoded(path, _FORMAT, detector, _WORDS)
        parts = [state.get(key) for key in _SHAPES]
        paths = meta.get('paths')
        if not _sound(parts, paths):
            raise ValueError(
                f'{path} is a damaged index: parts of it are missing or do '
                'not fit together; make it anew.'
            )
        return cls(
            detector,
            paths,
            parts[0].int().numpy(),
            *(part.float().numpy() for part in parts[1:]),
        )


_WORDS = 'an index', '"dito index FOLDER"'
_SHAPES = dict(pictures=1, boxes=2, objectness=1, vectors=2)


def _parts_of(scene: Scene, limit: int) -> tuple[np.ndarray, ...]:
    """Boxes, objectness and vectors of the likeliest objects of a scene."""
    head, image = scene.detector.model.roi_head, scene.image
    with torch.no_grad():
        found = head.objects(image.regions, image.metainfo, True)[:limit]
        vectors = head.vectors(image.regions)[found.regions]
    return tuple(
        part.float().cpu().numpy()
        for part in (found.bboxes, found.scores, vectors)
    )


def _faiss_library() -> Any:
    """The optional library, None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def _sound(parts: Sequence[Any], paths: Any) -> bool:
    """Whether the parts of a file fit together."""
    if not isinstance(paths, list) or not all(
        isinstance(p, str) for p in paths
    ):
        return False
    if any(
        part is None or part.ndim != ndim
        for part, ndim in zip(parts, _SHAPES.values(), strict=True)
    ):
        return False
    pictures, boxes, _, vectors = parts
    return (
        len({len(part) for part in parts}) == 1
        and boxes.shape[1] == 4
        and bool(((pictures >= 0) & (pictures < len(paths))).all())
        and bool(vectors.isfinite().all())
    )
