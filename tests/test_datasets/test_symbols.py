# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The symbols data set, one picture: names, masks, colours, captions."""

import io
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from dito.datasets.symbols import load_glyphs
from dito.datasets.symbols.detection import (
    TRAIN_WEIGHTS,
    VAL_WEIGHTS,
    plan_scenes,
)
from dito.datasets.symbols.glyphs import Drawing
from dito.datasets.symbols.rasterizer import (
    FONTS,
    GlyphAtlas,
    character,
    font_path,
)
from dito.datasets.symbols.renderer import (
    COLOUR_NAMES,
    COLOURS,
    Light,
    _paint,
    contrasting_background,
    render_scene,
    render_single,
)
from dito.datasets.symbols.shards import caption_many, with_article


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
    assert 150 <= len(glyphs) <= 250
    assert [g.category_id for g in glyphs] == list(range(1, len(glyphs) + 1))
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


def test_most_names_have_several_drawings_and_some_one_held_out() -> None:
    glyphs = load_glyphs()
    everything = [
        drawing
        for glyph in glyphs
        for drawing in (*glyph.drawings, glyph.held_out)
        if drawing is not None
    ]
    assert len(set(everything)) == len(everything)
    assert all(glyph.drawings for glyph in glyphs)
    several = [
        g for g in glyphs if len(g.drawings) + (g.held_out is not None) > 1
    ]
    assert len(several) > len(glyphs) / 2
    held_out = [glyph for glyph in glyphs if glyph.held_out]
    assert len(held_out) >= 30
    # What is asked there is a known name, so boxes of it must be known.
    assert not any(glyph.novel for glyph in held_out)


def test_every_drawing_is_in_its_font() -> None:
    from matplotlib.ft2font import FT2Font

    charmaps = {key: FT2Font(font_path(key)).get_charmap() for key in FONTS}
    for glyph in load_glyphs():
        for drawing in filter(None, (*glyph.drawings, glyph.held_out)):
            code = ord(character(drawing))
            assert code in charmaps[drawing.font], str(drawing)


def test_an_unknown_icon_is_refused() -> None:
    with pytest.raises(ValueError, match='no icon "umbrela"'):
        character(Drawing('mdi', 'umbrela'))


def test_a_missing_font_package_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, 'fonticon_mdi7', None)
    with pytest.raises(
        ImportError, match='pip install fonticon-materialdesignicons7'
    ):
        font_path('mdi')


def test_fonts_are_read_without_qt() -> None:
    code = (
        'import sys; from dito.datasets.symbols import load_glyphs; '
        'from dito.datasets.symbols.rasterizer import GlyphAtlas; '
        'GlyphAtlas(load_glyphs()[:3]); '
        'qt = ("PyQt", "PySide", "qt"); '
        'print([m for m in sys.modules if m.startswith(qt)])'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == '[]'


def silhouettes() -> tuple[list[str], list[np.ndarray]]:
    """Names and centred masks, 40 x 40 float32, of all drawings."""
    size = 40
    names, canvases = [], []
    for glyph in load_glyphs():
        for drawing in filter(None, (*glyph.drawings, glyph.held_out)):
            alone = replace(glyph, drawings=(drawing,), held_out=None)
            mask = GlyphAtlas([alone]).mask(0, 30)
            canvas = np.zeros((size, size), np.float32)
            y, x = [(size - side) // 2 for side in mask.shape]
            canvas[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
            names.append(glyph.name)
            canvases.append(canvas)
    return names, canvases


def test_no_two_categories_look_alike() -> None:
    names, canvases = silhouettes()
    fixed = np.stack([band_passed(canvas) for canvas in canvases])
    best = np.zeros((len(names), len(names)))
    centre = ((40 - 1) / 2, (40 - 1) / 2)
    for angle in (-15, 0, 15):
        for scale in (0.93, 1.0, 1.07):
            warp = cv2.getRotationMatrix2D(centre, angle, scale)
            for flip in (1, -1):
                turned = [
                    cv2.warpAffine(
                        np.ascontiguousarray(canvas[:, ::flip]),
                        warp,
                        (40, 40),
                    )
                    for canvas in canvases
                ]
                stack = np.stack([band_passed(canvas) for canvas in turned])
                best = np.maximum(best, fixed @ stack.T)
    # The measure works: a drawing against itself is a look-alike.
    assert best.diagonal().min() > 0.9
    known = np.array(names)
    best[known[:, None] == known[None]] = 0
    first, second = np.unravel_index(best.argmax(), best.shape)
    assert best.max() < 0.9, (names[first], names[second])


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
    space = (Drawing('dejavu', '2003'),)
    blank = replace(load_glyphs()[0], drawings=space)
    with pytest.raises(ValueError, match='draws nothing for dejavu:2003'):
        GlyphAtlas([blank])


def test_drawings_of_a_name_take_turns_and_the_held_out_one_does_not() -> None:
    glyph = next(g for g in load_glyphs() if g.held_out and g.drawings[1:])
    atlas = GlyphAtlas([glyph])
    rng = np.random.default_rng(0)
    picks = Counter(atlas.pick(0, rng) for _ in range(300))
    assert set(picks) == set(range(len(glyph.drawings)))
    assert min(picks.values()) > 100 / len(glyph.drawings)
    alone = GlyphAtlas([replace(glyph, drawings=(glyph.held_out,))])
    held_out = GlyphAtlas([glyph], held_out=True)
    assert {held_out.pick(0, rng) for _ in range(50)} == {0}
    assert np.array_equal(held_out.mask(0, 60), alone.mask(0, 60))
    assert not any(
        np.array_equal(alone.mask(0, 60), atlas.mask(0, 60, 0.0, number))
        for number in picks
    )


def test_shadows_darken_the_ground_and_light_the_objects() -> None:
    alpha = np.zeros((40, 40), np.uint8)
    alpha[10:30, 10:30] = 255
    light = Light(x=0.0, y=-1.0, ramp=0.2, relief=0.3, shadow=0.5, offset=0.1)
    image = np.full((64, 64, 3), 200, np.float32)
    _paint(image, alpha, np.full(3, 100, np.float32), 12, 12, light)
    # Light from above: the shadow falls below, the upper side is brighter.
    assert image[44, 32].max() < 180 < image[18, 32].min()
    assert image[26, 32].mean() > image[38, 32].mean() + 10
    assert np.array_equal(image[2, 2], [200] * 3)


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
    for seed in range(len(atlas)):
        rng = np.random.default_rng(seed)
        picture = render_single(atlas, seed, colour, 64, rng)
        shade = picture.image[picture.objects[0].mask].mean(axis=0)
        # Up to the light: a shaded yellow is a yellow.
        gaps = {
            name: min(
                np.linalg.norm(shade - light * np.array(value))
                for light in (0.8, 0.9, 1.0, 1.1)
            )
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
    plan = plan_scenes(glyphs, 500, TRAIN_WEIGHTS, np.random.default_rng(0))
    assert {len(scene) for scene in plan} == {2, 3, 4, 5, 6}
    counts = Counter(index for scene in plan for index in scene)
    by_group: dict[str, list[int]] = dict(r=[], c=[], f=[])
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
        ('unicorn', 'a unicorn'),
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
