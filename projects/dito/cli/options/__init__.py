# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Every tool and its options.

They stand apart from the tools, so that a command line is read, helped or
refused before PyTorch and the models are imported.
"""

import functools
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


def parse(tool: str, argv: Sequence[str]) -> Namespace:
    """Read what follows a tool's name, a key of :data:`TOOLS`."""
    return ToolParser(tool, TOOLS[tool]).parse_args(argv)


def summary(tool: str) -> str:
    """What a tool does, in a line."""
    text = inspect.getdoc(TOOLS[tool]) or ''
    return text.partition('\n')[0].rstrip('.')


def command(main: Callable[[Namespace], int | None]) -> Callable[..., int]:
    """Decorate ``main(args)`` of a tool's module: ``main(argv=None)``.

    The module has the name of what adds the tool's options.
    """
    tool = main.__module__.rpartition('.')[2].strip('_').replace('_', '-')

    @one_sentence_errors
    @functools.wraps(main)
    def with_arguments(argv: Sequence[str] | None = None) -> int | None:
        return main(parse(tool, sys.argv[1:] if argv is None else argv))

    return with_arguments
