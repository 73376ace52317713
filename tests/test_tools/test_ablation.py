# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The tables: their rows, their schedules, a run of four iterations."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.runner import ValLoop
from tiny_api import NAMES, untrained_detector

from dito.cli import ablation, region_accuracy
from dito.cli import test as test_tool
from dito.cli import train as train_tool
from dito.cli.options import running
from dito.reports import ablation_runner as runner
from dito.reports.ablation_runner import Planner, Settings, Store, run_config
from dito.reports.ablation_tables import RUNS, TABLES, Row, Run, Table
from dito.reports.steps import Reporter, Stage
from dito.utils.checkpoint import save_safetensors
from dito.utils.configs import config_root, scale_schedule
from dito.utils.files import write_text

#: The paper's tables, mask AP_r from top to bottom.
PAPER = {
    '4a': (32.2, 34.8, 35.0, 36.3, 37.6),
    '4b': (32.2, 33.2, 34.2, 34.8),
    '4c': (34.0, 33.7, 33.8, 34.8, 34.1),
    '5a': (33.4, 32.2, 31.3, 35.0),
    '5b': (30.7, 34.6, 32.2, 35.0, 32.4, 34.2, 33.4, 33.4),
    '6b': (32.2, 34.0, 36.3, 37.6),
}


@pytest.mark.parametrize('name', PAPER)
def test_rows_are_those_of_the_paper(name: str) -> None:
    # Rows that the paper lacks come last.
    rows = [r for r in TABLES[name].rows if r.paper]
    assert tuple(r.paper['lvis/segm_APr'] for r in rows) == PAPER[name]
    assert all(not r.paper for r in TABLES[name].rows[len(rows) :])


def test_given_boxes_are_those_of_the_paper() -> None:
    assert [
        [r.paper[f'lvis/bbox_AP{k}'] for k in ('', *'rcf')]
        for r in TABLES['6a'].rows
    ] == [
        [48.7, 56.8, 51.5, 42.1],
        [53.7, 54.2, 53.7, 53.5],
        [54.8, 57.7, 54.3, 53.2],
    ]


def test_one_run_has_one_figure_in_all_tables() -> None:
    """Rows that are one network must not differ in the paper either."""
    figures: dict[str, set] = {}
    for name in PAPER:
        for row in TABLES[name].rows:
            figures.setdefault(row.run, set()).add(
                row.paper.get('lvis/segm_APr')
            )
    assert all(len(values) == 1 for values in figures.values()), figures
    used = {row.run for table in TABLES.values() for row in table.rows}
    assert used == set(RUNS)


@pytest.mark.parametrize('factor', [0.01, 0.5, 1, 3])
def test_scaled_schedules(factor: float) -> None:
    name = 'ablations/rovit_symbols'
    old = Config.fromfile(config_root() / f'{name}.py')
    cfg = run_config(name, factor, seed=7)
    total = cfg.train_cfg.max_iters
    assert total == max(round(old.train_cfg.max_iters * factor), 1)
    assert cfg.randomness.seed == 7
    assert cfg.train_cfg.val_begin > total
    for part, before in zip(
        cfg.param_scheduler, old.param_scheduler, strict=True
    ):
        assert part.begin < part.end
        assert abs(part.end - before.end * factor) <= 1
    assert cfg.param_scheduler[-1].end == total
    assert cfg.default_hooks.checkpoint.interval <= total


def test_milestones_scale_and_epochs_do_not() -> None:
    cfg = Config.fromfile(config_root() / 'dito_vitl_lvis.py')
    scale_schedule(cfg, 0.1)
    assert cfg.param_scheduler[1].milestones == [2944, 3312, 3496]
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
    with pytest.raises(ValueError, match='cannot be scaled'):
        scale_schedule(cfg, 0.1)


def test_start_and_what_it_lacks() -> None:
    cfg = run_config(
        'symbols/dito_symbols', 1, 0, 'stage2.pth', ('rpn_head', 'roi_head')
    )
    assert cfg.load_from == cfg.model.teacher.checkpoint == 'stage2.pth'
    hook = cfg.custom_hooks[1]
    assert hook.required == ['backbone', 'neck', 'text_encoder']
    assert {'rpn_head', 'roi_head'} <= set(hook.allowed_missing)


