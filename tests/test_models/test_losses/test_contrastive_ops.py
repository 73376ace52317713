# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The contrastive algebra against loops and against open_clip."""

import math

import pytest
import torch
from open_clip import ClipLoss
from torch import Tensor
from whole_losses import info_nce

from dito.models.losses import (
    DITOContrastiveLoss,
    DITOFocalContrastiveLoss,
    DITOSigmoidLoss,
)
from dito.models.losses.contrastive_ops import (
    gather_pairs,
    gather_rows,
    info_nce_rows,
    normalize,
    similarity,
)


def _pairs(num: int = 6, width: int = 5, dtype=torch.float64):
    return (
        torch.randn(num, width, dtype=dtype, requires_grad=True),
        torch.randn(num, width, dtype=dtype, requires_grad=True),
        torch.tensor(7.0, dtype=dtype, requires_grad=True),
    )


def _naive(image: Tensor, text: Tensor, scale: float) -> float:
    """Equation 1, one logit at a time."""
    num = len(image)

    def cosine(a: Tensor, b: Tensor) -> float:
        dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(
            sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b)
        )

    logits = [[scale * cosine(i, t) for t in text] for i in image]
    loss = 0.0
    for i in range(num):
        row = sum(math.exp(logits[i][j]) for j in range(num))
        column = sum(math.exp(logits[j][i]) for j in range(num))
        loss -= math.log(math.exp(logits[i][i]) / row) / num
        loss -= math.log(math.exp(logits[i][i]) / column) / num
    return loss / 2


def test_matches_naive_loop() -> None:
    image, text, scale = _pairs()
    loss = info_nce(image, text, scale)
    want = _naive(image.detach(), text.detach(), 7.0)
    assert loss.item() == pytest.approx(want, abs=1e-12)


def test_gradients_are_right() -> None:
    assert torch.autograd.gradcheck(info_nce, _pairs(4, 3))


def test_value_and_gradients_equal_open_clip() -> None:
    image, text, scale = _pairs(dtype=torch.float32)
    loss = DITOContrastiveLoss(loss_weight=2.0)(image, text, scale)
    got = torch.autograd.grad(loss, (image, text, scale))
    reference = 2.0 * ClipLoss()(normalize(image), normalize(text), scale)
    want = torch.autograd.grad(reference, (image, text, scale))
    torch.testing.assert_close(loss, reference)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_rows_in_pieces_sum_to_the_whole() -> None:
    image, text, scale = _pairs(7)
    image_n, text_n = normalize(image), normalize(text)
    pieces = [
        info_nce_rows(
            image_n[s : s + 3], text_n[s : s + 3], image_n, text_n, scale, s
        )
        for s in (0, 3, 6)
    ]
    whole = info_nce(image, text, scale)
    torch.testing.assert_close(sum(pieces) / 7, whole)
    got = torch.autograd.grad(
        sum(pieces) / 7, (image, text, scale), retain_graph=True
    )
    want = torch.autograd.grad(whole, (image, text, scale))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    'loss', [DITOContrastiveLoss, DITOFocalContrastiveLoss, DITOSigmoidLoss]
)
def test_row_chunks_change_nothing(loss) -> None:
    inputs = _pairs(7)
    whole = torch.autograd.grad(loss()(*inputs), inputs)
    for chunk in (1, 3, 7, 20):
        value = loss(row_chunk=chunk)(*inputs)
        torch.testing.assert_close(value, loss()(*inputs))
        for a, b in zip(
            torch.autograd.grad(value, inputs), whole, strict=True
        ):
            torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match='row_chunk'):
        loss(row_chunk=0)


def test_levels_share_their_text() -> None:
    text = torch.randn(4, 5)
    levels = [torch.randn(4, 5) for _ in range(3)]
    gathered = gather_pairs(levels, text)
    assert len({id(pairs.texts) for pairs in gathered}) == 1
    for level, pairs in zip(levels, gathered, strict=True):
        torch.testing.assert_close(
            DITOContrastiveLoss().of_pairs(pairs, torch.tensor(3.0)),
            info_nce(level, text, torch.tensor(3.0)),
        )
    assert gather_pairs(levels, text, False)[0].images is None


def test_cached_columns_get_no_gradient() -> None:
    image, text, scale = _pairs(4)
    image_n, text_n = normalize(image), normalize(text)
    loss = info_nce_rows(
        image_n[:2], text_n[:2], image_n.detach(), text_n.detach(), scale
    )
    loss.backward()
    assert image.grad[:2].abs().sum() > 0
    assert image.grad[2:].abs().sum() == 0


def test_float32_under_autocast() -> None:
    image, text, scale = _pairs(dtype=torch.float32)
    plain = info_nce(image, text, scale)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = info_nce(image, text, scale)
        low = info_nce(image.bfloat16(), text.bfloat16(), scale)
    assert mixed.dtype == low.dtype == torch.float32
    assert mixed.item() == plain.item()
    assert low.item() == pytest.approx(plain.item(), abs=0.1)


def test_large_scale_and_equal_rows_stay_finite() -> None:
    image = torch.ones(3, 4, requires_grad=True)
    loss = info_nce(image, torch.ones(3, 4), torch.tensor(100.0))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3), abs=1e-5)
    assert torch.isfinite(image.grad).all()


def test_zero_embedding_has_cosine_zero() -> None:
    rows = normalize(torch.zeros(1, 4))
    assert similarity(rows, torch.ones(2, 4), torch.tensor(5.0)).eq(0).all()


def test_one_process_gathers_nothing() -> None:
    x = torch.randn(3, 2)
    gathered = gather_rows(x)
    assert gathered.rows is x
    assert (gathered.start, gathered.world_size) == (0, 1)


@pytest.mark.parametrize('shape', [(4, 5), (3, 6), (3,)])
def test_refuses_what_is_no_pair(shape) -> None:
    with pytest.raises(ValueError, match='pairs of one shape'):
        info_nce(torch.randn(3, 5), torch.randn(shape), torch.tensor(1.0))
