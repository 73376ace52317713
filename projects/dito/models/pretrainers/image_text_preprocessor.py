# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Move image-text batches to the device and normalise them there."""

from typing import Any, Dict, Sequence

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseDataPreprocessor

# OpenAI's CLIP statistics, for RGB in [0, 255].
CLIP_MEAN = (122.7709383, 116.7460125, 104.09373615)
CLIP_STD = (68.5005327, 66.6321579, 70.32316305)


@MODELS.register_module()
class ImageTextPreprocessor(BaseDataPreprocessor):
    """uint8 images to normalised float images, on the device.

    Images travel to the device as bytes, a quarter of the traffic of floats.

    Args:
        mean (sequence[float]): Per channel, for RGB in [0, 255].
        std (sequence[float]): Per channel, for RGB in [0, 255].
        non_blocking (bool): Whether copies may overlap with computation.
    """

    def __init__(self,
                 mean: Sequence[float] = CLIP_MEAN,
                 std: Sequence[float] = CLIP_STD,
                 non_blocking: bool = True) -> None:
        super().__init__(non_blocking)
        self.register_buffer(
            'mean', torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer(
            'std', torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, data: Dict[str, Any],
                training: bool = False) -> Dict[str, Any]:
        """Normalise a batch.

        Args:
            data (dict): ``inputs`` (B, 3, H, W) uint8 or float RGB in
                [0, 255], and what else the model takes.
            training (bool): Unused; part of the interface.

        Returns:
            dict: The same with ``inputs`` float32.

        Raises:
            ValueError: If ``inputs`` is not a (B, 3, H, W) tensor.
        """
        data = self.cast_data(data)
        inputs = data['inputs']
        if not isinstance(inputs, torch.Tensor) or inputs.ndim != 4:
            raise ValueError(
                'inputs must be a tensor (B, 3, H, W), got '
                f'{getattr(inputs, "shape", type(inputs))}; use '
                "collate_fn=dict(type='image_text_collate')")
        return dict(data, inputs=(inputs.float() - self.mean) / self.std)