def test_jobs_are_shared_and_in_order(tmp_path: Path) -> None:
    planner = Planner(Settings(tmp_path, seeds=2))
    tables = [TABLES[n] for n in ('4a', '5a', '6a', '6b')]
    jobs = planner.jobs(tables)
    assert len(set(jobs)) == len(jobs)
    trained = [j for j in jobs if j.what == 'train' and j.trained]
    # 4a: five; 5a: two more; 6b: two more; one pretraining for all.
    assert len(trained) == 2 * 9 + 1
    assert [j.what for j in jobs if j.run == 'frozen'] == ['train', 'regions']
    for number, job in enumerate(jobs):
        if job.start:
            before = [(j.run, j.seed) for j in jobs[:number]]
            assert job.start in before
        if job.what != 'train':
            assert (job.run, job.seed, 'train') in [
                (j.run, j.seed, j.what) for j in jobs[:number]
            ]
    first = [j.seed for j in jobs]
    assert first == sorted(first)
    own = Planner(Settings(tmp_path, seeds=2, own_pretraining=True))
    assert len([j for j in own.jobs(tables) if j.kind == 'pretraining']) == 2


@pytest.mark.parametrize('data', ['symbols', 'lvis'])
def test_no_config_is_trained_twice(tmp_path: Path, data: str) -> None:
    planner = Planner(Settings(tmp_path, data=data))
    jobs = planner.jobs(list(TABLES.values()))
    keys = [
        (j.config, j.start, j.seed, j.options)
        for j in jobs
        if j.what == 'train' and j.trained
    ]
    assert len(set(keys)) == len(keys)
    assert planner.shared('l0_swl' if data == 'symbols' else 'l4_swl') == (
        'rovit_swl'
    )


def test_rep_that_is_there_is_not_trained(tmp_path: Path) -> None:
    rep = tmp_path / 'rep.pth'
    planner = Planner(Settings(tmp_path, seeds=1, rep=rep))
    jobs = planner.jobs([TABLES['4a'], TABLES['4c'], TABLES['6b']])
    starts = {
        j.run: (j.start, planner.make_config(j).load_from)
        for j in jobs
        if j.what == 'train'
    }
    for run in ('rep', 'rep_swl', 'rep_swl_fd', 'teacher_plain'):
        assert starts[run] == (None, str(rep)), run
    assert starts['rovit'][1].endswith('clip_symbols.safetensors')
    assert starts['rep_avg'][0] == ('pretraining-rep_symbols_avg', 0)
    assert 'pretraining-rep_symbols' not in starts
    (plain,) = {
        j for j in jobs if j.run == 'teacher_plain' and j.what == 'train'
    }
    teacher = planner.make_config(plain).model.teacher
    assert teacher.shift is None and teacher.checkpoint == str(rep)


@pytest.mark.parametrize('data', ['symbols', 'lvis'])
def test_every_row_has_its_configs(tmp_path: Path, data: str) -> None:
    planner = Planner(Settings(tmp_path, data=data))
    for job in planner.jobs(list(TABLES.values())):
        assert (config_root() / f'{job.config}.py').is_file(), job
        stage = 'rep_' if job.kind == 'pretraining' else ''
        assert stage in job.config


def test_figures_over_seeds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed, value in enumerate((0.1, 0.2, -1, 0.3)):
        store.write('rovit', seed, 'detection', dict(metrics=dict(ap=value)))
    assert store.figure('rovit', (9,), 'detection', 'ap') is None
    one = store.figure('rovit', (1,), 'detection', 'ap')
    assert (one.mean, one.spread, one.seeds) == (0.2, None, 1)
    all_ = store.figure('rovit', (0, 1, 2, 3), 'detection', 'ap')
    assert all_.mean == pytest.approx(0.2) and all_.seeds == 3
    assert all_.spread == pytest.approx(0.1)
    write_text(tmp_path / 'rovit' / 'seed0' / 'detection.json', '{')
    with pytest.raises(ValueError, match='remove it'):
        store.read('rovit', 0, 'detection')


def test_another_config_is_refused(tmp_path: Path) -> None:
    store, cfg = Store(tmp_path), Config(dict(a=1))
    assert store.prepare('r', 0, cfg) == store.prepare('r', 0, cfg)
    with pytest.raises(ValueError, match='another config or schedule'):
        store.prepare('r', 0, Config(dict(a=2)))


def test_several_processes_have_a_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for gpus, number in ((1, 1), (4, 5)):
        planner = Planner(Settings(tmp_path, gpus=gpus))
        (job,) = planner.jobs([TABLES['4a'].select(('rovit',))])[:1]
        words = planner.stage(job).command
        assert words[number : number + 3] == ['-m', 'dito', 'train']
        assert ('--nproc_per_node=4' in words[:number]) == (gpus == 4)
        assert (words[-2:] == ['--launcher', 'pytorch']) == (gpus == 4)


def test_unknown_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.main(['4a', '--rows', 'sql', '--dry-run']) == 2
    assert "no row 'sql'; its rows are rovit" in capsys.readouterr().err


# ------------------------------------------------------- a short real run


