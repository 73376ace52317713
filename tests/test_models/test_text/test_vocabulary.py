# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Vocabularies: embeddings, files and bad input."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from dito.models.text import DITOTextEncoder, Vocabulary
from dito.utils.checkpoint import save_safetensors

NAMES = ['cat', 'aerosol_can', 'bat_(animal)', 'chess_knight_(piece)']


@pytest.fixture(scope='module')
def encoder() -> DITOTextEncoder:
    torch.manual_seed(0)
    return DITOTextEncoder(
        dict(width=32, layers=1, heads=4), embed_dims=16, context_length=16
    )


class _Counting:
    """A text tower that counts texts and the largest batch."""

    def __init__(self) -> None:
        self.texts, self.largest = 0, 0

    def encode(self, texts) -> torch.Tensor:
        self.texts += len(texts)
        self.largest = max(self.largest, len(texts))
        seeds = [sum(t.encode()) for t in texts]
        return F.normalize(
            torch.tensor([[s % 7 + 1, s % 11, s % 13] for s in seeds]).float()
        )

    def fingerprint(self) -> str:
        return 'f' * 64


def test_embeddings_are_mean_of_unit_prompts(encoder) -> None:
    vocabulary = Vocabulary.from_names(
        NAMES, encoder, templates='simple', synonyms=dict(cat=['kitty'])
    )
    assert vocabulary.names == tuple(NAMES) and len(vocabulary) == 4

    def mean(phrase: str) -> torch.Tensor:
        prompts = [t.replace('{}', phrase) for t in vocabulary.templates]
        return sum(encoder.encode([p])[0] for p in prompts) / len(prompts)

    want = F.normalize(
        torch.stack(
            [
                (mean('cat') + mean('kitty')) / 2,
                mean('aerosol can'),
                mean('bat (animal)'),
                mean('chess knight (piece)'),
            ]
        )
    )
    torch.testing.assert_close(
        vocabulary.embeddings, want, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        vocabulary.background,
        F.normalize(mean('background'), dim=0),
        atol=1e-5,
        rtol=1e-5,
    )
    assert vocabulary.fingerprint == encoder.fingerprint()


def test_save_and_load_keep_everything(encoder, tmp_path) -> None:
    vocabulary = Vocabulary.from_names(
        NAMES,
        encoder,
        templates=['a {}.', 'the {}'],
        novel=['bat (animal)'],
        synonyms={'aerosol can': ['spray can']},
    )
    path = tmp_path / 'sub' / 'v.safetensors'
    vocabulary.save(path)
    assert [p.name for p in path.parent.iterdir()] == ['v.safetensors']
    loaded = Vocabulary.load(path)
    for name in (
        'names',
        'templates',
        'synonyms',
        'fingerprint',
        'background_name',
    ):
        assert getattr(loaded, name) == getattr(vocabulary, name)
    for name in ('embeddings', 'background', 'novel'):
        torch.testing.assert_close(
            getattr(loaded, name), getattr(vocabulary, name)
        )
    assert loaded.novel.dtype == torch.bool
    assert loaded.embeddings.dtype == torch.float32


@pytest.mark.parametrize(
    'novel, flags',
    [
        (None, [0, 0, 0, 0]),
        ((), [0, 0, 0, 0]),
        (['Aerosol can', 'cat'], [1, 1, 0, 0]),
        ([False, True, False, True], [0, 1, 0, 1]),
        (torch.tensor([True, False, False, False]), [1, 0, 0, 0]),
    ],
)
def test_novel_flags(novel, flags) -> None:
    vocabulary = Vocabulary.from_names(NAMES, _Counting(), novel=novel)
    assert vocabulary.novel.tolist() == [bool(f) for f in flags]
    flipped = vocabulary.with_novel(~vocabulary.novel)
    assert (flipped.novel != vocabulary.novel).all()


def test_subset_reorders_without_the_tower(encoder) -> None:
    vocabulary = Vocabulary.from_names(
        NAMES, encoder, templates='none', novel=['cat']
    )
    part = vocabulary.subset(['bat (animal)', 'cat'])
    assert part.names == ('bat_(animal)', 'cat')
    assert part.embeddings.equal(vocabulary.embeddings[[2, 0]])
    assert part.novel.tolist() == [False, True]
    assert part.readable_names == ('bat (animal)', 'cat')
    with pytest.raises(ValueError, match="not in this vocabulary.*'dog'"):
        vocabulary.subset(['cat', 'dog'])


