# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What the two image-text pretraining stages have in common."""

import math
from abc import abstractmethod
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, OptMultiConfig
from mmengine.model import BaseModel
from torch import Tensor, nn

from ..losses.contrastive_ops import normalize
from ..utils import DistributedLogMixin
from .batch_place import BatchPlace

# CLIP keeps the factor on the cosine at 100 or below.
MAX_LOGIT_SCALE = math.log(100.0)

Features = Dict[str, Tensor]


class ImageTextPretrainer(DistributedLogMixin, BaseModel):
    """Base of the pretrainers: two towers, a temperature, a loss.

    A step has two halves, so that a loop can embed a large batch in pieces:
    :meth:`embed` turns a (micro-)batch into embeddings and additive losses,
    :meth:`contrast` turns the embeddings of the whole batch into losses.

    Args:
        backbone (dict): Config of the image tower; its last map is used.
        text_encoder (dict): Config of the text tower.
        loss (dict): Config of a contrastive loss.
        data_preprocessor (dict): Config of the preprocessor.
        logit_scale_init (float): Start of the logarithm of the factor on
            the cosine.
        init_cfg (dict, optional): Config of the initialisation.
    """

    def __init__(
        self,
        backbone: ConfigType,
        text_encoder: ConfigType,
        loss: ConfigType,
        data_preprocessor: ConfigType,
        logit_scale_init: float = math.log(1 / 0.07),
        init_cfg: OptMultiConfig = None,
    ) -> None:
        super().__init__(MODELS.build(data_preprocessor), init_cfg)
        self.backbone = MODELS.build(backbone)
        self.text_encoder = MODELS.build(text_encoder)
        self.loss = MODELS.build(loss)
        self.logit_scale = nn.Parameter(torch.tensor(float(logit_scale_init)))
        self.vocabulary: Optional[Any] = None

    @abstractmethod
    def embed(self, inputs: Tensor, texts: List[str],
              place: Optional[BatchPlace]) -> Tuple[Features, Features]:
        """Embed images and texts.

        Args:
            inputs (Tensor): Normalised images (B, 3, H, W).
            texts (list[str]): B captions.
            place (BatchPlace, optional): Seed of random draws; None draws
                from torch's global generator.

        Returns:
            tuple[dict, dict]: Embeddings (B, D) by name, 'text' among them,
            and values that are means over samples (losses have 'loss' in
            their name, others are logged only).
        """

    @abstractmethod
    def image_embedding(self, inputs: Tensor) -> Tensor:
        """Embed images for zero-shot classification.

        Args:
            inputs (Tensor): Normalised images (B, 3, H, W).

        Returns:
            Tensor: (B, D) float32.
        """

    def contrast(self, features: Features) -> Features:
        """Contrast every image embedding with the text embeddings.

        Args:
            features (dict[str, Tensor]): First result of :meth:`embed`, of
                the whole batch of this process.

        Returns:
            dict[str, Tensor]: ``loss_NAME`` and ``recall_NAME`` (share of
            images whose own text is the nearest of this process' batch) for
            each image embedding, and ``logit_scale``.
        """
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        text = features['text']
        values = {}
        for name, image in features.items():
            if name != 'text':
                values[f'loss_{name}'] = self.loss(image, text, scale)
                values[f'recall_{name}'] = recall_at_1(image, text)
        values['logit_scale'] = scale.detach()
        return values

    def encode_texts(self, texts: List[str]) -> Tensor:
        """Embed captions, (B, D), with gradient where the tower has one."""
        tokens = self.text_encoder.tokenize(texts)
        return self.text_encoder(tokens.to(self.logit_scale.device))

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Bring the temperature back into range after an update."""
        self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    def set_vocabulary(self, vocabulary: Any) -> None:
        """Set the names that 'predict' classifies into.

        Args:
            vocabulary (Vocabulary): Names with embeddings (K, D) of unit
                norm from this model's text tower.
        """
        self.vocabulary = vocabulary

    def forward(
        self,
        inputs: Tensor,
        texts: Optional[List[str]] = None,
        labels: Optional[Tensor] = None,
        keys: Optional[Sequence[str]] = None,
        place: Optional[BatchPlace] = None,
        mode: str = 'tensor',
    ) -> Union[Tensor, Features, List[Dict[str, Any]], Tuple]:
        """Run one of the modes.

        Args:
            inputs (Tensor): Normalised images (B, 3, H, W).
            texts (list[str], optional): Captions, for 'loss' and 'embed'.
            labels (Tensor, optional): (B,) class numbers, for 'predict'.
            keys (sequence[str], optional): Names of the samples, unused.
            place (BatchPlace, optional): Seed of random draws.
            mode (str): 'loss': dict of losses; 'embed': see :meth:`embed`;
                'tensor': image embeddings (B, D); 'predict': zero-shot
                predictions.

        Returns:
            dict, tuple, Tensor or list: By mode.

        Raises:
            ValueError: If the mode is unknown.
        """
        if mode == 'loss':
            features, local = self.embed(inputs, texts, place)
            return {**self.contrast(features), **local}
        if mode == 'embed':
            return self.embed(inputs, texts, place)
        if mode == 'tensor':
            return self.image_embedding(inputs)
        if mode == 'predict':
            return self.predict(inputs, labels)
        raise ValueError(
            f"mode is {mode!r}, expected 'loss', 'embed', 'tensor' or "
            "'predict'")

    def predict(self, inputs: Tensor,
                labels: Optional[Tensor]) -> List[Dict[str, Any]]:
        """Classify images into the names of the vocabulary.

        Args:
            inputs (Tensor): Normalised images (B, 3, H, W).
            labels (Tensor, optional): (B,) true class numbers.

        Returns:
            list[dict]: For each image ``pred_labels`` (list of the five best
            class numbers, best first) and ``gt_label`` (int or None).

        Raises:
            RuntimeError: If no vocabulary is set.
        """
        if self.vocabulary is None:
            raise RuntimeError(
                'zero-shot prediction needs class names; add '
                "dict(type='DITOZeroShotHook') to custom_hooks or call "
                'set_vocabulary first')
        image = normalize(self.image_embedding(inputs))
        classes = self.vocabulary.embeddings.to(image)
        best = (image @ classes.T).topk(min(5, len(classes))).indices.tolist()
        truth = [None] * len(best) if labels is None else labels.tolist()
        return [
            dict(pred_labels=p, gt_label=t)
            for p, t in zip(best, truth, strict=True)
        ]


@torch.no_grad()
def recall_at_1(image: Tensor, text: Tensor) -> Tensor:
    """Share of images whose own text is nearest within the batch.

    Args:
        image (Tensor): (B, D).
        text (Tensor): (B, D), row i belongs to image i.

    Returns:
        Tensor: Scalar in [0, 1]. Another text with the same embedding (the
        same caption twice) does not count against an image.
    """
    cosine = normalize(image) @ normalize(text).T
    return (cosine.diagonal() >= cosine.amax(dim=1)).float().mean()
