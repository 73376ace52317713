# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Random boxes for region-centric pretraining (paper 3.2)."""

from typing import List, Optional, Sequence, Tuple

import torch
from mmdet.registry import TASK_UTILS
from torch import Tensor

from .batch_place import BatchPlace

_SAMPLINGS = ('sides', 'area', 'height')
_POSITIONS = ('inside', 'centre')


def sides_from_uniform(
    uniform: Tensor,
    size: Tuple[float, float],
    ratio: Tuple[float, float],
    sampling: str,
) -> Tuple[Tensor, Tensor]:
    """Turn uniform numbers into heights and widths.

    Args:
        uniform (Tensor): Numbers in [0, 1), (..., 2).
        size (tuple[float, float]): See :class:`RandomRegions`.
        ratio (tuple[float, float]): See :class:`RandomRegions`.
        sampling (str): See :class:`RandomRegions`.

    Returns:
        tuple[Tensor, Tensor]: Heights and widths over the image's, (...).
    """
    low, high = size
    first = low + (high - low) * uniform[..., 0]
    if sampling == 'sides':
        second = low + (high - low) * uniform[..., 1]
        return (torch.minimum(first, second * ratio[1]),
                torch.minimum(second, first / ratio[0]))
    aspect = ratio[0] + (ratio[1] - ratio[0]) * uniform[..., 1]
    if sampling == 'height':
        return first, (first / aspect).clamp(max=1)
    root = aspect.sqrt()
    return (first * root).clamp(max=1), (first / root).clamp(max=1)


def boxes_from_uniform(
    uniform: Tensor,
    size: Tuple[float, float] = (0.2, 0.5),
    ratio: Tuple[float, float] = (0.5, 2.0),
    sampling: str = 'sides',
    position: str = 'inside',
) -> Tensor:
    """Turn uniform numbers into boxes inside the unit square.

    Args:
        uniform (Tensor): Numbers in [0, 1), (..., 4): two for the sides,
            vertical and horizontal position.
        size (tuple[float, float]): See :class:`RandomRegions`, as the others.
        ratio (tuple[float, float]): Range of height over width.
        sampling (str): What is drawn.
        position (str): Where boxes lie.

    Returns:
        Tensor: Boxes (x1, y1, x2, y2) within [0, 1], (..., 4).
    """
    height, width = sides_from_uniform(uniform[..., :2], size, ratio,
                                       sampling)
    if position == 'inside':
        y1, x1 = uniform[..., 2] * (1 - height), uniform[..., 3] * (1 - width)
    else:
        y1, x1 = uniform[..., 2] - height / 2, uniform[..., 3] - width / 2
    boxes = torch.stack([x1, y1, x1 + width, y1 + height], dim=-1)
    return boxes.clamp(0, 1)


@TASK_UTILS.register_module()
class RandomRegions:
    """Draw boxes for every image and pyramid level.

    The paper generates boxes "uniformly over the image by sampling the box
    size h, w ~ Uniform(0.2, 0.5) and aspect ratio h/w ~ Uniform(0.5, 2.0)".
    Three numbers cannot be free where two determine the box, and where a
    uniform place ends at the border is left open: hence ``sampling`` and
    ``position``.

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
        sampling (str): 'sides': height and width are uniform within ``size``
            and ``ratio`` is a limit: the longer side of a box beyond it (6 %
            of the paper's boxes) is shortened. 'area': the root of the area
            is uniform within ``size`` and the ratio within ``ratio``, so that
            sides may leave ``size`` (0.14 to 0.71). 'height': height and
            ratio are uniform and the width follows (0.1 to 1). Defaults to
            'sides'.
        position (str): 'inside': uniform among the places where the box lies
            in the image, so that its border is covered less. 'centre': the
            centre is uniform over the image and what reaches over the border
            is cut off. Defaults to 'inside'.
    """

    def __init__(
        self,
        num_regions: Sequence[int] = (400, 200, 100, 50),
        size: Tuple[float, float] = (0.2, 0.5),
        ratio: Tuple[float, float] = (0.5, 2.0),
        reference_size: int = 256,
        scale_regions: bool = False,
        sampling: str = 'sides',
        position: str = 'inside',
    ) -> None:
        if not num_regions or min(num_regions) < 1:
            raise ValueError(
                'num_regions needs at least one box a level, got '
                f'{num_regions}')
        if not 0 < size[0] <= size[1] <= 1:
            raise ValueError(f'size must be a range within (0, 1], got {size}')
        if not 0 < ratio[0] <= 1 <= ratio[1]:
            raise ValueError(f'ratio must be a range around 1, got {ratio}')
        for name, value, known in (('sampling', sampling, _SAMPLINGS),
                                   ('position', position, _POSITIONS)):
            if value not in known:
                raise ValueError(
                    f'{name} is {value!r}, expected one of {list(known)}')
        self.num_regions = tuple(num_regions)
        self.size = tuple(size)
        self.ratio = tuple(ratio)
        self.reference_size = reference_size
        self.scale_regions = scale_regions
        self.sampling, self.position = sampling, position

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
        boxes = boxes_from_uniform(uniform, self.size, self.ratio,
                                   self.sampling, self.position)
        boxes = boxes * boxes.new_tensor([width, height, width, height])
        return list(boxes.split(counts, dim=1))
