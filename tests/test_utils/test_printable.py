# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Names out of files do nothing to the terminal they are printed on."""

import io
import logging

import pytest
from mmengine.logging import MMLogger
from rich.table import Table

from dito.cli.errors import one_sentence_errors
from dito.evaluation.report import render_table
from dito.utils.printable import Console, printable

HARMFUL = (
    '\x1b[2J\x1b]0;title\x07',
    'a\rb',
    'a\x08\x08',
    '\x9b31m',
    '\u202eevil',
    '\u2066a',
    '\u2028',
    'a\ud800',
    '\ufeffa',
    '\x00',
)


@pytest.mark.parametrize('name', HARMFUL)
def test_control_characters_are_shown(name: str) -> None:
    text = printable(name)
    assert text.isprintable() and '\\' in text
    text.encode()


def test_other_texts_stay() -> None:
    for name in (
        'plain',
        'caf\u00e9',
        '\u96e8\u4f1e',
        'a\tb\nc',
        'a\u00a0b',
        '\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645',
        '\U0001f469\u200d\U0001f680',
        'C:\\x1b',
    ):
        assert printable(name) == name


@pytest.mark.parametrize('name', HARMFUL)
def test_tables_show_them(name: str) -> None:
    stream = io.StringIO()
    table = Table('name', title=name)
    table.add_row(name)
    console = Console(file=stream, force_terminal=False, width=200)
    console.print(table)
    console.print(name)
    text = stream.getvalue()
    assert printable(text) == text and text.count(printable(name)) == 3
    assert printable(name) in render_table(name, ['a'], [[name]])


def test_own_colours_stay() -> None:
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system='standard').print(
        '[red]a\x1b[0m[/]'
    )
    assert '\x1b[31ma\\x1b' in stream.getvalue()


@pytest.mark.parametrize('name', HARMFUL)
def test_sentences_show_them(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:

    @one_sentence_errors
    def main(argv: object = None) -> int:
        raise FileNotFoundError(f'There is no {name}.')

    assert main([]) == 2
    text = capsys.readouterr().err.strip()
    assert text.isprintable() and text.startswith('error: There is no ')


def test_logs_show_them() -> None:
    logger = MMLogger.get_instance('printable')
    handler = logger.handlers[0]
    record = logging.LogRecord('x', 20, 'x.py', 1, 'a %s', ('\x1b[2J',), None)
    text = handler.formatter.format(record)
    assert text.endswith('a \\x1b[2J') and record.args == ('\x1b[2J',)
