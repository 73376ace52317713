# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The parser of all tools, and the options that several of them have."""

import inspect
import os
from argparse import (
    SUPPRESS,
    Action,
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dito.cli.errors import ExitCode, has_the_word

Check = Callable[[Namespace], str | None]
CHECKPOINT = '.pth or .safetensors file'
PUBLISHED = (
    f'{CHECKPOINT}, a published folder, "owner/name" on the Hugging Face hub, '
    'or "official"'
)


class _Help(RawDescriptionHelpFormatter):
    """Shows the default of every option that has one."""

    def _get_help_string(self, action: Action) -> str:
        text, value = action.help or '', action.default
        silent = value is None or value is False or value == SUPPRESS
        if silent or '(default' in text or value in ('', []):
            return text
        if isinstance(value, (list, tuple)):
            value = ' '.join(map(str, value))
        return f'{text} (default: {str(value).replace("%", "%%")})'.strip()


class ToolParser(ArgumentParser):
    """Parser of a tool; of several processes one alone says what is wrong.

    Args:
        tool (str): Name of the tool.
        describe (Callable): Adds the arguments; its docstring is what
            ``--help`` says of the tool.
    """

    def __init__(
        self, tool: str, describe: Callable[['ToolParser'], None]
    ) -> None:
        super().__init__(
            prog=f'dito {tool}',
            description=inspect.getdoc(describe),
            formatter_class=_Help,
        )
        self._checks: list[Check] = []
        describe(self)
        self.add_argument(
            '--debug',
            action='store_true',
            help='show the traceback of errors in what was given, too',
        )

    def check(self, check: Check) -> None:
        """Refuse arguments of which ``check`` says what is wrong."""
        self._checks.append(check)

    def parse_known_args(
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Namespace, list[str]]:
        """Parse, and refuse what does not go together."""
        parsed, rest = super().parse_known_args(args, namespace)
        for check in self._checks if not rest else ():
            message = check(parsed)
            if message:
                self.error(message)
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """End with the exit code of a wrong usage."""
        if has_the_word():
            super().error(message)
        self.exit(ExitCode.USAGE)


def natural(text: str) -> int:
    """An integer from 1 on."""
    if not text.isdigit() or not int(text):
        raise ArgumentTypeError(f'must be a number from 1 on, got {text}')
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1, such as a score or an IoU."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # NaN too
        raise ArgumentTypeError(f'must be a number from 0 to 1, got {text}')
    return value


def named(form: str) -> Callable[[str], tuple[str, str]]:
    """Two texts around the first '=', as ``form`` shows them."""

    def pair(text: str) -> tuple[str, str]:
        name, sign, value = text.partition('=')
        if not (name.strip() and sign and value.strip()):
            raise ArgumentTypeError(f'is written {form}, got {text!r}')
        return name.strip(), value.strip()

    return pair


def ending(*suffixes: str) -> Callable[[str], str]:
    """A path with one of the suffixes."""

    def path(text: str) -> str:
        if not text.endswith(suffixes):
            raise ArgumentTypeError(
                f'must end in {" or ".join(suffixes)}, got {text}'
            )
        return text

    return path


def place(text: str) -> str:
    """A path to write to."""
    if not text.strip():
        raise ArgumentTypeError(f'is a path to write to, got {text!r}')
    return text


def add_config(parser: ToolParser, nargs: str | None = None) -> None:
    """Add ``config`` and ``--cfg-options``."""
    parser.add_argument(
        'config',
        nargs=nargs,
        help="config file, or the name of one of DITO's configs",
    )
    add_cfg_options(parser)


def add_cfg_options(parser: ToolParser) -> None:
    """Add ``--cfg-options``."""
    from mmengine.config import DictAction

    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings to override; a list is written key="[a,b]" or '
        'key=a,b, without white space',
    )


def add_checkpoint(parser: ToolParser, what: str = CHECKPOINT) -> None:
    """Add ``checkpoint``."""
    parser.add_argument('checkpoint', help=what)


def add_model(parser: ToolParser, default: str | None = None) -> None:
    """Add ``--config`` and ``--checkpoint``, needed without default."""
    parser.add_argument(
        '--checkpoint',
        required=default is None,
        help=PUBLISHED + ('' if default is None else f' (default: {default})'),
    )
    add_config_of_checkpoint(parser)


def add_config_of_checkpoint(parser: ToolParser) -> None:
    """Add ``--config``, of a checkpoint."""
    parser.add_argument(
        '--config',
        help="config file, or the name of one of DITO's configs (default: "
        'that in the checkpoint)',
    )