def test_find_looks_up_what_people_type(encoder) -> None:
    names = [
        'car_(automobile)',
        'bow_(weapon)',
        'bow_(ribbons)',
        'bow-tie',
        'traffic_light',
        'auto',
    ]
    known = Vocabulary.from_names(
        names,
        encoder,
        templates='none',
        novel=['traffic_light'],
        synonyms={
            'car_(automobile)': ['auto', 'machine'],
            'bow-tie': ['bow tie'],
        },
    )
    found = known.find(['Traffic  light', 'bow tie', 'car'])
    assert found.names == ('Traffic  light', 'bow tie', 'car')
    assert found.embeddings.equal(known.embeddings[[4, 3, 0]])
    assert found.novel.tolist() == [True, False, False]
    # A class of this name comes before a synonym of another.
    assert known.find(['auto']).embeddings[0].equal(known.embeddings[5])
    assert known.find(['machine']).embeddings[0].equal(known.embeddings[0])
    with pytest.raises(ValueError, match=r"'bow' fits 'bow_\(weapon\)', 'bow"):
        known.find(['bow'])
    with pytest.raises(
        ValueError,
        match="2 names are not among the 6.*'dog'.*mean 'traffic light'",
    ):
        known.find(['dog', 'trafic light', 'car'])
    with pytest.raises(ValueError, match="'car' and 'machine' are both"):
        known.find(['car', 'machine'])
    assert known.known(['dog', 'machine', 'bow', 'car', 'auto']) == [
        'machine',
        'auto',
    ]


def test_join_appends_what_is_lacking(encoder) -> None:
    one = Vocabulary.from_names(
        NAMES[:2], encoder, novel=['cat'], synonyms=dict(cat=['kitty'])
    )
    two = Vocabulary.from_names(
        ['Aerosol can', *NAMES[2:]], encoder, novel=[NAMES[3]]
    )
    both = one.join(two)
    assert both.names == tuple(NAMES)
    assert both.novel.tolist() == [True, False, False, True]
    assert both.synonyms == (('kitty',), (), (), ())
    assert torch.equal(both.embeddings[:2], one.embeddings)
    assert torch.equal(both.embeddings[2:], two.embeddings[1:])
    assert one.join(one).names == one.names
    other = Vocabulary.from_names(NAMES[2:], _Counting())
    with pytest.raises(ValueError, match='two text towers'):
        one.join(other)


def test_ten_thousand_names_in_bounded_chunks() -> None:
    tower = _Counting()
    names = [f'name {i}' for i in range(10_000)]
    vocabulary = Vocabulary.from_names(
        names, tower, templates=['a {}', 'the {}'], chunk=100
    )
    assert vocabulary.embeddings.shape == (10_000, 3)
    assert tower.texts == 20_002 and tower.largest == 200


def test_repeated_phrases_are_embedded_once() -> None:
    tower = _Counting()
    Vocabulary.from_names(
        ['cat', 'kitten'],
        tower,
        templates='none',
        synonyms=dict(cat=['kitten', 'Cat', 'feline'], kitten=['feline']),
    )
    assert tower.texts == 5  # cat, kitten, Cat, feline, background


def test_cache_spares_the_tower(tmp_path) -> None:
    tower = _Counting()
    kwargs = dict(templates='simple', cache_dir=tmp_path)
    first = Vocabulary.from_names(NAMES, tower, **kwargs)
    asked = tower.texts
    again = Vocabulary.from_names(NAMES[::-1], tower, **kwargs)
    assert tower.texts == asked
    torch.testing.assert_close(again.embeddings.flip(0), first.embeddings)
    Vocabulary.from_names([*NAMES, 'dog'], tower, **kwargs)
    assert tower.texts == asked + 7
    Vocabulary.from_names(NAMES, tower, templates='none', cache_dir=tmp_path)
    assert tower.texts == asked + 7 + 5


def test_damaged_cache_is_made_anew(tmp_path) -> None:
    tower = _Counting()
    Vocabulary.from_names(NAMES, tower, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    asked = tower.texts
    Vocabulary.from_names(NAMES, tower, cache_dir=tmp_path)
    assert tower.texts == 2 * asked
    Vocabulary.from_names(NAMES, tower, cache_dir=tmp_path)
    assert tower.texts == 2 * asked


@pytest.mark.parametrize(
    'names, error, message',
    [
        ([], ValueError, 'is empty'),
        (['cat', ' '], ValueError, '1 of 2 class names.*in place 2'),
        (['cat', '__', ''], ValueError, '2 of 3 class names.*in place 2'),
        (['cat', 'Cat'], ValueError, "'cat' = 'Cat'"),
        (['a'] * 9, ValueError, "'a' = 'a' = ...; keep"),
        (['a_b', 'x', 'a b'], ValueError, "'a_b' = 'a b'"),
        (['cat', 3], TypeError, 'must be texts'),
        ('cat', TypeError, r"write \['cat'\]"),
        (['cat', 'background'], ValueError, 'more than once'),
    ],
)
def test_bad_names_are_refused(names, error, message) -> None:
    with pytest.raises(error, match=message):
        Vocabulary.from_names(names, _Counting())


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(novel=['dog', 'cow']), "2 novel names.*'dog', 'cow'"),
        (dict(novel=[True]), '1 flags for 4 names'),
        (dict(synonyms=dict(dog=['hound'])), "1 names with synonyms.*'dog'"),
        (dict(synonyms=dict(cat=[' '])), 'Synonyms of'),
        (dict(chunk=0), 'chunk must be at least 1'),
    ],
)
def test_bad_options_are_refused(kwargs, message) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_names(NAMES, _Counting(), **kwargs)


