# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Exit codes, and the user's mistakes as one sentence."""

import functools
import io
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path

from dito.utils.errors import FULL, BrokenDataError, StepError

PACKAGE = Path(__file__).resolve().parents[1]


class ExitCode(IntEnum):
    """What a tool's exit code says."""

    meaning: str

    RIGHT = 0, 'right'
    # A defect of the program, which shows a traceback, has Python's own code,
    # which is the same.
    FINDINGS = 1, 'a check has found something'
    USAGE = 2, 'wrong arguments or input; nothing was done'
    PARTIAL = 3, 'some of the inputs could not be read, the others are done'
    AGAIN = 75, 'a training was stopped after a checkpoint; --resume goes on'
    INTERRUPTED = 130, 'it was ended by Ctrl-C; what was whole is kept'
    BROKEN_PIPE = 141, 'the reader of the output has gone, as in "| head"'

    def __new__(cls, code: int, meaning: str) -> 'ExitCode':
        """A code with its meaning."""
        self = int.__new__(cls, code)
        self._value_, self.meaning = code, meaning
        return self


# A file that tools/dist_run.py lets the processes of a machine share: whoever
# makes it has the word.
REFUSED = 'DITO_REFUSAL_FILE'
# Without it, seconds that the others leave to the first process for what all
# would say: once it has ended, launchers end them.
_FIRST_SPEAKS = 10
Main = Callable[[Sequence[str] | None], int | None]


def is_user_error(error: BaseException) -> bool:
    """Whether an error is about what the user gave, not about the program.

    DITO raises ValueError for values that cannot work. The same type out of
    another library's depths is more likely a defect, and there the traceback
    matters; a file that is not there is the user's in either case.
    """
    if isinstance(
        error,
        (
            FileNotFoundError,
            FileExistsError,
            IsADirectoryError,
            NotADirectoryError,
            PermissionError,
            BrokenDataError,
            StepError,
        ),
    ):
        return True
    # A path that is too long, a loop of links, read-only, no folder ...
    if isinstance(error, OSError) and error.filename and error.strerror:
        return True
    if is_unknown_type(error):
        return True
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    # The last is a training whose loss has become NaN or infinite.
    if not isinstance(error, (ValueError, TypeError, FloatingPointError)):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(PACKAGE)


def is_unknown_type(error: BaseException) -> bool:
    """Whether MMEngine does not know a ``type`` of a config."""
    return isinstance(error, KeyError) and ' registry. Please check' in str(
        error
    )


def one_sentence_errors(main: Main) -> Callable[..., int]:
    """Decorate a tool's ``main(argv=None)``.

    With ``--debug`` among the arguments, or ``DITO_DEBUG=1`` in the
    environment, errors keep their traceback. Of several processes one alone
    speaks; what the others meet after that, such as a lost connection, is
    its consequence.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        given = sys.argv[1:] if argv is None else argv
        _ready_streams()
        debug = '--debug' in given or os.environ.get('DITO_DEBUG') == '1'
        try:
            code = main(argv) or 0
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            return _end_quietly()
        except KeyboardInterrupt:
            if debug:
                raise
            sys.stderr.write('interrupted\n')
            return ExitCode.INTERRUPTED
        except Exception as error:
            if debug:
                raise
            if not is_user_error(error):
                # Another process of this machine has refused to go on.
                if os.path.exists(os.environ.get(REFUSED, '')):
                    return ExitCode.USAGE
                raise
            if has_the_word():
                from dito.utils.printable import printable

                # With its end of line, lest another process's falls between.
                sys.stderr.write(f'error: {printable(_sentence(error))}\n')
                sys.stderr.flush()
            return ExitCode.USAGE

    return guarded


def _ready_streams() -> None:
    """Let what is printed go somewhere, whatever it holds."""
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # closed, as by ">&-"
            setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))
    # Names are of any script; what encodings lack is shown as an escape.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')


def rank_of_launcher() -> int:
    """Number this process as its launcher does, before they meet."""
    names = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    return next((int(os.environ[n]) for n in names if n in os.environ), 0)


def has_the_word() -> bool:
    """Whether this process is the one of its machine to print a refusal."""
    path = os.environ.get(REFUSED)
    if path is None:
        if rank_of_launcher():
            time.sleep(_FIRST_SPEAKS)
        return True
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except OSError:  # the launcher has gone, and its folder with it
        return True
    return True


def _end_quietly() -> int:
    """End after the reader of the output has gone, as in ``| head``."""
    # What is left in the buffer would fail once more when Python ends.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return ExitCode.BROKEN_PIPE


def _sentence(error: Exception) -> str:
    if isinstance(error, BrokenDataError):
        return error.sentence()
    text = ' '.join(str(error).split())
    if is_unknown_type(error):
        return (
            f'{text.strip(chr(34)).split(" registry.")[0]} registry; '
            'check the spelling of this type in the config.'
        )
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f'{error.filename}: {error.strerror.lower()}.'
    if isinstance(error, OSError) and error.errno in FULL:
        return (
            f'The disk is full ({error.strerror.lower()}): make room '
            'where the tool writes, then start it again.'
        )
    return text or type(error).__name__
