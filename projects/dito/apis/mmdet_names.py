# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What arguments of MMDetection's ``DetInferencer`` are called here."""

import re
from collections.abc import Mapping
from typing import Any

_DEVICE = re.compile(r'cpu|mps|cuda(:\d+)?')
_HERE = dict(
    texts='vocabulary, with the names in a list or separated by commas',
    stuff_texts='nothing: there are no stuff classes',
    custom_entities='nothing: names are always taken as they are given',
    tokens_positive='nothing: no sentence is parsed',
    pred_score_thr='score_thr',
    no_save_vis="out_dir='' for no files",
    no_save_pred="out_dir='' for no files",
    draw_pred="out_dir='' for no pictures",
    show='return_vis=True for an array to show',
    wait_time='return_vis=True for an array to show',
    print_result='nothing: print what the call returns',
    palette='nothing: each name has a colour of its own',
    scope='nothing: it is always mmdet',
    show_progress='nothing: there is no progress bar',
)


def refuse_mmdet_arguments(given: Mapping[str, Any]) -> None:
    """Say what MMDetection's arguments are called here, in a TypeError."""
    for name in given:
        here = _HERE.get(name)
        hint = (
            f'for that of DetInferencer take {here}'
            if here
            else 'see help(DITOInferencer)'
        )
        raise TypeError(f'DITOInferencer has no argument "{name}"; {hint}.')


def refuse_device_as_names(names: Any) -> None:
    """Refuse ``DITOInferencer(config, weights, 'cuda:0')`` by a TypeError.

    Third in MMDetection's class is the device, here the names.
    """
    if isinstance(names, str) and _DEVICE.fullmatch(names):
        raise TypeError(
            f'"{names}" is in the place of the names to look for; write '
            f"device='{names}', or vocabulary=['{names}'] if that is what to "
            'look for.'
        )
