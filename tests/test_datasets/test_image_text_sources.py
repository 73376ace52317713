# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Mixtures, captions, filters."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from image_text_files import jpeg, loader, write_shards, write_tar

from dito.datasets.image_text import ImageTextShards, StreamPosition
from dito.datasets.image_text.bad_samples import BadSample
from dito.datasets.image_text.captions import (
    CaptionPicker,
    FieldFilter,
    SampleFilter,
    SourceDraw,
)
from dito.datasets.image_text.tar_reader import RawSample
from dito.datasets.image_text.tar_walk import shard_names
from dito.utils.errors import BrokenDataError


def raw(text=None, metadata=None, **parts):
    parts = {k: v.encode() for k, v in parts.items()}
    if text is not None:
        parts['txt'] = text.encode()
    if metadata is not None:
        parts['json'] = json.dumps(metadata).encode()
    return RawSample('key', 0, parts)


# mixtures


def two_sources(tmp_path, weights=(3, 1)):
    sources = []
    for name, weight in zip(('a', 'b'), weights, strict=True):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        sources.append(
            dict(
                name=name,
                weight=weight,
                shards=write_shards(folder, [5, 4, 6, 3]),
            )
        )
    return sources


def take(dataset, number):
    samples = iter(dataset)
    return [next(samples) for _ in range(number)]


def test_keys_tell_source_and_shard(tmp_path):
    """The same shard name and key in two sources stay apart."""
    keys = {
        s['keys'] for s in take(ImageTextShards(two_sources(tmp_path), 8), 200)
    }
    assert {'a/000/0_0', 'b/000/0_0', 'a/003/3_2'} <= keys
    assert len(keys) == 36


def test_weights_hold_and_no_source_repeats_early(tmp_path):
    dataset = ImageTextShards(two_sources(tmp_path), 8, num_streams=2)
    counts = Counter()
    for sample in take(dataset, 400):
        counts[sample['keys']] += 1
    share = sum(n for k, n in counts.items() if k[0] == 'a') / 400
    assert abs(share - 0.75) < 0.06
    # Each stream goes through all of a source before it comes again.
    per_source = [n for k, n in counts.items() if k[0] == 'b']
    assert len(per_source) == 18 and max(per_source) - min(per_source) <= 2


def test_the_draw_is_a_function_of_seed_stream_and_number():
    def draws(seed=0, stream=0, numbers=range(3000)):
        draw = SourceDraw([1, 2, 1], seed, stream)
        return [draw(n) for n in numbers]

    straight = draws()
    assert np.allclose(
        np.bincount(straight) / 3000, [0.25, 0.5, 0.25], atol=0.03
    )
    for start in (1, 1023, 1024, 2500):
        assert draws(numbers=range(start, 3000)) == straight[start:]
    assert draws(seed=1) != straight and draws(stream=1) != straight


@pytest.mark.parametrize('workers', [0, 2])
def test_a_mixture_resumes_at_the_sample(tmp_path, workers):
    sources = two_sources(tmp_path)

    def dataset():
        return ImageTextShards(sources, 16, num_streams=4, shuffle_block=2)

    straight = iter(loader(dataset(), 6, workers))
    position = StreamPosition(dataset().state_dict())
    for used in range(1, 9):
        position.update(next(straight)['cursors'])
        if used in (3, 8):
            state = json.loads(json.dumps(position.state_dict()))
    assert position.samples == 48 and sum(state['counts']) == 48
    resumed_set = dataset()
    resumed_set.load_state_dict(state)
    resumed = iter(loader(resumed_set, 6, workers))
    for _ in range(4):
        one, other = next(straight), next(resumed)
        assert one['keys'] == other['keys']
        assert torch.equal(one['inputs'], other['inputs'])


def test_processes_share_a_mixture(tmp_path, monkeypatch):
    sources = two_sources(tmp_path)

    def keys(rank, size, number):
        monkeypatch.setattr(
            'dito.datasets.image_text.shards.get_dist_info',
            lambda: (rank, size),
        )
        dataset = ImageTextShards(sources, 8, num_streams=4)
        return [s['keys'] for s in take(dataset, number)]

    whole = keys(0, 1, 40)
    assert [keys(r, 2, 20) for r in (0, 1)] == [whole[::2], whole[1::2]]


