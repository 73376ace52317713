# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Open-vocabulary detector."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import (
    ConfigType,
    InstanceList,
    OptConfigType,
    OptMultiConfig,
)
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..protocols import (
    VocabularySource,
    maps_of,
    require,
    require_image_tower,
)
from ..roi_heads.dito_roi_head import Wanted
from ..text import Vocabulary
from ..utils import DistributedLogMixin
from .clients import HubMixin, MMDetClientsMixin
from .encoded_image import EncodedImage, Maps
from .frozen_backbones import FrozenTeacher, VLMBackboneMixin, connect_regions
from .given_boxes import (
    annotated_boxes,
    check_score,
    note_scores,
    score_boxes,
)


@MODELS.register_module()
class DITO(
    HubMixin,
    MMDetClientsMixin,
    DistributedLogMixin,
    VLMBackboneMixin,
    TwoStageDetector,
):
    """DITO: Faster or Mask R-CNN that names objects by text (paper 3).

    A plain ViT with shifted-window learning, a simple pyramid, proposals by
    centerness and a box head whose classifier is a :class:`Vocabulary`. No
    parameter depends on the number of classes: :meth:`set_vocabulary` swaps
    them at any time.

    Args:
        backbone (dict): Config of :class:`DITOViT`, or of another
            :class:`ImageTower`.
        neck (dict): Config of :class:`SimpleFPN`.
        rpn_head (dict): Config of :class:`DITORPNHead`.
        roi_head (dict): Config of :class:`DITORoIHead`.
        text_encoder (dict, optional): Config of :class:`DITOTextEncoder`,
            or of another :class:`VocabularySource`, always frozen. Without
            it vocabularies come from files.
        teacher (dict, optional): ``checkpoint`` and, if need be, ``prefix``
            of the frozen backbone; all else overrides the config of the
            backbone. By default it has the backbone's windows and shift, so
            that with equal weights there is nothing to distil;
            ``shift=None`` takes the second pass away.
        vlm_backbone (dict, optional): A frozen backbone that gives the VLM
            score at inference in place of the trained one (release):
            arguments in which it differs from ``backbone``, and maybe the
            ``checkpoint`` of its weights; see :class:`VLMBackboneMixin`.
        train_cfg (dict, optional): ``rpn``, ``rpn_proposal`` and ``rcnn``.
        test_cfg (dict, optional): ``rpn`` and ``rcnn``; and
            ``given_boxes``, 'vlm', 'det' or 'ensemble', where annotated
            boxes are to be classified beside the detection, for
            :class:`DITORegionMetric`.
        data_preprocessor (dict, optional): Config of the preprocessor.
        init_cfg (dict, optional): Config of the initialisation.

    Examples:
        >>> model = MODELS.build(cfg.model)
        >>> model.build_vocabulary(['umbrella', 'anchor'], novel=['anchor'])
        >>> model.test_step(dict(inputs=[image], data_samples=[sample]))
    """

    def __init__(
        self,
        backbone: ConfigType,
        neck: ConfigType,
        rpn_head: ConfigType,
        roi_head: ConfigType,
        text_encoder: OptConfigType = None,
        teacher: OptConfigType = None,
        vlm_backbone: OptConfigType = None,
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        data_preprocessor: OptConfigType = None,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            neck=neck,
            rpn_head=ConfigDict(rpn_head),
            roi_head=ConfigDict(roi_head),
            train_cfg=None if train_cfg is None else ConfigDict(train_cfg),
            test_cfg=ConfigDict(test_cfg or {}),
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        require_image_tower(self.backbone, 'backbone')
        self.text_encoder = None
        if text_encoder is not None:
            self.text_encoder = MODELS.build(text_encoder)
            require(self.text_encoder, VocabularySource, 'text_encoder')
            if isinstance(self.text_encoder, nn.Module):
                self.text_encoder.requires_grad_(False).eval()
        self._teacher: FrozenTeacher | None = None
        if teacher is not None:
            if self.roi_head.loss_distill is None:
                raise ValueError(
                    'A teacher without roi_head.loss_distill '
                    'has no use: set both or none.'
                )
            self._teacher = self._make_teacher(backbone, **teacher)
        if vlm_backbone is not None and self.roi_head.loss_distill is not None:
            raise ValueError(
                'vlm_backbone scores with frozen features, which '
                'roi_head.loss_distill makes needless: set one '
                'of them.'
            )
        self.build_vlm_backbone(backbone, vlm_backbone)
        connect_regions(self)
        if self.test_cfg.get('given_boxes') is not None:
            check_score(self, self.test_cfg.given_boxes)
        self._vocabulary: Vocabulary | None = None
        self.dataset_meta: dict[str, Any] | None = None

    @staticmethod
    def _make_teacher(
        backbone: ConfigType,
        checkpoint: str,
        prefix: str = 'backbone.',
        **overrides: Any,
    ) -> FrozenTeacher:
        cfg = dict(backbone)
        if 'window' in overrides and overrides['window'] is None:
            overrides.setdefault('shift', None)
        if overrides.get('shift', cfg.get('shift')) != cfg.get('shift'):
            # What belongs to the backbone's shift goes with it.
            for name in (
                'shift_size',
                'pos_embed_after_shift',
                'average_after_norm',
            ):
                cfg.pop(name, None)
        return FrozenTeacher({**cfg, **overrides}, checkpoint, prefix)

    def init_weights(self) -> None:
        """Initialise for training; reads the teacher, if there is one."""
        super().init_weights()
        if self._teacher is not None:
            self._teacher.build(next(self.parameters()).device)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any) -> 'DITO':
        """Take the teacher along in ``.to()``, ``.cuda()``, ``.half()``."""
        super()._apply(fn, *args)
        if self._teacher is not None:
            self._teacher.apply(fn)
        return self

    def train(self, mode: bool = True) -> 'DITO':
        """Set the mode; the frozen text tower stays in evaluation mode."""
        super().train(mode)
        if isinstance(self.text_encoder, nn.Module):
            self.text_encoder.eval()
        return self

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The current classes, None before they are set."""
        return self._vocabulary

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Replace the classes.

        Cheap enough for every image: the text tower is frozen, and hashed
        again only after its weights changed. Where each image of a batch
        has classes of its own, see :meth:`predict`.

        Args:
            vocabulary (Vocabulary): Made by the text tower the model was
                trained with.

        Raises:
            ValueError: If it was made by another tower.
        """
        self._check_vocabulary(vocabulary)
        self.roi_head.bbox_head.set_vocabulary(vocabulary)
        self._note_names(vocabulary.labels)
        self._vocabulary = vocabulary

    def _check_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Refuse one that was made by another text tower."""
        if self.text_encoder is not None:
            vocabulary.check_encoder(self.text_encoder.fingerprint())

    def build_vocabulary(
        self,
        names: Sequence[str],
        novel: Iterable[str | bool] | None = None,
        templates: str | Sequence[str] | None = None,
    ) -> Vocabulary:
        """Embed class names with the model's text tower and set them.

        Args:
            names (Sequence[str]): Class names, in label order.
            novel (Iterable[str | bool], optional): See :meth:`embed_names`.
            templates (str | Sequence[str], optional): See there.

        Returns:
            Vocabulary: The new classes.

        Raises:
            ValueError: If the model has no text tower.
        """
        vocabulary = self.embed_names(names, novel, templates)
        self.set_vocabulary(vocabulary)
        return vocabulary

    def extract_maps(
        self, batch_inputs: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Pyramid and final backbone map.

        Args:
            batch_inputs (Tensor): Images, shape (B, 3, H, W).

        Returns:
            Tuple[Tuple[Tensor, ...], Tensor]: Maps P2 to P5, (B, C, h, w)
            each, and the backbone's, (B, D, H / patch, W / patch).
        """
        feats = maps_of(self.backbone, batch_inputs)
        return self.neck(feats), feats[-1]

    def _maps(self, batch_inputs: Tensor) -> Maps:
        """All maps that a test needs."""
        feats = tuple(maps_of(self.backbone, batch_inputs))
        return Maps(
            feats,
            self.vlm_map(batch_inputs, feats[-1]),
            tuple(self.neck(feats)),
        )

    def loss(
        self, batch_inputs: Tensor, batch_data_samples: SampleList
    ) -> dict:
        """Losses of a batch.

        Args:
            batch_inputs (Tensor): Images, shape (B, 3, H, W).
            batch_data_samples (SampleList): Ground truth; an image may have
                none.

        Returns:
            dict: Losses by name.
        """
        pyramid, vlm_feat = self.extract_maps(batch_inputs)
        losses, proposals = self.rpn_head.loss_and_predict(
            pyramid,
            batch_data_samples,
            proposal_cfg=self.train_cfg.get('rpn_proposal', self.test_cfg.rpn),
        )
        teacher_feat = teacher_embed = None
        if self._teacher is not None:
            teacher_feat = self._teacher(batch_inputs)
            teacher_embed = self._teacher.embed_regions
        losses.update(
            self.roi_head.loss(
                pyramid,
                proposals,
                batch_data_samples,
                vlm_feat=vlm_feat,
                teacher_feat=teacher_feat,
                teacher_embed=teacher_embed,
            )
        )
        return losses

    def _proposals(
        self, pyramid: tuple[Tensor, ...], batch_data_samples: SampleList
    ) -> InstanceList:
        """Proposals of the samples if they bring some, else of the RPN."""
        if batch_data_samples[0].get('proposals') is None:
            return self.rpn_head.predict(pyramid, batch_data_samples)
        proposals = [sample.proposals for sample in batch_data_samples]
        for given in proposals:
            if 'scores' not in given:
                given.scores = torch.ones_like(given.bboxes[:, 0])
        return proposals

    def encode(
        self, batch_inputs: Tensor, batch_data_samples: SampleList
    ) -> list[EncodedImage]:
        """Do all of a test that does not depend on names.

        Args:
            batch_inputs (Tensor): Images, shape (B, 3, H, W).
            batch_data_samples (SampleList): Image sizes; ``proposals`` where
                the proposal head is not wanted.

        Returns:
            list[EncodedImage]: For :meth:`find`, any number of times.
        """
        return self._encode(self._maps(batch_inputs), batch_data_samples)

    def _encode(
        self, maps: Maps, batch_data_samples: SampleList
    ) -> list[EncodedImage]:
        metas = [sample.metainfo for sample in batch_data_samples]
        regions = self.roi_head.regions(
            maps.pyramid,
            self._proposals(maps.pyramid, batch_data_samples),
            metas,
            maps.vlm_feat,
        )
        return [
            EncodedImage(own, meta, maps.of(i))
            for i, (own, meta) in enumerate(zip(regions, metas, strict=True))
        ]

    def find(
        self,
        image: EncodedImage,
        vocabulary: Vocabulary | None = None,
        rescale: bool = True,
        masks: bool | Wanted = True,
    ) -> InstanceData:
        """Name the regions of an image; :meth:`predict` is the same.

        Args:
            image (EncodedImage): As :meth:`encode` gives it.
            vocabulary (Vocabulary, optional): None: that of the model.
            rescale (bool): Whether results are wanted in pixels of the
                original image. Defaults to True.
            masks (bool | callable): Whether masks are wanted, or which
                detections get one, see :meth:`DITORoIHead.find`. Defaults to
                True.

        Returns:
            InstanceData: ``bboxes`` (N, 4), ``scores`` (N, ), ``labels``
            (N, ), and ``masks`` with a mask head.

        Raises:
            ValueError: If the vocabulary was made by another text tower, or
                the maps that masks need were left out.
        """
        if vocabulary is not None:
            self._check_vocabulary(vocabulary)
        return self.roi_head.find(
            self._pyramid(image) if masks else (),
            image.regions,
            image.metainfo,
            self.roi_head.scores(image.regions, vocabulary),
            rescale,
            masks if callable(masks) else None,
        )

    def find_objects(
        self,
        image: EncodedImage,
        rescale: bool = True,
        masks: bool | Wanted = True,
    ) -> InstanceData:
        """Detections without names, by objectness alone.

        Args:
            image (EncodedImage): As :meth:`encode` gives it.
            rescale (bool): As of :meth:`find`. Defaults to True.
            masks (bool | callable): As of :meth:`find`. Defaults to True.

        Returns:
            InstanceData: As of :meth:`find`, all with the label 0; and
            ``regions``, int64 (N, ), their places among those of the image.
        """
        return self.roi_head.find_objects(
            self._pyramid(image) if masks else (),
            image.regions,
            image.metainfo,
            rescale,
            masks if callable(masks) else None,
        )

    def _pyramid(self, image: EncodedImage) -> tuple[Tensor, ...]:
        """Pyramid of an encoded image, if masks need it."""
        if not self.with_mask:
            return ()
        return image.pyramid_by(self.neck)

    def predict(
        self,
        batch_inputs: Tensor,
        batch_data_samples: SampleList,
        rescale: bool = True,
    ) -> SampleList:
        """Detections of a batch.

        Args:
            batch_inputs (Tensor): Images, shape (B, 3, H, W).
            batch_data_samples (SampleList): Image sizes; ``proposals`` where
                the proposal head is not wanted; ``vocabulary``, a
                :class:`Vocabulary`, where an image has classes of its own
                instead of the model's, which then do not take part: calls in
                several threads may each have their own. Its labels index its
                own classes. So do those of ``text`` among the meta data, the
                ``texts`` of MMDetection's clients; such results have
                ``label_names`` too. ``mask_form`` there chooses the form of
                masks, see :meth:`DITOMaskHead.predict_by_feat`.
            rescale (bool): Whether results are wanted in pixels of the
                original image. Defaults to True.

        Returns:
            SampleList: The samples with ``pred_instances``: ``bboxes``
            (N, 4), ``scores`` (N, ), ``labels`` (N, ), and ``masks``
            (N, H, W) with a mask head; and ``pred_regions`` where
            ``test_cfg.given_boxes`` asks for it and there is ground truth:
            ``scores`` (N, K) of its boxes, in their order.
        """
        prompted = self._prompted(batch_data_samples)
        own = [s.get('vocabulary') for s in batch_data_samples]
        if self._vocabulary is None and None in own:
            self._take_checkpoint_classes()
        maps = self._maps(batch_inputs)
        self._score_given_boxes(
            maps.pyramid, maps.vlm_feat, batch_data_samples
        )
        images = self._encode(maps, batch_data_samples)
        results = [
            self.find(image, vocabulary, rescale)
            for image, vocabulary in zip(images, own, strict=True)
        ]
        for sample, result, by_text in zip(
            batch_data_samples, results, prompted, strict=True
        ):
            if by_text:
                names = sample.pop('vocabulary').labels
                result.label_names = [names[i] for i in result.labels.tolist()]
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _score_given_boxes(
        self,
        pyramid: tuple[Tensor, ...],
        vlm_feat: Tensor,
        samples: SampleList,
    ) -> None:
        """Classify annotated boxes where the config asks for it."""
        score = self.test_cfg.get('given_boxes')
        # Samples without annotations have empty gt_instances, or none.
        if score is None or any(
            'bboxes' not in s.get('gt_instances', ())
            or s.get('vocabulary') is not None
            for s in samples
        ):
            return
        _, boxes = annotated_boxes(samples, vlm_feat)
        metas = [sample.metainfo for sample in samples]
        note_scores(
            samples,
            score_boxes(self, score, boxes, metas, vlm_feat, pyramid),
            score,
        )

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: SampleList
    ) -> tuple:
        """Raw outputs of the RoI head, for the counting of operations."""
        pyramid, _ = self.extract_maps(batch_inputs)
        proposals = self._proposals(pyramid, batch_data_samples)
        return self.roi_head.forward(pyramid, proposals, batch_data_samples)
