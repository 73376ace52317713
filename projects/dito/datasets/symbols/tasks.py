# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The pieces of work of a build, and the processes that do them."""

import multiprocessing
import os
import os.path as osp
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import cv2

from .config import Purpose, SymbolsConfig, rng_for
from .detection import (
    SIDES,
    Record,
    draw_detection_image,
    image_rng,
    split_plan,
)
from .glyphs import load_glyphs
from .palette import COLOUR_NAMES
from .rasterizer import GlyphAtlas
from .renderer import render_single
from .shards import (
    lone_samples,
    retrieval_samples,
    scene_samples,
    single_samples,
    write_tar,
)

#: Detection pictures a task.
CHUNK = 50

Task = tuple[Callable[..., Any], tuple[Any, ...]]


@lru_cache(maxsize=2)
def _atlas(held_out: bool = False) -> GlyphAtlas:
    """Rasterise the drawings once a process."""
    return GlyphAtlas(load_glyphs(), held_out)


def _run(task: Task) -> Any:
    function, arguments = task
    return function(*arguments)


def _start_worker() -> None:
    cv2.setNumThreads(1)


def _single_shard(root: str, shard: int, cfg: SymbolsConfig) -> int:
    path = osp.join(root, 'image_text', f'single-{shard:06d}.tar')
    samples = single_samples(
        _atlas(), cfg.seed, shard, cfg.shard_size, cfg.single_size
    )
    return write_tar(path, samples)


def _object_sides(cfg: SymbolsConfig) -> tuple[float, float]:
    """Return the sizes of the objects of detection pictures, in pixels."""
    return cfg.size * SIDES[0], cfg.size * SIDES[1]


def _lone_shard(root: str, shard: int, cfg: SymbolsConfig) -> int:
    path = osp.join(root, 'image_text', f'lone-{shard:06d}.tar')
    samples = lone_samples(
        _atlas(),
        cfg.seed,
        shard,
        cfg.shard_size,
        cfg.scene_size,
        _object_sides(cfg),
    )
    return write_tar(path, samples)


def _scene_shard(root: str, shard: int, cfg: SymbolsConfig) -> int:
    path = osp.join(root, 'image_text', f'scenes-{shard:06d}.tar')
    samples = scene_samples(
        _atlas(), cfg.seed, shard, cfg.shard_size, cfg.scene_size
    )
    return write_tar(path, samples)


def _retrieval_shard(root: str, cfg: SymbolsConfig) -> int:
    path = osp.join(root, 'image_text', 'val-000000.tar')
    samples = retrieval_samples(
        _atlas(),
        cfg.seed,
        cfg.retrieval_images,
        cfg.single_size,
        cfg.scene_size,
    )
    return write_tar(path, samples)


def _zero_shot_folder(
    root: str, index: int, held_out: bool, cfg: SymbolsConfig
) -> int:
    atlas = _atlas(held_out)
    kind = 'zero_shot_drawings' if held_out else 'zero_shot'
    purpose = Purpose[kind.upper()]
    folder = osp.join(root, kind, atlas.glyphs[index].name)
    os.makedirs(folder)
    for number in range(cfg.zero_shot_images):
        rng = rng_for(cfg.seed, purpose, index, number)
        colour = COLOUR_NAMES[int(rng.integers(len(COLOUR_NAMES)))]
        picture = render_single(atlas, index, colour, cfg.single_size, rng)
        with open(osp.join(folder, f'{number:06d}.jpg'), 'wb') as file:
            file.write(picture.jpeg())
    return cfg.zero_shot_images


def _detection_chunk(
    root: str,
    split: str,
    first: int,
    scenes: list[list[int]],
    cfg: SymbolsConfig,
) -> list[Record]:
    """Draw pictures number first + 1, first + 2, ... of a split."""
    atlas = _atlas(split == 'val_drawings')
    return [
        draw_detection_image(
            atlas,
            indices,
            root,
            f'images/{split}/{number:06d}.jpg',
            cfg.size,
            image_rng(cfg.seed, split, number),
        )
        for number, indices in enumerate(scenes, first + 1)
    ]


def _detection_tasks(
    root: str, split: str, num_images: int, cfg: SymbolsConfig
) -> list[Task]:
    plan = split_plan(load_glyphs(), split, num_images, cfg.seed)
    return [
        (
            _detection_chunk,
            (root, split, first, plan[first : first + CHUNK], cfg),
        )
        for first in range(0, len(plan), CHUNK)
    ]


def task_groups(root: str, cfg: SymbolsConfig) -> dict[str, list[Task]]:
    """List the work of a build.

    Args:
        root (str): Folder to write into; its sub-folders exist.
        cfg (SymbolsConfig): What to build.

    Returns:
        dict[str, list[Task]]: Tasks by the name of their count in the
        manifest. A task returns its number of pictures, or for 'train',
        'val' and 'val_drawings' a list of detection records.
    """
    glyphs = load_glyphs() if cfg.zero_shot_images else ()
    return dict(
        image_text_single=[
            (_single_shard, (root, shard, cfg))
            for shard in range(cfg.single_shards)
        ],
        image_text_scenes=[
            (_scene_shard, (root, shard, cfg))
            for shard in range(cfg.scene_shards)
        ],
        image_text_lone=[
            (_lone_shard, (root, shard, cfg))
            for shard in range(cfg.lone_shards)
        ],
        image_text_val=[(_retrieval_shard, (root, cfg))]
        if cfg.retrieval_images
        else [],
        zero_shot=[
            (_zero_shot_folder, (root, index, False, cfg))
            for index in range(len(glyphs))
        ],
        zero_shot_drawings=[
            (_zero_shot_folder, (root, index, True, cfg))
            for index, glyph in enumerate(glyphs)
            if glyph.held_out
        ],
        train=_detection_tasks(root, 'train', cfg.train_images, cfg),
        val=_detection_tasks(root, 'val', cfg.val_images, cfg),
        val_drawings=_detection_tasks(
            root, 'val_drawings', cfg.val_drawings_images, cfg
        ),
    )


def run_tasks(tasks: list[Task], workers: int) -> Iterator[Any]:
    """Run tasks and yield their results in order.

    Args:
        tasks (list[Task]): Functions and arguments.
        workers (int): Number of processes; at most 1: this one.

    Yields:
        Any: What each task returned.
    """
    if workers <= 1:
        yield from map(_run, tasks)
        return
    # A process with threads must not fork: its children may wait for ever
    # for what a thread held. So one without any imports, and is forked.
    if 'forkserver' in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload([__name__])
    else:
        context = multiprocessing.get_context('spawn')
    with context.Pool(workers, initializer=_start_worker) as pool:
        yield from pool.imap(_run, tasks)
