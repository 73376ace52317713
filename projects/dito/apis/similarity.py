# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Text-similarity maps of a model (paper 4.3, fig. 3)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from dito.engine.hooks.load_report_hook import (
    LoadReport,
    fit_state_dict,
    under,
)
from dito.models.protocols import embed_cells, maps_of

from .model_file import building, load_model_source

_NEEDED = ('backbone', 'neck', 'roi_head.bbox_head', 'text_encoder')
#: Sides of the sliding windows, in cells of the backbone.
WINDOWS = (3, 5, 7)
# Boxes that pass the head together: bounds the memory for large pictures.
_CHUNK = 1024


class SimilarityMaps(NamedTuple):
    """Maps of one picture for T texts, float32, (T, h, w) each."""

    backbone: np.ndarray  #: Cosine of the backbone's final map and the texts.
    #: The same of the region embeddings of the box head that slides over
    #: pyramid level 4, the best of its windows at each place; None for a
    #: model without a box head.
    regions: np.ndarray | None


class TextSimilarity:
    """Where in a picture a model sees what a text says.

    Before region-centric pretraining all there is are the features of the
    backbone, whose mean is the image embedding: their cosine with the text
    is the map of the baseline. After it the box head is applied to windows
    about every cell of the pyramid level that has the backbone's resolution
    (level 4), and the region embeddings are compared with the text. Windows
    have several sizes, as boxes have, and the best counts, as the best box
    does in that stage (3.2). The backbone is frozen in it, so one checkpoint
    gives both.

    Args:
        model (nn.Module): Any of the three stages' models.
        size (int): Longer side of the picture at the input, in pixels.
        windows (Sequence[int]): Sides of the sliding windows in cells.
            Defaults to 3, 5 and 7.

    Examples:
        >>> similarity = TextSimilarity.from_files('rep_symbols.py',
        ...                                        'iter_200.pth')
        >>> maps = similarity(image, ['a photo of a red umbrella'])
    """

    def __init__(
        self, model: nn.Module, size: int, windows: Sequence[int] = WINDOWS
    ) -> None:
        if model.text_encoder is None:
            raise ValueError(
                'The model has no text tower to embed texts with; take the '
                'config and checkpoint of a model that has one.'
            )
        if size < 1 or min(windows, default=0) < 1:
            raise ValueError(
                'size must be at least 1, and windows one or more of at '
                f'least 1, got {size} and {list(windows)}.'
            )
        self.model = model.eval()
        self.size = size
        self.windows = tuple(windows)

    @classmethod
    def from_files(
        cls,
        config: str | Path | None,
        checkpoint: str | Path,
        device: str = 'cpu',
        size: int | None = None,
        windows: Sequence[int] = WINDOWS,
    ) -> 'TextSimilarity':
        """Build a model and load its weights.

        Args:
            config (str | Path, optional): Config file or name. None: that
                inside the checkpoint.
            checkpoint (str | Path): Weights of the same stage.
            device (str): Defaults to 'cpu'.
            size (int, optional): Defaults to that of the training, for a
                detector to that of its test.
            windows (Sequence[int]): See the class.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If the weights lack a part that is needed.
        """
        cfg, weights = load_model_source(config, checkpoint)
        cfg.model.pop('teacher', None)
        # MMEngine builds the preprocessor and looks there for it.
        init_default_scope(cfg.get('default_scope', 'mmdet'))
        with building(cfg):
            model = MODELS.build(cfg.model)
        _load(model, weights, checkpoint)
        return cls(model.to(device), size or input_size(cfg), windows)

    @torch.no_grad()
    def __call__(
        self, image: np.ndarray, texts: Sequence[str]
    ) -> SimilarityMaps:
        """Compare a picture with texts.

        Args:
            image (np.ndarray): RGB, uint8, (H, W, 3), of any size.
            texts (Sequence[str]): Queries, used as they are.

        Returns:
            SimilarityMaps: Maps that cover the picture, without padding.

        Raises:
            ValueError: If there is no text, or the image is no RGB picture.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f'texts must be a list of queries, got {texts!r}')
        text = self.model.text_encoder.encode(list(texts))
        inputs, size = self._prepare(image)
        tower = self.model.backbone
        feat = maps_of(tower, inputs)[-1]
        # Pixels a cell, which the tower need not tell.
        patch = getattr(tower, 'patch_size', None) or max(
            -(-n // m)
            for n, m in zip(inputs.shape[2:], feat.shape[2:], strict=True)
        )
        rows, columns = (-(-n // patch) for n in size)
        maps = [cosine_maps(embed_cells(tower, feat)[0], text), None]
        if getattr(self.model, 'roi_head', None) is not None:
            windows = self.dense_embeddings(feat, size)
            maps[1] = torch.stack(
                [cosine_maps(dense, text) for dense in windows]
            ).amax(dim=0)
        return SimilarityMaps(
            *(
                None if m is None else m[:, :rows, :columns].cpu().numpy()
                for m in maps
            )
        )

    @torch.no_grad()
    def dense_embeddings(self, feat: Tensor, size: tuple[int, int]) -> Tensor:
        """Slide the box head over pyramid level 4.

        Args:
            feat (Tensor): Final map of the backbone, (1, D, h, w).
            size (tuple[int, int]): Height and width of the picture in the
                input, in pixels.

        Returns:
            Tensor: Region embeddings of each window, float32,
            (len(windows), D, h, w).
        """
        pyramid = self.model.neck((feat,))
        grid = tuple(feat.shape[-2:])
        level = [tuple(p.shape[-2:]) for p in pyramid].index(grid)
        layer = self.model.roi_head.bbox_roi_extractor.roi_layers[level]
        stride = 1 / layer.spatial_scale
        boxes = torch.cat(
            [
                sliding_boxes(grid, stride, cells, size)
                for cells in self.windows
            ]
        )
        rois = F.pad(boxes, (1, 0)).to(feat.device)  # all of image 0
        embed = self.model.roi_head.bbox_head.embed
        embeds = torch.cat(
            [
                embed(layer(pyramid[level].float(), part)).float()
                for part in rois.split(_CHUNK)
            ]
        )
        shape = len(self.windows), *grid
        return embeds.unflatten(0, shape).permute(0, 3, 1, 2)

    def _prepare(self, image: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        """Resize and normalise; the second result is the size unpadded."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                'image must be uint8 of shape (H, W, 3), got '
                f'{image.dtype} of {image.shape}.'
            )
        factor = self.size / max(image.shape[:2])
        height, width = (max(round(n * factor), 1) for n in image.shape[:2])
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, (width, height), interpolation=method)
        preprocessor = self.model.data_preprocessor
        data: dict[str, Any] = {}
        if isinstance(preprocessor, DetDataPreprocessor):
            # It expects OpenCV's order and a list of images.
            image = np.ascontiguousarray(image[..., ::-1])
            data['data_samples'] = None
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        data['inputs'] = [pixels] if data else pixels[None]
        return preprocessor(data)['inputs'], (height, width)


