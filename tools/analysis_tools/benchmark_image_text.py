# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Time our loading of image-text pairs against open_clip's, in one run.

``transform``: from the encoded image to the network's input, the crop
transform of this package against open_clip's own for training (Pillow,
torchvision's random-resized crop, float tensor, normalised). Both take turns
on each image; the best processor time of each image counts, so that other
programs on the machine disturb little. Ours ends in uint8, and in training the
device normalises; ``ratio_with_normalising`` adds that to our side. The larger
the files, the smaller the ratio: Huffman decoding is the same on both sides.

``loader``: the same with shards, a ``DataLoader`` of one worker and batches:
``ImageTextShards`` against webdataset with open_clip's decoding and transform,
by the clock.

``error``: mean and largest difference in grey levels (0 to 255) between our
picture and torchvision's antialiased bicubic of the same crop, at the given
size and at twice that, where JPEGs are decoded at reduced scale.

Prints one line of JSON. Example::

    python tools/analysis_tools/benchmark_image_text.py
"""

import argparse
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf

from dito.cli.errors import one_sentence_errors
from dito.datasets.image_text import (
    CropTransform,
    ImageTextShards,
    image_text_collate,
    transforms,
)
from dito.datasets.image_text.image_header import open_image

_SUFFIXES = ('.jpg', '.jpeg')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        'what',
        nargs='*',
        default=['transform', 'error', 'loader'],
        help='transform, error, loader (default: all)',
    )
    add(
        '--images',
        help='folder of JPEGs to use (default: pictures with the '
        'spectrum of photographs are made)',
    )
    add('--number', type=int, default=64, help='number of images')
    add('--width', type=int, default=500, help='of the made images, pixels')
    add('--height', type=int, default=375, help='of the made images, pixels')
    add('--quality', type=int, default=90, help='of the made JPEGs')
    add('--img-size', type=int, default=224, help='side of the output, pixels')
    add(
        '--scale',
        type=float,
        nargs=2,
        default=(0.9, 1.0),
        help="area range of the crop (default: open_clip's, 0.9 1.0)",
    )
    add('--repeat', type=int, default=8, help='timed turns of each image')
    add('--batch', type=int, default=64, help='batch of the loaders')
    add('--batches', type=int, default=20, help='timed batches of the loader')
    add('--debug', action='store_true', help='show the traceback of errors')
    args = parser.parse_args(argv)
    unknown = set(args.what) - {'transform', 'error', 'loader'}
    if unknown:
        parser.error(f'there is no {sorted(unknown)[0]!r} to measure')
    return args


def make_photos(
    number: int, height: int, width: int, quality: int, seed: int = 0
) -> list[bytes]:
    """Make JPEGs whose power falls with frequency as that of photographs.

    Args:
        number (int): How many.
        height (int): In pixels.
        width (int): In pixels.
        quality (int): Of the JPEG.
        seed (int): Seed.

    Returns:
        list[bytes]: Encoded images.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(
        np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    )
    frequency[0, 0] = np.inf
    photos = []
    # Colour planes of photographs are much alike.
    mixing = np.array([[1, 0.3, 0.1], [1, 0, -0.1], [1, -0.3, 0.1]])
    for _ in range(number):
        noise = np.fft.rfft2(rng.standard_normal((3, height, width)))
        planes = np.fft.irfft2(noise / frequency**1.4, (height, width))
        planes /= planes.std((1, 2), keepdims=True)
        image = 128 + 50 * np.einsum('ij,jhw->hwi', mixing, planes)
        image = np.clip(image, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, 'JPEG', quality=quality)
        photos.append(buffer.getvalue())
    return photos


def get_photos(args: argparse.Namespace) -> list[bytes]:
    """Read or make the images.

    Raises:
        FileNotFoundError: If the folder holds no JPEG.
    """
    if args.images is None:
        return make_photos(args.number, args.height, args.width, args.quality)
    paths = [
        path
        for path in sorted(Path(args.images).rglob('*'))
        if path.suffix.lower() in _SUFFIXES
    ]
    if not paths:
        raise FileNotFoundError(f'{args.images!r} holds no JPEG')
    return [path.read_bytes() for path in paths[: args.number]]


def reference_transform(args: argparse.Namespace) -> Callable:
    """open_clip's transform for training, with its defaults but the scale."""
    from open_clip.transform import AugmentationCfg, image_transform

    return image_transform(
        args.img_size,
        is_train=True,
        aug_cfg=AugmentationCfg(scale=tuple(args.scale)),
    )


