# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Build the ``symbols`` data set with several processes."""

import multiprocessing
import os
import os.path as osp
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Callable, Dict, Iterator, List, Tuple

import cv2

from .detection import Record, draw_detection_image, image_rng, split_plan
from .files import MANIFEST, atomic_folder, sha256, write_json
from .glyphs import load_glyphs
from .lvis_json import count_instances, lvis_annotations
from .palette import COLOUR_NAMES
from .rasterizer import GlyphAtlas
from .renderer import render_single
from .seeds import Purpose, rng_for
from .shards import (
    retrieval_samples,
    scene_samples,
    single_samples,
    write_tar,
)

#: Raised whenever the same seed gives other pictures.
FORMAT_VERSION = 1
_CHUNK = 50


@dataclass(frozen=True)
class SymbolsConfig:
    """What to build.

    Args:
        seed (int): Seed of the whole set.
        train_images (int): Detection pictures for training.
        val_images (int): Detection pictures for validation.
        size (int): Side of the detection pictures in pixels.
        single_shards (int): Image-text shards of one object a picture.
        scene_shards (int): Image-text shards of several objects a picture.
        shard_size (int): Samples a shard.
        retrieval_images (int): Held-out image-text pairs.
        zero_shot_images (int): Held-out single objects a category.
        single_size (int): Side of single-object pictures in pixels.
        scene_size (int): Side of image-text scenes in pixels.
    """

    seed: int = 0
    train_images: int = 1200
    val_images: int = 300
    size: int = 192
    single_shards: int = 8
    scene_shards: int = 8
    shard_size: int = 1000
    retrieval_images: int = 1000
    zero_shot_images: int = 20
    single_size: int = 64
    scene_size: int = 128

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in asdict(self).items():
            least = 48 if name in ('size', 'scene_size') else 0
            least = 16 if name == 'single_size' else least
            if value < least:
                raise ValueError(
                    f'{name} must be at least {least}, got {value}.'
                )


Task = Tuple[Callable[..., Any], Tuple[Any, ...]]


@lru_cache(maxsize=1)
def _atlas() -> GlyphAtlas:
    """Rasterise the font once a process."""
    return GlyphAtlas(load_glyphs())


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


def _zero_shot_folder(root: str, index: int, cfg: SymbolsConfig) -> int:
    glyph = _atlas().glyphs[index]
    folder = osp.join(root, 'zero_shot', glyph.name)
    os.makedirs(folder)
    for number in range(cfg.zero_shot_images):
        rng = rng_for(cfg.seed, Purpose.ZERO_SHOT, index, number)
        colour = COLOUR_NAMES[int(rng.integers(len(COLOUR_NAMES)))]
        picture = render_single(
            _atlas(), index, colour, cfg.single_size, rng
        )
        with open(osp.join(folder, f'{number:06d}.jpg'), 'wb') as file:
            file.write(picture.jpeg())
    return cfg.zero_shot_images


