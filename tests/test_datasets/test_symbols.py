# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The symbols data set, one picture: names, masks, colours, captions."""

import io
from collections import Counter
from dataclasses import replace
from typing import Dict, List

import cv2
import numpy as np
import pytest
from PIL import Image

from dito.datasets.symbols import load_glyphs
from dito.datasets.symbols.captions import caption_many, with_article
from dito.datasets.symbols.detection import (
    TRAIN_WEIGHTS,
    VAL_WEIGHTS,
    plan_scenes,
)
from dito.datasets.symbols.palette import (
    COLOUR_NAMES,
    COLOURS,
    contrasting_background,
)
from dito.datasets.symbols.rasterizer import GlyphAtlas, font_path
from dito.datasets.symbols.renderer import render_scene, render_single

# Religious, political and national emblems of the font's pictograph blocks.
EMBLEMS = {
    *range(0x2626, 0x262E),
    0x2638,
    *range(0x2670, 0x2672),
    *range(0x271D, 0x2722),
    0x534D,
    0x5350,
    *range(0x0FD5, 0x0FD9),
}


@pytest.fixture(scope='module')
def atlas() -> GlyphAtlas:
    return GlyphAtlas(load_glyphs())


def band_passed(mask: np.ndarray) -> np.ndarray:
    """Unit vector of a silhouette without its mean size and fine edges."""
    blur = cv2.GaussianBlur(mask, (0, 0), 0.8)
    vector = (blur - cv2.GaussianBlur(mask, (0, 0), 5)).ravel()
    return vector / np.linalg.norm(vector)


# ---------------------------------------------------------------- categories


def test_names_are_many_readable_and_unique() -> None:
    glyphs = load_glyphs()
    assert len(glyphs) >= 120
    assert [g.category_id for g in glyphs] == list(range(1, len(glyphs) + 1))
    assert len({g.codepoint for g in glyphs}) == len(glyphs)
    words = [word for g in glyphs for word in (g.name, *g.synonyms)]
    assert len(set(words)) == len(words)
    for name in words:
        assert name == name.lower() and name.replace('-', ' ').strip()
        assert all(c.isalpha() or c in ' -' for c in name), name
    assert [g.name for g in glyphs] == sorted(g.name for g in glyphs)


def test_a_quarter_is_novel() -> None:
    groups = Counter(glyph.frequency for glyph in load_glyphs())
    assert set(groups) == set('rcf')
    assert 0.2 <= groups['r'] / len(load_glyphs()) <= 0.3
    assert all(g.novel == (g.frequency == 'r') for g in load_glyphs())


def test_no_emblem_is_a_category() -> None:
    assert not EMBLEMS & {glyph.codepoint for glyph in load_glyphs()}


def test_every_glyph_is_in_the_font() -> None:
    from matplotlib.ft2font import FT2Font

    charmap = FT2Font(font_path()).get_charmap()
    missing = [g.name for g in load_glyphs() if g.codepoint not in charmap]
    assert missing == []


