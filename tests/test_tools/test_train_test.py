# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of tools/train.py and tools/test.py on a model of one weight."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
from mmengine.config import Config
from training_runs import free_port

from dito.cli import common, errors
from dito.cli import test as test_tool
from dito.cli import train as train_tool
from dito.utils.checkpoint import load_from_file, save_safetensors
from dito.utils.errors import BrokenDataError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = str(HERE / 'toy_config.py')
MMDET_TOOLS = Path(mmdet.__file__).parent / '.mim' / 'tools'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scalars(work_dir: Path, key: str) -> list[float]:
    """A value of all logged steps of the last training."""
    file = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1]
    steps = map(json.loads, file.read_text().splitlines())
    return [step[key] for step in steps if key in step]


def metric(work_dir: Path, key: str) -> float:
    """A figure of the last test."""
    file = sorted(work_dir.glob('*/*.json'))[-1]
    return json.loads(file.read_text())[key]


def call(tool: Any, *argv: str) -> None:
    """Run a tool in this process; mmengine wants a name for each run."""
    call.count = getattr(call, 'count', 0) + 1
    options = ['--cfg-options', f'experiment_name=run{call.count}']
    if '--cfg-options' in argv:
        options = options[1:]
    assert tool.main([*argv, *options]) == 0


def test_train_then_test_then_resume(folder: Path) -> None:
    call(train_tool, CONFIG)
    work_dir = folder / 'work_dirs' / 'toy_config'
    losses = scalars(work_dir, 'loss')
    assert len(losses) == 8 and losses[-1] < losses[0]
    assert scalars(work_dir, 'bf16') == [0.0] * 8
    checkpoint = work_dir / 'epoch_2.pth'
    weight = load_from_file(str(checkpoint))['state_dict']['line.weight']
    wanted = pytest.approx(weight.item() * 36 / 8, rel=1e-5)

    out = folder / 'out.pkl'
    call(
        test_tool,
        CONFIG,
        str(checkpoint),
        '--out',
        str(out),
        '--work-dir',
        'test',
    )
    assert len(pickle.loads(out.read_bytes())) == 8
    assert metric(folder / 'test', 'toy/sum') == wanted

    small = folder / 'small.safetensors'
    save_safetensors({'line.weight': weight}, small)
    call(test_tool, CONFIG, str(small), '--work-dir', 'other')
    assert metric(folder / 'other', 'toy/sum') == wanted

    call(
        train_tool,
        CONFIG,
        '--resume',
        '--cfg-options',
        'train_cfg.max_epochs=3',
    )
    assert (work_dir / 'epoch_3.pth').is_file()
    trained = load_from_file(str(work_dir / 'epoch_3.pth'))
    assert trained['meta']['iter'] == 12


def test_amp_is_bfloat16(folder: Path) -> None:
    call(train_tool, CONFIG, '--amp', '--work-dir', 'amp')
    assert scalars(folder / 'amp', 'bf16') == [1.0] * 8
    losses = scalars(folder / 'amp', 'loss')
    assert losses[-1] < losses[0]


def test_amp_drops_the_options_of_a_scaler() -> None:
    cfg = Config(
        dict(
            optim_wrapper=dict(
                type='AmpOptimWrapper',
                dtype='float16',
                loss_scale='dynamic',
                clip_grad=dict(max_norm=1),
            )
        )
    )
    train_tool.set_amp(cfg)
    assert cfg.optim_wrapper == dict(
        type='DITOBF16OptimWrapper', clip_grad=dict(max_norm=1)
    )


def test_auto_scale_lr(folder: Path) -> None:
    call(train_tool, CONFIG, '--auto-scale-lr')
    rates = scalars(folder / 'work_dirs' / 'toy_config', 'lr')
    assert rates == [0.25] * 8