def test_other_tower_is_refused() -> None:
    vocabulary = Vocabulary.from_names(NAMES, _Counting())
    vocabulary.check_encoder('f' * 64)
    with pytest.raises(
        ValueError,
        match='ffffffff, the detector goes with 01234567; build it anew',
    ):
        vocabulary.check_encoder('0123456789abcdef')


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match='needs parts of the sizes'):
        Vocabulary(
            ('cat',),
            torch.ones(2, 4),
            torch.ones(4),
            torch.zeros(1, dtype=torch.bool),
            'f',
        )


def test_bad_files_are_refused(tmp_path) -> None:
    path = tmp_path / 'v.safetensors'
    with pytest.raises(FileNotFoundError, match='does not exist'):
        Vocabulary.load(path)
    Vocabulary.from_names(NAMES, _Counting()).save(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match='damaged'):
        Vocabulary.load(path)
    save_file(dict(a=torch.ones(1)), path)
    with pytest.raises(ValueError, match='is not a vocabulary'):
        Vocabulary.load(path)
    save_safetensors(
        dict(embeddings=torch.ones(1, 2)),
        path,
        dict(format='dito-vocabulary-1', names=['cat']),
    )
    with pytest.raises(ValueError, match='vocabulary without'):
        Vocabulary.load(path)
    with pytest.raises(ValueError, match='saved as .safetensors'):
        Vocabulary.from_names(NAMES, _Counting()).save(tmp_path / 'v.pth')


def test_not_finite_embeddings_are_refused(tmp_path) -> None:
    vocabulary = Vocabulary.from_names(NAMES, _Counting())
    vocabulary.embeddings[0, 0] = float('nan')
    vocabulary.save(tmp_path / 'v.safetensors')
    with pytest.raises(ValueError, match='not finite'):
        Vocabulary.load(tmp_path / 'v.safetensors')


def test_repr_is_short(encoder) -> None:
    vocabulary = Vocabulary.from_names(
        [f'n{i}' for i in range(9)], encoder, templates='none'
    )
    assert '9 classes' in repr(vocabulary) and 'and 4 more' in repr(vocabulary)


def test_groups(tmp_path) -> None:
    plain = Vocabulary.from_names(NAMES, _Counting(), novel=['bat (animal)'])
    assert plain.labels == plain.names and not plain.groups
    made = plain.group(
        dict(animal=['Cat', 'bat (animal)'], can=['aerosol can'])
    )
    assert made.names == plain.names
    assert made.labels == ('animal', 'can', 'chess_knight_(piece)')
    assert made.label_index.tolist() == [0, 1, 0, 2]
    # One of its names was trained, so the group is no novel one.
    assert made.label_novel.tolist() == [False, False, False]
    assert made.subset(NAMES[2:]).label_novel.tolist() == [True, False]
    made.save(tmp_path / 'v.safetensors')
    loaded = Vocabulary.load(tmp_path / 'v.safetensors')
    assert loaded.groups == made.groups and loaded.labels == made.labels
    more = Vocabulary.from_names(['dog', 'Animal', 'cat'], _Counting())
    assert made.join(more).labels == (*made.labels, 'dog')
    assert more.join(made.subset(NAMES[1:2])).labels[-1] == 'can'
    assert made.find(['cat', 'chess knight']).labels == (
        'animal',
        'chess_knight_(piece)',
    )


def test_files_without_groups_have_no_trace_of_them(tmp_path) -> None:
    plain = Vocabulary.from_names(NAMES, _Counting())
    plain.save(tmp_path / 'v.safetensors')
    content = (tmp_path / 'v.safetensors').read_bytes()
    assert b'groups' not in content and b'examples' not in content
    loaded = Vocabulary.load(tmp_path / 'v.safetensors')
    assert loaded.groups == loaded.examples == ()


@pytest.mark.parametrize(
    ('groups', 'message'),
    [
        (dict(a=['dog']), "not among the 4 of the vocabulary: 'dog'"),
        (dict(a=[]), 'is empty'),
        (dict(a=['cat'], b=['cat']), "is in the groups 'a' and 'b'"),
        (dict(cat=['aerosol can']), 'more than once|a name outside it'),
    ],
)
def test_groups_that_are_refused(groups, message) -> None:
    plain = Vocabulary.from_names(NAMES, _Counting())
    with pytest.raises(ValueError, match=message):
        plain.group(groups)


def test_mixing_needs_one_tower() -> None:
    plain = Vocabulary.from_names(NAMES, _Counting())
    made = replace(
        plain.subset(['cat']), fingerprint='other', examples=(1,), names=('x',)
    )
    with pytest.raises(ValueError, match='two text towers'):
        plain.mix(made)
