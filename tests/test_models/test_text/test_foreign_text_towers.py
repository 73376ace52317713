# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Text towers of public models that are not CLIP's."""

import json

import pytest
import torch
from open_clip import tokenizer as open_clip_tokenizer
from open_clip.model import _build_text_tower

from dito.models.text import DITOTextEncoder, text_encoder
from dito.models.text.text_tower import resolve_text_arch

SIGLIP = dict(
    width=32,
    layers=2,
    heads=4,
    causal=False,
    pool='last',
    proj_bias=True,
    norm_eps=1e-6,
    vocab_size=50,
)
CONFIG = dict(width=32, layers=2, heads=4, context_length=9, vocab_size=50)


def encoder(arch=None, **kwargs) -> DITOTextEncoder:
    return DITOTextEncoder(
        arch or SIGLIP, embed_dims=24, context_length=9, **kwargs
    ).eval()


@pytest.mark.parametrize(
    'options, arch',
    [
        (
            dict(
                no_causal_mask=True,
                pool_type='last',
                proj_bias=True,
                norm_kwargs=dict(eps=1e-6),
            ),
            dict(),
        ),
        (
            dict(
                no_causal_mask=True,
                pool_type='last',
                proj_bias=True,
                norm_kwargs=dict(eps=1e-6),
                act_kwargs=dict(approximate='tanh'),
            ),
            dict(act='gelu_tanh'),
        ),
        (
            dict(no_causal_mask=True, pool_type='last'),
            dict(proj_bias=False, norm_eps=1e-5),
        ),
        (
            dict(pool_type='eos', eos_id=7),
            dict(
                causal=True,
                pool='eos',
                eos_id=7,
                proj_bias=False,
                norm_eps=1e-5,
            ),
        ),
    ],
)
def test_features_equal_open_clip(options, arch) -> None:
    want = _build_text_tower(24, dict(CONFIG, **options)).eval()
    got = encoder({**SIGLIP, **arch})
    got.tower.load_state_dict(want.state_dict())
    tokens = torch.randint(8, 50, (4, 9))
    tokens[torch.arange(4), torch.tensor([3, 5, 8, 2])] = 7
    torch.testing.assert_close(got(tokens), want(tokens), atol=1e-5, rtol=1e-5)


def test_named_arch_of_siglip_is_open_clips() -> None:
    assert resolve_text_arch('ViT-B-16-SigLIP') == dict(
        width=768,
        layers=12,
        heads=12,
        mlp_ratio=4.0,
        act='gelu',
        causal=False,
        pool='last',
        proj_bias=True,
        norm_eps=1e-6,
        vocab_size=32000,
    )
    assert resolve_text_arch('ViT-B-16-SigLIP2')['act'] == 'gelu_tanh'
    # Nothing is added to the arch of a plain tower: fingerprints stay.
    assert set(resolve_text_arch('ViT-B-16')) == {
        'width',
        'layers',
        'heads',
        'mlp_ratio',
        'act',
    }


def test_all_parameters_have_a_gradient() -> None:
    tower = encoder()
    tower(torch.randint(0, 50, (2, 9))).sum().backward()
    assert all(p.grad is not None for p in tower.parameters())


def test_texts_need_the_towers_own_tokenizer(tmp_path) -> None:
    with pytest.raises(ValueError, match='has 50 pieces.*set tokenizer='):
        encoder().tokenize(['cat'])
    missing = encoder(tokenizer=dict(path=tmp_path / 'none'))
    with pytest.raises(FileNotFoundError, match='tokenizer folder .*none'):
        missing.tokenize(['cat'])


def test_tokenizer_is_open_clips_wrapper(tmp_path, monkeypatch) -> None:
    made = []

    class Wrapper:
        def __init__(self, path, **kwargs):
            made.append((path, kwargs))

        def __call__(self, texts):
            return torch.tensor([[len(t)] * 9 for t in texts])

    monkeypatch.setattr(open_clip_tokenizer, 'HFTokenizer', Wrapper)
    tower = encoder(tokenizer=dict(path=tmp_path, clean='canonicalize'))
    assert made == []  # not before the first text
    assert tower.tokenize(['cat', 'horse'])[:, 0].tolist() == [3, 5]
    assert tower.encode(['cat']).shape == (1, 24)
    assert tower.unknown_pieces(['cat']) == []
    assert tower.tokenize([]).shape == (0, 9)
    assert made == [
        (
            str(tmp_path),
            dict(
                context_length=9,
                local_files_only=True,
                clean='canonicalize',
                strip_sep_token=False,
            ),
        )
    ]