def fails(capsys: pytest.CaptureFixture[str], tool: object, *argv: str) -> str:
    """Run a tool that must end with one sentence and code 2."""
    capsys.readouterr()
    assert tool.main(list(argv)) == 2
    text = capsys.readouterr().err
    lines = [line for line in text.splitlines() if line.startswith('error')]
    assert len(lines) == 1 and 'Traceback' not in text
    return lines[0]


def test_errors_are_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = fails(capsys, train_tool, 'dito_vitl_lvsi')
    assert 'no config "dito_vitl_lvsi"' in text and 'dito_vitl_lvis' in text
    text = fails(capsys, test_tool, CONFIG, 'gone.pth')
    assert 'gone.pth does not exist' in text
    text = fails(capsys, train_tool, CONFIG, '--resume', 'gone.pth')
    assert 'gone.pth does not exist' in text
    text = fails(
        capsys,
        train_tool,
        CONFIG,
        '--cfg-options',
        'train_dataloader.dataset.pipeline.3.type=1',
    )
    assert '--cfg-options' in text
    text = fails(
        capsys,
        test_tool,
        'dito_symbols',
        CONFIG,
        '--cfg-options',
        'test_evaluator.metric=bbox',
    )
    assert 'test_evaluator is a list of 3' in text
    assert 'say which, as in test_evaluator.0.metric' in text
    text = fails(
        capsys,
        train_tool,
        CONFIG,
        '--cfg-options',
        'train_dataloder.batch_size=1',
    )
    assert 'did you mean "train_dataloader"?' in text
    text = fails(
        capsys, train_tool, CONFIG, '--cfg-options', 'optim_wrapper=None'
    )
    assert 'has no "optim_wrapper"' in text
    text = fails(
        capsys,
        train_tool,
        CONFIG,
        '--auto-scale-lr',
        '--cfg-options',
        'auto_scale_lr=None',
    )
    assert 'auto_scale_lr.base_batch_size' in text
    text = fails(capsys, test_tool, CONFIG, CONFIG, '--show-dir', 'x')
    assert 'default_hooks.visualization' in text
    assert not (folder / 'work_dirs').exists()
    text = fails(
        capsys,
        train_tool,
        CONFIG,
        '--cfg-options',
        'train_dataloader.dataset.type=ToyNumbrs',
        'experiment_name=typo',
    )
    assert 'ToyNumbrs is not in the mmdet::dataset registry; check' in text


def test_damaged_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = folder / 'whole.pth'
    torch.save(dict(state_dict={'line.weight': torch.ones(1, 1)}), whole)
    for name, content in (
        ('cut.pth', whole.read_bytes()[:-200]),
        ('empty.pth', b''),
        ('cut.safetensors', b'\xff\0\0\0\0\0\0\0{'),
    ):
        (folder / name).write_bytes(content)
        text = fails(capsys, test_tool, CONFIG, name)
        assert name in text and 'damaged' in text


