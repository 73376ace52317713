# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import json
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from image_text_files import (
    jpeg,
    loader,
    photo,
    texts_of,
    write_shards,
    write_tar,
)
from mmengine.runner import Runner

from dito.datasets.image_text import (
    CropTransform,
    DITOFolderDataset,
    ImageTextShards,
    StreamPosition,
    image_text_collate,
)
from dito.datasets.image_text.tar_reader import count_samples, read_shard
from dito.datasets.image_text.transforms import (
    center_crop_box,
    jpeg_size,
    random_crop_box,
)


@pytest.mark.parametrize(
    'counts,streams',
    [
        ([5, 3, 4, 6], 1),
        ([5, 3, 4, 6], 2),
        ([5, 3, 4, 6], 4),
        ([5, 3], 4),
        ([7], 3),
    ],
)
@pytest.mark.parametrize('block', [0, 2])
def test_an_epoch_holds_every_sample_once(tmp_path, counts, streams, block):
    shards = write_shards(tmp_path, counts)
    dataset = ImageTextShards(
        shards, 16, num_streams=streams, epochs=1, shuffle_block=block
    )
    found = Counter(texts_of(loader(dataset)))
    expected = {
        f'photo {n}_{i}' for n, c in enumerate(counts) for i in range(c)
    }
    assert set(found) == expected and set(found.values()) == {1}


def test_order_is_kept_without_shuffling(tmp_path):
    shards = write_shards(tmp_path, [3, 2])
    dataset = ImageTextShards(shards, 16, shuffle_shards=False)
    names = ['0_0', '0_1', '0_2', '1_0', '1_1']
    found = texts_of(loader(dataset, 5), 2)
    assert found == [f'photo {n}' for n in names] * 2


def test_one_stream_a_worker_keeps_neighbours_in_a_batch(tmp_path):
    shards = write_shards(tmp_path, [8, 8])
    dataset = ImageTextShards(shards, 16, num_streams=2, shuffle_shards=False)
    batches = iter(loader(dataset, 4, num_workers=2))
    for number in (0, 1, 0, 1):
        keys = next(batches)['keys']
        assert {key[:6] for key in keys} == {f'00{number}/{number}_'}
        start = int(keys[0][6:])
        assert [int(k[6:]) for k in keys] == list(range(start, start + 4))


