# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures of titled tiles: the README's figure, and similarity maps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dito.apis import DITOInferencer, SimilarityMaps, TextSimilarity
from dito.utils.files import replacing
from dito.visualization.drawing import (
    INK,
    draw_heat_map,
    draw_legend,
    draw_objects,
    label_font,
    shortened,
)

from .samples import (
    DetectionSample,
    SimilaritySample,
    detect_samples,
    load_models,
    read_annotated,
    similarity_samples,
)

NUM_FIGURE = 4
# Of the 4 pictures' detections; a report, which has room, shows more.
_SCORE_THR = 0.5

# Pictures are drawn at twice the size that they are looked at.
_TILE = 576
_FONT = 26
_GAP = 16
_LINE = 44
_MAX_BYTES = 1_000_000


def quickstart_figure(
    quickstart_dir: Path,
    data_root: Path,
    out: Path,
    device: str = 'cpu',
    count: int = NUM_FIGURE,
) -> Path:
    """Write :func:`held_out_figure` from the models of a quickstart."""
    models = load_models(quickstart_dir, device)
    return held_out_figure(*models, data_root, out, count)


def held_out_figure(
    detector: DITOInferencer,
    similarity: TextSimilarity | None,
    data_root: Path,
    out: Path,
    count: int = NUM_FIGURE,
) -> Path:
    """Draw what models make of held-out pictures to a PNG or JPEG.

    The pictures are the first of ``data_root``/annotations/val.json that have
    a novel object alone of its class, whatever is found in them. Detections of
    50 % and more are shown; a model with a box head gives maps of the novel
    object before and after stage 2.

    Raises:
        ValueError: If no picture has such an object, or count is below 1.
    """
    if count < 1:
        raise ValueError(f'The figure needs a picture or more, got {count}.')
    data = read_annotated(data_root / 'annotations/val.json', data_root)
    images = [i for i in data.images if any(o.novel for o in i.singles)]
    images = images[:count]
    maps = []
    if similarity is not None:
        maps = similarity_samples(similarity, images, count)
    samples = detect_samples(detector, data, images, _SCORE_THR)
    return write_figure(readme_figure(samples, maps), out)


def readme_figure(
    detections: Sequence[DetectionSample],
    similarity: Sequence[SimilaritySample] = (),
) -> np.ndarray:
    """Put judged detections beside the maps of the same pictures.

    RGB, uint8, with a legend below; one picture a row, or three where there
    are no maps. ValueError if there is nothing to draw.
    """
    if not detections:
        raise ValueError('The figure needs pictures with a novel object.')
    tiles = []
    for number, sample in enumerate(detections):
        scale = _scale(sample.image)
        drawn = draw_objects(sample.image, sample.judged, scale, _FONT)
        tiles.append(_titled(drawn, f'detections in {sample.name}'))
        for pair in similarity[number : number + 1]:
            maps = dict(before=pair.before, after=pair.after)
            for when, values in maps.items():
                heat = draw_heat_map(pair.image, values, scale, pair.box)
                tiles.append(_titled(heat, f'{when} REP: {pair.text}'))
    rows = _arrange(tiles, min(3, len(tiles)))
    return np.concatenate([rows, draw_legend(rows.shape[1], _FONT)])


def similarity_strip(
    image: np.ndarray, texts: Sequence[str], maps: SimilarityMaps
) -> np.ndarray:
    """Draw a row for each text: the RGB picture, and its one or two maps."""
    kinds = {'backbone': maps.backbone, 'box head': maps.regions}
    kinds = {
        name: values for name, values in kinds.items() if values is not None
    }
    tiles = []
    for number, text in enumerate(texts):
        tiles.append(_titled(image, text))
        for name, values in kinds.items():
            low, high = values[number].min(), values[number].max()
            heat = draw_heat_map(image, values[number], _scale(image))
            title = f'{name}: {100 * low:.0f} to {100 * high:.0f} %'
            tiles.append(_titled(heat, title))
    return _arrange(tiles, 1 + len(kinds))


def _scale(image: np.ndarray) -> int:
    """Enlargement of a picture (H, W, 3) that is not less than a tile."""
    return max(1, -(-_TILE // max(image.shape[:2])))


def _titled(image: np.ndarray, title: str) -> Image.Image:
    """A picture in a white square, a line of text above it."""
    tile = Image.new('RGB', (_TILE, _LINE + _TILE), 'white')
    text, font = shortened(title, _TILE, _FONT), label_font(_FONT)
    ImageDraw.Draw(tile).text((0, _LINE / 2), text, INK, font, 'lm')
    picture = Image.fromarray(image)
    factor = _TILE / max(picture.size)
    size = [max(round(n * factor), 1) for n in picture.size]
    tile.paste(picture.resize(size, Image.Resampling.BICUBIC), (0, _LINE))
    return tile


def _arrange(tiles: Sequence[Image.Image], columns: int) -> np.ndarray:
    """Put tiles of one size into rows on white."""
    width, height = (n + _GAP for n in tiles[0].size)
    rows = -(-len(tiles) // columns)
    size = columns * width - _GAP, rows * height - _GAP
    canvas = Image.new('RGB', size, 'white')
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        canvas.paste(tile, (column * width, row * height))
    return np.asarray(canvas)


def write_figure(image: np.ndarray, path: Path) -> Path:
    """Write a picture (H, W, 3), RGB, uint8, whole or not at all.

    By its suffix a JPEG, else a PNG of less than 1 MB, of fewer colours if
    need be.
    """
    picture = Image.fromarray(image)
    with replacing(path) as unfinished:
        if path.suffix.lower() in ('.jpg', '.jpeg'):
            picture.save(unfinished, 'JPEG', quality=90)
        else:
            _save_small(picture, unfinished)
    return path


def _save_small(picture: Image.Image, path: Path) -> None:
    """Write a PNG, of no more colours than its size allows."""
    for colors in (0, 256, 128, 64):
        # Rare colours count too: those of labels and the legend.
        reduced = picture
        if colors:
            reduced = picture.quantize(colors, Image.Quantize.MAXCOVERAGE)
        reduced.save(path, 'PNG', optimize=True)
        if path.stat().st_size < _MAX_BYTES:
            return