def test_a_loss_that_is_no_number(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = fails(
        capsys,
        train_tool,
        CONFIG,
        '--cfg-options',
        'default_hooks.guard.type=DITONonFiniteGuardHook',
        'optim_wrapper.optimizer.lr=1e30',
        'experiment_name=nan',
    )
    assert 'Step ' in text and 'loss is' in text and '--resume' in text


def test_debug_keeps_the_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        train_tool.main(['dito_vitl_lvsi', '--debug'])
    monkeypatch.setenv('DITO_DEBUG', '1')
    with pytest.raises(FileNotFoundError):
        train_tool.main(['dito_vitl_lvsi'])


def test_paths_that_no_system_opens(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / 'loop').symlink_to('loop')
    (folder / 'file').touch()
    for path in ('a' * 300, 'loop', 'file', 'file/x'):
        text = fails(capsys, train_tool, CONFIG, '--work-dir', path)
        assert path in text
    text = fails(capsys, train_tool, CONFIG, '--resume', str(folder))
    assert 'is a folder; give the checkpoint file' in text


def test_defects_keep_the_traceback() -> None:

    @errors.one_sentence_errors
    def main(argv: object = None) -> int:
        return torch.zeros(2).reshape(3)

    @errors.one_sentence_errors
    def foreign(argv: object = None) -> int:
        return int('seven')

    with pytest.raises(RuntimeError):
        main([])
    with pytest.raises(ValueError):
        foreign([])


@errors.one_sentence_errors
def refuse(argv: object = None) -> int:
    raise BrokenDataError('no good')


@errors.one_sentence_errors
def lose_connection(argv: object = None) -> int:
    raise RuntimeError('connection closed by peer')


def test_one_of_several_processes_speaks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(errors.REFUSED, str(tmp_path / 'refusal'))
    with pytest.raises(RuntimeError, match='connection'):
        lose_connection([])
    said = []
    for main in (refuse, refuse, lose_connection):
        assert main([]) == errors.ExitCode.USAGE
        said.append(capsys.readouterr().err)
    with pytest.raises(SystemExit, match='2'):
        train_tool.main([])
    said.append(capsys.readouterr().err)
    assert said == ['error: no good\n', '', '', '']
    # Once the launcher and its folder have gone.
    monkeypatch.setenv(errors.REFUSED, str(tmp_path / 'gone' / 'refusal'))
    assert refuse([]) == errors.ExitCode.USAGE
    assert 'no good' in capsys.readouterr().err


def test_the_first_process_speaks_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under launchers that let the processes share no file."""
    monkeypatch.delenv(errors.REFUSED, raising=False)
    waits: list = []
    monkeypatch.setattr(errors.time, 'sleep', waits.append)
    for rank in '01':
        monkeypatch.setenv('RANK', rank)
        assert refuse([]) == errors.ExitCode.USAGE
    assert len(waits) == 1 and waits[0] > 1
    assert capsys.readouterr().err.count('no good') == 2


def test_slurm_needs_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setenv('LOCAL_RANK', '0')
    with pytest.raises(ValueError, match='--launcher slurm needs GPUs'):
        common.set_launcher(Config(dict()), 'slurm')


def run(*command: str, cwd: Path, **env: str) -> str:
    """Run a command to its end and give its output."""
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env={
            **os.environ,
            'PYTHONPATH': str(HERE),
            'OMP_NUM_THREADS': '1',
            **env,
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason='tests the CPU route')
def test_two_processes_on_cpus(tmp_path: Path) -> None:
    env = dict(PYTHON=sys.executable, PORT=free_port())
    run(
        str(ROOT / 'tools' / 'dist_train.sh'),
        CONFIG,
        '2',
        '--work-dir',
        'w',
        cwd=tmp_path,
        **env,
    )
    losses = scalars(tmp_path / 'w', 'loss')
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert (tmp_path / 'w' / 'epoch_2.pth').is_file()


def test_scripts_pass_their_arguments(tmp_path: Path) -> None:
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    env = dict(
        PYTHON='echo', PORT='123', PATH=f'{tmp_path}:{os.environ["PATH"]}'
    )
    tools = ROOT / 'tools'
    found = {
        name: run(str(tools / name), *args, cwd=tmp_path, **env)
        for name, args in {
            'dist_train.sh': ('c.py', '4', '--amp'),
            'dist_test.sh': ('c.py', 'x.pth', '4', '--out', 'o.pkl'),
            'slurm_train.sh': ('part', 'job', 'c.py', 'w', '--amp'),
            'slurm_test.sh': ('part', 'job', 'c.py', 'x.pth', '--show'),
        }.items()
    }
    start = (
        f'{tools}/dist_run.py --nnodes=1 --node_rank=0 '
        '--master_addr=127.0.0.1 --master_port=123 --nproc_per_node=4'
    )
    assert found['dist_train.sh'].strip() == (
        f'{start} {tools}/train.py c.py --launcher pytorch --amp'
    )
    assert found['dist_test.sh'].strip() == (
        f'{start} {tools}/test.py c.py x.pth --launcher pytorch --out o.pkl'
    )
    assert (
        found['slurm_train.sh']
        .strip()
        .endswith(f'{tools}/train.py c.py --work-dir=w --launcher=slurm --amp')
    )
    assert (
        found['slurm_test.sh']
        .strip()
        .endswith(f'{tools}/test.py c.py x.pth --launcher=slurm --show')
    )


def test_tools_of_mmdet(tmp_path: Path) -> None:
    config = tmp_path / 'own.py'
    config.write_text(
        f"_base_ = '{CONFIG}'\n"
        "custom_imports = dict(imports=['dito', 'toy_parts'])\n"
    )
    run(
        sys.executable,
        str(MMDET_TOOLS / 'train.py'),
        'own.py',
        '--work-dir',
        'w',
        cwd=tmp_path,
    )
    run(
        sys.executable,
        '-m',
        'dito',
        'run',
        str(MMDET_TOOLS / 'test.py'),
        'own.py',
        'w/epoch_2.pth',
        '--work-dir',
        'w',
        cwd=tmp_path,
    )
    assert metric(tmp_path / 'w', 'toy/count') == 8.0


def test_resume_of_a_run_that_has_not_begun(folder: Path) -> None:
    """The first start of a job that always has --resume."""
    first = folder / 'first'
    call(train_tool, CONFIG, '--work-dir', str(first))
    start = first / 'epoch_2.pth'
    call(
        train_tool,
        CONFIG,
        '--work-dir',
        'run',
        '--resume',
        '--cfg-options',
        f'load_from={start}',
        'experiment_name=begin',
    )
    losses = scalars(folder / 'run', 'loss')
    assert len(losses) == 8
    assert losses[0] < scalars(first, 'loss')[0] / 4


def test_a_start_that_is_not_there_is_told_before_all_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = fails(capsys, train_tool, 'dito_vitl_lvis')
    assert 'starts from work_dirs/rep_vitl16_laion2b/iter_30000.pth' in text
    assert 'load_from=FILE' in text and not (folder / 'work_dirs').exists()


@pytest.mark.parametrize(
    'options,expected',
    [
        (dict(load_from='a.pth'), 'a.pth'),
        ({'load_from': 'a.pth', 'model.teacher.checkpoint': 'b.pth'}, 'b.pth'),
        ({'resume': True}, 'work_dirs/rep_vitl16_laion2b/iter_30000.pth'),
    ],
)
def test_the_teacher_follows_the_start(
    options: dict[str, Any], expected: str
) -> None:
    name = 'dito_vitl_lvis'
    cfg = common.load_config(name, options)
    train_tool.set_teacher(cfg, name, options)
    assert cfg.model.teacher.checkpoint == expected


def test_a_teacher_of_its_own_stays(tmp_path: Path) -> None:
    own = tmp_path / 'own.py'
    own.write_text(
        "_base_ = 'dito::_base_/../dito_vitl_lvis.py'\n"
        "load_from = 'student.pth'\n"
    )
    options = dict(load_from='a.pth')
    cfg = common.load_config(str(own), options)
    train_tool.set_teacher(cfg, str(own), options)
    assert cfg.model.teacher.checkpoint.endswith('iter_30000.pth')


def test_resume_refuses_when_all_is_damaged(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = 'default_hooks.checkpoint.type=DITOCheckpointHook'
    call(
        train_tool,
        CONFIG,
        '--work-dir',
        'run',
        '--cfg-options',
        hook,
        'experiment_name=damaged',
    )
    for path in (folder / 'run').glob('epoch_*.pth'):
        path.write_bytes(path.read_bytes()[:-200])
    text = fails(
        capsys,
        train_tool,
        CONFIG,
        '--work-dir',
        'run',
        '--resume',
        '--cfg-options',
        hook,
        'experiment_name=damaged2',
    )
    assert 'no whole checkpoint' in text and 'epoch_2.pth' in text
