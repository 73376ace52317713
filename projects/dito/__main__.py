# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""``python -m dito TOOL ...``: the tools, also outside a clone."""

import importlib
import sys
from typing import Optional, Sequence

TOOLS = {
    'train': 'train any stage',
    'test': 'evaluate a checkpoint',
    'detect': 'find named objects in pictures',
    'quickstart': 'run the whole chain on a small drawn data set',
    'prepare': 'lay out LVIS, COCO or Objects365 as the configs expect',
    'check-dataset': 'check annotations and images before a run',
    'print-config': 'print a config with all it inherits',
    'clip-to-dito': 'convert a public image-text tower',
    'check-env': 'check the installation',
    'run': 'run another script with DITO imported first',
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Hand over to one tool.

    Args:
        argv (Sequence[str], optional): Tool and its arguments. Defaults to
            those of the process.

    Returns:
        int: Exit code.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] not in TOOLS:
        lines = [f'  {name:<14}{text}' for name, text in TOOLS.items()]
        print('usage: python -m dito TOOL ...', *lines, sep='\n')
        return 0 if given[:1] in (['-h'], ['--help']) else 2
    tool, rest = given[0], given[1:]
    if tool == 'check-env':
        from dito.utils import env
        return env.main()
    # argparse and torchrun show and use this name.
    sys.argv = [f'dito {tool}', *rest]
    module = importlib.import_module(f'dito.cli.{tool.replace("-", "_")}')
    return module.main(rest)


if __name__ == '__main__':
    raise SystemExit(main())