def write_shard(folder: Path, images: list[Path]) -> None:
    """An image-text shard of a few pairs."""
    with tarfile.open(folder / '0.tar', 'w') as tar:
        for number in range(8):
            picture = images[number % 2]
            for suffix, data in (
                ('png', picture.read_bytes()),
                ('txt', NAMES[number % 2].encode()),
            ):
                info = tarfile.TarInfo(f'{number}.{suffix}')
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def training(cfg: Config, loop: str, iters: int) -> Config:
    """Add what a training needs."""
    cfg.train_cfg = dict(type=loop, max_iters=iters, val_interval=iters)
    cfg.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3)
    )
    cfg.param_scheduler = [
        dict(
            type='LinearLR',
            start_factor=0.5,
            by_epoch=False,
            begin=0,
            end=iters,
        )
    ]
    cfg.default_hooks = dict(
        logger=dict(type='LoggerHook', interval=1),
        checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=9),
    )
    cfg.log_processor = dict(by_epoch=False)
    return cfg


@pytest.fixture(scope='module')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Configs of both stages, towers to start from, and a table."""
    folder = tmp_path_factory.mktemp('ablation')
    images, cfg, model = untrained_detector(folder)
    save_safetensors(model.state_dict(), folder / 'start.safetensors')
    cfg.load_from = str(folder / 'start.safetensors')
    pretrainer = Config(
        dict(
            custom_imports=cfg.custom_imports,
            default_scope='mmdet',
            load_from=cfg.load_from,
            model=dict(
                type='RegionCentricPretrainer',
                backbone=cfg.model.backbone,
                neck=cfg.model.neck,
                rpn_head=cfg.model.rpn_head,
                roi_head=dict(
                    type='DITORoIHead',
                    bbox_roi_extractor=cfg.model.roi_head.bbox_roi_extractor,
                    bbox_head=cfg.model.roi_head.bbox_head,
                ),
                text_encoder=cfg.model.text_encoder,
                regions=dict(type='RandomRegions', num_regions=(4, 2, 2, 1)),
            ),
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=None,
                collate_fn=dict(type='image_text_collate'),
                dataset=dict(
                    type='ImageTextShards',
                    size=64,
                    num_streams=1,
                    shards=str(folder / '0.tar'),
                ),
            ),
        )
    )
    write_shard(folder, images)
    training(pretrainer, 'ImageTextTrainLoop', 20).dump(folder / 'rep.py')
    cfg.train_dataloader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='InfiniteSampler', shuffle=True),
        dataset=dict(
            type='DITOCocoDataset',
            split='base',
            ann_file=str(folder / 'annotations.json'),
            data_prefix=dict(img=str(folder)),
            metainfo=dict(
                classes=tuple(NAMES), novel_classes=('chess knight',)
            ),
            pipeline=[
                dict(type='DITOLoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='Resize', scale=(64, 64), keep_ratio=True),
                dict(type='PackDetInputs'),
            ],
        ),
    )
    cfg.model.roi_head.update(mask_roi_extractor=None, mask_head=None)
    cfg.update(
        val_cfg=dict(type='ValLoop'),
        val_dataloader=cfg.test_dataloader,
        val_evaluator=cfg.test_evaluator,
    )
    training(cfg, 'IterBasedTrainLoop', 40).dump(folder / 'det.py')
    config = dict(symbols=str(folder / 'det.py'))
    runs = dict(
        rep=Run(config, dict(symbols=str(folder / 'rep.py'))),
        frozen=Run(config, trained=False),
    )
    rows = {
        name: Row(name, name, name, {'coco/bbox_mAP': 12.3}) for name in runs
    }
    metrics = {'coco/bbox_mAP': 'AP', 'region/all_top1': 'top-1'}
    tables = dict(
        x=Table('x', 'tiny', 'detection', metrics, (rows['rep'],)),
        y=Table('y', 'given', 'regions', metrics, tuple(rows.values())),
    )
    return dict(folder=folder, runs=runs, tables=tables)


class InProcess(Reporter):
    """Runs the tools in this process: importing them again takes longer."""

    seen: list[str] = []
    fail_after = ''

    def run(self, stage: Stage) -> float:
        _, *dito, tool = stage.command[:4]
        argv = stage.command[4:]
        assert dito == ['-m', 'dito']
        main = {
            'train': train_tool,
            'test': test_tool,
            'region-accuracy': region_accuracy,
        }[tool].main
        self.seen.append(' '.join([stage.name, *argv[3:]]))
        options = [f'experiment_name={stage.name}{len(self.seen)}']
        assert main([*argv, '--cfg-options', *options]) == 0
        if stage.name == self.fail_after:
            raise RuntimeError('the power is gone')
        return 1.0


@pytest.fixture
def tool(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tool with the tiny tables, in their folder."""
    monkeypatch.chdir(tiny['folder'])
    monkeypatch.setattr(runner, 'Reporter', InProcess)
    monkeypatch.setattr(runner, 'RUNS', tiny['runs'])
    for module in (ablation, running):
        monkeypatch.setattr(module, 'TABLES', tiny['tables'])

    def call(*argv: str) -> list[str]:
        InProcess.seen.clear()
        assert ablation.main([*argv, '--iters-scale', '0.1', '--debug']) == 0
        return [line.split()[0] for line in InProcess.seen]

    return call


