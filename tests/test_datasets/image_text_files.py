# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Small image-text shards for tests."""

import io
import tarfile

import cv2
import numpy as np
from torch.utils.data import DataLoader

from dito.datasets.image_text import image_text_collate


def jpeg(height=24, width=32, value=128, extension='.jpg'):
    image = np.full((height, width, 3), value, np.uint8)
    return cv2.imencode(extension, image)[1].tobytes()


def write_tar(path, members):
    """Write (name, bytes) members, in the order given."""
    with tarfile.open(path, 'w') as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def write_shards(folder, counts):
    """Write shards whose captions name the shard and the sample."""
    for number, count in enumerate(counts):
        members = []
        for i in range(count):
            key = f'{number}_{i}'
            members += [
                (f'{key}.jpg', jpeg(value=10 * number + i)),
                (f'{key}.txt', f'photo {key}'.encode()),
                (f'{key}.json', b'{}'),
            ]
        write_tar(folder / f'{number:03d}.tar', members)
    return str(folder / f'{{000..{len(counts) - 1:03d}}}.tar')


def loader(dataset, batch_size=4, num_workers=0, drop_last=False):
    return DataLoader(
        dataset,
        batch_size,
        num_workers=num_workers,
        collate_fn=image_text_collate,
        drop_last=drop_last,
    )


def texts_of(batches, number=None):
    batches = iter(batches)
    if number is None:
        return [text for batch in batches for text in batch['texts']]
    return [text for _ in range(number) for text in next(batches)['texts']]


def photo(height, width):
    """A smooth image with some detail, as a photo has."""
    rng = np.random.default_rng(0)
    shape = max(1, height // 40), max(1, width // 40), 3
    small = rng.integers(0, 256, shape, np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode('.jpg', image)[1].tobytes()