def time_transforms(
    args: argparse.Namespace, photos: list[bytes]
) -> dict[str, Any]:
    """Time both transforms, turn by turn."""
    theirs = reference_transform(args)
    ours = CropTransform(args.img_size, scale=tuple(args.scale))
    rng = np.random.default_rng(0)
    sides: dict[str, Callable[[bytes], Any]] = dict(
        dito=lambda data: ours(data, rng),
        open_clip=lambda data: theirs(open_image(data)),
    )
    best = {name: np.full(len(photos), np.inf) for name in sides}
    for _ in range(args.repeat):
        for i, data in enumerate(photos):
            for name, function in sides.items():
                start = time.thread_time()
                function(data)
                best[name][i] = min(best[name][i], time.thread_time() - start)
    seconds = {name: float(times.mean()) for name, times in best.items()}
    normalise = _time_normalising(args)
    return dict(
        milliseconds={n: 1e3 * s for n, s in seconds.items()},
        normalise_milliseconds=1e3 * normalise,
        images_per_second={n: 1 / s for n, s in seconds.items()},
        ratio=seconds['open_clip'] / seconds['dito'],
        ratio_with_normalising=seconds['open_clip']
        / (seconds['dito'] + normalise),
    )


def _time_normalising(args: argparse.Namespace) -> float:
    """Seconds to make a uint8 image a normalised float one."""
    image = torch.zeros(3, args.img_size, args.img_size, dtype=torch.uint8)
    mean = torch.full((3, 1, 1), 127.0)
    best = np.inf
    for _ in range(10 * args.repeat):
        start = time.thread_time()
        image.float().sub_(mean).div_(mean)
        best = min(best, time.thread_time() - start)
    return best


def measure_error(args: argparse.Namespace) -> dict[str, Any]:
    """Compare pictures of equal crops."""
    result = {}
    for name, factor in (('at_size', 1), ('at_twice_the_size', 2)):
        photos = make_photos(
            min(8, args.number),
            factor * args.height,
            factor * args.width,
            args.quality,
        )
        ours = CropTransform(args.img_size, scale=tuple(args.scale))
        gaps = []
        for number, data in enumerate(photos):
            rng = np.random.default_rng(number)
            image = open_image(data).convert('RGB')
            box, _ = ours.plan(
                (image.height, image.width), np.random.default_rng(number)
            )
            want = tvf.resized_crop(
                image,
                *box,
                [args.img_size, args.img_size],
                InterpolationMode.BICUBIC,
            )
            got = ours(data, rng).transpose(1, 2, 0).astype(float)
            gaps.append(np.abs(got - np.asarray(want)))
        result[name] = dict(
            mean=float(np.mean(gaps)), largest=float(np.max(gaps))
        )
    return result


def time_loaders(
    args: argparse.Namespace, photos: list[bytes]
) -> dict[str, Any]:
    """Time both loaders of one worker over the same shard, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        shard = _write_shard(folder, photos)
        sides = dict(
            dito=_our_batches(args, shard),
            open_clip=_their_batches(args, shard),
        )
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for batches in sides.values():
            next(batches)  # starts the worker
        for _ in range(3):
            for name, batches in sides.items():
                # What the worker had read ahead while the other was timed.
                for _ in range(3):
                    next(batches)
                start = time.perf_counter()
                for _ in range(args.batches):
                    next(batches)
                rates[name].append(
                    args.batch * args.batches / (time.perf_counter() - start)
                )
    best = {name: max(values) for name, values in rates.items()}
    return dict(images_per_second=best, ratio=best['dito'] / best['open_clip'])


def _write_shard(folder: str, photos: list[bytes]) -> str:
    """Write the images with short captions."""
    path = f'{folder}/000000.tar'
    with tarfile.open(path, 'w', format=tarfile.USTAR_FORMAT) as tar:
        for i, data in enumerate(photos):
            for extension, content in (
                ('jpg', data),
                ('txt', b'a photo'),
                ('json', b'{}'),
            ):
                info = tarfile.TarInfo(f'{i:06d}.{extension}')
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def _our_batches(args: argparse.Namespace, shard: str) -> Iterator[Any]:
    """Endless batches of ours."""
    dataset = ImageTextShards(shard, args.img_size, scale=tuple(args.scale))
    return iter(
        DataLoader(
            dataset, args.batch, num_workers=1, collate_fn=image_text_collate
        )
    )


def _their_batches(args: argparse.Namespace, shard: str) -> Iterator[Any]:
    """Endless batches of webdataset with open_clip's transform."""
    import webdataset as wds

    dataset = (
        wds.WebDataset(shard, shardshuffle=False, resampled=True)
        .decode('pilrgb')
        .rename(image='jpg;png;jpeg;webp', text='txt')
        .map_dict(image=reference_transform(args))
        .to_tuple('image', 'text')
        .batched(args.batch)
    )
    return iter(DataLoader(dataset, batch_size=None, num_workers=1))


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a line of JSON."""
    args = parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    photos = get_photos(args)
    result: dict[str, Any] = dict(
        images=len(photos),
        bytes=float(np.mean([len(p) for p in photos])),
        size=args.img_size,
        scale=list(args.scale),
        decoder='opencv' if transforms.simplejpeg is None else 'simplejpeg',
    )
    if 'transform' in args.what:
        result['transform'] = time_transforms(args, photos)
    if 'error' in args.what:
        result['error'] = measure_error(args)
    if 'loader' in args.what:
        result['loader'] = time_loaders(args, photos)
    print(json.dumps(result))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
