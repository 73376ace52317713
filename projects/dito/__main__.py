# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""``dito TOOL ...`` or ``python -m dito TOOL ...``: all tools."""

import difflib
import inspect
import sys
from collections.abc import Sequence

import dito
from dito.cli.errors import ExitCode, one_sentence_errors
from dito.cli.options import TOOLS, find_main, parse, summary


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Hand over to one tool, and return its :class:`ExitCode`."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ('-h', '--help'):
        print(
            'usage: dito TOOL ... (or: python -m dito TOOL ...)\n',
            *(f'  {tool:<26}{summary(tool)}' for tool in TOOLS),
            '\ndito TOOL --help tells more.\n\nexit codes:',
            *(f'  {code:<6}{code.meaning}' for code in ExitCode),
            sep='\n',
        )
        return ExitCode.RIGHT if given else ExitCode.USAGE
    if given[0] == '--version':
        print(f'dito {dito.__version__}')
        return ExitCode.RIGHT
    tool, rest = given[0], given[1:]
    if tool not in TOOLS:
        close = difflib.get_close_matches(tool, TOOLS)
        hint = (
            f'did you mean {" or ".join(close)}?'
            if close
            else 'dito --help lists them.'
        )
        print(f'error: there is no tool "{tool}"; {hint}', file=sys.stderr)
        return ExitCode.USAGE
    args = parse(tool, rest)
    # torchrun and logs show this name.
    sys.argv = [f'dito {tool}', *rest]
    if tool == 'check-env':
        from dito.utils import env

        return env.main()
    return inspect.unwrap(find_main(tool))(args)


if __name__ == '__main__':
    raise SystemExit(main())
