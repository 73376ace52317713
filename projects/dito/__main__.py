# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""``python -m dito TOOL ...``: the tools, also outside a clone."""

import difflib
import importlib
import sys
from collections.abc import Sequence

from dito.cli.errors import one_sentence_errors
from dito.version import __version__

TOOLS = {
    'train': 'train any stage',
    'test': 'evaluate a checkpoint',
    'detect': 'find named objects in pictures',
    'threshold': 'find a score threshold on annotated pictures',
    'get': "download and convert the authors' detector",
    'quickstart': 'run the whole chain on a small drawn data set',
    'print-config': 'print a config with all it inherits',
    'check-env': 'check the installation',
    'prepare': 'lay out LVIS, COCO or Objects365 as the configs expect',
    'import': 'write labels of YOLO, VOC, CVAT ... in the format of COCO',
    'check-dataset': 'check annotations and images before a run',
    'lvis2ov': 'write LVIS annotations without rare classes',
    'coco2ov': 'write COCO annotations of the 48, 17 or 65 classes',
    'fix-objects365': 'repair the names of Objects365',
    'pairs2shards': 'write image-caption pairs to shards for pretraining',
    'check-shards': 'check shards before days are spent on them',
    'shard-stats': 'describe shards: sizes, captions, duplicates',
    'clip-to-dito': 'convert a public image-text tower',
    'official-to-dito': "convert the authors' checkpoint",
    'official-text-embeddings': "embed names with the authors' text model",
    'build-text-embeddings': 'embed class names once, into a file',
    'publish-model': 'make a checkpoint ready for others',
    'region-accuracy': 'classify the annotated boxes of a test set',
    'ablation': "run and render the paper's ablation tables",
    'memory': 'peak memory of a training step, by its parts',
    'mmdet-project': 'put DITO into a clone of MMDetection',
    'run': 'run another script with DITO imported first',
}


def module_of(tool: str) -> str:
    """Name of a tool's module in ``dito.cli``."""
    # No module can be called as the statement is.
    return 'import_labels' if tool == 'import' else tool.replace('-', '_')


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Hand over to one tool.

    Args:
        argv (Sequence[str], optional): Tool and its arguments. Defaults to
            those of the process.

    Returns:
        int: Exit code.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ('-h', '--help'):
        lines = [f'  {name:<26}{text}' for name, text in TOOLS.items()]
        print(
            'usage: dito TOOL ... (or: python -m dito TOOL ...)',
            *lines,
            'dito TOOL --help tells more.',
            sep='\n',
        )
        return 0 if given else 2
    if given[0] == '--version':
        print(f'dito {__version__}')
        return 0
    tool, rest = given[0], given[1:]
    if tool not in TOOLS:
        close = difflib.get_close_matches(tool, TOOLS)
        hint = (
            f'did you mean {" or ".join(close)}?'
            if close
            else 'dito --help lists them.'
        )
        print(f'error: there is no tool "{tool}"; {hint}', file=sys.stderr)
        return 2
    if tool == 'check-env':
        from dito.utils import env

        return env.main()
    # argparse and torchrun show and use this name.
    sys.argv = [f'dito {tool}', *rest]
    module = importlib.import_module(f'dito.cli.{module_of(tool)}')
    return module.main(rest)


if __name__ == '__main__':
    raise SystemExit(main())
