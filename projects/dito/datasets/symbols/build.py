# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Build the ``symbols`` data set with several processes."""

import multiprocessing
import os
import os.path as osp
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import cv2

from dito.utils.files import new_folder, sha256_of, write_json

from .config import Purpose, SymbolsConfig, rng_for
from .detection import (
    SIDES,
    SPLITS,
    Record,
    count_instances,
    draw_detection_image,
    image_rng,
    lvis_annotations,
    split_plan,
)
from .glyphs import load_glyphs
from .rasterizer import FONTS, GlyphAtlas
from .renderer import COLOUR_NAMES, render_single
from .shards import (
    lone_samples,
    retrieval_samples,
    scene_samples,
    single_samples,
    write_tar,
)

MANIFEST = 'manifest.json'
#: Raised whenever the same seed gives other pictures.
FORMAT_VERSION = 2
# Share of the pictures after which progress is said again.
_SAY_EVERY = 0.04
#: The fonts' packages and what draws.
_PACKAGES = (*(font.package for font in FONTS.values()), 'numpy', 'pillow')
#: Detection pictures a task.
CHUNK = 50

Task = tuple[Callable[..., Any], tuple[Any, ...]]


@lru_cache(maxsize=2)
def _atlas(held_out: bool = False) -> GlyphAtlas:
    """Rasterise the drawings once per process."""
    return GlyphAtlas(load_glyphs(), held_out)


def _run(task: Task) -> Any:
    function, arguments = task
    return function(*arguments)


def _shard(
    root: str, name: str, samples: Callable[..., Any], *arguments: Any
) -> int:
    """Write the samples that a function draws of the atlas."""
    path = osp.join(root, 'image_text', f'{name}.tar')
    return write_tar(path, samples(_atlas(), *arguments))


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


def _task_groups(root: str, cfg: SymbolsConfig) -> dict[str, list[Task]]:
    """Tasks by the name of their count; results are numbers or records."""
    glyphs = load_glyphs() if cfg.zero_shot_images else ()

    def shards(name: str, number: int, samples: Any, *sizes: Any) -> list:
        return [
            (
                _shard,
                (root, f'{name}-{shard:06d}', samples, cfg.seed, shard)
                + (cfg.shard_size, *sizes),
            )
            for shard in range(number)
        ]

    sides = (cfg.size * SIDES[0], cfg.size * SIDES[1])
    val = (cfg.seed, cfg.retrieval_images, cfg.single_size, cfg.scene_size)
    return dict(
        image_text_single=shards(
            'single', cfg.single_shards, single_samples, cfg.single_size
        ),
        image_text_scenes=shards(
            'scenes', cfg.scene_shards, scene_samples, cfg.scene_size
        ),
        image_text_lone=shards(
            'lone', cfg.lone_shards, lone_samples, cfg.scene_size, sides
        ),
        image_text_val=[
            (_shard, (root, 'val-000000', retrieval_samples, *val))
        ]
        * bool(cfg.retrieval_images),
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


def _run_tasks(tasks: list[Task], workers: int) -> Iterator[Any]:
    """Run tasks, in this process or in several; results come in order."""
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
    with context.Pool(workers, cv2.setNumThreads, (1,)) as pool:
        yield from pool.imap(_run, tasks)


def _write_annotations(
    root: str, records: dict[str, list[Record]]
) -> dict[str, Any]:
    """Write the json files; return what the manifest says about them."""
    glyphs = load_glyphs()
    base = [glyph for glyph in glyphs if not glyph.novel]
    counts = count_instances(records['train'])
    folder = osp.join(root, 'annotations')
    os.makedirs(folder)
    files = dict(
        train_base=('train', base),
        train_all=('train', glyphs),
        val=('val', glyphs),
        val_drawings=('val_drawings', glyphs),
    )
    boxes = {}
    for name, (split, kept) in files.items():
        content = lvis_annotations(records[split], kept, counts, name)
        boxes[name] = len(content['annotations'])
        write_json(osp.join(folder, f'{name}.json'), content)
    in_val = count_instances(records['val'])['instance_count']
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


def _manifest(root: str, cfg: SymbolsConfig, counts: dict[str, int]) -> dict:
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
        versions={name: version(name) for name in _PACKAGES}
        | {'opencv': cv2.__version__},
        sha256={name: sha256_of(osp.join(root, name)) for name in jsons},
    )


