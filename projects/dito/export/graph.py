# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A detector as one function of tensors, for any batch and size.

The parts with weights are the detector's own. What the detector selects image
by image, in lists as long as there are results, is done here for all images
at once in tensors of fixed length, as exported graphs need it.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmcv.ops import RoIAlign
from torch import Tensor, library, nn
from torch.export import ExportedProgram
from torchvision.ops import nms

from dito.models.dense_heads import lrtb_to_tblr
from dito.models.layers import DITONormedConv2d
from dito.models.roi_heads.box_ops import DITOPlusOneBBoxCoder
from dito.models.roi_heads.dito_bbox_head import Classes
from dito.models.text import Vocabulary

# What is no box has this score, and the least score of a box is above HALF.
_NONE, _HALF = -1.0, -0.5


@library.custom_op('dito::nms_mask', mutates_args=())
def nms_mask(
    boxes: Tensor, scores: Tensor, iou_threshold: float, most: int
) -> Tensor:
    """Non-maximum suppression within each class of each image.

    Args:
        boxes (Tensor): Corners (x1, y1, x2, y2), float32, (B, N, 4).
        scores (Tensor): float32, (B, C, N); negative where a box does not
            take part.
        iou_threshold (float): A box is dropped when its IoU with a better
            one of its class is above this.
        most (int): Boxes kept in a class at most.

    Returns:
        Tensor: Which boxes are kept, bool (B, C, N).
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image, own in enumerate(scores):
        for label, score in enumerate(own):
            rows = (score > _HALF).nonzero()[:, 0]
            found = nms(boxes[image, rows], score[rows], iou_threshold)
            kept[image, label, rows[found[:most]]] = True
    return kept


@nms_mask.register_fake
def _(
    boxes: Tensor, scores: Tensor, iou_threshold: float, most: int
) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


class Found(NamedTuple):
    """What a graph gives of B images, M places each, best first.

    Attributes:
        boxes (Tensor): Corners in pixels of the input, (B, M, 4).
        scores (Tensor): (B, M).
        labels (Tensor): int64 (B, M); -1 where nothing was found.
        masks (Tensor, optional): Probabilities within the boxes,
            (B, M, h, w).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


