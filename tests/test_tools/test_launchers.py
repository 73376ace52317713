# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Scripts that start several processes, on one machine or more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import free_port

from dito.utils.checkpoint import load_from_file

HERE = Path(__file__).parent
TOOLS = HERE.parents[1] / 'tools'


def start(folder, *argv, **env):
    return subprocess.Popen(
        [str(a) for a in argv],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            **os.environ,
            'PYTHON': sys.executable,
            'OMP_NUM_THREADS': '1',
            'PYTHONPATH': str(HERE),
            'GLOO_SOCKET_IFNAME': 'lo',
            **env,
        },
    )


def test_two_machines(tmp_path):
    """Two 'machines' of one process each, that meet at a port."""
    port = free_port()
    nodes = [
        start(
            tmp_path,
            TOOLS / 'dist_train.sh',
            HERE / 'toy_config.py',
            1,
            '--work-dir',
            'run',
            NNODES='2',
            NODE_RANK=str(rank),
            MASTER_ADDR='127.0.0.1',
            PORT=port,
        )
        for rank in (0, 1)
    ]
    outputs = [node.communicate(timeout=600)[0] for node in nodes]
    assert [n.returncode for n in nodes] == [0, 0], '\n'.join(outputs)
    checkpoint = load_from_file(str(tmp_path / 'run' / 'epoch_2.pth'))
    # Eight numbers, two per batch, shared by two processes, two epochs.
    assert checkpoint['meta']['iter'] == 4
    log = next(tmp_path.glob('run/*/*.log')).read_text()
    assert 'GPU number: 2' in log


def test_a_refusal_of_all_is_one_sentence(tmp_path):
    run = start(
        tmp_path,
        TOOLS / 'dist_test.sh',
        HERE / 'toy_config.py',
        'missing.pth',
        2,
        PORT=free_port(),
    )
    output, _ = run.communicate(timeout=600)
    assert run.returncode == 2, output
    assert output.count('missing.pth does not exist') == 1
    assert 'Traceback' not in output and 'torch' not in output


@pytest.mark.parametrize('broken', [True, False])
def test_one_of_two_ends_in_training(tmp_path, broken):
    """By a refusal, or by a crash, which is shown at length."""
    run = start(
        tmp_path,
        TOOLS / 'dist_train.sh',
        HERE / 'toy_config.py',
        2,
        '--cfg-options',
        'train_dataloader.dataset.type=ToyFault',
        f'train_dataloader.dataset.broken={broken}',
        PORT=free_port(),
    )
    output, _ = run.communicate(timeout=600)
    assert run.returncode == (2 if broken else 1), output
    assert output.count('error: no good\n') == broken, output
    for trace in ('Traceback', 'RuntimeError: no good', 'ChildFailedError'):
        assert (trace in output) != broken, output


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_several_machines_need_an_address(tmp_path, script):
    env = {k: v for k, v in os.environ.items() if k != 'MASTER_ADDR'}
    done = subprocess.run(
        [TOOLS / script, 'a.py', 'b.pth', '1'],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        env={**env, 'NNODES': '2'},
    )
    assert done.returncode == 2
    assert 'NNODES=2 needs MASTER_ADDR' in done.stderr


def fake_srun(folder):
    """A srun that writes down what it was given."""
    path = folder / 'srun'
    path.write_text(
        '#!/bin/sh\necho "$@" > srun.txt\necho "$MASTER_PORT" > port.txt\n'
    )
    path.chmod(0o755)
    return f'{folder}{os.pathsep}{os.environ["PATH"]}'


@pytest.mark.parametrize(
    'gpus,per_node,wanted',
    [
        ('16', '8', ('--ntasks=16', '--ntasks-per-node=8', '--gres=gpu:8')),
        ('2', '8', ('--ntasks=2', '--ntasks-per-node=2', '--gres=gpu:2')),
    ],
)
def test_slurm(tmp_path, gpus, per_node, wanted):
    run = start(
        tmp_path,
        TOOLS / 'slurm_train.sh',
        'part',
        'job',
        'c.py',
        'work',
        '--resume',
        PATH=fake_srun(tmp_path),
        GPUS=gpus,
        GPUS_PER_NODE=per_node,
        PORT='12345',
        SRUN_ARGS='--qos=a',
    )
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 0, output
    given = (tmp_path / 'srun.txt').read_text().split()
    assert set(wanted) <= set(given)
    assert given[-4:] == [
        'c.py',
        '--work-dir=work',
        '--launcher=slurm',
        '--resume',
    ]
    assert '--qos=a' in given
    assert (tmp_path / 'port.txt').read_text().strip() == '12345'


def test_slurm_refuses_uneven_machines(tmp_path):
    run = start(
        tmp_path,
        TOOLS / 'slurm_train.sh',
        'part',
        'job',
        'c.py',
        'work',
        PATH=fake_srun(tmp_path),
        GPUS='12',
        GPUS_PER_NODE='8',
    )
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 2 and 'no multiple' in output


@pytest.mark.parametrize(
    'code,restarts,cancel,wanted',
    [
        (75, '0', False, 'requeue 7'),
        (75, '2', False, 'requeue 7'),
        (75, '0', True, None),
        (1, '0', False, None),
        (0, '0', False, None),
    ],
)
def test_slurm_requeues_what_was_asked_to_end(
    tmp_path, code, restarts, cancel, wanted
):
    """As a job of the queue: again with 75, unless it was cancelled."""
    path = fake_srun(tmp_path)
    with open(tmp_path / 'srun', 'a') as file:
        # scancel signals the shell of the job too.
        file.write('kill -TERM $PPID\n' if cancel else '')
        file.write(f'exit {code}\n')
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text('#!/bin/sh\necho "$@" > scontrol.txt\n')
    scontrol.chmod(0o755)
    run = start(
        tmp_path,
        TOOLS / 'slurm_train.sh',
        'part',
        'job',
        'c.py',
        'work',
        PATH=path,
        DITO_QUEUED='1',
        SLURM_JOB_ID='7',
        SLURM_RESTART_COUNT=restarts,
    )
    output, _ = run.communicate(timeout=60)
    assert run.returncode == code, output
    asked = tmp_path / 'scontrol.txt'
    assert (asked.read_text().strip() if asked.exists() else None) == wanted
    given = (tmp_path / 'srun.txt').read_text().split()
    assert '-p' not in given and '--signal=TERM@300' in given
    assert ('--resume' in given) == (restarts == '2')


def test_slurm_queues_a_job(tmp_path):
    sbatch = tmp_path / 'sbatch'
    sbatch.write_text(
        '#!/bin/sh\necho "$@" > sbatch.txt\n'
        'echo "$DITO_QUEUED$SUBMIT $DITO_TOOLS" > env.txt\n'
    )
    sbatch.chmod(0o755)
    run = start(
        tmp_path,
        TOOLS / 'slurm_train.sh',
        'part',
        'job',
        'c.py',
        'work',
        '--amp',
        PATH=fake_srun(tmp_path),
        SUBMIT='1',
        GRACE='60',
        SBATCH_ARGS='--time=1:00:00',
    )
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 0, output
    given = (tmp_path / 'sbatch.txt').read_text().split()
    assert {
        '--requeue',
        '--signal=TERM@60',
        '--time=1:00:00',
        '--ntasks=8',
    } <= set(given)
    script = given.index(str(TOOLS / 'slurm_train.sh'))
    assert given[script + 1 :] == ['part', 'job', 'c.py', 'work', '--amp']
    assert (tmp_path / 'env.txt').read_text().strip() == f'1 {TOOLS}'
    assert not (tmp_path / 'srun.txt').exists()
