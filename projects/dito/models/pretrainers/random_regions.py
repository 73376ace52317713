# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Random boxes for region-centric pretraining (paper 3.2)."""

from typing import List, Optional, Sequence, Tuple

import torch
from mmdet.registry import TASK_UTILS
from torch import Tensor

from .batch_place import BatchPlace


def boxes_from_uniform(
    uniform: Tensor,
    size: Tuple[float, float] = (0.2, 0.5),
    ratio: Tuple[float, float] = (0.5, 2.0),
) -> Tensor:
    """Turn uniform numbers into boxes inside the unit square.

    The paper samples "the box size h, w ~ Uniform(0.2, 0.5) and aspect ratio
    h/w ~ Uniform(0.5, 2.0)". Three numbers cannot be free where two
    determine the box, and a ratio drawn beside one side would push the other
    side out of its range. So both sides are drawn from their range and the
    ratio is a limit: the longer side of a box beyond it (6 % of the boxes)
    is shortened. The position is uniform among those inside the image.

    Args:
        uniform (Tensor): Numbers in [0, 1), (..., 4): height, width,
            vertical and horizontal position.
        size (tuple[float, float]): Range of the sides over the image's.
        ratio (tuple[float, float]): Range of height over width.

    Returns:
        Tensor: Boxes (x1, y1, x2, y2) within [0, 1], (..., 4).
    """
    low, high = size
    height, width = (low + (high - low) * uniform[..., :2]).unbind(-1)
    height, width = (torch.minimum(height, width * ratio[1]),
                     torch.minimum(width, height / ratio[0]))
    y1 = uniform[..., 2] * (1 - height)
    x1 = uniform[..., 3] * (1 - width)
    return torch.stack([x1, y1, x1 + width, y1 + height], dim=-1)


@TASK_UTILS.register_module()
class RandomRegions:
    """Draw boxes for every image and pyramid level.

    Args:
        num_regions (sequence[int]): Number of boxes of each level, finest
            first, for an image of ``reference_size``.
        size (tuple[float, float]): Range of the sides over the image's.
        ratio (tuple[float, float]): Range of height over width.
        reference_size (int): Side in pixels of the image that
            ``num_regions`` is meant for. The paper's 400, 200, 100, 50 are
            for 256 pixels and patches of 16.
        scale_regions (bool): Whether an image of another size gets boxes in
            proportion to its area, at least one a level.
    """

    def __init__(
        self,
        num_regions: Sequence[int] = (400, 200, 100, 50),
        size: Tuple[float, float] = (0.2, 0.5),
        ratio: Tuple[float, float] = (0.5, 2.0),
        reference_size: int = 256,
        scale_regions: bool = False,
    ) -> None:
        if not num_regions or min(num_regions) < 1:
            raise ValueError(
                'num_regions needs at least one box a level, got '
                f'{num_regions}')
        if not 0 < size[0] <= size[1] <= 1:
            raise ValueError(f'size must be a range within (0, 1], got {size}')
        if not 0 < ratio[0] <= 1 <= ratio[1]:
            raise ValueError(f'ratio must be a range around 1, got {ratio}')
        self.num_regions = tuple(num_regions)
        self.size = tuple(size)
        self.ratio = tuple(ratio)
        self.reference_size = reference_size
        self.scale_regions = scale_regions

    def counts(self, image_size: Tuple[int, int]) -> Tuple[int, ...]:
        """Return the number of boxes of each level.

        Args:
            image_size (tuple[int, int]): Height and width in pixels.
        """
        if not self.scale_regions:
            return self.num_regions
        factor = image_size[0] * image_size[1] / self.reference_size**2
        return tuple(max(1, round(n * factor)) for n in self.num_regions)

    def __call__(self, batch: int, image_size: Tuple[int, int],
                 place: Optional[BatchPlace] = None) -> List[Tensor]:
        """Draw the boxes of a batch.

        Args:
            batch (int): Number of images B.
            image_size (tuple[int, int]): Height and width in pixels.
            place (BatchPlace, optional): Seed; None draws from torch's
                global generator.

        Returns:
            list[Tensor]: For each level boxes (x1, y1, x2, y2) in pixels,
            (B, n, 4) float32 on the CPU.
        """
        counts = self.counts(image_size)
        shape = (sum(counts), 4)
        if place is None:
            uniform = torch.rand(batch, *shape)
        else:
            uniform = place.rand(batch, shape)
        height, width = image_size
        boxes = boxes_from_uniform(uniform, self.size, self.ratio)
        boxes = boxes * boxes.new_tensor([width, height, width, height])
        return list(boxes.split(counts, dim=1))


@TASK_UTILS.register_module()
class WholeImageRegion:
    """One box a level, the whole image (no regions; for comparison).

    Args:
        num_levels (int): Number of pyramid levels.
    """

    def __init__(self, num_levels: int = 4) -> None:
        self.num_levels = num_levels

    def __call__(self, batch: int, image_size: Tuple[int, int],
                 place: Optional[BatchPlace] = None) -> List[Tensor]:
        """Return the image's outline, (B, 1, 4) in pixels for each level."""
        height, width = image_size
        box = torch.tensor([0., 0., width, height])
        return [box.expand(batch, 1, 4)] * self.num_levels