def test_a_state_of_other_sources_is_refused(tmp_path):
    sources = two_sources(tmp_path)
    state = ImageTextShards(sources, 8, num_streams=2).state_dict()
    with pytest.raises(ValueError, match='4 streams.*2 x 1 sources = 2'):
        ImageTextShards(
            sources[0]['shards'], 8, num_streams=2
        ).load_state_dict(state)


def test_wrong_sources(tmp_path):
    one, two = two_sources(tmp_path)
    for sources, text in (
        ([one, dict(two, name='a')], 'a name of its own'),
        ([one, dict(shards=two['shards'])], 'a name of its own'),
        ([one, two['shards']], 'not a mixture of both'),
        ([one, dict(two, weights=1)], 'got .*weights'),
        ([one, dict(two, weight=0)], "weight of source 'b'"),
        ([one, dict(two, weight=float('nan'))], "weight of source 'b'"),
    ):
        with pytest.raises(ValueError, match=text):
            ImageTextShards(sources, 8)
    with pytest.raises(ValueError, match='has no end'):
        ImageTextShards([one, two], 8, epochs=1)


def test_shared_shards_are_told(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        'dito.datasets.image_text.shards.print_log',
        lambda text, **kwargs: said.append(text),
    )
    ImageTextShards(two_sources(tmp_path), 8, num_streams=6)
    assert len(said) == 2 and said[0].startswith("4 shards of 'a' for 6")


def test_the_split_is_checked_before_workers_start(tmp_path):
    dataset = ImageTextShards(two_sources(tmp_path), 8, num_streams=4)
    dataset.check_split(0)
    dataset.check_split(4)
    with pytest.raises(ValueError, match='divisible by 3 workers x 1'):
        dataset.check_split(3)


@pytest.mark.parametrize(
    'urls,names',
    [
        (['x/0.tar', 'x/1.tar'], ['0', '1']),
        (['a/x/0.tar', 'b/x/0.tar'], ['a/x/0', 'b/x/0']),
        (['/d/0.tar', '/d/0.tar'], ['0', '0']),
        (['pipe:aws s3 cp s3://b/7.tar -', 'file:/d/8.tar.gz'], None),
        (
            ["pipe:curl 'https://h/7.tar?token=1/2'", 'https://h/8.tar?v=1'],
            ['7', '8'],
        ),
        (['pipe:cat 0.tar', 'pipe:zcat 0.tar'], ['0:0', '1:0']),
    ],
)
def test_shard_names(urls, names):
    found = shard_names(urls)
    assert len(set(found)) == len(set(urls))
    assert names is None or found == names


# captions


def test_captions_of_text_files_and_json():
    both = raw(
        '  short \n',
        dict(long='a long one', more=['m', ' ', 'n'], deep=dict(text='d')),
        alt='other',
    )
    for keys, want in (
        ('txt', 'short'),
        ('json.long', 'a long one'),
        (['json.none', 'json.deep.text'], 'd'),
        (['json.more', 'txt'], 'm'),
        ('alt', 'other'),
    ):
        assert CaptionPicker(keys)(both, (0, 0)) == want
    assert CaptionPicker('json.a').wanted == {'json'}
    assert CaptionPicker(['txt', 'json.a']).wanted == {'txt', 'json'}


def test_random_captions_depend_on_the_seed_alone():
    sample = raw('one', dict(more=['two', '', 'three']))
    pick = CaptionPicker(['txt', 'json.more'], 'random')
    drawn = [pick(sample, (0, e, 1, 2)) for e in range(300)]
    assert drawn == [pick(sample, (0, e, 1, 2)) for e in range(300)]
    counts = Counter(drawn)
    assert set(counts) == {'one', 'two', 'three'}
    assert min(counts.values()) > 60


@pytest.mark.parametrize(
    'sample,reason',
    [
        (raw(), 'no caption'),
        (raw(' \n'), 'empty caption'),
        (raw('x', metadata=[1]), 'json cannot be read'),
        (raw('', json='{"a":'), 'json cannot be read'),
        (raw(metadata=dict(a=3)), 'no caption'),
    ],
)
def test_captions_that_cannot_be_had(sample, reason):
    keys = ['txt', 'json.a'] if 'json' in sample.parts else ['txt']
    if reason == 'json cannot be read':
        keys = ['json.a']
    with pytest.raises(BadSample) as info:
        CaptionPicker(keys)(sample, (0,))
    assert info.value.reason == reason


def test_wrong_caption_arguments():
    with pytest.raises(ValueError, match='first.*random'):
        CaptionPicker(choice='best')
    for keys in ([], 'json.', ['']):
        with pytest.raises(ValueError, match='keys must be'):
            CaptionPicker(keys)


