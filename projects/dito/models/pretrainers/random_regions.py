# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Random boxes for region-centric pretraining, and what is read at them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.registry import TASK_UTILS
from mmengine.dist import get_dist_info
from torch import Tensor

from ..losses.contrastive_ops import normalize


class BatchPlace(NamedTuple):
    """The place of a (micro-)batch in its run.

    Sample i of process r of N has the global number i * N + r, which is the
    order in which :class:`ImageTextShards` deals samples out. What is drawn
    for a sample is a function of (seed, iteration, global number), so it is
    the same for any number of processes and any micro-batches.

    Attributes:
        seed (int): Seed of the run.
        iteration (int): Number of the iteration.
        start (int): First sample of the micro-batch in the process' batch.
        total (int): Size of the process' batch.
        alone (bool): Whether every process draws as if it were the only one,
            so that all have the same numbers. Defaults to False.
    """

    seed: int
    iteration: int
    start: int
    total: int
    alone: bool = False

    def moved(self, offset: int) -> 'BatchPlace':
        """Return the place of a part that begins ``offset`` samples on."""
        return self._replace(start=self.start + offset)

    def draw(
        self, draw_global: Callable[[int, torch.Generator], Tensor], size: int
    ) -> Tensor:
        """Draw for the global batch and take out this part's share.

        Args:
            draw_global (callable): Given the global batch size and a CPU
                generator, returns a tensor (global batch, ...).
            size (int): Number of samples of this part.

        Returns:
            Tensor: (size, ...).
        """
        rank, world_size = self._dist_info()
        seed = np.random.SeedSequence((self.seed, self.iteration))
        generator = torch.Generator()
        generator.manual_seed(int(seed.generate_state(1)[0]))
        values = draw_global(self.total * world_size, generator)
        return values[rank::world_size][self.start : self.start + size]

    def rand(self, size: int, shape: tuple[int, ...]) -> Tensor:
        """Draw uniform numbers in [0, 1), sample by sample.

        Unlike :meth:`draw` this makes only the numbers of this part.

        Args:
            size (int): Number of samples of this part.
            shape (tuple[int, ...]): Shape of one sample's numbers.

        Returns:
            Tensor: (size, *shape) float32.
        """
        rank, world_size = self._dist_info()
        values = np.empty((size, *shape), np.float32)
        for i in range(size):
            number = (self.start + i) * world_size + rank
            rng = np.random.default_rng((self.seed, self.iteration, number))
            rng.random(out=values[i], dtype=np.float32)
        return torch.from_numpy(values)

    def _dist_info(self) -> tuple[int, int]:
        """Return number of this process and of all that share the batch."""
        return (0, 1) if self.alone else get_dist_info()


_SAMPLINGS = ('sides', 'area', 'height')
_POSITIONS = ('inside', 'centre')


def _sides_from_uniform(
    uniform: Tensor,
    size: tuple[float, float],
    ratio: tuple[float, float],
    sampling: str,
) -> tuple[Tensor, Tensor]:
    """Heights and widths over the image's, of numbers in [0, 1)."""
    low, high = size
    first = low + (high - low) * uniform[..., 0]
    if sampling == 'sides':
        second = low + (high - low) * uniform[..., 1]
        return (
            torch.minimum(first, second * ratio[1]),
            torch.minimum(second, first / ratio[0]),
        )
    aspect = ratio[0] + (ratio[1] - ratio[0]) * uniform[..., 1]
    if sampling == 'height':
        return first, (first / aspect).clamp(max=1)
    root = aspect.sqrt()
    return (first * root).clamp(max=1), (first / root).clamp(max=1)


def boxes_from_uniform(
    uniform: Tensor,
    size: tuple[float, float] = (0.2, 0.5),
    ratio: tuple[float, float] = (0.5, 2.0),
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
    height, width = _sides_from_uniform(
        uniform[..., :2], size, ratio, sampling
    )
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
            proportion to its area, at least one per level.
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
        size: tuple[float, float] = (0.2, 0.5),
        ratio: tuple[float, float] = (0.5, 2.0),
        reference_size: int = 256,
        scale_regions: bool = False,
        sampling: str = 'sides',
        position: str = 'inside',
    ) -> None:
        if not num_regions or min(num_regions) < 1:
            raise ValueError(
                'num_regions needs at least one box a level, got '
                f'{num_regions}'
            )
        if not 0 < size[0] <= size[1] <= 1:
            raise ValueError(f'size must be a range within (0, 1], got {size}')
        if not 0 < ratio[0] <= 1 <= ratio[1]:
            raise ValueError(f'ratio must be a range around 1, got {ratio}')
        for name, value, known in (
            ('sampling', sampling, _SAMPLINGS),
            ('position', position, _POSITIONS),
        ):
            if value not in known:
                raise ValueError(
                    f'{name} is {value!r}, expected one of {list(known)}'
                )
        self.num_regions = tuple(num_regions)
        self.size = tuple(size)
        self.ratio = tuple(ratio)
        self.reference_size = reference_size
        self.scale_regions = scale_regions
        self.sampling, self.position = sampling, position

    def counts(self, image_size: tuple[int, int]) -> tuple[int, ...]:
        """Return the number of boxes of each level.

        Args:
            image_size (tuple[int, int]): Height and width in pixels.
        """
        if not self.scale_regions:
            return self.num_regions
        factor = image_size[0] * image_size[1] / self.reference_size**2
        return tuple(max(1, round(n * factor)) for n in self.num_regions)

    def __call__(
        self,
        batch: int,
        image_size: tuple[int, int],
        place: BatchPlace | None = None,
    ) -> list[Tensor]:
        """Draw the boxes of a batch, (B, n, 4) float32 on the CPU, by level.

        (x1, y1, x2, y2) in pixels of an image of (height, width); ``place`` is
        the seed, None draws from torch's global generator.
        """
        counts = self.counts(image_size)
        shape = (sum(counts), 4)
        if place is None:
            uniform = torch.rand(batch, *shape)
        else:
            uniform = place.rand(batch, shape)
        height, width = image_size
        boxes = boxes_from_uniform(
            uniform, self.size, self.ratio, self.sampling, self.position
        )
        boxes = boxes * boxes.new_tensor([width, height, width, height])
        return list(boxes.split(counts, dim=1))


