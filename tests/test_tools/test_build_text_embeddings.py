# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The tool that writes vocabulary files."""

import json
import re

import pytest
import torch

from dito.cli.build_text_embeddings import main
from dito.models.text import DITOTextEncoder, Vocabulary
from dito.utils.checkpoint import save_safetensors

TOWER = dict(arch=dict(width=16, layers=1, heads=2), embed_dims=8)


@pytest.fixture
def files(tmp_path) -> dict:
    encoder = DITOTextEncoder(**TOWER)
    (tmp_path / 'config.py').write_text(
        f'model = dict(text_encoder=dict(type="DITOTextEncoder", **{TOWER}))'
    )
    state = {f'text_encoder.{k}': v for k, v in encoder.state_dict().items()}
    state['backbone.w'] = torch.ones(1)
    save_safetensors(state, tmp_path / 'x.safetensors')
    (tmp_path / 'lvis.json').write_text(
        json.dumps(
            dict(
                categories=[
                    dict(name='cat', synonyms=['cat', 'kitty'], frequency='f'),
                    dict(name='yak_(animal)', frequency='r'),
                ]
            )
        )
    )
    return dict(
        encoder=encoder,
        folder=tmp_path,
        out=tmp_path / 'v.safetensors',
        base=[
            str(tmp_path / 'config.py'),
            str(tmp_path / 'x.safetensors'),
            '--out',
            str(tmp_path / 'v.safetensors'),
        ],
    )


def test_names_on_the_command_line(files) -> None:
    assert (
        main(
            [
                *files['base'],
                '--names',
                'cat, red dog',
                '--novel',
                'red dog',
                '--templates',
                'a {}.',
                'the {}.',
            ]
        )
        == 0
    )
    got = Vocabulary.load(files['out'])
    want = Vocabulary.from_names(
        ['cat', 'red dog'], files['encoder'], ['a {}.', 'the {}.'], ['red dog']
    )
    torch.testing.assert_close(got.embeddings, want.embeddings)
    assert got.novel.tolist() == [False, True]
    got.check_encoder(files['encoder'].fingerprint())


def test_templates_are_those_of_the_config(files) -> None:
    names = ['--names', 'cat']
    assert main([*files['base'], *names]) == 0
    assert len(Vocabulary.load(files['out']).templates) == 80
    hook = dict(type='DITOVocabularyHook', templates=['a {}!'])
    with open(files['folder'] / 'config.py', 'a') as config:
        config.write(f'\ncustom_hooks = [dict(**{hook})]')
    assert main([*files['base'], *names]) == 0
    assert Vocabulary.load(files['out']).templates == ('a {}!',)


def test_lvis_annotations(files) -> None:
    path = str(files['folder'] / 'lvis.json')
    assert (
        main(
            [
                *files['base'],
                '--names',
                path,
                '--rare-is-novel',
                '--synonyms',
                '--templates',
                'simple',
            ]
        )
        == 0
    )
    got = Vocabulary.load(files['out'])
    assert got.names == ('cat', 'yak_(animal)')
    assert got.synonyms == (('kitty',), ())
    assert got.novel.tolist() == [False, True]
    assert len(got.templates) == 7


def test_novel_names_from_a_file(files) -> None:
    path = files['folder'] / 'novel.txt'
    path.write_text('dog\n')
    assert (
        main(
            [
                *files['base'],
                '--names',
                'cat, dog',
                '--novel',
                str(path),
                '--templates',
                'none',
            ]
        )
        == 0
    )
    assert Vocabulary.load(files['out']).novel.tolist() == [False, True]


@pytest.mark.parametrize(
    'more, message',
    [
        (['--names', 'cat, Cat'], 'appear more than once'),
        (['--names', 'cat', '--novel', 'dog'], "1 novel names.*'dog'"),
        (['--names', 'cat', '--rare-is-novel'], 'needs LVIS annotations'),
        (['--names', 'nowhere.txt'], 'nowhere.txt does not exist'),
        (
            ['--names', 'cat', '--cfg-options', 'model.text_encoder=None'],
            'has no model.text_encoder',
        ),
        (
            [
                '--names',
                'cat',
                '--cfg-options',
                'model.text_encoder.embed_dims=4',
            ],
            'does not fit the config',
        ),
    ],
)
def test_mistakes_are_one_sentence(files, capsys, more, message) -> None:
    assert main([*files['base'], *more]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert re.search(message, error)
    assert not files['out'].exists()


def test_the_file_is_a_safetensors_one(files, capsys) -> None:
    with pytest.raises(SystemExit, match='2'):
        main([*files['base'], '--names', 'cat', '--out', 'v.pth'])
    assert '--out: must end in .safetensors' in capsys.readouterr().err


def test_checkpoint_without_a_tower(files, capsys) -> None:
    save_safetensors(dict(a=torch.ones(1)), files['folder'] / 'x.safetensors')
    assert main([*files['base'], '--names', 'cat']) == 2
    assert 'has no text tower' in capsys.readouterr().err
    (files['folder'] / 'x.safetensors').unlink()
    assert main([*files['base'], '--names', 'cat']) == 2
    assert 'does not exist' in capsys.readouterr().err
