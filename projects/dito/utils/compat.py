# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Import MMDetection beside packages that are missing, talk or fail.

A plain ``pip install`` of mmcv has no ``mmcv._ext``, and mmdet cannot be
imported without it. DITO only calls NMS and RoIAlign, both of which
torchvision ships compiled for CPU and CUDA, so a stand-in module with these
is put in the extension's place. It is used only where the real extension is
absent.
"""

import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import metadata
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import Tensor

_EXT = 'mmcv._ext'


def _nms(
    bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int
) -> Tensor:
    """Greedy NMS: indices kept, best first; offset 1 has legacy sides."""
    if offset:
        # Moving the far corner by one gives the legacy sides and overlaps.
        bboxes = bboxes + bboxes.new_tensor([0, 0, offset, offset])
    return torchvision.ops.nms(bboxes.float(), scores.float(), iou_threshold)


def _require_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(
            'RoIAlign with pool_mode="max" needs mmcv\'s compiled ops, which '
            'are not installed; use pool_mode="avg" or build mmcv with '
            'MMCV_WITH_OPS=1.'
        )


def _roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill ``output`` (K, C, h, w) with the RoIs (K, 5) of the input."""
    _require_average(pool_mode)
    output.copy_(
        torchvision.ops.roi_align(
            input,
            rois.to(input.dtype),
            (aligned_height, aligned_width),
            spatial_scale,
            sampling_ratio,
            aligned,
        )
    )


def _roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient to ``grad_input`` (B, C, H, W), in place."""
    _require_average(pool_mode)
    grad_input.add_(
        torch.ops.torchvision._roi_align_backward(
            grad_output,
            rois.to(grad_output.dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def _missing(name: str) -> Callable[..., Any]:

    def op(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f'mmcv op "{name}" is not available: mmcv was installed without '
            'compiled ops and the torchvision fallback has only nms and '
            'roi_align; build mmcv with MMCV_WITH_OPS=1 to use it.'
        )

    op.__name__ = name
    return op


class TorchvisionExt(ModuleType):
    """Stand-in for ``mmcv._ext``: every op exists, two of them work."""

    def __init__(self) -> None:
        super().__init__(_EXT)
        logging.getLogger('mmengine').info(
            'mmcv has no compiled ops: using torchvision for nms and '
            'roi_align.'
        )

    nms = staticmethod(_nms)
    roi_align_forward = staticmethod(_roi_align_forward)
    roi_align_backward = staticmethod(_roi_align_backward)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith('__'):
            raise AttributeError(name)
        return _missing(name)


@contextmanager
def without_lines(*lines: str) -> Iterator[None]:
    """Let what is printed inside appear at the end, but for lines."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        sys.stdout.writelines(
            text
            for text in printed.getvalue().splitlines(keepends=True)
            if text.rstrip('\r\n') not in lines
        )


def leave_out_multimodal() -> bool:
    """Keep mmpretrain importable beside transformers 5; is it needed?

    MMDetection imports mmpretrain where it is installed. The multimodal models
    of mmpretrain 1.3 need names that transformers 5 no longer has, and the
    whole import fails with a TypeError; without transformers they are left
    out, as they are here, once the module that says so is imported.
    """
    try:
        version = metadata.version('transformers')
    except metadata.PackageNotFoundError:
        return False
    if int(version.split('.')[0]) < 5:
        return False
    sys.modules['mmpretrain.utils.dependency'].WITH_MULTIMODAL = False
    return True