def test_weights_say_how_texts_are_cleaned(tmp_path, monkeypatch) -> None:
    """Not the config: of a state dict, also one tower's to the next."""

    class Wrapper:
        def __init__(self, path, clean, strip_sep_token, **kwargs):
            self.fill = 10 * strip_sep_token
            self.clean = open_clip_tokenizer.get_clean_fn(clean)

        def __call__(self, texts):
            return torch.tensor(
                [[len(self.clean(t)) + self.fill] * 9 for t in texts]
            )

    monkeypatch.setattr(open_clip_tokenizer, 'HFTokenizer', Wrapper)
    plain = encoder(tokenizer=dict(path=tmp_path))
    siglip = encoder(tokenizer=dict(path=tmp_path, clean='canonicalize'))
    assert plain.tokenize(['A cat.'])[0, 0] == 6
    assert plain.fingerprint() != siglip.fingerprint()
    plain.load_state_dict(siglip.state_dict())
    assert plain.fingerprint() == siglip.fingerprint()
    assert plain.tokenize(['A cat.'])[0, 0] == 5
    assert plain.unknown_pieces(['A cat.']) == []
    third = encoder(tokenizer=dict(path=tmp_path))
    third.load_state_dict(plain.state_dict())
    assert third.tokenize(['A cat.'])[0, 0] == 5
    clipa = dict(siglip.state_dict(), text_cleaning=torch.tensor([0, 1]))
    third.load_state_dict(clipa)
    assert third.tokenize(['A cat.'])[0, 0] == 16
    with pytest.raises(ValueError, match='leave clean and strip_sep_token'):
        siglip.load_state_dict(clipa)
    third.load_state_dict(dict(clipa, text_cleaning=torch.tensor([9, 0])))
    with pytest.raises(ValueError, match=r'text_cleaning=\[9, 0\]'):
        third.tokenize(['A cat.'])
    # A tower whose class embeddings come from a file has no use for it.
    encoder().load_state_dict(siglip.state_dict())


def test_weights_that_do_not_say_it_are_named(tmp_path, monkeypatch) -> None:
    said = []
    monkeypatch.setattr(
        text_encoder, 'print_log', lambda text, **_: said.append(text)
    )
    old = encoder().state_dict()
    siglip = encoder(tokenizer=dict(path=tmp_path, clean='canonicalize'))
    siglip.load_state_dict(old)
    assert said == [] and siglip.text_cleaning.tolist() == [2, 0]
    encoder(tokenizer=dict(path=tmp_path)).load_state_dict(old)
    assert len(said) == 1 and 'convert the tower again' in said[0]


def test_missing_library_is_named(tmp_path, monkeypatch) -> None:

    def fail(*args, **kwargs):
        raise ImportError("No module named 'transformers'")

    monkeypatch.setattr(open_clip_tokenizer, 'HFTokenizer', fail)
    with pytest.raises(ValueError, match='pip install "transformers<5"'):
        encoder(tokenizer=dict(path=tmp_path)).tokenize(['cat'])


@pytest.mark.parametrize(
    'name, content, message',
    [
        (
            'tokenizer_config.json',
            dict(auto_map=dict(AutoTokenizer=['a.B', None])),
            r"auto_map=\{'AutoTokenizer': \['a.B'.*not run",
        ),
        ('config.json', dict(auto_map=dict(AutoConfig='a.B')), 'not run'),
        ('config.json', '[' * 100_000, 'config.json is not json'),
        (
            'tokenizer_config.json',
            dict(a=1),
            r'cannot be read \(damaged file\)',
        ),
    ],
)
def test_a_tokenizers_folder_is_data(
    tmp_path, monkeypatch, name, content, message
) -> None:

    def fail(*args, **kwargs):
        raise RuntimeError('damaged\nfile')

    monkeypatch.setattr(open_clip_tokenizer, 'HFTokenizer', fail)
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        encoder(tokenizer=dict(path=tmp_path)).tokenize(['cat'])


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(tokenizer=dict(clean='lower')), 'needs path'),
        (dict(tokenizer=dict(path='x', mode=1)), "got \\['mode', 'path'\\]"),
        (dict(tokenizer=dict(path='x', clean='all')), "one of .*got 'all'"),
        (dict(token_ids=[5]), 'leave token_ids out'),
    ],
)
def test_bad_options_are_refused(kwargs, message) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(**kwargs)


def test_a_real_tokenizer_folder(tmp_path) -> None:
    """With the library installed: words to ids, end of text, padding."""
    pytest.importorskip('transformers')
    tokenizers = pytest.importorskip('tokenizers')
    words = {'<pad>': 0, '</s>': 1, 'a': 2, 'red': 3, 'cat': 4, '<unk>': 5}
    model = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(words, unk_token='<unk>')
    )
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.post_processor = tokenizers.processors.TemplateProcessing(
        single='$A </s>', special_tokens=[('</s>', 1)]
    )
    model.save(str(tmp_path / 'tokenizer.json'))
    (tmp_path / 'tokenizer_config.json').write_text(
        json.dumps(
            dict(
                tokenizer_class='PreTrainedTokenizerFast',
                pad_token='</s>',
                eos_token='</s>',
                unk_token='<unk>',
            )
        )
    )
    tower = encoder(tokenizer=dict(path=tmp_path, clean='canonicalize'))
    assert tower.tokenize(['A red, cat!', 'a dog']).tolist() == [
        [2, 3, 4, 1, 1, 1, 1, 1, 1],
        [2, 5, 1, 1, 1, 1, 1, 1, 1],
    ]
