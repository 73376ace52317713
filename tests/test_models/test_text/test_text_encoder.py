# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Text tower: parity with open_clip, compact tables, fingerprint."""

import copy

import open_clip
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict

from dito.models.text import (
    DITOTextEncoder,
    Vocabulary,
    text_encoder,
    tokenizers,
)
from dito.models.text.text_tower import resolve_text_arch

ARCH = dict(width=32, layers=2, heads=4)
TEXTS = ['a photo of a cat.', 'Hello!! world ' * 60, '', 'two dogs, one red']


def _encoder(**kwargs) -> DITOTextEncoder:
    return DITOTextEncoder(ARCH, embed_dims=24, **kwargs)


@pytest.fixture(scope='module')
def whole() -> DITOTextEncoder:
    torch.manual_seed(0)
    return _encoder().eval()


def test_tokens_equal_open_clip(whole) -> None:
    want = open_clip.SimpleTokenizer()(TEXTS)
    assert whole.tokenize(TEXTS).equal(want)
    assert whole.tokenize(TEXTS).equal(want)  # from the cache


def test_forward_equals_open_clip_at_full_length(whole) -> None:
    tokens = whole.tokenize(TEXTS)
    torch.testing.assert_close(
        whole(tokens), whole.tower(tokens), atol=1e-5, rtol=1e-5
    )
    short = whole.tokenize(['a cat'])
    torch.testing.assert_close(
        whole(short), whole.tower(short), atol=1e-5, rtol=1e-5
    )


def test_gradients_equal_those_at_full_length() -> None:
    encoder = _encoder()
    tokens = encoder.tokenize(TEXTS[:1])
    grads = []
    for forward in (encoder, encoder.tower):
        loss = forward(tokens).square().sum()
        grads.append(torch.autograd.grad(loss, encoder.parameters()))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_long_text_is_cut_and_keeps_its_end() -> None:
    encoder = _encoder(context_length=6)
    tokens = encoder.tokenize(['one two three four five six seven', 'one'])
    assert tokens.shape == (2, 6)
    assert tokens[0, -1] == tokens[1, 2] == tokens.max()


def test_encode_is_normalised_and_independent_of_batches(whole) -> None:
    vectors = whole.encode(TEXTS, batch_size=2)
    assert vectors.dtype == torch.float32 and not vectors.requires_grad
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    one_by_one = torch.cat([whole.encode([t]) for t in TEXTS])
    torch.testing.assert_close(vectors, one_by_one, atol=1e-6, rtol=1e-5)
    assert whole.encode([]).shape == (0, 24)


def test_encode_restores_the_mode() -> None:
    encoder = _encoder().train()
    encoder.encode(['a'])
    assert encoder.training


def test_encode_is_float32_under_autocast(whole) -> None:
    want = whole.encode(TEXTS)
    with torch.autocast('cpu', torch.bfloat16):
        assert whole.encode(TEXTS).equal(want)


def test_one_text_instead_of_a_list_is_refused(whole) -> None:
    with pytest.raises(TypeError, match='takes a list'):
        whole.tokenize('cat')


def test_frozen_tower_stays_in_eval_without_gradients() -> None:
    encoder = _encoder(freeze=True).train()
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_checkpointed_activations_give_the_same_gradients() -> None:
    encoder = _encoder(with_cp=True).train()
    tokens = encoder.tokenize(TEXTS)
    got = torch.autograd.grad(encoder(tokens).sum(), encoder.parameters())
    encoder.tower.set_grad_checkpointing(False)
    want = torch.autograd.grad(encoder(tokens).sum(), encoder.parameters())
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


# ------------------------------------------------------- compact tables


def test_compact_table_gives_the_same_embeddings(whole) -> None:
    ids = DITOTextEncoder.collect_token_ids(TEXTS)
    compact = _encoder(token_ids=ids).eval()
    compact.load_state_dict(whole.state_dict())
    assert len(compact.tower.token_embedding.weight) == len(ids) < 40
    torch.testing.assert_close(compact.encode(TEXTS), whole.encode(TEXTS))


def test_number_of_rows_is_filled_by_a_checkpoint(whole) -> None:
    ids = DITOTextEncoder.collect_token_ids(TEXTS)
    compact = _encoder(token_ids=ids)
    compact.load_state_dict(whole.state_dict())
    empty = _encoder(token_ids=len(ids))
    with pytest.raises(ValueError, match='no checkpoint was loaded'):
        empty.tokenize(['cat'])
    load_state_dict(empty, compact.state_dict())  # mmengine's own loading
    assert empty.fingerprint() == compact.fingerprint()
    torch.testing.assert_close(empty.encode(TEXTS), whole.encode(TEXTS))


def test_subset_of_a_compact_checkpoint_is_picked(whole) -> None:
    large = _encoder(token_ids=DITOTextEncoder.collect_token_ids(TEXTS))
    large.load_state_dict(whole.state_dict())
    small = _encoder(token_ids=DITOTextEncoder.collect_token_ids(TEXTS[:1]))
    small.load_state_dict(large.state_dict())
    torch.testing.assert_close(
        small.encode(TEXTS[:1]), whole.encode(TEXTS[:1])
    )


