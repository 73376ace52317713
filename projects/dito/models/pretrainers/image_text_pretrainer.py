# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What the two image-text pretraining stages have in common."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, OptMultiConfig
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from ..losses import PairLoss
from ..losses.contrastive_ops import Pairs, gather_pairs, normalize
from ..protocols import TextTower, require, require_image_tower
from ..utils import DistributedLogMixin
from .random_regions import BatchPlace

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

    def __init__(
        self,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking)
        self.register_buffer(
            'mean', torch.tensor(mean).view(1, -1, 1, 1), persistent=False
        )
        self.register_buffer(
            'std', torch.tensor(std).view(1, -1, 1, 1), persistent=False
        )

    def forward(
        self, data: dict[str, Any], training: bool = False
    ) -> dict[str, Any]:
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
        # The text tower cuts tokens on the host, then sends them itself.
        tokens = {k: data[k] for k in ('tokens',) if k in data}
        data = self.cast_data(
            {k: v for k, v in data.items() if k not in tokens}
        )
        inputs = data['inputs']
        if not isinstance(inputs, torch.Tensor) or inputs.ndim != 4:
            raise ValueError(
                'inputs must be a tensor (B, 3, H, W), got '
                f'{getattr(inputs, "shape", type(inputs))}; use '
                "collate_fn=dict(type='image_text_collate')"
            )
        inputs = (inputs.float() - self.mean) / self.std
        return dict(data, inputs=inputs, **tokens)


# CLIP keeps the factor on the cosine at 100 or below.
# In float32, as the parameter: one above the limit has no gradient and would
# stay there.
MAX_LOGIT_SCALE = float(np.float32(math.log(100.0)))
# Rows of the similarity matrix that a log value holds at a time.
_ROWS = 1024
# Cosines this close are of equal captions, embedded in different batches.
_TIE = 1e-5

Features = dict[str, Tensor]
Captions = Sequence[str | Sequence[str]]