# filters


@pytest.mark.parametrize(
    'cfg,reason',
    [
        (dict(field='similarity', min=0.3), None),
        (dict(field='similarity', min=0.31), 'similarity below 0.31'),
        (dict(field='similarity', max=0.2), 'similarity above 0.2'),
        (dict(field='nan', min=0), 'nan below 0'),
        (dict(field='none', min=0), 'without none'),
        (dict(field='absent', min=0), 'without absent'),
        (dict(field='absent', min=0, missing='keep'), None),
        (dict(field='NSFW', one_of=['UNLIKELY']), None),
        (dict(field='NSFW', one_of=['NSFW']), 'NSFW not allowed'),
        (dict(field='NSFW', min=0), 'NSFW is no number'),
        (dict(field='text', min=2), None),
        (dict(field='a.b', min=2), 'a.b below 2'),
        (dict(field='caption.words', min=3), 'caption.words below 3'),
        (dict(field='caption.chars', max=5), None),
        (dict(field='image.side', min=25), 'image.side below 25'),
        (dict(field='image.width', min=32, max=32), None),
        (dict(field='image.height', min=24, max=24), None),
        (dict(field='image.aspect', max=1.3), 'image.aspect above 1.3'),
        (dict(field='image.bytes', min=1), None),
    ],
)
def test_filters(cfg, reason):
    sample = raw(
        'a cat',
        dict(
            similarity=0.3,
            nan=float('nan'),
            none=None,
            NSFW='UNLIKELY',
            text='2.5',
            a=dict(b=1),
        ),
    )
    assert FieldFilter(**cfg)(sample, 'a cat', jpeg(24, 32)) == reason


def test_filters_read_json_only_where_they_need_it():
    assert SampleFilter([dict(field='image.side', min=1)]).wanted == set()
    assert SampleFilter([dict(field='width', min=1)]).wanted == {'json'}
    for cfg, text in (
        (dict(field='a'), 'needs min, max or one_of'),
        (dict(field='image.size', min=1), 'image.width'),
        (dict(field='a', min=1, missing='x'), 'missing must'),
    ):
        with pytest.raises(ValueError, match=text):
            FieldFilter(**cfg)
    with pytest.raises(BadSample, match='no size'):
        FieldFilter('image.side', min=1)(raw(), '', b'nothing')


def scored_shard(tmp_path, scores):
    members = []
    for i, score in enumerate(scores):
        members += [
            (f'{i}.jpg', jpeg()),
            (f'{i}.txt', b'x'),
            (
                f'{i}.json',
                json.dumps(dict(similarity=score, better=f'c{i}')).encode(),
            ),
        ]
    return write_tar(tmp_path / 's.tar', members)


def test_filtered_samples_are_counted_and_replaced(tmp_path):
    shard = scored_shard(tmp_path, [0.1, 0.9, 0.2, None, 0.8])
    dataset = ImageTextShards(
        shard,
        8,
        epochs=1,
        captions=dict(keys='json.better'),
        filters=[dict(field='similarity', min=0.5)],
    )
    samples = list(dataset)
    assert [s['texts'] for s in samples] == ['c1', 'c4']
    assert [s['filtered'] for s in samples] == [1, 2]
    assert dict(dataset.counter.filtered) == {
        'similarity below 0.5': 2,
        'without similarity': 1,
    }
    assert not dataset.counter.broken


def test_filters_and_captions_of_one_source(tmp_path):
    shard = scored_shard(tmp_path, [0.1, 0.9])
    sources = [
        dict(
            name='a',
            shards=shard,
            filters=[],
            captions=dict(keys='json.better'),
        ),
        dict(name='b', shards=shard),
    ]
    dataset = ImageTextShards(
        sources, 8, filters=[dict(field='similarity', min=0.5)]
    )
    found = {(s['keys'], s['texts']) for s in take(dataset, 60)}
    assert found == {('a/s/0', 'c0'), ('a/s/1', 'c1'), ('b/s/1', 'x')}


def test_filters_that_leave_nothing_stop_the_run(tmp_path):
    dataset = ImageTextShards(
        scored_shard(tmp_path, [0.1, 0.2]),
        8,
        filters=[dict(field='similarity', min=0.5)],
    )
    with pytest.raises(BrokenDataError, match='4 filtered .4 similarity'):
        next(iter(dataset))
