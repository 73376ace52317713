# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures made of several images, whose embeddings are region features."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from .random_regions import BatchPlace


class Mosaic:
    """Puts grid x grid images into one picture, each in its own tile.

    A tower that only saw whole images knows nothing of an object beside
    others or cut by a window's border. In a mosaic it meets both, and the
    mean over a tile is the region feature that the detector will pool, with
    a caption that is known: no box is needed.

    The picture is as large as its images side by side. Its inner borders are
    moved at random, so that tiles differ in size and do not agree with the
    windows of the tower.

    Args:
        grid (int): Images along a side.
        jitter (float): Largest shift of an inner border, as a share of an
            image's side, in [0, 0.5).
        prob (float): Share of the iterations that use mosaics; the others
            keep the tower used to whole images. Defaults to 1.
        global_prob (float): Share of the mosaics' iterations in which all
            layers attend to the whole picture, whatever windows the tower
            has. Defaults to 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        grid: int = 3,
        jitter: float = 0.35,
        prob: float = 1.0,
        global_prob: float = 0.0,
    ) -> None:
        if (
            grid < 1
            or not 0 <= jitter < 0.5
            or not 0 <= prob <= 1
            or not 0 <= global_prob <= 1
        ):
            raise ValueError(
                'mosaic needs a grid of at least 1, a jitter in [0, 0.5) and '
                'a prob and global_prob in [0, 1], got '
                f'{grid}, {jitter}, {prob} and {global_prob}'
            )
        self.grid = grid
        self.jitter = jitter
        self.prob = prob
        self.global_prob = global_prob

    def wanted(self, place: BatchPlace | None) -> bool:
        """Tell whether this iteration uses mosaics, on all ranks alike."""
        return self._uniform(place, 0) < self.prob

    def attends_globally(self, place: BatchPlace | None) -> bool:
        """Tell whether this mosaic is seen without windows, see ``wanted``."""
        return self._uniform(place, 1) < self.global_prob

    @staticmethod
    def _uniform(place: BatchPlace | None, number: int) -> float:
        """Draw in [0, 1), the same on all ranks."""
        if place is None:
            return torch.rand(()).item()
        rng = np.random.default_rng((place.seed, place.iteration))
        return float(rng.random(number + 1)[number])

    def borders(
        self, count: int, side: int, place: BatchPlace | None
    ) -> Tensor:
        """Draw the borders of the tiles in whole pixels.

        int64 (M, 2, grid + 1), vertical then horizontal, from 0 to ``grid *
        side``.
        """
        tiles = self.grid**2
        shape = (2, self.grid - 1)
        if place is None:
            uniform = torch.rand(count, *shape)
        else:
            uniform = place.rand(count * tiles, shape)[::tiles]
        steps = torch.arange(self.grid + 1) * side
        borders = steps.repeat(count, 2, 1)
        shift = (uniform * 2 - 1) * self.jitter * side
        borders[..., 1:-1] += shift.round().long()
        return borders

    def compose(
        self, inputs: Tensor, place: BatchPlace | None = None
    ) -> tuple[Tensor, Tensor]:
        """Make mosaics (B / grid², 3, grid S, grid S) of neighbouring images.

        Also the tile of every image as RoI (picture, x1, y1, x2, y2) in
        pixels, (B, 5) float32. ValueError if B is no multiple of grid² or
        images are not square.
        """
        batch, _, height, width = inputs.shape
        tiles = self.grid**2
        if batch % tiles or height != width:
            raise ValueError(
                f'a mosaic of {self.grid} x {self.grid} needs square images '
                f'and batches in multiples of {tiles}, got {batch} images of '
                f'{height} x {width}'
            )
        borders = self.borders(batch // tiles, height, place)
        side = self.grid * height
        pictures = inputs.new_empty(
            batch // tiles, inputs.shape[1], side, side
        )
        rois = []
        for number, image in enumerate(inputs):
            picture, tile = divmod(number, tiles)
            row, col = divmod(tile, self.grid)
            y1, y2 = borders[picture, 0, row : row + 2].tolist()
            x1, x2 = borders[picture, 1, col : col + 2].tolist()
            pictures[picture, :, y1:y2, x1:x2] = F.interpolate(
                image[None],
                (y2 - y1, x2 - x1),
                mode='bilinear',
                align_corners=False,
                antialias=True,
            )[0]
            rois.append([picture, x1, y1, x2, y2])
        places = torch.tensor(rois, dtype=torch.float32)
        return pictures, places.to(inputs.device, non_blocking=True)

    @staticmethod
    def pool(feat: Tensor, rois: Tensor, stride: int) -> Tensor:
        """Average a map (M, C, h, w) over RoIs, as for the VLM score."""
        pooled = roi_align(feat.float(), rois, 7, 1 / stride, 2, True)
        return pooled.mean(dim=(2, 3))
