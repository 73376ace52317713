# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Steps, logs and metrics of the quickstart, without training."""

import argparse
import json
import sys
from pathlib import Path

import pytest
from mmengine.config import Config, DictAction

from dito.cli import reports
from dito.cli.options import TOOLS
from dito.reports.logs import newest_run, read_scalars, read_test_metrics
from dito.reports.quickstart import (
    _METRICS,
    SHIPPED_REP,
    Plan,
    collect_metrics,
    prepare_folder,
)
from dito.reports.steps import Cost, Reporter, Stage, in_words, logged_share
from dito.utils.configs import config_root
from dito.utils.files import write_json


def write_run(work_dir: Path, stamp: str, rows: list, result: dict) -> None:
    run = work_dir / stamp
    (run / 'vis_data').mkdir(parents=True)
    text = '\n'.join(json.dumps(r) for r in rows)
    (run / 'vis_data' / 'scalars.json').write_text(text)
    (run / f'{stamp}.json').write_text(json.dumps(result) + '\n')


class PythonStage(Stage):
    """A stage whose command is a line of Python."""

    @property
    def command(self) -> list:
        return [sys.executable, '-c', self.tool]


def python_stage(code: str) -> Stage:
    return PythonStage('step', 'A step', code, [], Cost(1))


def test_newest_run_wins_and_half_a_line_is_left_out(tmp_path):
    write_run(tmp_path, '20260101_000000', [dict(loss=1, step=90)], {})
    rows = [dict(loss=2.0, step=10), dict(loss=1.5, step=20)]
    write_run(tmp_path, '20260102_000000', rows, dict(a=1))
    assert newest_run(tmp_path).name == '20260102_000000'
    assert read_scalars(tmp_path) == rows
    path = tmp_path / '20260102_000000' / 'vis_data' / 'scalars.json'
    path.write_text(path.read_text() + '\n{"loss": 1.0, "st')
    assert read_scalars(tmp_path) == rows
    assert read_test_metrics(tmp_path) == dict(a=1)


def test_folder_without_runs(tmp_path):
    assert read_scalars(tmp_path) == []
    with pytest.raises(FileNotFoundError, match='no result of a test'):
        read_test_metrics(tmp_path)


def test_stages_chain_their_checkpoints(tmp_path):
    plan = Plan(tmp_path, rep_iters=3, det_iters=5)
    stages = {s.name: s for s in plan.stages()}
    assert list(stages) == [
        'data',
        'zero_shot',
        'rep',
        'naming',
        'dito',
        'evaluation',
    ]
    rep = str(tmp_path / 'rep' / 'iter_3.pth')
    finetune = stages['dito'].arguments
    assert f'load_from={rep}' in finetune
    assert f'model.teacher.checkpoint={rep}' in finetune
    assert rep in stages['naming'].arguments
    assert str(tmp_path / 'dito/iter_5.pth') in stages['evaluation'].arguments
    for stage in stages.values():
        assert stage.command[1:3] == ['-m', 'dito'] and stage.tool in TOOLS


@pytest.mark.parametrize('iterations', [7, None])
def test_a_training_lasts_as_long_as_it_is_told(tmp_path, iterations):
    for name in ('rep', 'dito'):
        config = f'symbols/{"rep" if name == "rep" else "dito"}_symbols.py'
        cfg = Config.fromfile(config_root() / config)
        given = cfg.train_cfg.max_iters
        length = iterations or given
        stages = {s.name: s for s in Plan(tmp_path, length, length).stages()}
        arguments = stages[name].arguments
        options = arguments[arguments.index('--cfg-options') + 1 :]
        action = DictAction('', 'options')
        space = argparse.Namespace()
        action(None, space, options)
        before = [dict(part) for part in cfg.param_scheduler]
        cfg.merge_from_dict(space.options)
        assert cfg.train_cfg.max_iters == length
        assert cfg.train_cfg.val_begin > length  # evaluation is its own step
        assert cfg.default_hooks.checkpoint.interval == length
        # At least one line in the log, which the report reads.
        assert 0 < cfg.default_hooks.logger.interval <= length
        warm_up, decay = cfg.param_scheduler
        assert warm_up.end == decay.begin < decay.end == length
        if iterations is None:
            assert [dict(p) for p in cfg.param_scheduler] == before