class ImageTextPretrainer(DistributedLogMixin, BaseModel):
    """Base of the pretrainers: two towers, a temperature, a loss.

    A step has two halves, so that a loop can embed a large batch in pieces:
    :meth:`embed` turns a (micro-)batch into embeddings and additive losses,
    :meth:`contrast` turns the embeddings of the whole batch into losses.

    Args:
        backbone (dict): Config of an :class:`ImageTower`; its last map is
            used.
        text_encoder (dict): Config of a :class:`TextTower`.
        loss (dict): Config of a contrastive loss. Defaults to that of
            :class:`DITOContrastiveLoss`.
        data_preprocessor (dict): Config of the preprocessor.
        logit_scale_init (float): Start of the logarithm of the factor on
            the cosine, in stage 2 until the checkpoint of stage 1 is loaded.
            Defaults to ln(1 / 0.07), CLIP's.
        logit_bias_init (float, optional): Start of a learnt bias on the
            logits, which :class:`DITOSigmoidLoss` needs (SigLIP: -10).
            Defaults to None, no bias.
        init_cfg (dict, optional): Config of the initialisation.

    Raises:
        TypeError: If a tower lacks what it must offer, or ``loss`` is no
            loss over image-text pairs.
        ValueError: If there is a bias and the loss does not use it.
    """

    def __init__(
        self,
        backbone: ConfigType,
        text_encoder: ConfigType,
        loss: ConfigType = dict(type='DITOContrastiveLoss'),  # noqa: B006
        data_preprocessor: ConfigType = dict(  # noqa: B006
            type='ImageTextPreprocessor'
        ),
        logit_scale_init: float = math.log(1 / 0.07),
        logit_bias_init: float | None = None,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        super().__init__(MODELS.build(data_preprocessor), init_cfg)
        self.backbone = MODELS.build(backbone)
        require_image_tower(self.backbone, 'backbone')
        self.text_encoder = MODELS.build(text_encoder)
        require(self.text_encoder, TextTower, 'text_encoder')
        self.loss = MODELS.build(loss)
        if not isinstance(self.loss, PairLoss):
            raise TypeError(
                f'loss is a {type(self.loss).__name__}, expected a PairLoss '
                'such as DITOContrastiveLoss'
            )
        self.logit_scale = nn.Parameter(torch.tensor(float(logit_scale_init)))
        self.logit_bias: nn.Parameter | None = None
        if logit_bias_init is not None:
            if not self.loss.uses_bias:
                raise ValueError(
                    f'logit_bias_init={logit_bias_init} has no effect with '
                    f'{type(self.loss).__name__}; use DITOSigmoidLoss or '
                    'leave it out'
                )
            self.logit_bias = nn.Parameter(
                torch.tensor(float(logit_bias_init))
            )
        self.vocabulary: Any | None = None

    @abstractmethod
    def embed(
        self,
        inputs: Tensor,
        texts: list[str] | Tensor,
        place: BatchPlace | None,
    ) -> tuple[Features, Features]:
        """Embed images and texts.

        Args:
            inputs (Tensor): Normalised images (B, 3, H, W).
            texts (list[str] | Tensor): B captions, or their tokens, see
                :meth:`encode_texts`.
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
            this process' images whose own text is the nearest of the batch
            of all processes) for each image embedding, and ``logit_scale``.
        """
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        names = [name for name in features if name != 'text']
        # One message for all levels, with the texts in it once.
        gathered = gather_pairs(
            [features[name] for name in names],
            features['text'],
            self.loss.uses_image_columns,
        )
        values = {}
        for name, pairs in zip(names, gathered, strict=True):
            values[f'loss_{name}'] = self.loss.of_pairs(
                pairs, scale, self.logit_bias
            )
            values[f'recall_{name}'] = recall_at_1(pairs)
        values['logit_scale'] = scale.detach()
        if self.logit_bias is not None:
            values['logit_bias'] = self.logit_bias.detach()
        return values

    def contrast_parameters(self) -> dict[str, Tensor]:
        """Trained parameters that :meth:`contrast` uses, by name."""
        found = dict(logit_scale=self.logit_scale, logit_bias=self.logit_bias)
        return {
            name: value
            for name, value in found.items()
            if value is not None and value.requires_grad
        }

    def encode_texts(self, texts: list[str] | Tensor) -> Tensor:
        """Embed captions, with gradient where the tower has one.

        Args:
            texts (list[str] | Tensor): B captions, or their tokens on the
                CPU, int64 (B, L).

        Returns:
            Tensor: (B, D).
        """
        tower = self.text_encoder
        tokens = texts if isinstance(texts, Tensor) else tower.tokenize(texts)
        if hasattr(tower, 'shorten'):
            tokens = tower.shorten(tokens)
        device = self.logit_scale.device
        return tower(tokens.to(device, non_blocking=True))

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
        texts: Captions | None = None,
        labels: Tensor | None = None,
        keys: Sequence[str] | None = None,
        place: BatchPlace | None = None,
        tokens: Tensor | None = None,
        mode: str = 'tensor',
    ) -> Tensor | Features | list[dict[str, Any]] | tuple:
        """Run one of the modes.

        Args:
            inputs (Tensor): Normalised images (B, 3, H, W).
            texts (list, optional): A caption an image, for 'loss' and
                'embed'; one or several, for 'predict'.
            labels (Tensor, optional): (B,) class numbers, for 'predict'.
            keys (sequence[str], optional): Names of the samples.
            place (BatchPlace, optional): Seed of random draws.
            tokens (Tensor, optional): Those of ``texts``, int64 (B, L) on
                the CPU, for 'loss' and 'embed'; None tokenises here.
            mode (str): 'loss': dict of losses; 'embed': see :meth:`embed`;
                'tensor': image embeddings (B, D); 'predict': embeddings of
                images and captions where ``texts`` but no ``labels`` are
                given, else zero-shot classes.

        Returns:
            dict, tuple, Tensor or list: By mode.

        Raises:
            ValueError: If the mode is unknown, the batch is empty or does
                not have one caption an image.
        """
        if mode in ('loss', 'embed'):
            _check_captions(inputs, texts)
            captions = texts if tokens is None else tokens
            features, local = self.embed(inputs, captions, place)
            if mode == 'embed':
                return features, local
            return {**self.contrast(features), **local}
        if mode == 'tensor':
            return self.image_embedding(inputs)
        if mode == 'predict' and labels is None and texts is not None:
            return self.predict_pairs(inputs, texts, keys)
        if mode == 'predict':
            return self.predict(inputs, labels)
        raise ValueError(
            f"mode is {mode!r}, expected 'loss', 'embed', 'tensor' or "
            "'predict'"
        )

    def predict(
        self, inputs: Tensor, labels: Tensor | None
    ) -> list[dict[str, Any]]:
        """Classify images into the names of the vocabulary.

        Args:
            inputs (Tensor): Normalised images (B, 3, H, W).
            labels (Tensor, optional): (B,) true class numbers.

        Returns:
            list[dict]: For each image ``pred_labels`` (list of the five best
            class numbers, best first), ``pred_score`` (float32 (K,), the
            cosine moved to [0, 1]: what ``mmpretrain.Accuracy`` reads) and
            ``gt_label`` (int64 (1,), or None).

        Raises:
            RuntimeError: If no vocabulary is set.
        """
        if self.vocabulary is None:
            raise RuntimeError(
                'zero-shot prediction needs class names; add '
                "dict(type='DITOZeroShotHook') to custom_hooks or call "
                'set_vocabulary first'
            )
        image = normalize(self.image_embedding(inputs))
        classes = self.vocabulary.embeddings.to(image)
        cosine = image @ classes.T
        best = cosine.topk(min(5, len(classes))).indices.tolist()
        truth = [None] * len(best) if labels is None else labels[:, None]
        return [
            dict(pred_labels=p, pred_score=(1 + c) / 2, gt_label=t)
            for p, c, t in zip(best, cosine, truth, strict=True)
        ]

    def predict_pairs(
        self, inputs: Tensor, texts: Captions, keys: Sequence[str] | None
    ) -> list[dict[str, Any]]:
        """Embed images and their captions for retrieval.

        Args:
            inputs (Tensor): Normalised images (B, 3, H, W).
            texts (list): One caption (str) or several (list[str]) an image.
            keys (sequence[str], optional): Names of the samples.

        Returns:
            list[dict]: For each image ``image`` (D,) and ``captions``
            (m, D), unit vectors, ``texts`` (list of m captions) and ``key``.
        """
        _check_captions(inputs, texts)
        image = normalize(self.image_embedding(inputs))
        groups = [[t] if isinstance(t, str) else list(t) for t in texts]
        text = normalize(self.encode_texts([t for g in groups for t in g]))
        captions = text.split([len(group) for group in groups])
        names = [None] * len(groups) if keys is None else keys
        return [
            dict(image=i, captions=c, texts=g, key=k)
            for i, c, g, k in zip(image, captions, groups, names, strict=True)
        ]


