# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Print names, paths and texts out of files without their control characters.

A terminal obeys what a name may hold: sequences that clear the screen, write
over the line before, turn the direction of the text or set the title. Error
sentences, tables and logs go through here.
"""

import logging
import re
from typing import Any

from rich.console import Console as RichConsole
from rich.text import Text

# Control characters but for tab and newline; separators of lines; marks that
# turn the direction; surrogates, which no stream can encode; a byte-order
# mark. Joiners of scripts and emoji stay.
_HARMFUL = re.compile(
    '[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-'
    '\u202e\u2066-\u2069\ufeff\ud800-\udfff]'
)


def printable(text: Any) -> str:
    """Write what a terminal would obey, but tab and newline, as escapes."""
    return _HARMFUL.sub(lambda found: ascii(found[0])[1:-1], str(text))


def printable_line(text: Any) -> str:
    """As :func:`printable`, tabs and newlines too: of names of files."""
    return printable(text).replace('\n', '\\n').replace('\t', '\\t')


class Console(RichConsole):
    """Rich's console, in whose texts and cells control characters are shown.

    The escapes that it writes itself, for colours and progress, stay.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a text without what it would do to the terminal."""
        return super().render_str(printable(text), **options)


def install() -> None:
    """Let logs of mmengine be printable; a second call does nothing."""
    from mmengine.logging.logger import MMFormatter

    original = MMFormatter.format
    if hasattr(original, 'dito_printable'):
        return

    def format_printable(self: Any, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if _HARMFUL.search(message):
            record = logging.makeLogRecord(
                dict(vars(record), msg=printable(message), args=())
            )
        return original(self, record)

    format_printable.dito_printable = True  # type: ignore
    MMFormatter.format = format_printable
