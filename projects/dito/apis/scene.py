# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures that are encoded once and asked for any names."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from dito.models.detectors.encoded_image import EncodedImage, Maps
from dito.models.roi_heads.dito_roi_head import Regions
from dito.utils.checkpoint import (
    check_suffix,
    load_from_safetensors,
    read_metadata,
    save_safetensors,
)

from .results import OBJECTS, Detections, Query, check_options, prediction
from .tiles import Tiles

_FORMAT = 'dito-scene-1'


@dataclass(eq=False)
class Scene:
    """An encoded picture: what a detector knows before it has names.

    Made by :meth:`DITOInferencer.encode`. A call of the detector is an
    encoding and one :meth:`find`, so both give the same numbers. Several
    threads may ask one scene.

    Attributes:
        detector (DITOInferencer): What encoded it.
        image (EncodedImage): Regions and maps, on the detector's device.
        sample (DetDataSample): Meta data of the picture.

    Example:
        >>> scene = detector.encode('beach.jpg')
        >>> scene.find('red umbrella, anchor')['names']
        >>> scene.save('beach.safetensors')
    """

    detector: Any
    image: EncodedImage
    sample: DetDataSample

    def __len__(self) -> int:
        """Number of regions."""
        return len(self.image.regions.boxes)

    @property
    def path(self) -> str:
        """Path or address of the picture, '' of an array."""
        return str(self.sample.get('img_path') or '')

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the picture, in pixels."""
        height, width = self.sample.ori_shape[:2]
        return int(height), int(width)

    def find(
        self,
        vocabulary: Any = None,
        *,
        score_thr: float = 0.3,
        agnostic_nms: float | None = None,
        negative_names: Any = None,
        masks: bool = True,
        return_all: bool = False,
        return_datasamples: bool = False,
    ) -> Any:
        """Find names, as a call of the detector on the picture does.

        Names and negative names come in any form of a call, and are those of
        the detector by default. ``agnostic_nms`` is an IoU in (0, 1];
        ``masks`` take most of the time; ``return_all`` gives every detection,
        also those under ``score_thr``; ``return_datasamples`` a
        :obj:`DetDataSample` instead of one of the ``predictions`` of a
        call.

        Raises:
            ValueError: If no names are known, or the maps that masks need were
                left out.
        """
        check_options(score_thr, 1, agnostic_nms, 'raise', '')
        query = self.detector.query(vocabulary, negative_names)
        found = self.detect(query, score_thr, agnostic_nms, masks, return_all)
        return prediction(found, return_all, return_datasamples)

    def objects(
        self,
        *,
        score_thr: float = 0.3,
        masks: bool = True,
        return_all: bool = False,
        return_datasamples: bool = False,
    ) -> Any:
        """Find objects without names, by objectness; all are named 'object'.

        For the options see :meth:`find`.
        """
        check_options(score_thr, 1, None, 'raise', '')
        found = self.detect(OBJECTS, score_thr, None, masks, return_all)
        return prediction(found, return_all, return_datasamples)

    def detect(
        self,
        query: Query,
        score_thr: float,
        agnostic_nms: float | None,
        masks: bool = True,
        every: bool = False,
    ) -> Detections:
        """Find what is asked for, see :meth:`find`; masks are pasted later."""
        sample = self.search(query, masks, 0.0 if every else score_thr)
        return Detections.of(sample, query, score_thr, agnostic_nms)

    def search(
        self, query: Query, masks: bool = True, score_thr: float = 0.0
    ) -> DetDataSample:
        """All detections of a query, as the model gives them.

        Masks are those of what is looked for, from ``score_thr`` on.
        """
        model = self.detector.model
        wanted = masks and partial(query.answers, score_thr=score_thr)
        with torch.no_grad():
            found = (
                model.find_objects(self.image, masks=wanted)
                if query.vocabulary is None
                else model.find(self.image, query.vocabulary, masks=wanted)
            )
        (sample,) = model.add_pred_to_datasample([self.sample.new()], [found])
        return sample

    def without_maps(self) -> 'Scene':
        """The same without what masks and boxes of the picture need."""
        image = EncodedImage(self.image.regions, self.image.metainfo, None)
        return Scene(self.detector, image, self.sample)

    # --------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Write a ``.safetensors`` file; it appears whole or not at all.

        The pyramid is left out; it is made again of the backbone's maps.
        """
        check_suffix(path, 'A scene')
        regions, maps = self.image.regions, self.image.maps
        tensors = {k: v for k, v in regions._asdict().items() if v is not None}
        if maps is not None:
            for number, feat in enumerate(maps.feats):
                tensors[f'feats.{number}'] = feat
            if maps.vlm_feat is not maps.feats[-1]:
                tensors['vlm_feat'] = maps.vlm_feat
        metainfo = {
            key: value
            for key, value in self.image.metainfo.items()
            if isinstance(value, (str, int, float, list, tuple))
        }
        save_encoded(tensors, path, _FORMAT, self.detector, metainfo=metainfo)

    @classmethod
    def load(cls, path: str | Path, detector: Any) -> 'Scene':
        """Read a file of :meth:`save`, made with the same detector.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is of another detector, damaged or something
                else.
        """
        state, meta = load_encoded(
            path,
            _FORMAT,
            detector,
            ('a scene', 'DITOInferencer.encode(image).save(path)'),
        )
        info = meta.get('metainfo')
        if not _sound(state, info):
            raise ValueError(
                f'{path} is a damaged scene: parts of it are missing or do '
                'not fit together; encode the picture again.'
            )
        info = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in info.items()
        }
        sample = DetDataSample(metainfo=info)
        device = next(detector.model.parameters()).device
        state = {k: v.to(device) for k, v in state.items()}
        return cls(
            detector,
            EncodedImage(
                Regions(*map(state.get, Regions._fields)), info, _maps(state)
            ),
            sample,
        )