def _check_captions(inputs: Tensor, texts: Captions | None) -> None:
    """Refuse an empty batch, or one without one caption per image."""
    if not len(inputs):
        raise ValueError(
            'the batch holds no image; use drop_last=True or more samples'
        )
    if texts is None or len(texts) != len(inputs):
        raise ValueError(
            f'{len(inputs)} images need as many captions, got '
            f'{None if texts is None else len(texts)}'
        )
    if any(not isinstance(t, str) and not t for t in texts):
        raise ValueError('an image of the batch has no caption')


@torch.no_grad()
def recall_at_1(pairs: Pairs) -> Tensor:
    """Share of images whose own text is nearest within the batch.

    Args:
        pairs (Pairs): n images of this process, N texts of all processes.

    Returns:
        Tensor: Scalar in [0, 1]. Another text with the same embedding, up
        to rounding (the same caption twice), does not count against an
        image.
    """
    found = pairs.image.new_zeros(())
    for begin in range(0, len(pairs.image), _ROWS):
        part = pairs.part(begin, begin + _ROWS)
        cosine = part.image @ part.texts.T
        own = cosine.gather(1, part.targets()[:, None])[:, 0]
        found += (own + _TIE >= cosine.amax(dim=1)).sum()
    return found / max(len(pairs.image), 1)