def test_shuffling_changes_the_order_and_only_with_the_seed(tmp_path):
    shards = write_shards(tmp_path, [20])
    orders = [
        texts_of(
            loader(
                ImageTextShards(
                    shards, 16, epochs=1, shuffle_block=10, seed=seed
                )
            )
        )
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
    plain = texts_of(loader(ImageTextShards(shards, 16, epochs=1)))
    assert orders[0] != plain and sorted(orders[0]) == sorted(plain)
    # Blocks of ten are permuted within themselves.
    assert sorted(orders[0][:10]) == sorted(plain[:10])


def test_batches_are_uint8_tensors(tmp_path):
    dataset = ImageTextShards(write_shards(tmp_path, [4]), 16)
    batch = next(iter(loader(dataset)))
    assert batch['inputs'].shape == (4, 3, 16, 16)
    assert batch['inputs'].dtype == torch.uint8
    # The images are plain grey: cropping and resizing leave their value.
    assert (batch['inputs'][2].float() - 2).abs().max() <= 2
    assert batch['texts'][1] == 'photo 0_1' and batch['keys'][1] == '000/0_1'


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('world_size', [2, 4])
def test_processes_see_the_batches_of_one_process(
    tmp_path, monkeypatch, workers, world_size
):
    shards = write_shards(tmp_path, [5, 3, 4, 6, 7, 5, 4, 3])

    def batches(rank, size, batch_size):
        monkeypatch.setattr(
            'dito.datasets.image_text.shards.get_dist_info',
            lambda: (rank, size),
        )
        dataset = ImageTextShards(shards, 32, num_streams=8, shuffle_block=2)
        iterator = iter(loader(dataset, batch_size, workers))
        return [next(iterator) for _ in range(7)]

    whole = batches(0, 1, 3 * world_size)
    for rank in range(world_size):
        part = batches(rank, world_size, 3)
        for one, other in zip(whole, part, strict=True):
            assert one['texts'][rank::world_size] == other['texts']
            assert torch.equal(
                one['inputs'][rank::world_size], other['inputs']
            )


@pytest.mark.parametrize('workers', [0, 2, 3])
@pytest.mark.parametrize('used', [1, 2, 5, 11])
@pytest.mark.parametrize('block', [0, 3])
def test_resume_goes_on_with_the_next_sample(tmp_path, workers, used, block):
    shards = write_shards(tmp_path, [5, 3, 4, 6, 7, 5])

    def dataset():
        return ImageTextShards(shards, 24, num_streams=6, shuffle_block=block)

    straight = iter(loader(dataset(), 4, workers))
    position = StreamPosition(dataset().state_dict())
    for _ in range(used):
        position.update(next(straight)['cursors'])
    assert position.samples == 4 * used
    state = json.loads(json.dumps(position.state_dict()))
    resumed_set = dataset()
    resumed_set.load_state_dict(state)
    resumed = iter(loader(resumed_set, 4, workers))
    for _ in range(6):
        one, other = next(straight), next(resumed)
        assert one['texts'] == other['texts']
        assert torch.equal(one['inputs'], other['inputs'])
        assert torch.equal(one['cursors'], other['cursors'])


def test_resume_opens_only_the_shard_it_needs(tmp_path, monkeypatch):
    shards = write_shards(tmp_path, [4] * 6)
    dataset = ImageTextShards(shards, 16, shuffle_shards=False)
    dataset.load_state_dict(dict(cursors=[[3, 4, 2]], counts=[90], batches=5))
    opened = []
    monkeypatch.setattr(
        'dito.datasets.image_text.streams.read_shard',
        lambda url, start, *args: (
            opened.append((url[-7:], start)) or read_shard(url, start, *args)
        ),
    )
    assert next(iter(dataset))['keys'] == '004/4_2'
    assert opened == [('004.tar', 2)]


def test_state_of_other_streams_is_refused(tmp_path):
    shards = write_shards(tmp_path, [4] * 2)
    state = ImageTextShards(shards, 16, num_streams=2).state_dict()
    with pytest.raises(ValueError, match='holds 2 streams'):
        ImageTextShards(shards, 16).load_state_dict(state)


def test_broken_samples_are_counted_and_skipped(tmp_path):
    good = [
        (f'{i}{e}', d)
        for i in range(8)
        for e, d in (('.jpg', jpeg()), ('.txt', b'a photo'))
    ]
    bad = [
        ('a.jpg', b'\xff\xd8 not a photo'),
        ('a.txt', b'text'),
        ('b.jpg', jpeg()),
        ('b.txt', b'  \n'),
        ('c.txt', b'text'),
        ('d.jpg', jpeg()),
    ]
    path = write_tar(tmp_path / 'x.tar', good[:6] + bad + good[6:])
    samples = list(ImageTextShards(path, 16, epochs=1))
    assert [s['keys'] for s in samples] == [f'x/{i}' for i in range(8)]
    assert [s['skipped'] for s in samples] == [0, 0, 0, 4, 0, 0, 0, 0]
    # The cursor counts broken samples, so a resumed run stays in step.
    assert samples[3]['cursors'].tolist() == [0, 0, 0, 8]


def test_a_truncated_shard_ends_early(tmp_path):
    shards = write_shards(tmp_path, [4, 4])
    path = tmp_path / '000.tar'
    path.write_bytes(path.read_bytes()[:7000])
    samples = list(ImageTextShards(shards, 16, epochs=1, shuffle_shards=False))
    keys = [s['keys'] for s in samples]
    assert keys[-4:] == [f'001/1_{i}' for i in range(4)]
    assert keys[0] == '000/0_0'
    assert 4 < len(keys) < 8
    assert sum(s['skipped'] for s in samples) == 1


def test_too_many_broken_samples_stop_the_run(tmp_path):
    members = []
    for i in range(400):
        members += [
            (f'{i}.jpg', jpeg() if i % 2 else b'x'),
            (f'{i}.txt', b'text'),
        ]
    path = write_tar(tmp_path / 'x.tar', members)
    with pytest.raises(
        RuntimeError, match='101 of 201 samples are broken .101 image'
    ):
        list(ImageTextShards(path, 8, epochs=1, max_broken_share=0.499))


def test_a_stream_without_samples_stops_the_run(tmp_path):
    path = write_tar(tmp_path / 'x.tar', [])
    with pytest.raises(RuntimeError, match='found no readable sample'):
        next(iter(ImageTextShards(path, 8)))


@pytest.mark.parametrize('size,streams,broken', [(5, 5, 1), (3, 40, 1)])
def test_a_stream_outlives_a_share_of_broken_samples(
    tmp_path, size, streams, broken
):
    members = []
    for i in range(size):
        members += [
            (f'{i}.jpg', jpeg() if i >= broken else b'x'),
            (f'{i}.txt', b'text'),
        ]
    path = write_tar(tmp_path / 'x.tar', members)
    samples = iter(
        ImageTextShards(path, 8, num_streams=streams, max_broken_share=1.0)
    )
    found = Counter(next(samples)['keys'] for _ in range(6 * streams * size))
    assert sorted(found) == [f'x/{i}' for i in range(broken, size)]
    assert max(found.values()) < 2 * min(found.values())


def test_a_share_is_given_up_after_all_of_the_shard(tmp_path):
    members = []
    for i in range(4):
        members += [(f'{i}.jpg', b'x'), (f'{i}.txt', b'text')]
    path = write_tar(tmp_path / 'x.tar', members)
    with pytest.raises(RuntimeError, match='no usable sample in 4 epochs: 5 '):
        next(
            iter(ImageTextShards(path, 8, num_streams=4, max_broken_share=1.0))
        )


def test_missing_shards_are_named_at_once(tmp_path):
    shards = write_shards(tmp_path, [1, 1])
    with pytest.raises(FileNotFoundError, match='2 of 4 shards.*002.tar'):
        ImageTextShards(shards.replace('..001', '..003'), 16)
    with pytest.raises(FileNotFoundError, match='names no file'):
        ImageTextShards([], 16)


def test_streams_must_fill_workers_and_processes(tmp_path):
    dataset = ImageTextShards(
        write_shards(tmp_path, [2] * 3), 16, num_streams=3
    )
    with pytest.raises(ValueError, match='divisible by 2 workers'):
        next(iter(loader(dataset, 1, num_workers=2)))


def test_pipes_and_several_patterns(tmp_path):
    shards = write_shards(tmp_path, [2, 2])
    one = str(tmp_path / '001.tar')
    for address in (f'pipe:cat {one}', f'file:{one}'):
        dataset = ImageTextShards([address], 16, epochs=1)
        assert [s['keys'] for s in dataset] == ['001/1_0', '001/1_1']
    both = ImageTextShards(f'{shards}::{one}', 16, epochs=1)
    assert len(list(both)) == 6


def test_reading_a_shard_from_a_place_on(tmp_path):
    write_shards(tmp_path, [5])
    path = str(tmp_path / '000.tar')
    assert count_samples(path) == count_samples(f'pipe:cat {path}') == 5
    for address in (path, f'pipe:cat {path}'):
        samples = list(read_shard(address, 3))
        assert [s.index for s in samples] == [3, 4]
        assert samples[0].parts['txt'] == b'photo 0_3'
        assert set(samples[0].parts) == {'jpg', 'txt'}


def test_length(tmp_path):
    shards = write_shards(tmp_path, [5, 3])
    assert len(ImageTextShards(shards, 16, epochs=2)) == 16
    assert len(ImageTextShards(shards, 16)) > 1e15
    path = tmp_path / '000.tar'
    path.write_bytes(path.read_bytes()[:7000])
    assert 3 < len(ImageTextShards(shards, 16, epochs=1)) < 8


def test_works_as_a_runner_loader(tmp_path):
    cfg = dict(
        batch_size=2,
        num_workers=0,
        sampler=None,
        collate_fn=dict(type='image_text_collate'),
        dataset=dict(
            type='mmdet.ImageTextShards',
            size=16,
            shards=write_shards(tmp_path, [4]),
        ),
    )
    batch = next(iter(Runner.build_dataloader(cfg)))
    assert batch['inputs'].shape == (2, 3, 16, 16)


# transforms


@pytest.mark.parametrize('size', [(1, 1), (24, 32), (777, 65)])
def test_jpeg_size(size):
    assert jpeg_size(jpeg(*size)) == size
    assert jpeg_size(jpeg(extension='.png')) is None
    assert jpeg_size(b'\xff\xd8\xff') is None and jpeg_size(b'') is None


def test_what_opencv_refuses_is_a_broken_sample(monkeypatch):
    def refuse(*args):
        raise cv2.error('too many pixels')

    monkeypatch.setattr(cv2, 'imdecode', refuse)
    with pytest.raises(ValueError, match='decoded: error: too many pixels'):
        CropTransform(8)(jpeg(), np.random.default_rng(0))


@pytest.mark.parametrize('size', [(30, 40), (500, 3), (1, 1)])
def test_random_crop_boxes_are_inside(size):
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(300):
        top, left, h, w = random_crop_box(*size, (0.4, 1), (0.75, 4 / 3), rng)
        assert top >= 0 and left >= 0 and h >= 1 and w >= 1
        assert top + h <= size[0] and left + w <= size[1]
        areas.append(h * w / (size[0] * size[1]))
    if size == (30, 40):
        assert 0.38 < min(areas) < 0.45 and 0.9 < max(areas) <= 1


def test_center_crop():
    assert center_crop_box(30, 50) == (0, 10, 30, 30)
    image = np.zeros((30, 50, 3), np.uint8)
    image[:, 10:40] = (255, 0, 0)  # blue in OpenCV's order
    data = cv2.imencode('.png', image)[1].tobytes()
    out = CropTransform(15, scale=None)(data)
    assert out.dtype == np.uint8 and out.shape == (3, 15, 15)
    assert (out[2] == 255).all() and (out[:2] == 0).all()


def test_reduced_decoding_keeps_the_picture():
    data = photo(480, 640)
    # 480 // 100 is 4.
    assert CropTransform(100, scale=None).plan((480, 640), None) == (
        (0, 80, 480, 480),
        4,
    )
    for scale in (None, (0.5, 1.0)):
        pair = [
            CropTransform(100, scale=scale, reduce=reduce)(
                data, np.random.default_rng(3)
            ).astype(float)
            for reduce in (True, False)
        ]
        difference = pair[0] - pair[1]
        assert np.abs(difference).mean() < 3 and abs(difference.mean()) < 0.5


def test_flip_mirrors_the_image():
    data = photo(80, 80)
    plain = CropTransform(80, scale=None)(data)
    flipped = CropTransform(80, scale=None, flip=1.0)(
        data, np.random.default_rng(0)
    )
    assert np.array_equal(plain[:, :, ::-1], flipped)


@pytest.mark.parametrize(
    'kwargs,text',
    [
        (dict(size=0), 'at least 1 pixel'),
        (dict(size=8, scale=(0, 1)), 'within'),
        (dict(size=8, scale=0.5), 'such as .0.4, 1.0.'),
        (dict(size=8, ratio=(2, 1)), 'positive range'),
        (dict(size=8, flip=2), 'probability'),
    ],
)
def test_wrong_arguments(kwargs, text):
    with pytest.raises(ValueError, match=text):
        CropTransform(**kwargs)


# folder of classes


def test_folder_dataset(tmp_path):
    for name, count in (('dog', 2), ('blue cat', 1)):
        folder = tmp_path / 'images' / name
        folder.mkdir(parents=True)
        for i in range(count):
            (folder / f'{i}.jpg').write_bytes(jpeg())
    categories = tmp_path / 'categories.json'
    categories.write_text(
        json.dumps(
            dict(
                categories=[
                    dict(name='dog', frequency='r'),
                    dict(name='blue cat', frequency='f'),
                ]
            )
        )
    )
    dataset = DITOFolderDataset(
        str(tmp_path / 'images'), 16, categories=str(categories)
    )
    assert dataset.metainfo['classes'] == ('blue cat', 'dog')
    assert dataset.metainfo['novel_classes'] == ('dog',)
    assert dataset.metainfo['base_classes'] == ('blue cat',)
    batch = image_text_collate([dataset[i] for i in range(3)])
    assert batch['labels'].tolist() == [0, 1, 1]
    assert batch['inputs'].shape == (3, 3, 16, 16)
    categories.write_text('[]')
    with pytest.raises(ValueError, match='lacks 2 of 2'):
        DITOFolderDataset(
            str(tmp_path / 'images'), 16, categories=str(categories)
        )
    with pytest.raises(FileNotFoundError, match='no folder'):
        DITOFolderDataset(str(tmp_path / 'none'), 16)
    (tmp_path / 'images' / 'dog' / '0.jpg').write_bytes(b'x')
    with pytest.raises(ValueError, match='dog/0.jpg'):
        dataset[1]