def test_a_table_is_made_resumed_and_rendered(
    tool: Any,
    tiny: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Trainings leave evaluation to a step of its own.
    monkeypatch.setattr(ValLoop, 'run', lambda self: pytest.fail('validated'))
    # Nothing is known, so nothing is promised, and no hours run nothing.
    assert tool('x', '--dry-run') == tool('x', '--budget-hours', '0') == []
    plan = ' '.join(capsys.readouterr().out.split())
    assert '3 steps of unknown length' in plan
    # The power goes after the training's last save, before its result.
    runs = Path('work_dirs/ablation_symbols/runs')
    monkeypatch.setattr(InProcess, 'fail_after', 'rep-seed0-train')
    with pytest.raises(RuntimeError, match='power'):
        tool('x')
    assert not (runs / 'rep/seed0/train.json').exists()
    (runs / 'rep/seed0/last_checkpoint').write_text(
        str((runs / 'rep/seed0/iter_4.pth').resolve())
    )
    monkeypatch.setattr(InProcess, 'fail_after', '')
    assert tool('x') == ['rep-seed0-train', 'rep-seed0-detection']
    assert '--resume' in InProcess.seen[0]
    # Done is done; another table shares the training.
    times = {p: p.stat().st_mtime_ns for p in runs.rglob('*.json')}
    assert tool('x') == []
    assert tool('x', 'y') == ['rep-seed0-regions', 'frozen-seed0-regions']
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())
    train = json.loads((runs / 'rep/seed0/train.json').read_text())
    assert train['iters'] == 4 and Path(train['checkpoint']).is_file()
    start = json.loads((runs / 'pretraining-rep/seed0/train.json').read_text())
    cfg = Config.fromfile(runs / 'rep/seed0.py')
    assert cfg.load_from == start['checkpoint'] and start['iters'] == 2
    # The second seed uses the first one's pretraining.
    assert tool('x', '--seeds', '2') == [
        'rep-seed1-train',
        'rep-seed1-detection',
    ]
    text = Path('work_dirs/ablation_symbols/table_x.md').read_text()
    assert '| rep | 12.3 | ' in text and '(2) |' in text
    capsys.readouterr()
    there = ('--work-dir', str(runs.parent))
    assert tool('x', 'y', '--seeds', '3', '--dry-run', *there) == []
    plan = capsys.readouterr().out
    assert plan.count('done') >= 8 and plan.count('to do') == 4
    assert '0 steps of unknown' in ' '.join(plan.split())
    with pytest.raises(ValueError, match='another config or schedule'):
        ablation.main(['x', '--seeds', '3', '--debug'])


def test_estimates_begin_with_the_quickstart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planner = Planner(Settings(tmp_path / 'work', seeds=1))
    evaluations = [
        j
        for j in planner.jobs([TABLES['4a'], TABLES['6a']])
        if j.what != 'train'
    ]
    assert {planner.estimate(j) for j in evaluations} == {None}
    write_text(
        tmp_path / 'work_dirs/quickstart/metrics.json',
        json.dumps(dict(stage_seconds=dict(evaluation=58.0))),
    )
    assert {planner.estimate(j) for j in evaluations} == {58.0}
    # What was measured here counts more.
    planner.store.write('rovit', 0, 'train', dict(kind='training'))
    planner.store.write('rovit', 0, 'detection', dict(seconds=20.0))
    found = {planner.estimate(j): j.what for j in evaluations}
    assert found == {20.0: 'detection', 58.0: 'regions'}
    other = Planner(Settings(tmp_path / 'lvis', data='lvis', seeds=1))
    assert other.estimate(evaluations[0]) is None


def test_a_failed_step_ends_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Broken(Stage):
        command = ['sh', '-c', 'echo the reason; exit 3']

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, 'Stage', Broken)
    assert ablation.main(['4a', '--rows', 'rovit']) == 2
    said = capfd.readouterr().err
    assert 'the reason' in said and 'Traceback' not in said
    assert 'exit code 3; its whole output is in' in said