def add_work_dir(
    parser: ToolParser, default: Path | None = None, what: str = ''
) -> None:
    """Add ``--work-dir``."""
    parser.add_argument(
        '--work-dir',
        type=Path if default else str,
        default=default,
        metavar='DIR',
        help=what
        or "folder for logs and results (default: the config's work_dir, else "
        './work_dirs/CONFIG_NAME)',
    )


def add_launcher(parser: ToolParser) -> None:
    """Add ``--launcher`` and ``--local-rank``."""
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run were started',
    )
    parser.add_argument(
        '--local-rank',
        '--local_rank',
        type=int,
        default=0,
        help='set by torch.distributed.launch',
    )


def add_device(parser: ToolParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        '--device',
        help='cpu, cuda, cuda:1 ... (default: a GPU if there is one)',
    )


def add_workers(parser: ToolParser, what: str = 'processes') -> None:
    """Add ``--workers``."""
    parser.add_argument(
        '--workers',
        type=natural,
        default=os.cpu_count() or 1,
        metavar='N',
        help=f'{what}; the result does not depend on it (default: one per '
        'processor)',
    )


def add_out(
    parser: ToolParser, what: str, default: str, suffix: str = ''
) -> None:
    """Add ``--out``; without a default it must be given."""
    parser.add_argument(
        '--out',
        required=not default,
        type=ending(suffix) if suffix else str,
        metavar='FILE',
        help=what + (f' (default: {default})' if default else ''),
    )


def add_out_dir(
    parser: ToolParser, what: str, default: str | None = None
) -> None:
    """Add ``--out-dir``; without a default it must be given."""
    parser.add_argument(
        '--out-dir',
        type=place,
        required=default is None,
        default=default,
        metavar='DIR',
        help=what,
    )


def add_overwrite(parser: ToolParser) -> None:
    """Add ``--overwrite``."""
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace an earlier set in the same folder',
    )


def add_json(parser: ToolParser) -> None:
    """Add ``--json``."""
    parser.add_argument(
        '--json', metavar='FILE', help='write the findings to this file too'
    )


def add_data(parser: Any, what: str, required: bool = False) -> None:
    """Add ``--data`` and ``--images``, to a parser or a group of options."""
    parser.add_argument(
        '--data',
        required=required,
        metavar='FILE',
        help=f'{what}: annotations in the format of COCO, LVIS or Objects365',
    )
    parser.add_argument(
        '--images',
        required=required,
        metavar='DIR',
        help='folder that the file names in --data are relative to',
    )


def data_and_images(args: Namespace) -> str | None:
    """Refuse ``--data`` without ``--images``, or the other way round."""
    if (args.data is None) == (args.images is None):
        return None
    return '--data and --images go together'


def add_names(parser: ToolParser, what: str, required: bool = True) -> None:
    """Add ``--names``."""
    parser.add_argument(
        '--names',
        required=required,
        help=f'{what}: "red umbrella, anchor"; or a file of names (.txt or '
        '.names with one per line, .json, .yaml, .pbtxt; annotations of COCO '
        'or LVIS; a vocabulary); or "common", over 1,200 everyday things',
    )


def add_negative_names(parser: ToolParser) -> None:
    """Add ``--negative-names``."""
    parser.add_argument(
        '--negative-names',
        metavar='NAMES',
        help='what else there may be, in the forms of --names, or "trained" '
        'for the classes the detector was trained on: not looked for, but '
        'nothing of it is taken for one of --names',
    )


def add_novel(parser: Any, what: str, default: str | None = None) -> None:
    """Add ``--novel``, to a parser or a group of options."""
    parser.add_argument(
        '--novel',
        default=default,
        metavar='NAMES',
        help=f'novel classes, in the forms of --names{what}',
    )


def add_rare_is_novel(parser: ToolParser) -> None:
    """Add ``--rare-is-novel``."""
    parser.add_argument(
        '--rare-is-novel',
        action='store_true',
        help='the rare classes of LVIS annotations, as --names, are novel too',
    )


def add_sizes(parser: ToolParser) -> None:
    """Add ``--sizes``."""
    parser.add_argument(
        '--sizes',
        nargs='+',
        default=[],
        metavar='NAME=NUMBER',
        help='sizes of a SavedModel that is not ViT-L/16, such as dim=768',
    )


def add_source(parser: ToolParser, what: str, **options: Any) -> None:
    """Add ``--from``, where published files are that were downloaded."""
    parser.add_argument(
        '--from',
        dest='source',
        metavar='DIR',
        help=f'{what} that were downloaded',
        **options,
    )