class TiledScene(Scene):
    """A picture that was encoded in tiles, see :mod:`dito.apis.tiles`.

    It is asked like a scene, and takes the memory of one for each tile. It
    has no file, and no box of it is an example.

    Args:
        detector (DITOInferencer): What encoded it.
        scenes (list[Scene]): Of its views.
        tiles (Tiles): The views.
    """

    def __init__(
        self, detector: Any, scenes: list[Scene], tiles: Tiles
    ) -> None:
        self.detector = detector
        self.scenes = scenes
        self.tiles = tiles
        self.sample = scenes[0].sample

    def __repr__(self) -> str:
        return f'TiledScene({self.path!r}, {len(self.scenes)} views)'

    def __len__(self) -> int:
        return sum(map(len, self.scenes))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the picture, in pixels."""
        return self.tiles.shape

    @property
    def image(self) -> EncodedImage:
        """ValueError: regions and maps are those of tiles."""
        raise ValueError(
            'A scene of tiles is asked for names alone; for its file, index '
            'or examples encode the picture without tile=.'
        )

    def search(
        self, query: Query, masks: bool = True, score_thr: float = 0.0
    ) -> DetDataSample:
        """Those of all views, joined; what is joined may have low scores."""
        found = [scene.search(query, masks) for scene in self.scenes]
        return self.tiles.join(found, nms_iou(self.detector.model))

    def without_maps(self) -> 'TiledScene':
        """The same without what masks need."""
        scenes = [scene.without_maps() for scene in self.scenes]
        return TiledScene(self.detector, scenes, self.tiles)


def nms_iou(model: Any) -> float:
    """IoU above which a detector keeps the better of two boxes of a class."""
    return float(model.roi_head.test_cfg['nms']['iou_threshold'])


def save_encoded(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    file_format: str,
    detector: Any,
    **meta: Any,
) -> None:
    """Write what a detector has encoded, with its fingerprint."""
    meta.update(format=file_format, detector=detector.fingerprint())
    save_safetensors(tensors, path, meta)


def load_encoded(
    path: str | Path,
    file_format: str,
    detector: Any,
    words: tuple[str, str],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of :func:`save_encoded`: tensors and metadata.

    ``words`` say what it is, and what makes one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else, or of another detector.
    """
    meta = check_encoded(path, file_format, words)
    detector.check_encoded(path, meta.get('detector'))
    return load_from_safetensors(str(path))['state_dict'], meta


def check_encoded(
    path: str | Path, file_format: str, words: tuple[str, str]
) -> dict[str, Any]:
    """Metadata of a file of :func:`save_encoded`, without its tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise FileNotFoundError(
            f'{path} does not exist; give {words[0]}, or make one with '
            f'{words[1]}.'
        )
    kind = 'no .safetensors file'
    if file.suffix == '.safetensors':
        meta = read_metadata(file)
        if meta.get('format') == file_format:
            return meta
        kind = f'format {meta.get("format")!r}'
    raise ValueError(
        f'{path} is not {words[0]} ({kind}); make one with {words[1]}.'
    )


def _maps(state: dict[str, Tensor]) -> Maps | None:
    """Maps of a file, without the pyramid; None if it has none."""
    feats = []
    while f'feats.{len(feats)}' in state:
        feats.append(state[f'feats.{len(feats)}'])
    if not feats:
        return None
    return Maps(tuple(feats), state.get('vlm_feat', feats[-1]))


def _sound(state: dict[str, Tensor], info: Any) -> bool:
    """Whether the parts of a file fit together."""
    needed = set(Regions._fields) - {'vlm'}
    if not isinstance(info, dict) or not needed <= set(state):
        return False
    count = len(state['boxes'])
    sizes = ('ori_shape', 'img_shape', 'scale_factor')
    return (
        all(
            isinstance(info.get(key), list) and len(info[key]) >= 2
            for key in sizes
        )
        and state['boxes'].shape == state['deltas'].shape == (count, 4)
        and state['objectness'].shape == (count,)
        and all(
            state[k].ndim == 2 and len(state[k]) == count
            for k in ('embeds', 'vlm')
            if k in state
        )
        and all(v.isfinite().all() for v in state.values())
    )