def to_rois(boxes: Tensor) -> Tensor:
    """Put the image number before each box.

    Args:
        boxes (Tensor): (B, n, 4).

    Returns:
        Tensor: RoIs (image number, x1, y1, x2, y2), (B * n, 5).
    """
    batch, count, _ = boxes.shape
    number = torch.arange(batch, dtype=boxes.dtype, device=boxes.device)
    number = number[:, None, None].expand(batch, count, 1)
    return torch.cat([number, boxes], dim=-1).flatten(0, 1)


def values_at_centers(
    maps: Tensor, boxes: Tensor, spatial_scale: float
) -> Tensor:
    """Read a map at the cells that hold the centres of boxes.

    Args:
        maps (Tensor): (B, 1, h, w).
        boxes (Tensor): Boxes in pixels (B, n, 4).
        spatial_scale (float): Cells a pixel, 1 / stride.

    Returns:
        Tensor: (B, n); boxes with centres in one cell read the same value.
    """
    height, width = maps.shape[-2:]
    x = ((boxes[..., 0] + boxes[..., 2]) / 2 * spatial_scale).floor().long()
    y = ((boxes[..., 1] + boxes[..., 3]) / 2 * spatial_scale).floor().long()
    cell = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return maps.flatten(1).gather(1, cell)


def objectness_targets(regions: Tensor, text: Tensor) -> Tensor:
    """Cosine of regions with their image's text, negatives set to zero.

    Args:
        regions (Tensor): Region embeddings (B, n, D).
        text (Tensor): Text embeddings (B, D).

    Returns:
        Tensor: (B, n) within [0, 1], float32, without gradient.
    """
    regions, text = normalize(regions.detach()), normalize(text.detach())
    return torch.einsum('bnd,bd->bn', regions, text).clamp(min=0, max=1)


def objectness_loss(
    maps: Tensor,
    boxes: Tensor,
    targets: Tensor,
    spatial_scale: float,
    offset: float = 0.0,
) -> Tensor:
    """L1 between objectness at the centres of boxes and their targets.

    Other places of the map have no part in it. Boxes whose centres fall into
    one cell contribute each, so that the cell learns their median.

    Args:
        maps (Tensor): Objectness logits (B, 1, h, w).
        boxes (Tensor): Boxes in pixels (B, n, 4).
        targets (Tensor): (B, n) in [0, 1].
        spatial_scale (float): Cells a pixel, 1 / stride.
        offset (float): Added to the logits that are read.

    Returns:
        Tensor: Scalar, mean over all boxes.
    """
    logits = values_at_centers(maps, boxes, spatial_scale)
    scores = (logits + offset).sigmoid()
    return F.l1_loss(scores, targets.to(scores))


@torch.no_grad()
def winner_sizes(
    regions: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    edges: tuple[float, ...],
) -> Tensor:
    """Share of the elements of a maximum that boxes of each size give.

    Args:
        regions (Tensor): Region embeddings (B, n, D); the maximum over n is
            the image embedding.
        boxes (Tensor): Boxes in pixels (B, n, 4).
        image_size (tuple[int, int]): Height and width in pixels.
        edges (tuple[float, ...]): Limits between sizes, ascending. The size
            of a box is the square root of its share of the image's area.

    Returns:
        Tensor: float32 (len(edges) + 1,), sums to 1, smallest size first.
    """
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    size = (width * height / (image_size[0] * image_size[1])).sqrt()
    # How many limits each is above; a tensor of them would have to be sent.
    group = sum((size > edge).long() for edge in edges)
    won = group.gather(1, regions.argmax(dim=1))
    return torch.stack(
        [(won == number).float().mean() for number in range(len(edges) + 1)]
    )
