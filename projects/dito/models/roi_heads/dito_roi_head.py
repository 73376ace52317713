# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""RoI head with VLM scores and distillation from a frozen backbone.

In shapes B are images, N RoIs of all of them, (h, w) the sides of a map and s
that of RoI features in cells, C channels, D those of embeddings, K classes.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import ConfigType, InstanceList, OptConfigType
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..protocols import Ensemble, require
from ..targets import sample_images
from ..utils import is_symbolic, known_size
from .box_ops import topk_class_nms
from .dito_bbox_head import Classes
from .geometric_ensemble import ChunkedScores, cosine_logits, join_logits

RegionEmbed = Callable[[Tensor], Tensor]
#: Which detections are wanted, bool (N, ).
Wanted = Callable[[InstanceData], Tensor]
# Regions whose crops are embedded at a time.
_CHUNK = 256
# Masks that are made at a time.
_MASKS = 8
# Options of the ensemble that configs up to 0.1 gave to the head itself.
_MOVED = ('alpha', 'beta', 'renormalise', 'objectness_power', 'vlm_background')


def _mean(crops: Tensor) -> Tensor:
    """Average RoI features (N, C, s, s) to (N, C)."""
    return crops.mean(dim=(2, 3))


def _moved_options(options: dict) -> dict:
    """Take options of the ensemble out of an older config, in place."""
    moved = {name: options.pop(name) for name in _MOVED if name in options}
    if moved:
        given = ', '.join(f'{k}={v!r}' for k, v in moved.items())
        print_log(
            f'roi_head has {", ".join(moved)}, which are taken as if they '
            f'stood where they belong: roi_head.ensemble=dict({given}).',
            logger='current',
            level=logging.WARNING,
        )
    return moved


class Regions(NamedTuple):
    """The regions of an image, before they have names.

    Attributes:
        boxes (Tensor): Proposals in pixels of the input, (N, 4).
        objectness (Tensor): Of the proposals, within [0, 1], (N, ).
        embeds (Tensor): Embeddings by the box head, for ``p``, (N, D).
        deltas (Tensor): From the proposals to the boxes, (N, 4).
        vlm (Tensor): Embeddings by the backbone, for ``z``, (N, D); None
            without a VLM score.
    """

    boxes: Tensor
    objectness: Tensor
    embeds: Tensor
    deltas: Tensor
    vlm: Tensor | None