def input_size(cfg: Config) -> int:
    """Longer side of pictures at a model's input, in pixels.

    A pretraining has it in its training set, a detector in its test's.

    Raises:
        ValueError: If the config does not say.
    """
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    if 'size' in dataset:
        return int(dataset['size'])
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    for step in dataset.get('pipeline') or ():
        if 'Resize' in str(step['type']) and 'scale' in step:
            return int(max(step['scale']))
    raise ValueError(
        'The config does not say what size pictures have at the input; give '
        'a size.'
    )


def _load(
    model: nn.Module, checkpoint: dict[str, Any], path: str | Path
) -> None:
    """Load weights; refuse a file without what the maps need."""
    state = fit_state_dict(model, checkpoint)
    report = LoadReport.compare(model.state_dict(), state)
    lacking = (*report.missing, *report.mismatched)
    failed = [key for key in lacking if under(key, _NEEDED)]
    if failed:
        raise ValueError(
            f'{path} lacks {len(failed)} tensors of the model '
            f'({", ".join(failed[:3])} ...); give the config it was trained '
            'with.'
        )
    model.load_state_dict({k: state[k] for k in report.loaded}, strict=False)


def cosine_maps(features: Tensor, text: Tensor) -> Tensor:
    """Cosine of every place of a map with every text.

    Args:
        features (Tensor): Shape (D, h, w), of any scale.
        text (Tensor): Shape (T, D), of any scale.

    Returns:
        Tensor: float32, shape (T, h, w).
    """
    features = F.normalize(features.float(), dim=0)
    return torch.einsum(
        'dhw,td->thw', features, F.normalize(text.float(), dim=1)
    )


def sliding_boxes(
    grid: tuple[int, int], stride: float, window: int, limit: tuple[int, int]
) -> Tensor:
    """Boxes about the centres of all cells of a map.

    Args:
        grid (tuple[int, int]): Cells h and w of the map.
        stride (float): Pixels a cell.
        window (int): Side of a box, in cells.
        limit (tuple[int, int]): Height and width of the picture in pixels,
            to which boxes are clipped as proposals are.

    Returns:
        Tensor: Boxes (x1, y1, x2, y2) in pixels, row by row, (h * w, 4).
    """
    y, x = (stride * (torch.arange(n) + 0.5) for n in grid)
    y, x = (v.flatten() for v in torch.meshgrid(y, x, indexing='ij'))
    half = window * stride / 2
    height, width = limit
    return torch.stack(
        [
            (x - half).clamp(0, width),
            (y - half).clamp(0, height),
            (x + half).clamp(0, width),
            (y + half).clamp(0, height),
        ],
        dim=1,
    )


def peak_in_box(
    similarity: np.ndarray,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
) -> bool:
    """Whether a map is highest inside a box (the pointing game).

    Args:
        similarity (np.ndarray): Shape (h, w), covering the whole picture.
        box (tuple): x1, y1, x2, y2 in pixels of the picture.
        size (tuple[int, int]): Height and width of the picture in pixels.

    Returns:
        bool: True if the centre of the highest cell lies in the box; of
        cells equally high the first in reading order counts.
    """
    height, width = similarity.shape
    cell = int(similarity.argmax())
    y = (cell // width + 0.5) / height * size[0]
    x = (cell % width + 0.5) / width * size[1]
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]