class DetectorGraph(nn.Module):
    """All of a detector between prepared images and detections.

    Args:
        detector (DITO): In evaluation mode; it is copied.
        vocabulary (Vocabulary, optional): Classes that become part of the
            graph. None: embeddings, background and novel flags are inputs.

    Raises:
        ValueError: If a setting of the detector has no form in a graph.
    """

    def __init__(
        self, detector: nn.Module, vocabulary: Vocabulary | None = None
    ) -> None:
        super().__init__()
        # The text tower is no part of it, and may be large.
        tower, detector.text_encoder = detector.text_encoder, None
        try:
            self.detector = copy.deepcopy(detector)
        finally:
            detector.text_encoder = tower
        self.detector.requires_grad_(False).eval()
        for module in self.detector.modules():
            if isinstance(module, RoIAlign):
                module.use_torchvision = True
            if isinstance(module, DITONormedConv2d):
                # onnxscript takes a number below 1e-8 for zero and drops
                # the sum: channels that are all zero would become NaN.
                module.eps = torch.tensor([module.eps])
        self._check()
        self.folded = vocabulary is not None
        if vocabulary is not None:
            if vocabulary.groups:
                raise ValueError(
                    'Names that share a label cannot be exported; give each '
                    'its own label.'
                )
            classes = self.detector.roi_head.bbox_head.classes(vocabulary)
            for name in ('text', 'background', 'novel'):
                self.register_buffer(name, getattr(classes, name))

    def _check(self) -> None:
        """Refuse what is not written for a graph."""
        head, cfg = self.detector.rpn_head, self.detector.test_cfg
        for part, nms_cfg in (
            ('rpn', cfg.rpn.get('nms')),
            ('rcnn', cfg.rcnn.nms),
        ):
            if nms_cfg and nms_cfg.get('type', 'nms') != 'nms':
                raise ValueError(
                    f'test_cfg.{part}.nms is {nms_cfg["type"]!r}; a graph has '
                    'plain NMS only: set type="nms".'
                )
        if not hasattr(head, 'box_border'):
            raise ValueError(
                f'The proposal head {type(head).__name__} cannot be '
                'exported; DITORPNHead can.'
            )

    def forward(
        self,
        images: Tensor,
        sizes: Tensor,
        embeddings: Tensor | None = None,
        background: Tensor | None = None,
        novel: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            images (Tensor): Normalised and padded with zeros, float32,
                (B, 3, H, W).
            sizes (Tensor): Height and width of each image without padding,
                float32, (B, 2).
            embeddings (Tensor, optional): Of the names, float32 (K, D).
                These three are given unless classes were folded in.
            background (Tensor, optional): Of the background, (D, ).
            novel (Tensor, optional): Which names are novel, bool (K, ).

        Returns:
            tuple: As :class:`Found`; without masks three tensors.
        """
        classes = (
            Classes(self.text, self.background, self.novel)
            if self.folded
            else Classes(embeddings, background, novel)
        )
        detector = self.detector
        images = self._in_steps(images)
        pyramid, feat = detector.extract_maps(images)
        vlm_feat = detector.vlm_map(images, feat)
        boxes, objectness = self._proposals(pyramid, sizes, images.shape[2:])
        found = self._detections(
            pyramid, vlm_feat, boxes, objectness, sizes, classes
        )
        if not detector.roi_head.with_mask:
            return tuple(found[:3])
        return tuple(found._replace(masks=self._masks(pyramid, found.boxes)))

    @property
    def step(self) -> int:
        """Pixels of which both sides of the input are a multiple."""
        return math.lcm(
            self.detector.data_preprocessor.pad_size_divisor,
            self.detector.backbone.patch_size,
        )

    def example_inputs(self) -> dict[str, Tensor]:
        """Tensors that the graph is traced with, all sizes different."""
        inputs = dict(
            images=torch.zeros(2, 3, 2 * self.step, 3 * self.step),
            sizes=torch.tensor([[2.0, 3.0]] * 2) * self.step,
        )
        if not self.folded:
            dims = self.detector.roi_head.bbox_head.embed_dims
            inputs.update(
                embeddings=torch.eye(7, dims),
                background=torch.ones(dims),
                novel=torch.zeros(7, dtype=torch.bool),
            )
        return inputs

    def dynamic_shapes(self) -> dict[str, Any]:
        """Which sizes of the inputs are open, and their rules."""
        batch = torch.export.Dim('batch', min=1, max=1024)
        rows, columns = (
            self.step * torch.export.Dim(name, min=1, max=1024)
            for name in ('rows', 'columns')
        )
        shapes: dict[str, Any] = dict(
            images={0: batch, 2: rows, 3: columns}, sizes={0: batch}
        )
        if not self.folded:
            names = torch.export.Dim('names', min=1)
            shapes.update(
                embeddings={0: names}, background=None, novel={0: names}
            )
        return shapes

    def _in_steps(self, images: Tensor) -> Tensor:
        """The same images, (B, 3, r * step, c * step)."""
        # That their sides are multiples is then part of every size which is
        # computed from them, and most of the padding falls out of the graph.
        step = self.step
        rows, columns = (side // step for side in images.shape[2:])
        blocks = images.unflatten(3, (columns, step))
        blocks = blocks.unflatten(2, (rows, step))
        return blocks.flatten(4, 5).flatten(2, 3)

    # ---------------------------------------------------------- proposals

    def _proposals(
        self, pyramid: Sequence[Tensor], sizes: Tensor, padded: Any
    ) -> tuple[Tensor, Tensor]:
        """Boxes (B, P, 4) and objectness (B, P), -1 where there is none."""
        head, cfg = self.detector.rpn_head, self.detector.test_cfg.rpn
        limit = sizes
        if head.box_border == 'input':
            limit = torch.stack(
                [torch.full_like(sizes[:, 0], side - 1) for side in padded], 1
            )
        limit = limit.flip(1).repeat(1, 2)[:, None]
        logits, lrtb = head(pyramid)
        boxes, scores = [], []
        for level in zip(logits, lrtb, head._anchors(logits), strict=True):
            box, score = self._level(*level, cfg.nms_pre)
            box = box.clamp(min=0).minimum(limit)
            least = cfg.get('min_bbox_size', -1)
            if least >= 0:
                wide = (box[..., 2:] - box[..., :2] > least).all(-1)
                score = torch.where(wide, score, _NONE)
            if cfg.get('drop_duplicates', False):
                score = torch.where(_distinct(box, score), score, _NONE)
            elif cfg.get('nms') and cfg.nms.iou_threshold < 1:
                kept = torch.ops.dito.nms_mask(
                    box, score[:, None], cfg.nms.iou_threshold, cfg.nms_pre
                )
                score = torch.where(kept[:, 0], score, _NONE)
            boxes.append(box)
            scores.append(score)
        score, index = _best(torch.cat(scores, 1), cfg.max_per_img)
        # Rows of zeros for the places behind the last box.
        box = F.pad(torch.cat(boxes, 1), (0, 0, 0, cfg.max_per_img))
        return _rows(box, index), score

    def _level(
        self, logits: Tensor, lrtb: Tensor, anchors: Tensor, most: int
    ) -> tuple[Tensor, Tensor]:
        """The best boxes (B, most, 4) of a level, and their scores."""
        score, index = _best(logits.flatten(1).sigmoid(), most)
        deltas = F.pad(lrtb.flatten(2).mT, (0, 0, 0, most))
        deltas = _rows(deltas, index)
        anchors = F.pad(anchors, (0, 0, 0, most))
        anchors = anchors[index.flatten()]
        boxes = self.detector.rpn_head.bbox_coder.decode(
            anchors, lrtb_to_tblr(deltas.flatten(0, 1))
        )
        return boxes.view(deltas.shape), score

    # --------------------------------------------------------- detections

    def _detections(
        self,
        pyramid: Sequence[Tensor],
        vlm_feat: Tensor,
        boxes: Tensor,
        objectness: Tensor,
        sizes: Tensor,
        classes: Classes,
    ) -> Found:
        """Name the proposals, (B, P, 4), and keep the best."""
        roi_head, cfg = self.detector.roi_head, self.detector.test_cfg.rcnn
        rois = _as_rois(boxes)
        embeds, deltas = roi_head.bbox_head.regions(
            _features(roi_head.bbox_roi_extractor, pyramid, rois)
        )
        vlm_logits = None
        if roi_head.vlm_roi_extractor is not None:
            vlm_embeds = roi_head.vlm_embed(
                roi_head.project(vlm_feat), rois, sizes
            )
            vlm_logits = roi_head.vlm_logits(vlm_embeds, classes)
        scores = roi_head.score(
            roi_head.bbox_head.classify(embeds, classes),
            vlm_logits,
            objectness.flatten().clamp(min=0),
            classes,
        )[:, :-1]
        scores = scores.view(*boxes.shape[:2], scores.shape[1]).mT
        # (B, K, P)
        there = (scores > cfg.score_thr) & (objectness >= 0)[:, None]
        scores = torch.where(there, scores, _NONE)
        found = self._refined(boxes, deltas, sizes)
        kept = torch.ops.dito.nms_mask(
            found, scores, cfg.nms.iou_threshold, cfg.max_per_img
        )
        scores = torch.where(kept, scores, _NONE).flatten(1)
        score, index = _best(scores, cfg.max_per_img)
        there = score > _HALF
        number = boxes.shape[1]
        labels = torch.where(
            there, index.div(number, rounding_mode='floor'), -1
        )
        boxes = _rows(found, index.remainder(number))
        return Found(
            torch.where(there[..., None], boxes, 0.0),
            torch.where(there, score, 0.0),
            labels,
        )

    def _refined(self, boxes: Tensor, deltas: Tensor, sizes: Tensor) -> Tensor:
        """Boxes (B, P, 4) moved by their deltas (B * P, 4), clipped."""
        coder = self.detector.roi_head.bbox_head.bbox_coder
        moved = coder.decode(boxes.flatten(0, 1), deltas).view(boxes.shape)
        limit = sizes.flip(1).repeat(1, 2)[:, None]
        if isinstance(coder, DITOPlusOneBBoxCoder):
            limit = limit - 1
        return moved.clamp(min=0).minimum(limit)

    def _masks(self, pyramid: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Mask probabilities of boxes (B, M, 4), (B, M, h, w)."""
        roi_head = self.detector.roi_head
        feats = _features(
            roi_head.mask_roi_extractor, pyramid, _as_rois(boxes)
        )
        masks = roi_head.mask_head(feats).sigmoid()[:, 0]
        return masks.view(*boxes.shape[:2], *masks.shape[1:])


def trace(graph: nn.Module) -> ExportedProgram:
    """The program of a graph, for any batch, size and number of names.

    Args:
        graph (DetectorGraph): What is traced.

    Returns:
        ExportedProgram: Without the paths and source lines of this machine.
    """
    with torch.no_grad():
        program = torch.export.export(
            graph,
            (),
            kwargs=graph.example_inputs(),
            dynamic_shapes=graph.dynamic_shapes(),
        )
    for part in program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                node.meta.pop('stack_trace', None)
    return program


def _best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best ``count`` of rows (B, n); where n is less -1, indices >= n."""
    return F.pad(scores, (0, count), value=_NONE).topk(count)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, M, C) of values (B, N, C) by index (B, M)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def _as_rois(boxes: Tensor) -> Tensor:
    """RoIs (B * N, 5) of the boxes (B, N, 4) of images."""
    image = torch.arange(boxes.shape[0], device=boxes.device).to(boxes)
    image = image[:, None, None].expand(-1, boxes.shape[1], 1)
    return torch.cat([image, boxes], 2).flatten(0, 1)


def _features(
    extractor: nn.Module, pyramid: Sequence[Tensor], rois: Tensor
) -> Tensor:
    return extractor(tuple(pyramid[: extractor.num_inputs]), rois)


def _distinct(boxes: Tensor, scores: Tensor) -> Tensor:
    """Boxes (B, N, 4) of a level that none before equals, as `distinct`."""
    count = boxes.shape[1]
    same = (boxes[:, :, None] == boxes[:, None]).all(-1)
    before = torch.ones(
        count, count, dtype=torch.bool, device=boxes.device
    ).tril(-1)
    same = same & before & (scores >= 0)[:, None]
    flat = (boxes[..., 2:] <= boxes[..., :2]).any(-1)
    return (~same.any(-1) | flat) & boxes.any(-1)