@MODELS.register_module()
class DITORoIHead(StandardRoIHead):
    """RoI head whose scores ensemble the detector and the VLM (paper 3.1).

    Besides the box head's score ``p`` each proposal gets a VLM score ``z``:
    the cosine of the text with the mean of the backbone's final map over the
    proposal. In training the same mean feature, after a 1x1 convolution, is
    pulled to that of the frozen pretrained backbone (paper 3.4); at
    inference ``z`` is computed after this convolution too.

    Public towers may embed regions in another way than by the mean, or
    project the mean: :attr:`region_embed` does what the backbone says.

    Args:
        ensemble (dict, optional): Config of what makes the final score of
            ``p`` and ``z``, an :class:`Ensemble`: equation 2 and its options,
            see :class:`GeometricEnsemble`, the default.
        vlm_roi_scale (float): Proposals are scaled by it about their centres
            for ``z``; 1 in the paper, 0.7 in the release. Defaults to 1.
        vlm_temperature (float): Divides the cosines of ``z``. Defaults
            to 0.01.
        vlm_roi_extractor (dict, optional): RoI features of the backbone map.
            None: no VLM score, the score is ``p``.
        loss_distill (dict, optional): Distillation loss; None: neither
            distillation nor the 1x1 convolution ``vlm_proj``.
        class_chunk (int): Vocabularies above this size are classified in
            chunks of it, with memory that does not grow with the number of
            classes. Defaults to 4096.
        **kwargs: See :class:`StandardRoIHead`.
    """

    def __init__(
        self,
        *,
        ensemble: OptConfigType = None,
        vlm_roi_scale: float = 1.0,
        vlm_temperature: float = 0.01,
        vlm_roi_extractor: OptConfigType = None,
        loss_distill: OptConfigType = None,
        class_chunk: int = 4096,
        **kwargs: Any,
    ) -> None:
        ensemble = {**(ensemble or {}), **_moved_options(kwargs)}
        super().__init__(**kwargs)
        self.ensemble = TASK_UTILS.build(
            dict(dict(type='GeometricEnsemble'), **ensemble)
        )
        require(self.ensemble, Ensemble, 'roi_head.ensemble')
        self.vlm_roi_scale = vlm_roi_scale
        self.vlm_temperature = vlm_temperature
        self.class_chunk = class_chunk
        self.vlm_roi_extractor = self.vlm_proj = self.loss_distill = None
        # From RoI features (N, C, s, s) to embeddings (N, D); the detector
        # sets its backbone's. None: the mean.
        self.region_embed: RegionEmbed | None = None
        if vlm_roi_extractor is not None:
            self.vlm_roi_extractor = MODELS.build(vlm_roi_extractor)
        if loss_distill is not None:
            if self.vlm_roi_extractor is None:
                raise ValueError(
                    'loss_distill compares RoI features of the '
                    'backbone map: give vlm_roi_extractor too.'
                )
            self.loss_distill = MODELS.build(loss_distill)
            dims = self.vlm_roi_extractor.out_channels
            self.vlm_proj = nn.Conv2d(dims, dims, 1)
            # The identity: training starts from the pretrained VLM score.
            nn.init.dirac_(self.vlm_proj.weight)
            nn.init.zeros_(self.vlm_proj.bias)

    def project(self, vlm_feat: Tensor) -> Tensor:
        """The backbone map whose RoI features are compared with text.

        Args:
            vlm_feat (Tensor): Final map of the backbone, (B, D, h, w).

        Returns:
            Tensor: The same, after ``vlm_proj`` if there is one.
        """
        return vlm_feat if self.vlm_proj is None else self.vlm_proj(vlm_feat)

    def vlm_embed(
        self,
        feat: Tensor,
        rois: Tensor,
        batch_img_metas: list[dict] | Tensor,
        embed: RegionEmbed | None = None,
    ) -> Tensor:
        """Embeddings of regions of a backbone map.

        Args:
            feat (Tensor): Shape (B, C, h, w).
            rois (Tensor): RoIs (batch index, x1, y1, x2, y2), (N, 5).
            batch_img_metas (List[dict] | Tensor): Image sizes, to clip
                scaled RoIs; or their heights and widths, (B, 2).
            embed (callable, optional): Takes the place of
                :attr:`region_embed`.

        Returns:
            Tensor: float32, shape (N, D).
        """
        count = known_size(rois.shape[0])
        if self.vlm_roi_scale != 1 and count:
            rois = self.vlm_roi_extractor.roi_rescale(rois, self.vlm_roi_scale)
            sizes = batch_img_metas
            if not isinstance(sizes, Tensor):
                sizes = rois.new_tensor(
                    [meta['img_shape'][:2] for meta in batch_img_metas]
                )
            limit = sizes.flip(1)[rois[:, 0].long()].repeat(1, 2)
            rois = torch.cat(
                [rois[:, :1], torch.minimum(rois[:, 1:].clamp(min=0), limit)],
                1,
            )
        embed = embed or self.region_embed or _mean
        # Large crops of a thousand regions do not all fit at once.
        size = self.vlm_roi_extractor.roi_layers[0].output_size[0]
        whole = size == 1 or is_symbolic(count)
        parts = [
            embed(self.vlm_roi_extractor((feat,), part))
            for part in ([rois] if whole else rois.split(_CHUNK))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def sample_rois(
        self, rpn_results_list: InstanceList, batch_data_samples: SampleList
    ) -> list[SamplingResult]:
        """Match proposals to ground truth and sample them."""
        gt_instances, gt_ignore, _ = unpack_gt_instances(batch_data_samples)
        assigned = []
        for proposals, gt, ignore in zip(
            rpn_results_list, gt_instances, gt_ignore, strict=True
        ):
            proposals.priors = proposals.pop('bboxes')
            assigned.append(self.bbox_assigner.assign(proposals, gt, ignore))
        priors = [proposals.priors for proposals in rpn_results_list]
        return sample_images(self.bbox_sampler, assigned, priors, gt_instances)

    def loss(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: InstanceList,
        batch_data_samples: SampleList,
        vlm_feat: Tensor | None = None,
        teacher_feat: Tensor | None = None,
        teacher_embed: RegionEmbed | None = None,
    ) -> dict:
        """Losses of classes, boxes, masks and distillation.

        Args:
            x (Tuple[Tensor, ...]): Maps of the pyramid, (B, C, h, w) each.
            rpn_results_list (InstanceList): Proposals of each image.
            batch_data_samples (SampleList): Ground truth.
            vlm_feat (Tensor, optional): Final backbone map, (B, D, h, w).
            teacher_feat (Tensor, optional): That of the frozen backbone.
            teacher_embed (callable, optional): How it embeds RoI features.
                Defaults to :attr:`region_embed`.

        Returns:
            dict: Losses by name.
        """
        sampled = self.sample_rois(rpn_results_list, batch_data_samples)
        bbox_results = self.bbox_loss(x, sampled)
        losses = dict(bbox_results['loss_bbox'])
        if self.with_mask:
            gt_instances = [s.gt_instances for s in batch_data_samples]
            losses.update(
                self.mask_loss(
                    x, sampled, bbox_results['bbox_feats'], gt_instances
                )['loss_mask']
            )
        if self.loss_distill is not None:
            if vlm_feat is None or teacher_feat is None:
                raise ValueError(
                    'Distillation needs the maps of the '
                    'backbone and of its frozen copy: give the '
                    'detector a teacher, or no loss_distill.'
                )
            rois = bbox2roi([res.priors for res in sampled])
            metas = [s.metainfo for s in batch_data_samples]
            losses['loss_distill'] = self.loss_distill(
                self.vlm_embed(self.project(vlm_feat), rois, metas),
                self.vlm_embed(teacher_feat, rois, metas, teacher_embed),
            )
        return losses

    def vlm_logits(
        self, vlm_embeds: Tensor, classes: Classes | None = None
    ) -> Tensor:
        """VLM logits of RoIs.

        Args:
            vlm_embeds (Tensor): Embeddings of regions of the projected
                backbone map, see :meth:`vlm_embed`, (N, D).
            classes (Classes, optional): None: those of the box head.

        Returns:
            Tensor: float32, shape (N, K), or (N, K + 1) with background; of
            groups of classes L instead of K.
        """
        classes = classes or self.bbox_head.classes()
        text = self.bbox_head.classifier(classes)
        if not getattr(self.ensemble, 'vlm_background', False):
            text = text[:-1]
        return join_logits(
            cosine_logits(vlm_embeds, text, self.vlm_temperature),
            classes.groups,
        )

    def score(
        self,
        det_logits: Tensor,
        vlm_logits: Tensor | None,
        objectness: Tensor | None,
        classes: Classes | None = None,
    ) -> Tensor:
        """Final scores of proposals (paper eq. 2).

        Args:
            det_logits (Tensor): Shape (N, K + 1).
            vlm_logits (Tensor, optional): Shape (N, K) or (N, K + 1).
            objectness (Tensor, optional): Sigmoid objectness, (N, ).
            classes (Classes, optional): None: those of the box head.

        Returns:
            Tensor: float32, shape (N, K + 1).
        """
        classes = classes or self.bbox_head.classes()
        return self.ensemble(det_logits, vlm_logits, classes.novel, objectness)

    def chunked_scores(
        self,
        det_embeds: Tensor,
        vlm_embeds: Tensor | None,
        objectness: Tensor | None,
        classes: Classes | None = None,
    ) -> ChunkedScores:
        """The same over very many classes, without arrays of all of them.

        Args:
            det_embeds (Tensor): Region embeddings, (N, D).
            vlm_embeds (Tensor, optional): See :meth:`vlm_embed`, (N, D).
            objectness (Tensor, optional): Sigmoid objectness, (N, ).
            classes (Classes, optional): None: those of the box head.

        Returns:
            ChunkedScores: Gives the best pairs of region and class.
        """
        head = self.bbox_head
        classes = classes or head.classes()
        return self.ensemble.chunked(
            det_embeds,
            vlm_embeds,
            head.classifier(classes),
            classes.novel,
            det_temperature=head.temperature * head.temperature_scale,
            vlm_temperature=self.vlm_temperature,
            objectness=objectness,
            chunk=self.class_chunk,
            groups=classes.groups,
        )

    def predict(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: InstanceList,
        batch_data_samples: SampleList,
        rescale: bool = False,
        vlm_feat: Tensor | None = None,
    ) -> InstanceList:
        """Detections of each image.

        Args:
            x (Tuple[Tensor, ...]): Maps of the pyramid, (B, C, h, w) each.
            rpn_results_list (InstanceList): Proposals of each image.
            batch_data_samples (SampleList): Image sizes and scale factors,
                and ``vocabulary`` where an image has classes of its own.
            rescale (bool): Whether results are wanted in pixels of the
                original image. Defaults to False.
            vlm_feat (Tensor, optional): Final backbone map, (B, D, h, w);
                needed unless ``vlm_roi_extractor`` is None.

        Returns:
            InstanceList: ``bboxes``, ``scores``, ``labels``, and ``masks``
            with a mask head.
        """
        metas = [sample.metainfo for sample in batch_data_samples]
        found = self.regions(x, rpn_results_list, metas, vlm_feat)
        return [
            self.find(
                tuple(level[i : i + 1] for level in x),
                regions,
                meta,
                self.scores(regions, sample.get('vocabulary')),
                rescale,
            )
            for i, (regions, meta, sample) in enumerate(
                zip(found, metas, batch_data_samples, strict=True)
            )
        ]

    def predict_bbox(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        rpn_results_list: InstanceList,
        rcnn_test_cfg: ConfigType | None,
        rescale: bool = False,
        vlm_feat: Tensor | None = None,
    ) -> InstanceList:
        """Boxes, scores and labels of each image; see :meth:`predict`."""
        return [
            self._boxes_of(
                regions,
                meta,
                self.scores(regions, exhaustive=rcnn_test_cfg is None),
                rcnn_test_cfg,
                rescale,
            )
            for regions, meta in zip(
                self.regions(x, rpn_results_list, batch_img_metas, vlm_feat),
                batch_img_metas,
                strict=True,
            )
        ]

    def regions(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: InstanceList,
        batch_img_metas: list[dict],
        vlm_feat: Tensor | None = None,
    ) -> list[Regions]:
        """Embed proposals: all of a test that does not depend on names.

        Args:
            x (Tuple[Tensor, ...]): Maps of the pyramid, (B, C, h, w) each.
            rpn_results_list (InstanceList): Proposals of each image.
            batch_img_metas (List[dict]): Image sizes.
            vlm_feat (Tensor, optional): Final backbone map, (B, D, h, w);
                needed unless ``vlm_roi_extractor`` is None.

        Returns:
            list[Regions]: Of each image, in the order of its proposals.

        Raises:
            ValueError: If ``vlm_feat`` is needed and not given.
        """
        boxes = [res.bboxes for res in rpn_results_list]
        counts = [len(b) for b in boxes]
        rois = bbox2roi(boxes)
        if len(rois) == 0:
            # Extractors and convolutions fail on no crop at all.
            vlm = embeds = rois.new_zeros(0, self.bbox_head.embed_dims)
            deltas = rois.new_zeros(0, 4)
        else:
            extract = self.bbox_roi_extractor
            embeds, deltas = self.bbox_head.regions(
                extract(x[: extract.num_inputs], rois)
            )
            if self.vlm_roi_extractor is not None:
                if vlm_feat is None:
                    raise ValueError(
                        'The VLM score needs the final map of the '
                        'backbone: pass vlm_feat.'
                    )
                vlm = self.vlm_embed(
                    self.project(vlm_feat), rois, batch_img_metas
                )
        return [
            Regions(*parts)
            for parts in zip(
                boxes,
                [res.scores for res in rpn_results_list],
                embeds.split(counts),
                deltas.split(counts),
                [None] * len(boxes)
                if self.vlm_roi_extractor is None
                else vlm.split(counts),
                strict=True,
            )
        ]

    def scores(
        self,
        regions: Regions,
        vocabulary: Any = None,
        exhaustive: bool = False,
    ) -> Any:
        """Name the regions of an image.

        Args:
            regions (Regions): As :meth:`regions` gives them, N of them.
            vocabulary (Vocabulary, optional): None: the head's own.
            exhaustive (bool): Whether all scores are wanted, however many
                names there are. Defaults to False.

        Returns:
            Tensor | ChunkedScores: Scores, float32, (N, K + 1), background
            last; of very many names what computes the best of them.
        """
        classes = self.bbox_head.classes(vocabulary)
        if (
            not exhaustive
            and len(classes.text) > self.class_chunk
            and hasattr(self.ensemble, 'chunked')
        ):
            return self.chunked_scores(
                regions.embeds, regions.vlm, regions.objectness, classes
            )
        return self.score(
            self.bbox_head.classify(regions.embeds, classes),
            None
            if regions.vlm is None
            else self.vlm_logits(regions.vlm, classes),
            regions.objectness,
            classes,
        )

    def find(
        self,
        x: tuple[Tensor, ...],
        regions: Regions,
        meta: dict,
        scores: Any,
        rescale: bool = False,
        wanted: Wanted | None = None,
    ) -> InstanceData:
        """Detections of one image by the scores of its regions.

        Args:
            x (Tuple[Tensor, ...]): Its pyramid, (1, C, h, w) each; empty
                where no masks are wanted.
            regions (Regions): N regions.
            meta (dict): Image sizes and scale factors.
            scores (Tensor | ChunkedScores): See :meth:`scores`.
            rescale (bool): Whether results are wanted in pixels of the
                original image. Defaults to False.
            wanted (callable, optional): Which of the detections get masks
                (``box_masks``); those of others are empty. Defaults to all.

        Returns:
            InstanceData: As of :meth:`predict`.
        """
        found = self._boxes_of(
            regions,
            meta,
            scores,
            self.test_cfg,
            rescale and not self.with_mask,
        )
        return self._add_masks(x, found, meta, rescale, wanted)

    def find_objects(
        self,
        x: tuple[Tensor, ...],
        regions: Regions,
        meta: dict,
        rescale: bool = False,
        wanted: Wanted | None = None,
    ) -> InstanceData:
        """Detections of one image without names, by objectness alone.

        Args:
            x (Tuple[Tensor, ...]): As of :meth:`find`, as the others.
            regions (Regions): N regions.
            meta (dict): Image sizes and scale factors.
            rescale (bool): See there. Defaults to False.
            wanted (callable, optional): See there.

        Returns:
            InstanceData: As of :meth:`predict`, all with the label 0, with
            objectness for scores, and ``regions``, int64, the place of each
            among the N.
        """
        found = self.objects(regions, meta, rescale and not self.with_mask)
        return self._add_masks(x, found, meta, rescale, wanted)

    def objects(
        self, regions: Regions, meta: dict, rescale: bool = False
    ) -> InstanceData:
        """Boxes of :meth:`find_objects`, without masks.

        Args:
            regions (Regions): N regions.
            meta (dict): Image sizes and scale factors.
            rescale (bool): See there. Defaults to False.

        Returns:
            InstanceData: ``bboxes``, ``scores``, ``labels``, ``regions``.
        """
        cfg = self.test_cfg
        boxes, scores, labels, places = topk_class_nms(
            self.bbox_head.decode(
                regions.boxes, regions.deltas, meta, rescale
            ),
            regions.objectness[:, None].float(),
            cfg['score_thr'],
            cfg['nms']['iou_threshold'],
            cfg['max_per_img'],
        )
        return InstanceData(
            bboxes=boxes, scores=scores, labels=labels, regions=places
        )

    def _mask_forward(
        self, x: tuple[Tensor, ...], rois: Tensor | None = None, **kwargs: Any
    ) -> dict:
        """Mask logits; on a CPU of a fixed number of boxes at a time."""
        # Convolutions of a CPU round by the number of boxes, and a mask must
        # not depend on how many others are wanted. A GPU is given all.
        if self.training or rois is None or rois.device.type != 'cpu':
            return super()._mask_forward(x, rois, **kwargs)
        count = len(rois)
        more = rois[:1].expand(-count % _MASKS, -1)
        preds = [
            super(DITORoIHead, self)._mask_forward(x, part)['mask_preds']
            for part in torch.cat([rois, more]).split(_MASKS)
        ]
        return dict(mask_preds=torch.cat(preds)[:count])

    def _add_masks(
        self,
        x: tuple[Tensor, ...],
        found: InstanceData,
        meta: dict,
        rescale: bool,
        wanted: Wanted | None = None,
    ) -> InstanceData:
        """Rescale boxes and masks together, after the masks are made."""
        if not self.with_mask:
            return found
        if x and wanted is not None and len(found):
            rows = wanted(found).nonzero()[:, 0]
            if not len(rows):
                rows = rows.new_zeros(1)  # says how large masks are
            some = self._add_masks(x, found[rows], meta, rescale)
            found = self._add_masks((), found, meta, rescale)
            masks = some.box_masks
            found.box_masks = masks.new_zeros(len(found), *masks.shape[1:])
            found.box_masks[rows] = masks
            found.set_metainfo(some.metainfo)
        elif x:
            (found,) = self.predict_mask(x, [meta], [found], rescale=rescale)
        elif rescale:  # as the mask head does it, to the last bit
            scale = found.bboxes.new_tensor(meta['scale_factor'])
            found.bboxes = found.bboxes / scale.repeat(2)
        return found

    def _boxes_of(
        self,
        regions: Regions,
        meta: dict,
        scores: Any,
        cfg: ConfigType | None,
        rescale: bool,
    ) -> InstanceData:
        """Boxes, scores and labels of one image."""
        return self.bbox_head.predict_by_feat(
            (bbox2roi([regions.boxes]),),
            (scores,),
            (regions.deltas,),
            [meta],
            rcnn_test_cfg=cfg,
            rescale=rescale,
        )[0]

    def vectors(self, regions: Regions) -> Tensor:
        """One vector a region, to be compared with unit embeddings.

        The logarithm of a novel name's score (eq. 2) is, up to a number of
        the region, the product of the name's embedding with a mix of the
        region's two: normalised, weighted by the exponents over the
        temperatures. Weights add up to 1, so the product is a mean of two
        cosines.

        Args:
            regions (Regions): N regions.

        Returns:
            Tensor: float32, shape (N, D).
        """
        det = F.normalize(regions.embeds.float(), dim=-1)
        if regions.vlm is None:
            return det
        beta = getattr(self.ensemble, 'beta', 0.5)
        head = self.bbox_head
        own = (1 - beta) / (
            head.temperature * float(head.temperature_scale.detach())
        )
        vlm = beta / self.vlm_temperature
        return torch.lerp(
            det, F.normalize(regions.vlm.float(), dim=-1), vlm / (own + vlm)
        )
