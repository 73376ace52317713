# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Every tool and its options.

They are apart from the tools, so that a command line is read, helped or
refused before PyTorch and the models are imported.
"""

import functools
import importlib
import inspect
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

from dito.cli.errors import one_sentence_errors

from . import data, running, weights
from .shared import ToolParser

_TOOLS = (
    running.train,
    running.test,
    running.detect,
    running.demo,
    running.threshold,
    running.index,
    running.search,
    weights.get,
    running.quickstart,
    running.check_env,
    running.print_config,
    data.prepare,
    data.import_,
    data.check_dataset,
    data.lvis2ov,
    data.coco2ov,
    data.fix_objects365,
    data.make_symbols,
    data.pairs2shards,
    data.check_shards,
    data.shard_stats,
    weights.clip_to_dito,
    weights.official_to_dito,
    weights.official_text_embeddings,
    weights.build_text_embeddings,
    weights.publish_model,
    weights.export,
    running.region_accuracy,
    running.similarity_map,
    running.make_report,
    running.ablation,
    running.memory,
    weights.mmdet_project,
    running.run,
)
#: What adds the options of a tool, by its name.
TOOLS: dict[str, Callable[[ToolParser], None]] = {
    tool.__name__.strip('_').replace('_', '-'): tool for tool in _TOOLS
}


#: Modules of :mod:`dito.cli` that hold several tools. The others hold one,
#: ``main``, and have its name.
_SHARED = dict(
    annotations=('lvis2ov', 'coco2ov', 'fix-objects365', 'import'),
    foreign_weights=(
        'clip-to-dito',
        'official-to-dito',
        'official-text-embeddings',
    ),
    data_sets=('prepare', 'make-symbols'),
    reports=('quickstart', 'make-report'),
    search=('index', 'search'),
    shards=('pairs2shards', 'check-shards', 'shard-stats'),
)


def find_main(tool: str) -> Callable[..., int]:
    """Import what runs a tool, a key of :data:`TOOLS`."""
    name, main = TOOLS[tool].__name__, 'main'
    for module, tools in _SHARED.items():
        if tool in tools:
            name, main = module, name
    return getattr(importlib.import_module(f'dito.cli.{name}'), main)


def parse(tool: str, argv: Sequence[str]) -> Namespace:
    """Read what follows a tool's name, a key of :data:`TOOLS`."""
    return ToolParser(tool, TOOLS[tool]).parse_args(argv)


def summary(tool: str) -> str:
    """What a tool does, in a line."""
    text = inspect.getdoc(TOOLS[tool]) or ''
    return text.partition('\n')[0].rstrip('.')


def command(main: Callable[[Namespace], int | None]) -> Callable[..., int]:
    """Decorate ``main(args)`` of a tool's module: ``main(argv=None)``.

    The module, or the function where it holds several, has the name of what
    adds the tool's options.
    """
    name = main.__name__
    if name == 'main':
        name = main.__module__.rpartition('.')[2]
    tool = name.strip('_').replace('_', '-')

    @one_sentence_errors
    @functools.wraps(main)
    def with_arguments(argv: Sequence[str] | None = None) -> int | None:
        return main(parse(tool, sys.argv[1:] if argv is None else argv))

    return with_arguments
