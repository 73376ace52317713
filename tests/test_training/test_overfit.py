# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The small detector can learn two pictures by heart."""

from pathlib import Path

import pytest
from overfit import overfit


@pytest.mark.slow
def test_two_pictures_are_learnt(tmp_path: Path) -> None:
    found = overfit(tmp_path)
    # Mean over IoU 0.5 to 0.95; 114 names to choose from.
    assert found['lvis/bbox_AP'] > 0.8