def build_symbols(
    out_dir: str,
    cfg: SymbolsConfig,
    workers: int = 1,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda message: None,
) -> dict:
    """Build the data set; the folder appears when it is complete.

    The result depends on ``cfg`` alone, not on ``workers``. Returns the
    content of ``manifest.json``.

    Raises:
        FileExistsError: If ``out_dir`` is not empty and ``overwrite`` off.
        ValueError: If ``out_dir`` is something else than an earlier build.
    """
    _check_target(out_dir, overwrite)
    with new_folder(out_dir) as parts:
        root = str(parts)
        os.makedirs(osp.join(root, 'image_text'))
        for split in SPLITS:
            os.makedirs(osp.join(root, 'images', split))
        groups = _task_groups(root, cfg)
        counts, records = _draw(groups, cfg, workers, report)
        categories = [glyph.as_category() for glyph in load_glyphs()]
        write_json(osp.join(root, 'categories.json'), categories, indent=1)
        detection: dict[str, Any] = {}
        if any(records.values()):
            detection = _write_annotations(root, records)
        manifest = _manifest(root, cfg, counts)
        manifest['detection'] = detection
        write_json(osp.join(root, MANIFEST), manifest, indent=1)
        _check_target(out_dir, overwrite)
    for problem in ('base_without_train_box', 'novel_with_under_4_val_boxes'):
        if detection.get(problem):
            report(f'{problem}: {", ".join(detection[problem])}')
    return manifest


def _check_target(out_dir: str, overwrite: bool) -> None:
    """Refuse to write into a folder that holds something."""
    if not osp.exists(out_dir):
        return
    if not osp.isdir(out_dir):
        raise ValueError(f'{out_dir} is a file; give a folder.')
    if not os.listdir(out_dir):
        return
    if not overwrite:
        raise FileExistsError(
            f'{out_dir} is not empty; pass --overwrite to replace an earlier '
            'build, or choose another folder.'
        )
    if not osp.isfile(osp.join(out_dir, MANIFEST)):
        raise ValueError(
            f'{out_dir} has no {MANIFEST}, so it is not a symbols data set '
            'and is not replaced; choose another folder.'
        )


def _pictures(name: str, cfg: SymbolsConfig) -> int:
    """Pictures of a task, about, by the name of its group."""
    if name.startswith('image_text'):
        return cfg.shard_size
    return cfg.zero_shot_images if name.startswith('zero_shot') else CHUNK


def _draw(
    groups: dict[str, list[Task]],
    cfg: SymbolsConfig,
    workers: int,
    report: Callable[[str], None],
) -> tuple[dict[str, int], dict[str, list[Record]]]:
    """Draw everything; return image counts and detection records."""
    names = [name for name, tasks in groups.items() for _ in tasks]
    tasks = [task for group in groups.values() for task in group]
    counts = dict.fromkeys(groups, 0)
    records: dict[str, list[Record]] = {split: [] for split in SPLITS}
    results = _run_tasks(tasks, workers)
    pairs = zip(names, results, strict=True)
    sizes = [_pictures(name, cfg) for name in names]
    drawn = said = 0
    for done, (name, result) in enumerate(pairs, 1):
        if name in records:
            records[name] += result
            result = len(result)
        counts[name] += result
        drawn += sizes[done - 1]
        if drawn - said >= _SAY_EVERY * sum(sizes) or done == len(tasks):
            said = drawn
            report(f'drawn [{drawn}/{sum(sizes)}]')
        if done == len(tasks) or names[done] != name:
            report(f'{name}: {counts[name]} pictures')
    return counts, records
