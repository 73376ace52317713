# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Box head that classifies regions by text embeddings.

In shapes N are RoIs of all images, C channels of their features, D those of
embeddings, K classes and L groups of them (labels).
"""

from typing import TYPE_CHECKING, NamedTuple, Optional

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models.losses import accuracy
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import empty_instances
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import scale_boxes
from mmdet.utils import ConfigType, InstanceList, OptMultiConfig
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..layers import DITOLayerNorm2d
from .box_ops import topk_class_nms
from .geometric_ensemble import cosine_logits, join_logits

if TYPE_CHECKING:
    from ..text import Vocabulary


class Classes(NamedTuple):
    """Classes of an image, on the device of the box head.

    Attributes:
        text (Tensor): Embeddings, float32, shape (K, D).
        background (Tensor): That of the background, shape (D, ).
        novel (Tensor): Of labels, bool, shape (L, ).
        groups (Tensor): Label of each class, int64, shape (K, ); None where
            each is a label of its own, L = K.
    """

    text: Tensor
    background: Tensor
    novel: Tensor
    groups: Tensor | None = None


@MODELS.register_module()
class DITOBBoxHead(BaseModule):
    """Region embedding, text classifier and class-agnostic boxes (paper 3.1).

    Four 3x3 convolutions and one linear layer, each with LayerNorm and ReLU,
    then a normalised linear layer to the region embedding and a linear layer
    to the box (release). Classes are the rows of the current vocabulary,
    held in buffers that are not saved, so no parameter depends on their
    number and a checkpoint serves any vocabulary. The background is the last
    class, as in MMDetection.

    Args:
        in_channels (int): Channels of the RoI features.
        embed_dims (int): Size of region and text embeddings.
        conv_out_channels (int): Channels of the convolutions. Defaults
            to 256.
        num_shared_convs (int): Number of convolutions. Defaults to 4.
        fc_out_channels (int): Width of the linear layer. Defaults to 1024.
        roi_feat_size (int): Cells per side of the RoI features. Defaults to 7.
        temperature (float): Divides the cosines, besides the learnt scalar
            that starts at 1. Defaults to 0.01.
        background_weight (float): Loss weight of background rows. Defaults
            to 0.9 (release).
        norm_eps (float): Epsilon of the LayerNorms. Defaults to 1e-6.
        bbox_coder (dict): Box coder; weights 10, 10, 5, 5 by default.
        loss_cls (dict): Softmax cross entropy, divided by the number of
            RoIs.
        loss_bbox (dict): Huber loss, averaged over the coordinates of
            foreground RoIs only (release).
        init_cfg (dict, optional): The release's initial distributions by
            default.
    """

    predict_box_type = 'hbox'

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        *,
        conv_out_channels: int = 256,
        num_shared_convs: int = 4,
        fc_out_channels: int = 1024,
        roi_feat_size: int = 7,
        temperature: float = 0.01,
        background_weight: float = 0.9,
        norm_eps: float = 1e-6,
        bbox_coder: ConfigType = dict(  # noqa: B006
            type='DeltaXYWHBBoxCoder',
            target_means=(0.0, 0.0, 0.0, 0.0),
            target_stds=(0.1, 0.1, 0.2, 0.2),
        ),
        loss_cls: ConfigType = dict(  # noqa: B006
            type='CrossEntropyLoss', loss_weight=1.0
        ),
        loss_bbox: ConfigType = dict(  # noqa: B006
            type='SmoothL1Loss', beta=1.0, loss_weight=1.0
        ),
        init_cfg: OptMultiConfig = (
            dict(type='Kaiming', layer='Conv2d', mode='fan_out'),
            dict(
                type='Xavier',
                layer='Linear',
                distribution='uniform',
                override=[
                    dict(type='Normal', std=0.01, name='fc_embed'),
                    dict(type='Normal', std=0.001, name='fc_reg'),
                ],
            ),
        ),
    ) -> None:
        super().__init__(
            init_cfg=list(init_cfg)
            if isinstance(init_cfg, tuple)
            else init_cfg
        )
        self.embed_dims = embed_dims
        self.temperature = temperature
        self.background_weight = background_weight
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)

        channels = [in_channels] + [conv_out_channels] * num_shared_convs
        norm_cfg = dict(type=DITOLayerNorm2d, eps=norm_eps)
        self.shared_convs = nn.Sequential(
            *(
                # bias=True: the LayerNorm runs over channels and does not
                # cancel a bias that differs between them.
                ConvModule(
                    c_in, c_out, 3, padding=1, bias=True, norm_cfg=norm_cfg
                )
                for c_in, c_out in zip(channels, channels[1:], strict=False)
            )
        )
        self.shared_fc = nn.Linear(
            channels[-1] * roi_feat_size**2, fc_out_channels
        )
        self.shared_norm = nn.LayerNorm(fc_out_channels, eps=norm_eps)
        self.fc_embed = MODELS.build(
            dict(
                type='NormedLinear',
                in_features=fc_out_channels,
                out_features=embed_dims,
                bias=False,
                eps=1e-12,
            )
        )
        self.fc_reg = nn.Linear(fc_out_channels, 4)
        self.temperature_scale = nn.Parameter(torch.ones(1))

        self.register_buffer('text', torch.empty(0, embed_dims), False)
        self.register_buffer('background', torch.zeros(embed_dims), False)
        self.register_buffer('novel', torch.empty(0, dtype=torch.bool), False)
        self.register_buffer('groups', None, False)

    @property
    def num_classes(self) -> int:
        """Number of labels of the current vocabulary."""
        return len(self.novel)

    def set_vocabulary(self, vocabulary: 'Vocabulary') -> None:
        """Replace the classes.

        Args:
            vocabulary (Vocabulary): Text embeddings (K, D), background
                embedding (D, ) and novel flags (K, ).

        Raises:
            ValueError: If it is empty or its embeddings have another size.
        """
        classes = self.classes(vocabulary)
        self.text, self.background = classes.text, classes.background
        self.novel, self.groups = classes.novel, classes.groups

    def classes(self, vocabulary: Optional['Vocabulary'] = None) -> Classes:
        """Tensors of a vocabulary where the head is; nothing is changed.

        Args:
            vocabulary (Vocabulary, optional): None: the head's own.

        Returns:
            Classes: On the head's device.

        Raises:
            ValueError: If it is empty or its embeddings have another size.
        """
        if vocabulary is None:
            return Classes(self.text, self.background, self.novel, self.groups)
        text = torch.as_tensor(vocabulary.embeddings)
        if (
            text.ndim != 2
            or len(text) == 0
            or (text.shape[1] != self.embed_dims)
        ):
            raise ValueError(
                f'The vocabulary has embeddings of shape {tuple(text.shape)}; '
                f'the box head needs (classes > 0, {self.embed_dims}): build '
                'it with the text encoder of this model.'
            )
        device = self.text.device
        grouped = bool(vocabulary.groups)
        return Classes(
            text.to(device, torch.float32),
            torch.as_tensor(vocabulary.background).to(device, torch.float32),
            torch.as_tensor(
                vocabulary.label_novel if grouped else vocabulary.novel
            ).to(device, torch.bool),
            vocabulary.label_index.to(device) if grouped else None,
        )

    def classifier(self, classes: Classes | None = None) -> Tensor:
        """Text embeddings of all classes, background last, (K + 1, D).

        Args:
            classes (Classes, optional): None: those of the head.

        Raises:
            ValueError: If no vocabulary was set.
        """
        classes = classes or self.classes()
        if classes.text.shape[0] == 0:
            raise ValueError(
                'No vocabulary is set: call '
                "build_vocabulary(['red umbrella', 'anchor']) or "
                'set_vocabulary(vocabulary) of the detector, or '
                'use DITOVocabularyHook in training and testing.'
            )
        return torch.cat([classes.text, classes.background[None]])

    def _hidden(self, x: Tensor) -> Tensor:
        x = self.shared_fc(self.shared_convs(x).flatten(1))
        return F.relu(self.shared_norm(x))

    def embed(self, x: Tensor) -> Tensor:
        """Region embeddings alone, for region-centric pretraining.

        Args:
            x (Tensor): RoI features, shape (N, C, size, size).

        Returns:
            Tensor: Embeddings, not normalised, shape (N, D).
        """
        return self.fc_embed(self._hidden(x))

    def classify(
        self, embeds: Tensor, classes: Classes | None = None
    ) -> Tensor:
        """Class logits of region embeddings.

        Args:
            embeds (Tensor): Shape (N, D).
            classes (Classes, optional): None: those of the head.

        Returns:
            Tensor: Cosine over ``temperature`` times the learnt scalar,
            float32, shape (N, K + 1), background last; of groups of classes
            (N, L + 1), see :func:`.join_logits`.
        """
        classes = classes or self.classes()
        return join_logits(
            cosine_logits(
                embeds,
                self.classifier(classes),
                self.temperature * self.temperature_scale,
            ),
            classes.groups,
        )

    def regions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What does not depend on the classes.

        Args:
            x (Tensor): RoI features, shape (N, C, size, size).

        Returns:
            Tuple[Tensor, Tensor]: Embeddings (N, D) and float32 box deltas
            (N, 4).
        """
        hidden = self._hidden(x)
        return self.fc_embed(hidden), self.fc_reg(hidden).float()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and box deltas of RoI features.

        Args:
            x (Tensor): Shape (N, C, size, size).

        Returns:
            Tuple[Tensor, Tensor]: Logits (N, K + 1) and deltas (N, 4), both
            float32.
        """
        embeds, deltas = self.regions(x)
        return self.classify(embeds), deltas

    def _get_targets(
        self, results: list[SamplingResult]
    ) -> tuple[Tensor, Tensor]:
        """Labels (N, ) and box deltas (N, 4) of the RoIs of all images."""
        counts = [(len(r.pos_priors), len(r.neg_priors)) for r in results]
        # One call for all images; the coder sends numbers to the device.
        deltas = self.bbox_coder.encode(
            torch.cat([r.pos_priors for r in results]),
            torch.cat([r.pos_gt_bboxes for r in results]),
        ).split([pos for pos, _ in counts])
        labels, targets = [], []
        for result, delta, (_, neg) in zip(
            results, deltas, counts, strict=True
        ):
            found = result.pos_gt_labels
            labels += [found, found.new_full((neg,), self.num_classes)]
            targets += [delta, delta.new_zeros(neg, 4)]
        return torch.cat(labels), torch.cat(targets)

    def loss_and_target(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        sampling_results: list[SamplingResult],
        rcnn_train_cfg: ConfigType,
    ) -> dict:
        """Losses of sampled RoIs.

        Args:
            cls_score (Tensor): Logits, shape (N, K + 1).
            bbox_pred (Tensor): Deltas, shape (N, 4).
            rois (Tensor): Unused; MMDetection passes them.
            sampling_results (List[SamplingResult]): RoIs of each image,
                foreground first.
            rcnn_train_cfg (dict): Unused; MMDetection passes it.

        Returns:
            dict: ``loss_bbox``, a dict of losses, and ``bbox_targets``.
        """
        labels, deltas = self._get_targets(sampling_results)
        losses = self.loss(cls_score, bbox_pred, labels, deltas)
        return dict(loss_bbox=losses, bbox_targets=(labels, deltas))

    def loss(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        labels: Tensor,
        bbox_targets: Tensor,
    ) -> dict:
        """Classification and box losses (release).

        Args:
            cls_score (Tensor): Logits, shape (N, K + 1).
            bbox_pred (Tensor): Deltas, shape (N, 4).
            labels (Tensor): Classes, K for background, int64 (N, ).
            bbox_targets (Tensor): Target deltas, shape (N, 4).

        Returns:
            dict: ``loss_cls``, ``loss_bbox`` and, for the log, ``acc``.
        """
        foreground = labels < self.num_classes
        weight = torch.where(foreground, 1.0, self.background_weight)
        loss_cls = self.loss_cls(
            cls_score, labels, weight, avg_factor=max(len(labels), 1)
        )
        inds = foreground.nonzero().squeeze(1)
        pred, target = bbox_pred[inds], bbox_targets[inds]
        loss_bbox = self.loss_bbox(
            pred, target, avg_factor=max(pred.numel(), 1)
        )
        return dict(
            loss_cls=loss_cls,
            loss_bbox=loss_bbox,
            acc=accuracy(cls_score, labels),
        )

    def predict_by_feat(
        self,
        rois: tuple[Tensor, ...],
        scores: tuple[Tensor, ...],
        bbox_preds: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        rcnn_test_cfg: ConfigType | None = None,
        rescale: bool = False,
    ) -> InstanceList:
        """Detections of each image.

        Args:
            rois (Tuple[Tensor, ...]): RoIs, (N, 5) each.
            scores (Tuple[Tensor | ChunkedScores, ...]): Final scores, not
                logits, (N, K + 1) each; or what computes the best of them.
            bbox_preds (Tuple[Tensor, ...]): Deltas, (N, 4) each.
            batch_img_metas (List[dict]): Image sizes and scale factors.
            rcnn_test_cfg (dict, optional): ``score_thr``, ``nms``,
                ``max_per_img``. None returns all boxes with all scores.
            rescale (bool): Whether boxes are wanted in pixels of the
                original image. Defaults to False.

        Returns:
            InstanceList: ``bboxes``, ``scores`` and ``labels``, best first.
        """
        return [
            self._predict_single(*image, rcnn_test_cfg, rescale)
            for image in zip(
                rois, scores, bbox_preds, batch_img_metas, strict=True
            )
        ]

    def decode(
        self, boxes: Tensor, deltas: Tensor, img_meta: dict, rescale: bool
    ) -> Tensor:
        """Boxes of regions, the same for all classes.

        Args:
            boxes (Tensor): Proposals in pixels of the input, (N, 4).
            deltas (Tensor): Shape (N, 4).
            img_meta (dict): Image size and scale factor.
            rescale (bool): Whether boxes are wanted in pixels of the
                original image.

        Returns:
            Tensor: Boxes (x1, y1, x2, y2), (N, 4).
        """
        boxes = self.bbox_coder.decode(
            boxes, deltas, max_shape=img_meta['img_shape']
        )
        if rescale:
            boxes = scale_boxes(
                boxes, [1 / s for s in img_meta['scale_factor']]
            )
        return boxes

    def _predict_single(
        self,
        roi: Tensor,
        score: Tensor,
        delta: Tensor,
        img_meta: dict,
        cfg: ConfigType | None,
        rescale: bool,
    ) -> InstanceData:
        if len(roi) == 0:
            return empty_instances(
                [img_meta],
                roi.device,
                task_type='bbox',
                num_classes=self.num_classes,
                score_per_cls=cfg is None,
            )[0]
        boxes = self.decode(roi[:, 1:], delta, img_meta, rescale)
        if cfg is None:
            return InstanceData(bboxes=boxes, scores=score)
        if cfg['nms'].get('type', 'nms') != 'nms':
            raise ValueError(
                f'DITOBBoxHead has class-wise NMS of type "nms" '
                f'only, got {cfg["nms"]["type"]!r}.'
            )
        if isinstance(score, Tensor):
            score = score[:, :-1]
        boxes, score, labels, _ = topk_class_nms(
            boxes,
            score,
            cfg['score_thr'],
            cfg['nms']['iou_threshold'],
            cfg['max_per_img'],
        )
        return InstanceData(bboxes=boxes, scores=score, labels=labels)