def test_every_config_of_the_stages_exists(tmp_path):
    for stage in Plan(tmp_path, 1, 1).stages():
        for argument in stage.arguments:
            if argument.endswith(('.py', '.safetensors')):
                path = argument.removeprefix('load_from=')
                assert Path(path).is_file(), argument


def test_only_a_quickstart_is_replaced(tmp_path):
    folder = tmp_path / 'mine'
    folder.mkdir()
    (folder / 'thesis.txt').write_text('years of work')
    with pytest.raises(ValueError, match='not empty and no earlier'):
        prepare_folder(folder)
    assert (folder / 'thesis.txt').read_text() == 'years of work'
    fresh = tmp_path / 'a' / 'b'
    prepare_folder(fresh)
    (fresh / 'old.log').touch()
    prepare_folder(fresh)
    assert not (fresh / 'old.log').exists()


def test_metrics_are_shares_of_one(tmp_path):
    names = {}
    for folder, name, factor in _METRICS.values():
        names.setdefault(folder, {})[name] = 0.5 / factor
    for folder, values in names.items():
        write_run(tmp_path / folder, '20260101_000000', [], values)
    metrics = collect_metrics(tmp_path)
    assert set(metrics) >= {
        'novel_ap50',
        'base_ap50',
        'novel_mask_ap',
        'zero_shot_top1',
    }
    assert set(metrics.values()) == {0.5}


def test_json_is_written_whole(tmp_path):
    path = tmp_path / 'metrics.json'
    write_json(path, dict(a=1))
    with pytest.raises(TypeError):
        write_json(path, dict(a=object()))
    assert json.loads(path.read_text()) == dict(a=1)


def test_reporter_runs_a_step_and_keeps_its_log(tmp_path):
    stage = python_stage('print("hello")')
    assert Reporter([stage], tmp_path).run(stage) > 0
    assert (tmp_path / 'step.log').read_text() == 'hello\n'


def test_reporter_shows_the_end_of_a_failed_step(tmp_path, capfd):
    stage = python_stage('print("the reason"); raise SystemExit(3)')
    with pytest.raises(RuntimeError, match='exit code 3.*step.log'):
        Reporter([stage], tmp_path).run(stage)
    assert 'the reason' in capfd.readouterr().err


@pytest.mark.parametrize(
    'line, share',
    [
        ('Iter(train) [ 15/120]  base_lr: 5.3e-04', 0.125),
        ('Iter(test) [12/12]    zero_shot/all_top1: 91.9', 1.0),
        ('drawn [1071/33406]', 1071 / 33406),
        ('Iter(val) [3/4]', 0.0),
        ('[1/2] of something', 0.0),
        ('', 0.0),
    ],
)
def test_share_of_a_log(tmp_path, line, share):
    log = tmp_path / 'step.log'
    log.write_text(f'drawn [0/9]\nsome words\n{line}\nand more\n' * 2000)
    assert logged_share(log) == pytest.approx(share)


def test_time_left_in_words():
    assert in_words(59) == 'less than a minute left in all'
    assert in_words(125) == 'about 2 min left in all'


def test_stage_2_goes_on_or_starts_from_the_tower(tmp_path):
    shipped = f'load_from={config_root() / SHIPPED_REP}'
    for from_tower in (False, True):
        plan = Plan(tmp_path, 3, 5, from_tower=from_tower)
        arguments = {s.name: s.arguments for s in plan.stages()}['rep']
        assert (shipped in arguments) != from_tower


@pytest.mark.parametrize(
    'argv, iterations',
    [([], 150), (['--from-tower'], 450), (['--rep-iters', '7'], 7)],
)
def test_iterations_of_the_command_line(argv, iterations, monkeypatch):
    plans = []
    monkeypatch.setattr(
        reports, 'run_quickstart', lambda plan, _: plans.append(plan)
    )
    assert reports.quickstart(argv) == 0
    assert plans[0].rep_iters == iterations
