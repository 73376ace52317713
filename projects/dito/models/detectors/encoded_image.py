# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What a detector knows of an image before it has names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ..roi_heads.dito_roi_head import Regions


class Maps(NamedTuple):
    """Maps of B images.

    ``feats`` are the backbone's, (B, D, h, w) each; ``vlm_feat`` is what the
    VLM score is taken from: the last of these, or that of a frozen backbone.
    The ``pyramid``, P2 to P5, (B, C, h, w) each, is empty where it is still to
    be made.
    """

    feats: tuple[Tensor, ...]
    vlm_feat: Tensor
    pyramid: tuple[Tensor, ...] = ()

    def of(self, index: int) -> 'Maps':
        """Those of one image, whose batch is of size 1."""
        part = slice(index, index + 1)
        own = self.vlm_feat is self.feats[-1]
        feats = tuple(m[part] for m in self.feats)
        return Maps(
            feats,
            feats[-1] if own else self.vlm_feat[part],
            tuple(m[part] for m in self.pyramid),
        )


@dataclass
class EncodedImage:
    """An image that can be asked for any names.

    ``metainfo`` has image sizes, scale factor, and the form of masks; ``maps``
    are what masks and given boxes need, of a batch of 1, or None.
    """

    regions: Regions
    metainfo: dict[str, Any]
    maps: Maps | None

    def require_maps(self) -> Maps:
        """The maps; ValueError if they were left out."""
        if self.maps is None:
            raise ValueError(
                'This scene was encoded without maps, which masks and boxes '
                'of its picture need; encode the picture with maps=True.'
            )
        return self.maps

    def pyramid_by(
        self, neck: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    ) -> tuple[Tensor, ...]:
        """The pyramid, (1, C, h, w) each, made once by the neck if need be."""
        maps = self.require_maps()
        if not maps.pyramid:
            maps = maps._replace(pyramid=tuple(neck(maps.feats)))
            self.maps = maps
        return maps.pyramid
