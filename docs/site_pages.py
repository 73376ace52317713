# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pages of the site that are files outside docs, and links to such files."""

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
#: Name in the site -> path in the repository.
PAGES = {
    'index.md': 'README.md',
    'configs.md': 'configs/README.md',
    'changelog.md': 'CHANGELOG.md',
    'contributing.md': 'CONTRIBUTING.md',
}
_SITE_NAMES = {path: name for name, path in PAGES.items()}
_LINK = re.compile(r'(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)')


def on_files(files: 'Files', config: 'MkDocsConfig') -> 'Files':
    """Add the pages from outside docs."""
    from mkdocs.structure.files import File

    for name, path in PAGES.items():
        text = (ROOT / path).read_text(encoding='utf-8')
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **kwargs: Any) -> str:
    """See :func:`rewrite_links`."""
    return rewrite_links(markdown, page.file.src_uri)


def rewrite_links(markdown: str, name: str) -> str:
    """Point links to other pages of the site, wherever their files are.

    A link to a file that is no page becomes its name: the site has no copy
    of the code.

    Args:
        markdown (str): Text of a page.
        name (str): The page's path in the site, such as 'faq.md'.

    Raises:
        FileNotFoundError: If the repository lacks the file of a link.
    """
    source = PAGES.get(name, f'docs/{name}')

    def replace(match: re.Match) -> str:
        image, text, target, anchor = match.groups()
        if '://' in target or target.startswith('mailto:'):
            return match.group(0)
        path = posixpath.normpath(
            posixpath.join(posixpath.dirname(source), target)
        )
        if not (ROOT / path).exists():
            raise FileNotFoundError(
                f'{source} links to {target}, which is not in the repository.'
            )
        site = _SITE_NAMES.get(path)
        if site is None and path.startswith('docs/'):
            site = path.removeprefix('docs/')
        if site is None or (ROOT / path).is_dir():
            return f'`{path}`' if text == target else f'{text} (`{path}`)'
        link = posixpath.relpath(site, posixpath.dirname(name) or '.')
        return f'{image}[{text}]({link}{anchor or ""})'

    return _LINK.sub(replace, markdown)
