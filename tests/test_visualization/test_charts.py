# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of the line charts."""

import math
from xml.etree import ElementTree

import pytest

from dito.reports.logs import StageLog
from dito.reports.report import (
    Chart,
    Series,
    chart_svg,
    draw_chart,
    stage_charts,
)

SVG = '{http://www.w3.org/2000/svg}'


def texts(svg: str) -> dict:
    """Texts of a well-formed chart by what they say."""
    tree = ElementTree.fromstring(svg)
    assert tree.tag == f'{SVG}svg'
    return {t.text: t for t in tree.iter(f'{SVG}text')}


def lines(svg: str, color: str) -> list:
    """Points of the lines of a color, the legend's included."""
    paths = ElementTree.fromstring(svg).iter(f'{SVG}path')
    found = [
        p.get('d').split()
        for p in paths
        if color in p.get('style', '') and 'fill: none' in p.get('style')
    ]
    return [
        [(float(d[i + 1]), float(d[i + 2])) for i in range(0, len(d), 3)]
        for d in found
    ]


def test_svg_is_well_formed_and_in_the_frame():
    chart = Chart(
        't',
        [
            Series('loss <x> $&$', [(0, 3.0), (10, 1.5), (20, 0.25)]),
            Series('one point', [(10, 2.0)]),
        ],
    )
    svg = chart_svg(chart)
    tree = ElementTree.fromstring(svg)
    width, height = (float(v) for v in tree.get('viewBox').split()[2:])
    places = max(lines(svg, '#3b82f6'), key=len)
    assert len(places) == 3
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    # A falling loss goes down: in a picture y grows downwards.
    assert [y for _, y in places] == sorted(y for _, y in places)
    assert len(list(tree.iter(f'{SVG}use'))) > 0  # ticks and the one point
    assert {'loss <x> $&$: 0.25', 'one point: 2', 'iteration'} <= set(
        texts(svg)
    )
    assert svg == chart_svg(chart)


def test_places_agree_with_the_ticks():
    svg = chart_svg(Chart('t', [Series('s', [(0, 0.0), (10, 1.0)])]))
    ticks = texts(svg)
    (x0, y0), (x1, y1) = max(
        lines(svg, '#3b82f6'), key=lambda p: abs(p[0][1] - p[1][1])
    )
    for place, text in ((x0, '0'), (x1, '10')):
        assert place == pytest.approx(float(ticks[text].get('x')), abs=1)
    apart = [float(ticks[text].get('y')) for text in ('0.0', '1.0')]
    assert y0 - y1 == pytest.approx(apart[0] - apart[1], abs=0.1)


def test_texts_have_the_color_of_the_page():
    svg = chart_svg(Chart('t', [Series('s', [(0, 0.0), (10, 1.0)])]))
    assert len(texts(svg)) > 5
    assert not any('fill' in t.get('style') for t in texts(svg).values())
    assert not any(c in svg for c in ('#000000', '#ffffff', 'white', 'black'))


def test_values_that_are_not_finite():
    gap = [(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.0), (4, math.inf)]
    chart = Chart('t', [Series('s', gap)])
    svg = chart_svg(chart)
    assert 'nan' not in svg and 'inf' not in svg and 's: 1' in texts(svg)
    (line,) = draw_chart(chart).axes[0].lines
    assert line.get_ydata()[:2].tolist() == [1, 2]
    assert [math.isnan(y) for y in line.get_ydata()] == [
        False,
        False,
        True,
        False,
        True,
    ]
    # A value between two missing ones is a point.
    assert list(line.get_markevery()) == [3] and line.get_marker() == 'o'
    assert chart_svg(Chart('t', [Series('s', [(0, math.nan)])])) == ''
    assert chart_svg(Chart('t', [])) == ''
    both = Chart('t', [Series('none', [(0, math.inf)]), *chart.series])
    assert len(draw_chart(both).axes[0].lines) == 1


@pytest.mark.parametrize('low, bottom', [(3.0, 0), (-3.0, -3)])
def test_axis_from_zero(low, bottom):
    series = [Series('s', [(0, low), (1, 5.0)])]
    axes = draw_chart(Chart('t', series, from_zero=True)).axes[0]
    assert bottom - 0.5 < axes.get_ylim()[0] <= bottom
    axes = draw_chart(Chart('t', series)).axes[0]
    assert low - 0.5 < axes.get_ylim()[0] < low


def test_many_lines_differ():
    series = [Series(f's{n}', [(0, n), (1, n)]) for n in range(18)]
    svg = chart_svg(Chart('t', series))
    styles = [
        p.get('style')
        for p in ElementTree.fromstring(svg).iter(f'{SVG}path')
        if 'stroke-width: 2' in p.get('style', '')
    ]
    assert len(set(styles)) == 18


def test_charts_of_both_stages():
    rep = StageLog(
        'rep',
        'REP',
        [
            dict(
                step=1,
                loss=4.0,
                loss_p2=1.0,
                loss_p3=2.0,
                recall_p2=0.1,
                recall_p3=0.2,
                loss_rpn=0.3,
                rpn_target=0.1,
            )
        ],
    )
    charts = {c.title: c for c in stage_charts(rep)}
    assert [s.name for s in charts['Contrastive loss'].series] == [
        'level P2',
        'level P3',
    ]
    assert [s.points for s in charts['R@1 within the batch'].series] == [
        [(1.0, 0.1)],
        [(1.0, 0.2)],
    ]
    assert len(charts['Proposal head'].series) == 2
    detection = StageLog(
        'dito',
        'detection',
        [
            dict(
                step=5,
                loss=4.0,
                loss_cls=1.0,
                loss_bbox=2.0,
                loss_mask=0.1,
                loss_distill=0.2,
                loss_rpn_center=0.3,
                loss_rpn_bbox=0.1,
                acc=9.0,
            )
        ],
    )
    names = [{s.name for s in c.series} for c in stage_charts(detection)]
    assert names == [
        {'centerness', 'proposal boxes'},
        {'classes', 'boxes', 'masks', 'distillation'},
    ]
    assert stage_charts(StageLog('none', 'none')) == []
