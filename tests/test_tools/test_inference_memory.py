# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Memory of an inference in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = (
    Path(__file__).parents[2]
    / 'tools'
    / 'analysis_tools'
    / 'benchmark_inference_memory.py'
)


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_a_large_picture_with_masks_at_any_threshold() -> None:
    # 60 megapixels: 40 dense masks alone would take 2.4 GB.
    run = subprocess.run(
        [
            sys.executable,
            str(TOOL),
            '--img-sizes',
            '10000x6000',
            '--kinds',
            'jpg',
            '--detections',
            '40',
            '--score-thr',
            '0',
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert found['code'] == 0 and found['masks'] == found['detections'] == 40
    assert found['mb'] < 1500
