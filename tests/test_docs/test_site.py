# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The site: its pages, and the links of all pages, whoever shows them."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)')


def site_pages() -> ModuleType:
    path = ROOT / 'docs/site_pages.py'
    spec = importlib.util.spec_from_file_location('site_pages', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = site_pages()


def pages_of(nav: Any) -> Iterator[str]:
    """Pages of the navigation, in order."""
    for item in nav if isinstance(nav, list) else nav.values():
        if isinstance(item, str):
            yield item
        else:
            yield from pages_of(item)


def sources() -> dict[str, Path]:
    """Name in the site -> file, of all pages there are."""
    docs = ROOT / 'docs'
    own = {p.relative_to(docs).as_posix(): p for p in docs.rglob('*.md')}
    return {**own, **{k: ROOT / v for k, v in SITE.PAGES.items()}}


def anchors(text: str) -> set[str]:
    """What headings of a page are linked by."""
    text = re.sub(r'(?ms)^```.*?^```', '', text)
    heads = re.findall(r'(?m)^#+ (.*)$', text)
    heads = [re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', head) for head in heads]
    kept = [re.sub(r'[^\w\- ]', '', head.lower()) for head in heads]
    return {head.strip().replace(' ', '-') for head in kept}


def test_the_navigation_has_every_page_once() -> None:
    text = (ROOT / 'mkdocs.yml').read_text(encoding='utf-8')
    shown = list(pages_of(yaml.safe_load(text)['nav']))
    assert len(set(shown)) == len(shown)
    assert set(shown) == set(sources())


@pytest.mark.parametrize('name', sorted(sources()))
def test_links_lead_to_what_is_there(name: str) -> None:
    pages = sources()
    text = pages[name].read_text(encoding='utf-8')
    found = SITE.rewrite_links(text, name)
    found = re.sub(r'(?ms)^```.*?^```', '', found)
    for link in LINK.findall(found):
        if '://' in link:
            continue
        target, _, anchor = link.partition('#')
        path = (Path('/', name).parent / target).resolve() if target else None
        page = path.relative_to('/').as_posix() if path else name
        if page in pages:
            known = anchors(pages[page].read_text(encoding='utf-8'))
            assert not anchor or anchor in known, link
        else:
            assert (ROOT / 'docs' / page).is_file(), link


def test_a_link_to_nothing_is_named() -> None:
    with pytest.raises(FileNotFoundError, match='links to gone.md'):
        SITE.rewrite_links('see [it](gone.md)', 'faq.md')


def test_links_out_of_the_site_become_names() -> None:
    text = '[a config](../configs/dito_vitl_lvis.py), [start](../README.md#x)'
    assert SITE.rewrite_links(text, 'faq.md') == (
        'a config (`configs/dito_vitl_lvis.py`), [start](index.md#x)'
    )
    nested = SITE.rewrite_links('[f](../faq.md#y)', 'benchmarks/symbols.md')
    assert nested == '[f](../faq.md#y)'
