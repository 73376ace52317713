# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pieces of a web page in one file: no script, nothing from outside."""

import base64
import os
from html import escape
from pathlib import Path
from typing import Sequence, Tuple

import cv2
import numpy as np

_STYLE = """
:root { color-scheme: light dark; --text: #1c1f24; --soft: #5b6470;
  --page: #ffffff; --card: #f4f6f8; --rule: #d5dae1; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb;
  --soft: #a3abb6; --page: #14171b; --card: #1e2329; --rule: #3a424c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.2rem;
  font: 1rem/1.55 system-ui, sans-serif; color: var(--text);
  background: var(--page); }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .4rem 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .3rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; }
p { max-width: 48rem; margin: .4rem 0 .8rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0;
  border-bottom: 1px solid var(--rule); }
td.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; font-weight: 600; }
.grid-of { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
figure { margin: 0; padding: .7rem; border-radius: .5rem;
  background: var(--card); min-width: 0; }
.row { display: flex; gap: .5rem; }
.row > div { flex: 1 1 0; min-width: 0; }
.row .soft { margin: .1rem 0; }
img { display: block; width: 100%; height: auto; border-radius: .3rem; }
.key { display: inline-block; width: 1.3em; border-radius: .2em;
  text-align: center; color: #ffffff; margin: 0 .3em 0 .6em; }
code, pre { font: .88rem/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .7rem; border-radius: .5rem;
  background: var(--card); white-space: pre-wrap; overflow-wrap: anywhere; }
svg.chart { display: block; width: 100%; height: auto; color: var(--text); }
svg.chart text { font: 12px system-ui, sans-serif; fill: currentColor; }
svg.chart .grid { stroke: var(--rule); fill: none; }
svg.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
"""


def image_uri(image: np.ndarray, quality: int = 88) -> str:
    """Encode a picture into an address that holds it.

    Args:
        image (np.ndarray): RGB, uint8, (H, W, 3).
        quality (int): Of the JPEG. Defaults to 88.

    Returns:
        str: ``data:image/jpeg;base64,...``.
    """
    done, content = cv2.imencode('.jpg', image[..., ::-1],
                                 [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f'A picture of shape {image.shape} and type '
                         f'{image.dtype} cannot be written as JPEG.')
    return ('data:image/jpeg;base64,' +
            base64.b64encode(content.tobytes()).decode())


def picture(image: np.ndarray, alt: str, note: str = '') -> str:
    """A picture with a line of text above it, to stand in :func:`figure`."""
    line = f'<p class="soft">{escape(note)}</p>' if note else ''
    height, width = image.shape[:2]
    return (f'<div>{line}<img src="{image_uri(image)}" width="{width}" '
            f'height="{height}" alt="{escape(alt)}"></div>')


def figure(pictures: Sequence[str], caption: str) -> str:
    """Pictures side by side over a caption (both HTML)."""
    return (f'<figure><div class="row">{"".join(pictures)}</div>'
            f'<figcaption>{caption}</figcaption></figure>')


def table(rows: Sequence[Sequence[str]], head: Sequence[str],
          numbers: Sequence[int] = ()) -> str:
    """A table of HTML cells.

    Args:
        rows (Sequence[Sequence[str]]): Cells.
        head (Sequence[str]): Titles of the columns.
        numbers (Sequence[int]): Columns of numbers.

    Returns:
        str: HTML; scrolls sideways where the screen is too narrow.
    """
    lines = [''.join(f'<th scope="col">{cell}</th>' for cell in head)]
    for row in rows:
        lines.append(''.join(
            f'<td{" class=number" if i in numbers else ""}>{cell}</td>'
            for i, cell in enumerate(row)))
    body = ''.join(f'<tr>{line}</tr>' for line in lines)
    return f'<div class="wide"><table>{body}</table></div>'


def page(title: str, sections: Sequence[Tuple[str, str]]) -> str:
    """Put a page together.

    Args:
        title (str): Title, plain text.
        sections (Sequence[tuple[str, str]]): Heading (plain text; empty for
            none) and HTML of each section.

    Returns:
        str: A whole HTML document.
    """
    parts = []
    for heading, body in sections:
        if body:
            top = f'<h2>{escape(heading)}</h2>' if heading else ''
            parts.append(f'<section>{top}{body}</section>')
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, '
            'initial-scale=1">'
            f'<title>{escape(title)}</title><style>{_STYLE}</style></head>'
            f'<body><main><h1>{escape(title)}</h1>{"".join(parts)}</main>'
            '</body></html>\n')


def write_page(text: str, path: Path) -> Path:
    """Write a page that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{os.getpid()}.{path.name}')
    try:
        temporary.write_text(text, encoding='utf-8')
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
