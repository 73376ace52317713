# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What only reports ends no run, and says once that it failed."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from training_runs import train, training_cfg, write_symbols

from dito.engine.hooks import throughput_hook
from dito.engine.telemetry import only_reports

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    root = tmp_path_factory.mktemp('shards')
    return root, write_symbols(root, shards=4, number=12)


def run(data: tuple, folder: Path, **hooks: dict) -> list[str]:
    """Train three steps; what the log says of failures."""
    runner = train(
        training_cfg(
            *data,
            folder,
            train_cfg__max_iters=3,
            custom_hooks=[],
            default_hooks={
                'logger': dict(type='DITOLoggerHook', interval=1),
                'checkpoint': None,
                **hooks,
            },
        )
    )
    assert runner.iter == 3
    text = '\n'.join(p.read_text() for p in folder.glob('*/*.log'))
    return re.findall('WARNING - (.* failed; .*)', text)


def broken(*args: Any, **kwargs: Any) -> None:
    raise OSError(28, 'No space left on device')


def test_a_logger_that_cannot_write(
    data: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        'mmengine.visualization.Visualizer.add_scalars', broken
    )
    (said,) = run(data, tmp_path)
    assert said.startswith('DITOLoggerHook.after_train_iter failed')
    assert 'OSError: [Errno 28] No space' in said


def test_operations_that_cannot_be_counted(
    data: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput_hook, 'step_flops', broken)
    (said,) = run(data, tmp_path, throughput=dict(type='DITOThroughputHook'))
    assert said.startswith('The count of operations failed')
    (log,) = tmp_path.glob('*/*.log')
    assert log.read_text().count('loader_wait:') == 3


def test_each_method_speaks_once_and_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:

    @only_reports
    class Reporter(Hook):
        calls = 0

        def before_run(self, runner: Any) -> None:
            raise ValueError('at the start it is an error')

        def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
            self.calls += 1
            raise KeyError('mass')

        def after_val(self, runner: Any) -> None:
            raise KeyboardInterrupt

    said: list[str] = []
    logger = MMLogger.get_instance('reporter')
    logger.addFilter(lambda r: said.append(r.getMessage()) or True)
    hook, other = Reporter(), Reporter()
    for each in (hook, hook, other):
        each.after_train_iter(None, 0)
    assert (hook.calls, other.calls) == (2, 1)
    assert len(said) == 2
    assert said[0] == (
        'Reporter.after_train_iter failed; training goes on, and this is '
        "reported once: KeyError: 'mass'"
    )
    with pytest.raises(ValueError, match='at the start'):
        hook.before_run(None)
    with pytest.raises(KeyboardInterrupt):
        hook.after_val(None)
    assert not hasattr(Hook.after_val, '__wrapped__')
    logging.getLogger('reporter').filters.clear()


@pytest.mark.parametrize(
    'name',
    [
        'dito_vitl_coco',
        'pretrain/clip_vitl16_laion2b',
        'symbols/clip_symbols',
        'symbols/rep_symbols',
    ],
)
def test_all_stages_have_this_logger(name: str) -> None:
    hooks = Config.fromfile(ROOT / f'configs/{name}.py').default_hooks
    assert hooks.logger.type == 'DITOLoggerHook'
