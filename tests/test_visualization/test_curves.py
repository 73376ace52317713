# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of the line charts."""

import math
import re
from xml.etree import ElementTree

import pytest

from dito.visualization import StageLog
from dito.visualization.curves import (
    Chart,
    Series,
    chart_svg,
    nice_ticks,
)
from dito.visualization.stage_charts import stage_charts

SVG = '{http://www.w3.org/2000/svg}'


def numbers(path: str) -> list:
    found = [float(v) for v in re.findall(r'-?\d+(?:\.\d+)?', path)]
    return list(zip(found[::2], found[1::2], strict=True))


def test_svg_is_well_formed_and_in_the_frame():
    chart = Chart('a < b & "c"', [
        Series('loss <x>', [(0, 3.0), (10, 1.5), (20, 0.25)]),
        Series('one point', [(10, 2.0)])
    ])
    tree = ElementTree.fromstring(chart_svg(chart))
    assert tree.tag == f'{SVG}svg'
    assert tree.find(f'{SVG}title').text == 'a < b & "c"'
    width, height = (float(v) for v in tree.get('viewBox').split()[2:])
    lines = [p for p in tree.iter(f'{SVG}path') if p.get('class') == 'line']
    places = numbers(lines[0].get('d'))
    assert len(places) == 3
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    # A falling loss goes down: in a picture y grows downwards.
    assert [y for _, y in places] == sorted(y for _, y in places)
    assert len(tree.findall(f'{SVG}circle')) == 1
    texts = [t.text for t in tree.iter(f'{SVG}text')]
    assert 'loss <x>: 0.25' in texts and 'iteration' in texts


def test_places_agree_with_the_ticks():
    svg = chart_svg(Chart('t', [Series('s', [(0, 0.0), (10, 1.0)])]))
    tree = ElementTree.fromstring(svg)
    ticks = {t.text: t for t in tree.iter(f'{SVG}text')}
    line = next(p for p in tree.iter(f'{SVG}path')
                if p.get('class') == 'line')
    (x0, y0), (x1, y1) = numbers(line.get('d'))
    assert x1 == pytest.approx(float(ticks['10'].get('x')), abs=.11)
    assert y1 == pytest.approx(float(ticks['1'].get('y')) - 4, abs=.11)


def test_values_that_are_not_finite():
    gap = [(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.0), (4, math.inf)]
    tree = ElementTree.fromstring(chart_svg(Chart('t', [Series('s', gap)])))
    drawn = [p for p in tree.iter(f'{SVG}path') if p.get('class') == 'line']
    assert len(drawn) == 2  # One piece, and the legend's.
    assert len(tree.findall(f'{SVG}circle')) == 1
    assert 'nan' not in chart_svg(Chart('t', [Series('s', gap)]))
    assert chart_svg(Chart('t', [Series('s', [(0, math.nan)])])) == ''
    assert chart_svg(Chart('t', [])) == ''


@pytest.mark.parametrize('low, high', [(0, 1), (.013, .0172), (-3, 8),
                                       (2.5, 2.5), (0, 0), (120, 98765)])
def test_nice_ticks(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high
    assert 3 <= len(ticks) <= 9
    steps = {round(b - a, 9) for a, b in zip(ticks, ticks[1:], strict=False)}
    assert len(steps) == 1
    mantissa = f'{steps.pop():e}'[0]
    assert mantissa in '125'


def test_charts_of_both_stages():
    rep = StageLog('rep', 'REP', [
        dict(step=1, loss=4., loss_p2=1., loss_p3=2., recall_p2=.1,
             recall_p3=.2, loss_rpn=.3, rpn_target=.1)
    ])
    charts = {c.title: c for c in stage_charts(rep)}
    assert [s.name for s in charts['Contrastive loss'].series] == [
        'level P2', 'level P3']
    assert [s.points for s in charts['R@1 within the batch'].series] == [
        [(1., .1)], [(1., .2)]]
    assert len(charts['Proposal head'].series) == 2
    detection = StageLog('dito', 'detection', [
        dict(step=5, loss=4., loss_cls=1., loss_bbox=2., loss_mask=.1,
             loss_distill=.2, loss_rpn_center=.3, loss_rpn_bbox=.1, acc=9.)
    ])
    names = [{s.name for s in c.series} for c in stage_charts(detection)]
    assert names == [{'centerness', 'proposal boxes'},
                     {'classes', 'boxes', 'masks', 'distillation'}]
    assert stage_charts(StageLog('none', 'none')) == []
