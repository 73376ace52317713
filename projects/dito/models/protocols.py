# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What towers and ensembles of other makes must offer.

The classes below describe; nobody need inherit from them. Models compare
their parts with them when they are built, by :func:`require`.
docs/extending.md shows a small part of each kind.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class ImageTower(Protocol):
    """A backbone of any stage.

    Images and regions are embedded by the mean of the last map, as in the
    paper. A tower that embeds them in another way is an
    :class:`EmbeddingTower`.
    """

    def forward(self, img: Tensor) -> Sequence[Tensor]:
        """Map images (B, 3, H, W); the last map is (B, C, h, w)."""


class EmbeddingTower(ImageTower, Protocol):
    """An image tower with a pooling or a projection of its own.

    Attributes:
        out_dims (int): Channels D of its embeddings.
    """

    out_dims: int

    def embed(self, img: Tensor) -> Tensor:
        """Embed images (B, 3, H, W), (B, D), not normalised."""

    def embed_regions(self, crops: Tensor) -> Tensor:
        """Embed RoI features (N, C, s, s) of the last map, (N, D)."""


class PositionedTower(ImageTower, Protocol):
    """An image tower whose position embedding can be cropped.

    Its ``forward``, and ``embed`` if it has one, take the embedding of a
    call, (B, h, w, C), as a second argument.

    Attributes:
        patch_size (int): Pixels a cell of the map.
        pos_embed (Tensor): Position embedding, (1, h * w, C).
        pos_size (tuple[int, int]): Its rows h and columns w.
    """

    patch_size: int
    pos_embed: Tensor
    pos_size: tuple[int, int]


class VocabularySource(Protocol):
    """Whatever embeds class names: all that detection asks of a text tower."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as unit vectors, float32 (N, D), without gradient."""

    def fingerprint(self) -> str:
        """Name what decides the embeddings; equal ones are comparable."""


class TextTower(VocabularySource, Protocol):
    """A text tower of stages 1 and 2.

    :class:`BaseTextEncoder` makes ``encode`` and ``fingerprint`` of the rest.

    Attributes:
        embed_dims (int): Channels D of an embedding.
    """

    embed_dims: int

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Turn N texts into tokens, int64 (N, L) on the CPU."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens, (N, D), not normalised."""


class Ensemble(Protocol):
    """What makes the final scores; it may have further members.

    ``vlm_background`` (bool) asks for the background among the VLM's logits,
    ``chunked`` serves very large vocabularies and ``facts`` names options for
    the protocol of an evaluation; see :class:`GeometricEnsemble`.
    """

    def __call__(
        self,
        det_logits: Tensor,
        vlm_logits: Tensor | None,
        novel: Tensor,
        objectness: Tensor | None,
    ) -> Tensor:
        """Score N regions for K classes.

        Args:
            det_logits (Tensor): Of the box head, (N, K + 1), background last.
            vlm_logits (Tensor, optional): Of the VLM, (N, K); None without.
            novel (Tensor): Which classes are novel, bool (K, ).
            objectness (Tensor, optional): Of the proposals, (N, ).

        Returns:
            Tensor: float32 (N, K + 1), background last.
        """


def members(contract: type) -> tuple[str, ...]:
    """Names that a contract asks for, those of its bases first."""
    names = [
        name
        for base in reversed(contract.__mro__[:-1])
        if base.__module__ == __name__
        for name in (*vars(base).get('__annotations__', ()), *vars(base))
        if not name.startswith('_') or name == '__call__'
    ]
    return tuple(dict.fromkeys(names))


def lacking(part: Any, contract: type) -> tuple[str, ...]:
    """Names that a contract asks for and a part does not have."""
    # Every nn.Module has a forward; one that is not written only raises.
    unwritten = getattr(type(part), 'forward', None) is nn.Module.forward
    return tuple(
        name
        for name in members(contract)
        if not hasattr(part, name) or name == 'forward' and unwritten
    )


def require(part: Any, contract: type, user: str) -> None:
    """Refuse a part that lacks members of its contract.

    Args:
        part (object): What was built.
        contract (type): One of the protocols above.
        user (str): Its role, for the message.

    Raises:
        TypeError: If a member is missing, or a tower is no nn.Module.
    """
    if 'forward' in members(contract) and not isinstance(part, nn.Module):
        raise TypeError(
            f'{type(part).__name__} cannot be the {user}: it is '
            'no torch.nn.Module.'
        )
    missing = lacking(part, contract)
    if missing:
        raise TypeError(
            f'{type(part).__name__} cannot be the {user}: it lacks '
            f'{" and ".join(missing)} of {contract.__name__}, see '
            'docs/extending.md.'
        )


def require_image_tower(tower: Any, user: str) -> None:
    """Refuse what cannot be a backbone.

    A tower that embeds images but not regions, or the other way round, would
    give embeddings that cannot be compared.

    Raises:
        TypeError: If a member of :class:`ImageTower` is missing, or some of
            those of :class:`EmbeddingTower`.
    """
    require(tower, ImageTower, user)
    if len(lacking(tower, EmbeddingTower)) < (
        len(members(EmbeddingTower)) - len(members(ImageTower))
    ):
        require(tower, EmbeddingTower, user)


def maps_of(tower: nn.Module, img: Tensor, *args: Any) -> Sequence[Tensor]:
    """Run an image tower and check that maps come out.

    Args:
        tower (nn.Module): An :class:`ImageTower`.
        img (Tensor): Images (B, 3, H, W).
        *args: Further arguments of the tower.

    Returns:
        Sequence[Tensor]: Its maps, the last of which is (B, C, h, w).

    Raises:
        TypeError: If something else comes out.
    """
    maps = tower(img, *args)
    if isinstance(maps, Tensor) or not maps or maps[-1].ndim != 4:
        got = (
            [tuple(x.shape) for x in maps]
            if not isinstance(maps, Tensor)
            else tuple(maps.shape)
        )
        raise TypeError(
            f'{type(tower).__name__} must return a tuple of maps, the last '
            f'of shape (B, C, h, w), got {got}: return (map, ).'
        )
    return maps


def embed_cells(tower: nn.Module, feat: Tensor) -> Tensor:
    """Embed every place of a map as a region of its own.

    Args:
        tower (nn.Module): An :class:`ImageTower`.
        feat (Tensor): Its last map, (B, C, h, w).

    Returns:
        Tensor: float32, (B, D, h, w).
    """
    if lacking(tower, EmbeddingTower):
        return feat.float()
    cells = feat.permute(0, 2, 3, 1)
    embeds = tower.embed_regions(cells.flatten(0, 2)[:, :, None, None])
    return embeds.view(*cells.shape[:3], -1).permute(0, 3, 1, 2)
