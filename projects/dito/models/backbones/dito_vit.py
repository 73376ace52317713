# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Vision transformer with windows and shifted-window learning."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..utils import is_symbolic, known_size
from .embed_head import EmbedHead
from .padded_windows import PaddedLayout
from .vit_layers import (
    ACTIVATIONS,
    Block,
    PatchEmbed,
    VitArch,
    read_arch,
    resize_pos_embed,
)
from .window_ops import Layouts, Pair, WindowLayout, WindowPlan


@MODELS.register_module()
class DITOViT(BaseModule):
    """Plain vision transformer, made for detection by windows and shift.

    The same tower serves pretraining (``window=None``) and detection: windows
    and shift add no parameter. See Sec. 3.3 and Algorithm 1 of the paper.

    **Windows.** Layers outside ``global_layers`` attend within windows.
    Windows that reach over the edge of the map hold the tokens that exist, so
    any image size works; no padded token is ever attended to.

    **Shift.** With ``shift='swl'`` all layers run a second time with windows
    cut from a map rolled by ``shift_size`` along both axes, and both results
    are averaged before the final LayerNorm. ``shift_mask`` keeps wrapped
    tokens from attending to those on the other side of the image; an axis no
    longer than one window is then left alone. Global layers need no mask:
    rolled or not, they see the same set of tokens. ``shift='swin'`` instead
    shifts every other windowed layer of a single pass (table 5a).

    **Class token.** In a windowed layer every window has its own copy, as if
    it were the small image the tower was pretrained on; the copies are
    averaged before the next global layer. Its position embedding is part of
    ``cls_token``.

    **Embeddings.** :meth:`forward` gives the map that detection works on,
    :meth:`embed` the embedding of whole images and :meth:`embed_regions`
    that of parts of the map. By default both are means of the map (paper).
    ``head`` describes public towers that pool in another way or project into
    the space of the texts; see :class:`EmbedHead`.

    Args:
        arch (str | dict): 'tiny', 'small', 'base', 'large' or 'huge', or a
            dict with ``embed_dims``, ``num_layers``, ``num_heads`` and
            ``mlp_ratio`` (4 where absent).
        patch_size (int): Side of a patch in pixels. Defaults to 16.
        img_size (int | tuple[int, int]): Image height and width the learnt
            position embedding is for. Defaults to 224.
        in_channels (int): Channels of the image. Defaults to 3.
        window (dict, optional): ``dict(size=16)`` for windows of 16 x 16
            tokens, or ``dict(grid=4)`` for 4 x 4 windows over any map. None
            for global attention everywhere.
        global_layers (int | str | Sequence[int]): How many layers attend
            globally, evenly spread (6, 12, 18 and 24 of 24 for 4), or 'all',
            or 0-based indices. Defaults to 4.
        shift (str, optional): None, 'swl' or 'swin'.
        shift_size (int, optional): Roll in tokens. None for half a window.
        shift_mask (bool): Whether wrapped tokens are kept apart. Defaults to
            True (paper); the release has no mask.
        pos_embed_after_shift (bool): Whether to do as the release: roll by
            minus ``shift_size`` along the height and plus ``shift_size``
            along the width, and add the un-rolled position embedding after
            the roll. Needs ``shift='swl'``. Defaults to False.
        class_token (bool): Whether the tower has a class token.
        pre_norm (bool): Whether a LayerNorm precedes the first layer.
        act (str): 'gelu', 'gelu_tanh' (release) or 'quick_gelu' (OpenAI).
        norm_eps (float): Epsilon of the LayerNorms. Defaults to 1e-6.
        patch_bias (bool): Whether the patch projection has a bias.
        patch_embed (dict, optional): Config of another patch embedding of
            stride ``patch_size``, such as ``DITOConvStem``.
        layer_scale (float, optional): Start of learnt factors on the
            branches of every layer. None for none.
        head (dict, optional): Arguments of :class:`EmbedHead`: ``pool``,
            ``dense``, ``out_dims``, ... None for the mean of the map.
        with_cp (bool): Whether to recompute each layer in the backward pass
            instead of storing it. Defaults to False.
        frozen_stages (int): -1 freezes nothing, 0 all before the first layer
            (patch and position embedding, class token, pre-norm), k > 0 the
            first k layers too, and the number of layers also what follows.
        swl_batched (bool): Whether both passes run as one batch of twice the
            size (faster), or one after the other (less memory).
        average_after_norm (bool): Whether both passes are averaged after the
            last LayerNorm instead of before it (release). Needs
            ``shift='swl'``. Defaults to False.
        init_cfg (dict, optional): Config of MMEngine's initialisation.

    Raises:
        ValueError: If an argument is not among those listed, or two do not
            fit together.
    """

    def __init__(
        self,
        arch: str | dict,
        patch_size: int = 16,
        *,
        img_size: int | Pair = 224,
        in_channels: int = 3,
        window: dict | None = None,
        global_layers: int | str | Sequence[int] = 4,
        shift: str | None = None,
        shift_size: int | None = None,
        shift_mask: bool = True,
        pos_embed_after_shift: bool = False,
        class_token: bool = False,
        pre_norm: bool = False,
        act: str = 'gelu',
        norm_eps: float = 1e-6,
        patch_bias: bool = True,
        patch_embed: dict | None = None,
        layer_scale: float | None = None,
        head: dict | None = None,
        with_cp: bool = False,
        frozen_stages: int = -1,
        swl_batched: bool = True,
        average_after_norm: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        sizes = read_arch(arch)
        if act not in ACTIVATIONS:
            raise ValueError(
                f'act={act!r} is not known: choose from {list(ACTIVATIONS)}.'
            )
        if pos_embed_after_shift and shift != 'swl':
            raise ValueError(
                f"pos_embed_after_shift needs shift='swl', got {shift!r}."
            )
        if average_after_norm and (shift != 'swl' or (head or {}).get('norm')):
            raise ValueError(
                "average_after_norm needs shift='swl' and a LayerNorm in the "
                f'tower; this one has shift={shift!r} and head={head}.'
            )
        if not -1 <= frozen_stages <= sizes.num_layers:
            raise ValueError(
                f'frozen_stages={frozen_stages} does not fit '
                f'{sizes.num_layers} layers: give -1 to {sizes.num_layers}.'
            )
        self.embed_dims = sizes.embed_dims
        self.num_layers = sizes.num_layers
        self.patch_size = patch_size
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages
        self.swl_batched = swl_batched
        self.average_after_norm = average_after_norm
        self.pos_embed_after_shift = pos_embed_after_shift
        self.plan = WindowPlan(
            sizes.num_layers,
            window,
            global_layers,
            shift,
            shift_size,
            shift_mask,
            release_signs=pos_embed_after_shift,
        )

        if isinstance(img_size, int):
            img_size = (img_size, img_size)
        self.pos_size: Pair = tuple(side // patch_size for side in img_size)
        self.patch_embed = self._build_patch_embed(
            patch_embed, in_channels, patch_bias
        )
        self.pos_embed = nn.Parameter(
            torch.zeros(1, math.prod(self.pos_size), self.embed_dims)
        )
        self.cls_token = None
        if class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))

        def norm(wanted: bool) -> nn.Module:
            return (
                nn.LayerNorm(self.embed_dims, eps=norm_eps)
                if wanted
                else nn.Identity()
            )

        self.norm_pre = norm(pre_norm)
        self.blocks = nn.ModuleList(
            Block(
                self.embed_dims,
                sizes.num_heads,
                sizes.mlp_ratio,
                act,
                norm_eps,
                layer_scale,
            )
            for _ in range(self.num_layers)
        )
        self.head = self._build_head(head or {}, sizes, act, norm_eps)
        self.norm = norm(not self.head.has_norm)
        self._reset_parameters()
        for part in self._frozen_parts():
            part.requires_grad_(False)

    def _build_patch_embed(
        self, cfg: dict | None, in_channels: int, bias: bool
    ) -> nn.Module:
        """Build the patch embedding and check its stride."""
        if cfg is None:
            return PatchEmbed(
                in_channels, self.embed_dims, self.patch_size, bias
            )
        module = MODELS.build(
            dict(in_channels=in_channels, embed_dims=self.embed_dims, **cfg)
        )
        if module.stride != self.patch_size:
            raise ValueError(
                f'patch_embed={cfg} has stride {module.stride}, but '
                f'patch_size is {self.patch_size}: make them equal.'
            )
        return module

    def _build_head(
        self, cfg: dict, sizes: VitArch, act: str, norm_eps: float
    ) -> EmbedHead:
        """Build what follows the last layer; it is like the layers."""
        own = dict(
            embed_dims=sizes.embed_dims,
            num_heads=sizes.num_heads,
            mlp_ratio=sizes.mlp_ratio,
            act=act,
            norm_eps=norm_eps,
        )
        head = EmbedHead(**{**own, **cfg})
        if head.pool == 'token' and self.cls_token is None:
            raise ValueError("head=dict(pool='token') needs class_token=True.")
        return head

    def _reset_parameters(self) -> None:
        """Draw weights: normal(0.02) in layers, 1/sqrt(fan-in) in convs."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_in = module.weight[0].numel()
                conv = isinstance(module, nn.Conv2d)
                std = fan_in**-0.5 if conv else 0.02
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        if self.head.attn_pool is not None:
            nn.init.trunc_normal_(
                self.head.attn_pool.latent, std=self.embed_dims**-0.5
            )

    def _frozen_parts(self) -> list[nn.Module | nn.Parameter]:
        """List what ``frozen_stages`` freezes."""
        if self.frozen_stages < 0:
            return []
        parts = [self.patch_embed, self.norm_pre, self.pos_embed]
        parts += [] if self.cls_token is None else [self.cls_token]
        parts += self.blocks[: self.frozen_stages]
        if self.frozen_stages == self.num_layers:
            parts += [self.norm, self.head]
        return parts

    def train(self, mode: bool = True) -> 'DITOViT':
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen_parts():
            if isinstance(part, nn.Module):
                part.eval()
        return self

    def forward(
        self, img: Tensor, pos_embed: Tensor | None = None
    ) -> tuple[Tensor]:
        """Compute the feature map.

        Args:
            img (Tensor): Images, has shape (B, in_channels, H, W). Sides
                that are no multiple of the patch are padded with zeros.
            pos_embed (Tensor, optional): Takes the place of the resized
                position embedding, has shape (1 or B, h, w, C).

        Returns:
            tuple[Tensor]: One map of shape (B, C, h, w), with h and w the
            sides over ``patch_size``, rounded up; after the last LayerNorm.
        """
        tokens, size = self._forward_tokens(
            img, pos_embed, self.head.dense == 'value'
        )
        return (self._to_map(tokens, size),)

    def embed(self, img: Tensor, pos_embed: Tensor | None = None) -> Tensor:
        """Embed whole images as the tower was pretrained to.

        Args:
            img (Tensor): See :meth:`forward`.
            pos_embed (Tensor, optional): See :meth:`forward`.

        Returns:
            Tensor: float32, has shape (B, D), not normalised.
        """
        tokens, size = self._forward_tokens(img, pos_embed, False)
        if self.head.pool == 'token':
            return self.head.finish(tokens[:, 0])
        return self.head(self._to_map(tokens, size), self.head.pool)

    @property
    def out_dims(self) -> int:
        """Channels D of embeddings of images and regions."""
        return self.head.out_dims

    def embed_regions(self, crops: Tensor) -> Tensor:
        """Embed parts of the map that :meth:`forward` gives.

        Args:
            crops (Tensor): Has shape (N, C, s, s), as RoIAlign cuts them.

        Returns:
            Tensor: float32, has shape (N, D), not normalised.
        """
        return self.head(crops)

    @contextlib.contextmanager
    def global_attention(self) -> Iterator[None]:
        """Let all layers attend to whole images meanwhile, unshifted."""
        plan = self.plan
        self.plan = plan.without_windows()
        try:
            yield
        finally:
            self.plan = plan

    def _forward_tokens(
        self, img: Tensor, pos_embed: Tensor | None, value_only: bool
    ) -> tuple[Tensor, Pair]:
        """Normalised tokens (B, [1 +] h * w, C) of the last layer, (h, w)."""
        # With value_only each token attends to itself alone in that layer.
        patches = self._embed_patches(img)
        # Plain numbers, unless a graph for any size is being exported.
        size: Pair = tuple(map(known_size, patches.shape[1:3]))
        if pos_embed is None:
            grid = self.pos_embed.view(1, *self.pos_size, -1)
            pos_embed = resize_pos_embed(grid, size)
        pos_embed = pos_embed.to(patches.dtype)
        if self.plan.shift == 'swl':
            x = self._forward_swl(patches, pos_embed, size, value_only)
        else:
            x = self._add_pos_embed(patches, pos_embed)
            passes = (False, self.plan.shift == 'swin')
            layouts = self._layouts(x, size, passes)
            x = self.norm(self._run_blocks(x, layouts, 0, value_only))
        return x, size

    def _to_map(self, tokens: Tensor, size: Pair) -> Tensor:
        """Make a map (B, C, h, w) of tokens."""
        if self.cls_token is not None:
            tokens = tokens[:, 1:]
        return tokens.unflatten(1, size).permute(0, 3, 1, 2)

    def _embed_patches(self, img: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to patches (B, h, w, C)."""
        down, right = (-side % self.patch_size for side in img.shape[2:])
        if down or right:
            img = F.pad(img, (0, right, 0, down))
        return self.patch_embed(img).permute(0, 2, 3, 1)

    def _add_pos_embed(self, patches: Tensor, pos_embed: Tensor) -> Tensor:
        """Make tokens (B, [1 +] h * w, C) of patches and positions."""
        x = (patches + pos_embed).flatten(1, 2)
        if self.cls_token is not None:
            cls_token = self.cls_token.to(x.dtype).expand(len(x), -1, -1)
            x = torch.cat([cls_token, x], dim=1)
        return self.norm_pre(x)

    def _forward_swl(
        self, patches: Tensor, pos_embed: Tensor, size: Pair, value_only: bool
    ) -> Tensor:
        """Average a plain and a shifted pass (Algorithm 1), normalised."""
        plain = self._add_pos_embed(patches, pos_embed)
        if self.pos_embed_after_shift:
            start = 0
            down, right = self.plan.spec(size, shifted=True).shift
            # The token that is rolled to a place gets that place's position.
            rolled = torch.roll(pos_embed, (-down, -right), dims=(1, 2))
            shifted = self._add_pos_embed(patches, rolled)
        else:
            # Both passes are the same up to the first window.
            start = self.plan.first_windowed
            plain = self._run_blocks(plain, [None] * start, 0, value_only)
            if start == self.num_layers:
                return self.norm(plain)
            shifted = plain
        passes = ((False, False), (True, True))
        if self.swl_batched:
            both = torch.cat([plain, shifted])
            layouts = self._layouts(both, size, *passes)
            both = self._run_blocks(both, layouts, start, value_only)
            plain, shifted = both.unflatten(0, (2, plain.shape[0]))
        else:
            plain, shifted = (
                self._run_blocks(
                    x, self._layouts(x, size, rolls), start, value_only
                )
                for x, rolls in zip((plain, shifted), passes, strict=True)
            )
        if self.average_after_norm:
            return (self.norm(plain) + self.norm(shifted)) * 0.5
        return self.norm((plain + shifted) * 0.5)

    def _layouts(
        self, x: Tensor, size: Pair, *passes: tuple[bool, bool]
    ) -> Layouts:
        """Lay out tokens (P * B, [1 +] h * w, C) of P passes; see the plan."""
        batch = known_size(x.shape[0]) // len(passes)
        return self.plan.layouts(
            batch,
            size,
            passes,
            self.cls_token is not None,
            x.device,
            PaddedLayout if is_symbolic(batch, *size) else None,
        )

    def _run_blocks(
        self,
        x: Tensor,
        layouts: Layouts,
        start: int = 0,
        value_only: bool = False,
    ) -> Tensor:
        """Run tokens (S, N, C) from layer ``start`` to the end of layouts."""
        shape = x.shape
        whole = ((shape[0], shape[1]),)
        kind: Any = PaddedLayout if is_symbolic(*shape) else WindowLayout
        rows = x.flatten(0, 1)
        current = None
        alone = self.blocks[-1] if value_only else None
        for block, wanted in zip(
            self.blocks[start:], layouts[start:], strict=False
        ):
            groups = whole if wanted is None else wanted.groups
            if wanted is None and current is not None and current.sequential:
                # Attention does not mind the order within a sequence.
                wanted = current
            if wanted is not current:
                # Not as methods: they cannot be compiled of a constant.
                if current is not None:
                    rows = kind.unpack(current, rows)
                if wanted is not None:
                    rows = kind.pack(wanted, rows)
                current = wanted
            groups = None if block is alone else groups
            if self.with_cp and torch.is_grad_enabled():
                rows = checkpoint(block, rows, groups, use_reentrant=False)
            else:
                mask = None
                if wanted is not None and kind is PaddedLayout:
                    mask = wanted.mask
                rows = block(rows, groups, mask)
        if current is not None:
            rows = kind.unpack(current, rows)
        return rows.view(shape)