def _detection_chunk(
    root: str,
    split: str,
    first: int,
    scenes: List[List[int]],
    cfg: SymbolsConfig,
) -> List[Record]:
    """Draw pictures number first + 1, first + 2, ... of a split."""
    return [
        draw_detection_image(
            _atlas(),
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
) -> List[Task]:
    plan = split_plan(load_glyphs(), split, num_images, cfg.seed)
    return [
        (
            _detection_chunk,
            (root, split, first, plan[first : first + _CHUNK], cfg),
        )
        for first in range(0, len(plan), _CHUNK)
    ]


def _groups(root: str, cfg: SymbolsConfig) -> Dict[str, List[Task]]:
    """List the work, by the name of its count in the manifest."""
    categories = range(len(load_glyphs()) if cfg.zero_shot_images else 0)
    return dict(
        image_text_single=[
            (_single_shard, (root, shard, cfg))
            for shard in range(cfg.single_shards)
        ],
        image_text_scenes=[
            (_scene_shard, (root, shard, cfg))
            for shard in range(cfg.scene_shards)
        ],
        image_text_val=[(_retrieval_shard, (root, cfg))]
        if cfg.retrieval_images
        else [],
        zero_shot=[
            (_zero_shot_folder, (root, index, cfg)) for index in categories
        ],
        train=_detection_tasks(root, 'train', cfg.train_images, cfg),
        val=_detection_tasks(root, 'val', cfg.val_images, cfg),
    )


def _results(tasks: List[Task], workers: int) -> Iterator[Any]:
    """Run tasks and yield their results in order."""
    if workers <= 1:
        yield from map(_run, tasks)
        return
    # Forked workers share the imported libraries; elsewhere they import.
    methods = multiprocessing.get_all_start_methods()
    method = 'fork' if 'fork' in methods else 'spawn'
    context = multiprocessing.get_context(method)
    with context.Pool(workers, initializer=_start_worker) as pool:
        yield from pool.imap(_run, tasks)


def _write_annotations(
    root: str, train: List[Record], val: List[Record]
) -> Dict[str, Any]:
    """Write the json files; return what the manifest says about them."""
    glyphs = load_glyphs()
    base = [glyph for glyph in glyphs if not glyph.novel]
    counts = count_instances(train)
    folder = osp.join(root, 'annotations')
    os.makedirs(folder)
    files = dict(
        train_base=(train, base), train_all=(train, glyphs), val=(val, glyphs)
    )
    boxes = {}
    for name, (records, kept) in files.items():
        content = lvis_annotations(records, kept, counts, name)
        boxes[name] = len(content['annotations'])
        write_json(osp.join(folder, f'{name}.json'), content)
    in_val = count_instances(val)['instance_count']
    return dict(
        boxes=boxes,
        base_without_train_box=[
            glyph.name
            for glyph in base
            if not counts['instance_count'][glyph.category_id]
        ],
        novel_with_under_4_val_boxes=[
            glyph.name
            for glyph in glyphs
            if glyph.novel and in_val[glyph.category_id] < 4
        ],
    )


def _manifest(root: str, cfg: SymbolsConfig, counts: Dict[str, int]) -> dict:
    glyphs = load_glyphs()
    jsons = ['categories.json']
    if osp.isdir(osp.join(root, 'annotations')):
        names = sorted(os.listdir(osp.join(root, 'annotations')))
        jsons += [f'annotations/{name}' for name in names]
    return dict(
        name='symbols',
        format_version=FORMAT_VERSION,
        config=asdict(cfg),
        categories=dict(
            total=len(glyphs), novel=sum(glyph.novel for glyph in glyphs)
        ),
        images=counts,
        # Pictures are equal byte for byte only with equal versions.
        versions={
            name: version(name) for name in ('matplotlib', 'numpy', 'pillow')
        }
        | {'opencv': cv2.__version__},
        sha256={name: sha256(osp.join(root, name)) for name in jsons},
    )


def build_symbols(
    out_dir: str,
    cfg: SymbolsConfig,
    workers: int = 1,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda message: None,
) -> dict:
    """Build the data set; the folder appears when it is complete.

    Args:
        out_dir (str): Folder to make.
        cfg (SymbolsConfig): What to build. The result depends on it alone,
            not on ``workers``.
        workers (int): Number of processes. Defaults to 1.
        overwrite (bool): Replace an earlier build. Defaults to False.
        report (Callable[[str], None]): Called with progress messages.

    Returns:
        dict: The content of ``manifest.json``.

    Raises:
        FileExistsError: If ``out_dir`` is not empty and ``overwrite`` off.
        ValueError: If ``out_dir`` is something else than an earlier build.
    """
    with atomic_folder(out_dir, overwrite) as root:
        for folder in ('image_text', 'images/train', 'images/val'):
            os.makedirs(osp.join(root, folder))
        groups = _groups(root, cfg)
        counts, records = _draw(groups, workers, report)
        categories = [glyph.as_category() for glyph in load_glyphs()]
        write_json(osp.join(root, 'categories.json'), categories, indent=1)
        detection: Dict[str, Any] = {}
        if cfg.train_images or cfg.val_images:
            detection = _write_annotations(
                root, records['train'], records['val']
            )
        manifest = _manifest(root, cfg, counts)
        manifest['detection'] = detection
        write_json(osp.join(root, MANIFEST), manifest, indent=1)
    for problem in ('base_without_train_box', 'novel_with_under_4_val_boxes'):
        if detection.get(problem):
            report(f'{problem}: {", ".join(detection[problem])}')
    return manifest


def _draw(
    groups: Dict[str, List[Task]],
    workers: int,
    report: Callable[[str], None],
) -> Tuple[Dict[str, int], Dict[str, List[Record]]]:
    """Draw everything; return image counts and detection records."""
    names = [name for name, tasks in groups.items() for _ in tasks]
    tasks = [task for group in groups.values() for task in group]
    counts = dict.fromkeys(groups, 0)
    records: Dict[str, List[Record]] = dict(train=[], val=[])
    results = _results(tasks, workers)
    pairs = zip(names, results, strict=True)
    for done, (name, result) in enumerate(pairs, 1):
        if name in records:
            records[name] += result
            result = len(result)
        counts[name] += result
        if done == len(tasks) or names[done] != name:
            report(f'{name}: {counts[name]} pictures')
    return counts, records
