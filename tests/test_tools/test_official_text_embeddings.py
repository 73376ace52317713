# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Embeddings of new names by the release's text model, here a stand-in."""

import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from dito.cli.foreign_weights import build
from dito.cli.foreign_weights import official_text_embeddings as main
from dito.converters.official.vocabulary import (
    FINGERPRINT,
    embed_names,
    pad_pieces,
)
from dito.models import Vocabulary
from dito.models.text.name_checks import TEMPLATE_SETS


def encode(text):
    seed = zlib.crc32(text.encode())
    return np.random.default_rng(seed).normal(size=6).astype('f4') + 1


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_names_are_means_over_80_prompts():
    assert len(TEMPLATE_SETS['openai']) == 80
    got = embed_names(['tea cup'], encode, TEMPLATE_SETS['openai'])
    expected = (
        sum(encode(t.format('tea cup')) for t in TEMPLATE_SETS['openai']) / 80
    )
    np.testing.assert_allclose(got[0], expected, rtol=1e-5)
    # Not scaled to unit length, neither prompts nor mean.
    assert abs(np.linalg.norm(got) - 1) > 0.1


def test_pieces_are_padded_or_cut_to_64():
    assert pad_pieces([1, 5]) == [1, 5] + [0] * 62
    assert pad_pieces(range(100)) == list(range(64))


@pytest.mark.parametrize('pad_to', [None, 3, 6])
def test_rows_of_the_vocabulary(pad_to):
    extra = np.float32([[1] * 6, [2, 1, 1, 1, 1, 1]])
    got = build(['tea_cup', 'cat'], encode, extra, ['cat'], pad_to)
    count = 0 if pad_to is None else pad_to - 3
    assert got.names == ('tea_cup', 'cat') + tuple(
        f'empty {i}' for i in range(1, count + 1)
    )
    assert got.novel.tolist() == [False, True] + [False] * count
    assert got.fingerprint == FINGERPRINT
    want = embed_names(['tea cup', 'cat'], encode, TEMPLATE_SETS['openai'])
    np.testing.assert_allclose(got.embeddings[:2], unit(want), atol=1e-6)
    np.testing.assert_allclose(got.background, unit(extra[0]), atol=1e-6)
    for row in got.embeddings[2:]:
        np.testing.assert_allclose(row, unit(extra[1]), atol=1e-6)


class Cutter:
    """Stands for SentencePiece: a piece for every word."""

    def __init__(self, model_file):
        assert model_file.endswith('tokenizer.model')

    def encode(self, text, add_bos, add_eos):
        assert add_bos and not add_eos and text == text.lower()
        return [1] + [2 + zlib.crc32(w.encode()) % 999 for w in text.split()]


@pytest.fixture
def files(tmp_path, monkeypatch):
    def text_model(inputs):
        ids = inputs['text']
        assert ids.shape == (1, 64)
        return [encode(str(ids[0].tolist()))]

    tf = SimpleNamespace(
        int32='int32',
        constant=lambda x, dtype: np.asarray(x, dtype),
        saved_model=SimpleNamespace(load=lambda path: text_model),
    )
    monkeypatch.setitem(sys.modules, 'tensorflow', tf)
    monkeypatch.setitem(
        sys.modules,
        'sentencepiece',
        SimpleNamespace(SentencePieceProcessor=Cutter),
    )
    (tmp_path / 'text_model').mkdir()
    (tmp_path / 'text_model' / 'saved_model.pb').touch()
    (tmp_path / 'tokenizer.model').touch()
    np.save(tmp_path / 'bg.npy', np.eye(2, 6, dtype='f4'))
    return dict(
        out=tmp_path / 'v.safetensors',
        args=[
            str(tmp_path / 'text_model'),
            '--tokenizer',
            str(tmp_path / 'tokenizer.model'),
            '--background-embeddings',
            str(tmp_path / 'bg.npy'),
            '--out',
            str(tmp_path / 'v.safetensors'),
            '--names',
            'Tea cup, cat',
        ],
    )


def test_tool(files):
    assert main(files['args']) == 0
    got = Vocabulary.load(files['out'])
    assert got.names == ('Tea cup', 'cat') and got.novel.all()
    cutter = Cutter('tokenizer.model')
    prompts = [
        pad_pieces(cutter.encode(t.format('tea cup').lower(), True, False))
        for t in TEMPLATE_SETS['openai']
    ]
    want = np.mean([encode(str(p)) for p in prompts], axis=0)
    np.testing.assert_allclose(got.embeddings[0], unit(want), atol=1e-6)


@pytest.mark.parametrize('package', ['tensorflow', 'sentencepiece'])
def test_missing_packages_are_named(files, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(files['args']) == 2
    assert f'pip install {package}' in capsys.readouterr().err
    assert not files['out'].exists()


@pytest.mark.parametrize(
    'more, message',
    [
        (['--pad-to', '2'], 'less than the 2 names'),
        (['--novel', 'dog'], 'dog'),
        (['--background-embeddings', '/no/bg.npy'], 'no such file'),
        (['--tokenizer', '/no/t.model'], 'does not exist'),
    ],
)
def test_mistakes_are_one_sentence(files, capsys, more, message):
    assert main([*files['args'], *more]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and message in error
    assert not files['out'].exists()