def test_loading_forgets_cached_tokens(whole) -> None:
    encoder = _encoder(token_ids=DITOTextEncoder.collect_token_ids(['cat']))
    other = _encoder(token_ids=DITOTextEncoder.collect_token_ids(['dog']))
    encoder.tokenize(['cat'])
    encoder.load_state_dict(whole.state_dict())
    encoder.token_ids.copy_(other.token_ids)
    assert encoder.unknown_pieces(['dog']) == []
    assert encoder.tokenize(['dog']).equal(other.tokenize(['dog']))


@pytest.mark.parametrize(
    'model_ids, message',
    [
        (None, 'set token_ids=4 in the config'),
        (7, 'set token_ids=4'),
        (['dog', 'bird'], 'no embedding for 2 of the 5 token_ids'),
    ],
)
def test_other_table_is_refused(model_ids, message) -> None:
    source = _encoder(token_ids=DITOTextEncoder.collect_token_ids(['cat']))
    if isinstance(model_ids, list):
        model_ids = DITOTextEncoder.collect_token_ids(model_ids)
    with pytest.raises(ValueError, match=message):
        _encoder(token_ids=model_ids).load_state_dict(source.state_dict())


def test_unknown_pieces_are_read_as_padding_with_one_warning(
    monkeypatch,
) -> None:
    said = []
    monkeypatch.setattr(
        tokenizers, 'print_log', lambda text, **kwargs: said.append(text)
    )
    encoder = _encoder(token_ids=DITOTextEncoder.collect_token_ids(['a cat']))
    assert encoder.unknown_pieces(['a zebra', 'cat']) == ['zebra']
    assert encoder.tokenize(['zebra', 'cow'])[:, 1].tolist() == [0, 0]
    assert len(said) == 1 and "['zebra']" in said[0]


def test_all_unread_names_are_said_in_one_sentence(monkeypatch) -> None:
    said = []
    monkeypatch.setattr(
        text_encoder, 'print_log', lambda text, **kwargs: said.append(text)
    )
    encoder = _encoder(
        token_ids=DITOTextEncoder.collect_token_ids(['a red cat'])
    )
    names = ['cat', *(f'red zebra {i}' for i in range(7)), 'red_cow']
    Vocabulary.from_names(names, encoder, 'none', background='a')
    assert len(said) == 1 and '8 of 9 names' in said[0]
    assert all(repr(f'red zebra {i}') in said[0] for i in range(7))
    assert "'red cow'" in said[0] and "'cat'" not in said[0]


def test_copy_is_independent(whole) -> None:
    twin = copy.deepcopy(whole)
    with torch.no_grad():
        twin.tower.text_projection.add_(1.0)
    assert twin.fingerprint() != whole.fingerprint()


# --------------------------------------------------------- fingerprint


def test_fingerprint_follows_weights_and_context(whole) -> None:
    twin = copy.deepcopy(whole)
    assert twin.fingerprint() == whole.fingerprint()
    assert len(twin.fingerprint()) == 64
    twin.tower.ln_final.bias.data[0] += 1e-3
    assert twin.fingerprint() != whole.fingerprint()
    state = dict(whole.state_dict())
    state['tower.positional_embedding'] = torch.zeros(8, 32)
    shorter = _encoder(context_length=8)
    shorter.load_state_dict(state)
    assert shorter.fingerprint() != whole.fingerprint()


# -------------------------------------------------------- architectures


def test_named_arch_is_open_clips() -> None:
    arch = resolve_text_arch('ViT-L-16')
    assert arch == dict(
        width=768, layers=12, heads=12, mlp_ratio=4.0, act='gelu'
    )
    assert resolve_text_arch('ViT-L-14-quickgelu')['act'] == 'quick_gelu'


def test_weights_of_an_open_clip_model_fit() -> None:
    model = open_clip.CLIP(
        embed_dim=24,
        vision_cfg=dict(layers=1, width=64, patch_size=16, image_size=32),
        text_cfg=dict(width=32, layers=2, heads=4),
    ).eval()
    encoder = _encoder().eval()
    missing, _ = encoder.tower.load_state_dict(
        model.state_dict(), strict=False
    )
    assert missing == []
    want = model.encode_text(encoder.tokenize(TEXTS), normalize=True)
    torch.testing.assert_close(
        encoder.encode(TEXTS), want, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    'arch, message',
    [
        ('ViT-X-99', 'open_clip has no model'),
        ('roberta-ViT-B-32', 'is not a plain transformer'),
        ('coca_ViT-B-32', 'is not a plain transformer'),
        (dict(width=32, layers=2), 'has the keys'),
        (dict(width=32, layers=2, heads=5), 'not divisible'),
        (dict(width=32, layers=2, heads=4, act='relu'), 'act of a text'),
        (dict(width=32, layers=2, heads=4, pool='max'), 'pool of a text'),
    ],
)
def test_bad_arch_is_refused(arch, message) -> None:
    with pytest.raises(ValueError, match=message):
        DITOTextEncoder(arch, embed_dims=24)


def test_short_context_is_refused() -> None:
    with pytest.raises(ValueError, match='at least 3'):
        _encoder(context_length=2)


def test_builds_from_registry() -> None:
    encoder = MODELS.build(
        dict(type='DITOTextEncoder', arch=ARCH, embed_dims=8, token_ids=[5])
    )
    assert encoder.tower.token_embedding.weight.shape == (4, 32)