def test_no_two_categories_look_alike(atlas: GlyphAtlas) -> None:
    size = 40
    canvases = []
    for index in range(len(atlas)):
        mask = atlas.mask(index, 30)
        canvas = np.zeros((size, size), np.float32)
        y, x = [(size - side) // 2 for side in mask.shape]
        canvas[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        canvases.append(canvas)
    fixed = np.stack([band_passed(canvas) for canvas in canvases])
    best = np.zeros((len(atlas), len(atlas)))
    centre = ((size - 1) / 2, (size - 1) / 2)
    for angle in (-15, 0, 15):
        for scale in (0.93, 1.07):
            warp = cv2.getRotationMatrix2D(centre, angle, scale)
            for flip in (1, -1):
                turned = np.stack(
                    [
                        band_passed(
                            cv2.warpAffine(
                                np.ascontiguousarray(canvas[:, ::flip]),
                                warp,
                                (size, size),
                            )
                        )
                        for canvas in canvases
                    ]
                )
                best = np.maximum(best, fixed @ turned.T)
    np.fill_diagonal(best, 0)
    first, second = np.unravel_index(best.argmax(), best.shape)
    pair = atlas.glyphs[first].name, atlas.glyphs[second].name
    assert best.max() < 0.9, pair
    # The measure works: the same glyph against itself is a look-alike.
    assert float(fixed[0] @ fixed[0]) > 0.9


# ------------------------------------------------------------------ drawing


@pytest.mark.parametrize('side', [20, 33.5, 64, 100, 250])
def test_mask_has_the_side_asked_for(atlas: GlyphAtlas, side: float) -> None:
    for index in range(0, len(atlas), 17):
        mask = atlas.mask(index, side) > 127
        rows = np.flatnonzero(mask.any(axis=1))
        cols = np.flatnonzero(mask.any(axis=0))
        longest = max(np.ptp(rows), np.ptp(cols)) + 1
        assert abs(longest - side) <= 2


def test_rotation_is_anticlockwise_and_keeps_all(atlas: GlyphAtlas) -> None:
    index = [g.name for g in atlas.glyphs].index('key')
    upright = atlas.mask(index, 60)
    turned = atlas.mask(index, 60, 90)
    expected = np.rot90(upright)
    assert turned.shape == expected.shape
    gap = np.abs(turned.astype(int) - expected.astype(int))
    assert gap.mean() < 2
    slanted = atlas.mask(index, 60, 20).astype(float)
    assert abs(slanted.sum() / upright.astype(float).sum() - 1) < 0.02


def test_an_empty_glyph_is_refused() -> None:
    blank = replace(load_glyphs()[0], codepoint=0x2003)
    with pytest.raises(ValueError, match=r'U\+2003'):
        GlyphAtlas([blank])


def test_single_object_fills_the_picture(atlas: GlyphAtlas) -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        picture = render_single(atlas, seed, 'red', 64, rng)
        assert picture.image.shape == (64, 64, 3)
        assert picture.image.dtype == np.uint8
        x, y, w, h = picture.objects[0].bbox()
        assert 0 <= x and 0 <= y and x + w <= 64 and y + h <= 64
        assert max(w, h) >= 0.40 * 64


@pytest.mark.parametrize('colour', COLOUR_NAMES)
def test_pixels_have_the_named_colour(atlas: GlyphAtlas, colour: str) -> None:
    square = [g.name for g in atlas.glyphs].index('square')
    for seed in range(10):
        rng = np.random.default_rng(seed)
        picture = render_single(atlas, square, colour, 64, rng)
        shade = picture.image[picture.objects[0].mask].mean(axis=0)
        gaps = {
            name: np.linalg.norm(shade - value)
            for name, value in COLOURS.items()
        }
        assert min(gaps, key=gaps.get) == colour


def test_background_contrasts_with_one_colour() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        for colour in COLOUR_NAMES:
            ground = contrasting_background([colour], rng)
            assert np.linalg.norm(ground - COLOURS[colour]) > 100


def test_visible_masks_are_disjoint_and_boxes_tight(
    atlas: GlyphAtlas,
) -> None:
    covered = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        picture = render_scene(
            atlas, [3, 40, 90, 120], ['red'] * 4, 96, (30, 60), rng
        )
        masks = np.stack([placed.mask for placed in picture.objects])
        assert masks.sum(axis=0).max() == 1
        for placed in picture.objects:
            ys, xs = np.nonzero(placed.mask)
            x, y, w, h = placed.bbox()
            assert (x, y) == (xs.min(), ys.min())
            assert (x + w, y + h) == (xs.max() + 1, ys.max() + 1)
            assert 0.0 < placed.visible <= 1.0
            covered += placed.visible < 1
    assert covered > 5


def test_plan_follows_the_frequency_groups() -> None:
    glyphs = load_glyphs()
    plan = plan_scenes(
        glyphs, 500, TRAIN_WEIGHTS, np.random.default_rng(0)
    )
    assert {len(scene) for scene in plan} == {2, 3, 4, 5, 6}
    counts = Counter(index for scene in plan for index in scene)
    by_group: Dict[str, List[int]] = dict(r=[], c=[], f=[])
    for index, glyph in enumerate(glyphs):
        by_group[glyph.frequency].append(counts[index])
    assert 1 <= min(by_group['r'])
    assert max(by_group['r']) < min(by_group['c'])
    assert max(by_group['c']) < min(by_group['f'])
    even = plan_scenes(glyphs, 300, VAL_WEIGHTS, np.random.default_rng(0))
    counts = Counter(index for scene in even for index in scene)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert min(counts.values()) >= 4
    assert plan_scenes(glyphs, 0, VAL_WEIGHTS, np.random.default_rng(0)) == []


# ----------------------------------------------------------------- captions


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        ('umbrella', 'an umbrella'),
        ('red umbrella', 'a red umbrella'),
        ('orange heart', 'an orange heart'),
        ('euro sign', 'a euro sign'),
        ('uranus sign', 'a uranus sign'),
    ],
)
def test_article(words: str, expected: str) -> None:
    assert with_article(words) == expected


def test_caption_of_several_names_all() -> None:
    things = [('red', 'umbrella'), ('blue', 'anchor'), ('orange', 'key')]
    for seed in range(20):
        caption = caption_many(things, np.random.default_rng(seed))
        for colour, name in things:
            assert with_article(f'{colour} {name}') in caption
        assert caption.count(' and ') == 1 and caption.count(',') == 1


def test_picture_jpeg_is_close_to_the_picture(atlas: GlyphAtlas) -> None:
    picture = render_single(atlas, 0, 'blue', 64, np.random.default_rng(0))
    decoded = np.asarray(Image.open(io.BytesIO(picture.jpeg())))
    gap = np.abs(decoded.astype(int) - picture.image.astype(int)).mean()
    assert gap < 8
