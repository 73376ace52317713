# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What comes out of files is data: no entry point runs or reads more.

Each test gives a hostile file to every way into the package that takes such
files. A payload leaves a mark where it runs; none may be there afterwards,
and the user gets one sentence.
"""

import hashlib
import io
import json
import os
import pickle
import re
import sys
import tarfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from mmdet.apis import init_detector
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
from PIL import EpsImagePlugin, Image
from tiny_api import detector_config, write_annotations, write_images

from dito.apis import (
    DITOInferencer,
    TextSimilarity,
    load_model_source,
    load_pretrained,
    model_file,
    package_model,
)
from dito.cli.options import find_main
from dito.datasets.image_text.bad_samples import BadSample
from dito.datasets.image_text.image_header import (
    FORMATS,
    image_size,
    open_image,
)
from dito.datasets.image_text.transforms import CropTransform
from dito.datasets.load_image import DITOLoadImageFromFile
from dito.datasets.shard_files.write import prepare_image
from dito.models.text import Vocabulary
from dito.reports.report import ReportData, write_report
from dito.reports.samples import DetectionSample, SimilaritySample
from dito.utils.checkpoint import (
    load_from_file,
    load_state_dict_file,
    save_safetensors,
)
from dito.utils.configs import find_config, list_configs
from dito.visualization.objects import ShownObject

PACKAGE = Path(__file__).parents[1] / 'projects' / 'dito'


class _RunsCode:
    """Pickles to a call that leaves a mark in the working directory."""

    def __reduce__(self) -> Any:
        return os.mkdir, ('ran',)


@pytest.fixture(scope='module')
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A detector, its config, pictures and annotations."""
    folder = tmp_path_factory.mktemp('security')
    images = write_images(folder)
    cfg = detector_config(folder, write_annotations(folder, images))
    cfg.experiment_name = 'security'
    cfg.dump(folder / 'config.py')
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    return dict(
        cfg=cfg,
        state=model.state_dict(),
        image=str(images[0]),
        config=str(folder / 'config.py'),
        folder=folder,
        annotations=str(folder / 'annotations.json'),
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder whose modules, if imported, leave a mark."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    mark = 'import os\nos.mkdir("ran")\n'
    for name in ('evil.py', 'folder/__init__.py', 'folder/registry.py'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(mark)
    yield tmp_path
    for name in ('evil', 'folder', 'folder.registry'):
        assert sys.modules.pop(name, None) is None
    assert not list(tmp_path.rglob('ran'))


def _sentence_of(
    run: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> str:
    """The one sentence of a tool that fails, or of an exception."""
    capsys.readouterr()
    try:
        status = run()
    except (ValueError, OSError) as error:
        text = str(error)
    else:
        assert status == 2, f'accepted: {status!r}'
        lines = capsys.readouterr().err.splitlines()
        text = next(line for line in lines if line.startswith('error: '))
        assert lines[-1] == text
    assert text.isprintable() and text.endswith(('.', ')')), text
    return text


def _tool(name: str, *argv: str) -> int:
    return find_main(name.replace('_', '-'))(list(argv))


# ------------------------------------------------------------------ weights

# Where a file with weights is given; of the first, its config is read too.
WITH_CONFIG: dict[str, Callable[[dict[str, Any], str], Any]] = dict(
    inferencer=lambda p, f: DITOInferencer(f, device='cpu'),
    weights=lambda p, f: DITOInferencer(weights=f, device='cpu'),
    source=lambda p, f: load_model_source(f),
    similarity=lambda p, f: TextSimilarity.from_files(None, f),
    publish=lambda p, f: _tool('publish_model', f, 'out'),
    folder=lambda p, f: load_pretrained(_folder(f), device='cpu'),
)
WEIGHTS: dict[str, Callable[[dict[str, Any], str], Any]] = dict(
    **WITH_CONFIG,
    detect=lambda p, f: _tool(
        'detect',
        p['image'],
        '--config',
        p['config'],
        '--checkpoint',
        f,
        '--names',
        'anchor',
    ),
    test=lambda p, f: _tool('test', p['config'], f),
    train=lambda p, f: _tool(
        'train', _training(p), '--cfg-options', f'load_from={f}'
    ),
    resume=lambda p, f: _tool('train', _training(p), '--resume', f),
    region=lambda p, f: _tool('region_accuracy', p['config'], f),
    embed=lambda p, f: _tool(
        'build_text_embeddings',
        p['config'],
        f,
        '--names',
        'anchor',
        '--out',
        'x.safetensors',
    ),
    tower=lambda p, f: _tool(
        'clip_to_dito', 'ViT-B-32', 'x.safetensors', '--weights', f
    ),
    bare=lambda p, f: _tool('publish_model', f, 'out.safetensors'),
    load=lambda p, f: load_state_dict_file(f),
    mmengine=lambda p, f: CheckpointLoader.load_checkpoint(f),
    model=lambda p, f: load_checkpoint(torch.nn.Linear(1, 1), f),
    mmdet=lambda p, f: init_detector(p['config'], f, device='cpu'),
    vocabulary=lambda p, f: Vocabulary.load(f),
    names=lambda p, f: DITOInferencer(p['config'], vocabulary=f, device='cpu'),
    pretrained=lambda p, f: _init_pretrained(f),
)


def _folder(file: str) -> Path:
    """A published folder whose manifest names the file as its weights."""
    content = Path(file).read_bytes()
    folder = Path('published')
    folder.mkdir()
    (folder / file).write_bytes(content)
    (folder / 'dito.json').write_text(
        json.dumps(
            dict(
                format='dito-model-1',
                weights=file,
                sha256=hashlib.sha256(content).hexdigest(),
            )
        )
    )
    return folder


def _training(parts: dict[str, Any]) -> str:
    """A config that could be trained with."""
    cfg = parts['cfg'].copy()
    cfg.train_dataloader = dict(cfg.test_dataloader)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1)
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
    cfg.work_dir = 'work'
    cfg.dump('training.py')
    return 'training.py'


def _init_pretrained(file: str) -> None:
    init_default_scope('mmdet')
    backbone = dict(
        type='DITOViT',
        arch='tiny',
        img_size=32,
        patch_size=16,
        init_cfg=dict(type='Pretrained', checkpoint=file),
    )
    MODELS.build(backbone).init_weights()


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'pickle', 'safetensors'])
@pytest.mark.parametrize('entry', WEIGHTS)
def test_pickles_do_not_run(
    parts: dict[str, Any],
    here: Path,
    entry: str,
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = (
        'x.safetensors'
        if kind == 'safetensors' or entry in ('vocabulary', 'names')
        else 'x.pth'
    )
    content = dict(state_dict=parts['state'], meta=_RunsCode())
    if kind in ('zip', 'legacy'):
        torch.save(content, name, _use_new_zipfile_serialization=kind == 'zip')
    else:
        (here / name).write_bytes(pickle.dumps(content, protocol=2))
    text = _sentence_of(lambda: WEIGHTS[entry](parts, name), capsys)
    assert re.search('could run code|damaged|is a .pth file', text)


def test_resuming_runs_no_config(parts: dict[str, Any], here: Path) -> None:
    """MMEngine's runners run ``meta.config`` of what they resume."""
    program = 'import os\nos.mkdir("ran")\n'
    meta = dict(config=program, epoch=0, iter=1)
    hub = dict(log_scalars={}, runtime_info={}, resumed_keys={})
    torch.save(
        dict(state_dict=parts['state'], meta=meta, message_hub=hub), 'x.pth'
    )
    # This one has no hook that compares states; how it ends does not matter.
    _tool('train', _training(parts), '--resume', 'x.pth')
    save_safetensors(parts['state'], 'y.safetensors', meta)
    for name in 'x.pth', 'y.safetensors':
        meta = load_from_file(name)['meta']
        assert 'config' not in meta and meta['cfg'] == program


# The checks of each key are tested with parse_config_text and check_config.
CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = dict(
    command=lambda c: c['model'].update(
        neck=dict(type='mmengine.call_command', cmd=['mkdir', 'ran'])
    ),
    load=lambda c: c['model'].update(
        backbone=dict(type='mmengine.load', file='evil.pkl')
    ),
    dump=lambda c: c['model'].update(
        rpn_head=dict(type='mmengine.dump', obj={}, file='ran/x.json')
    ),
    module=lambda c: c['model'].update(neck=dict(type='evil.Neck')),
    bare_module=lambda c: c['model'].update(neck=dict(type='evil')),
    other_registry=lambda c: c['model'].update(neck=dict(type='Resize')),
    scope=lambda c: c.update(default_scope='folder'),
    inner_scope=lambda c: c['model']['neck'].update(_scope_='folder'),
    imports=lambda c: c.update(custom_imports=dict(imports=['evil'])),
    base=lambda c: c.update(_base_=['evil.py']),
    step=lambda c: c['test_dataloader']['dataset']['pipeline'].append(
        dict(type='mmengine.call_command', cmd=['mkdir', 'ran'])
    ),
    evaluated=lambda c: c['model']['test_cfg']['rcnn']['nms'].update(
        type="__import__('os').mkdir('ran')"
    ),
    path=lambda c: c['model']['text_encoder'].update(
        tokenizer=dict(path='../../x')
    ),
    address=lambda c: c['model']['text_encoder'].update(
        arch='hf-hub:someone/tower'
    ),
    ids=lambda c: c['model']['text_encoder'].update(token_ids='/etc/passwd'),
)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('payload', CONFIGS)
def test_configs_in_weights_name_no_code(
    parts: dict[str, Any],
    here: Path,
    payload: str,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = parts['cfg'].copy()
    if suffix == '.safetensors':
        package_model('good', parts['state'], content)
        meta = load_model_source(str(next(Path('good').glob('*.saf*'))))[0]
        content = meta
    config = content.to_dict()
    CONFIGS[payload](config)
    meta = dict(cfg=Config(config).pretty_text)
    state = {k: v for k, v in parts['state'].items() if 'token_ids' not in k}
    with open('evil.pkl', 'wb') as file:
        pickle.dump(_RunsCode(), file)
    for number, entry in enumerate(WITH_CONFIG):
        name = f'x{number}{suffix}'
        if suffix == '.pth':
            torch.save(dict(state_dict=state, meta=meta), name)
        else:
            save_safetensors(state, name, meta)
        text = _sentence_of(
            lambda e=entry, n=name: WEIGHTS[e](parts, n), capsys
        )
        assert 'The config inside' in text and 'is refused' in text
    assert not Path('out').exists()


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda c: c.update(model=dict(type='ReLU')), 'builds a ReLU, which'),
        (lambda c: c['model']['neck'].update(foo=1), "TypeError: .*'foo'"),
        (lambda c: c['model']['neck'].update(out_channels='x'), 'TypeError: '),
        (lambda c: c['model']['neck'].update(out_channels=10**15), 'Error: '),
        (
            lambda c: c['model']['neck'].update(type='MaxIoUAssigner'),
            'Error: ',
        ),
        (lambda c: c['model'].pop('roi_head'), 'Error: |fit the config'),
        (
            lambda c: c['test_dataloader']['dataset']['pipeline'].append(
                dict(type='Resize', foo=1)
            ),
            "TypeError: .*'foo'",
        ),
        (
            lambda c: c['test_dataloader']['dataset'].pop('pipeline'),
            'no test_dataloader with a pipeline',
        ),
    ],
)
def test_configs_that_build_nothing_get_a_sentence(
    parts: dict[str, Any],
    here: Path,
    change: Callable[[Any], Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = parts['cfg'].to_dict()
    change(config)
    torch.save(
        dict(
            state_dict=parts['state'],
            meta=dict(cfg=Config(config).pretty_text),
        ),
        'x.pth',
    )
    text = _sentence_of(lambda: WEIGHTS['inferencer'](parts, 'x.pth'), capsys)
    assert re.search(message, text)


@pytest.mark.parametrize(
    'meta',
    [
        [1],
        dict(dataset_meta=[1]),
        dict(dataset_meta=dict(classes='ab')),
        dict(dataset_meta=dict(classes=[1, '\x1b[2J'])),
        dict(dataset_meta=dict(novel_classes=dict(a=1))),
    ],
)
def test_odd_metadata_gets_a_sentence(
    parts: dict[str, Any],
    here: Path,
    meta: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(dict(state_dict=parts['state'], meta=meta), 'x.pth')
    for entry in ('detect', 'weights'):
        text = _sentence_of(lambda e=entry: WEIGHTS[e](parts, 'x.pth'), capsys)
        assert 'should hold lists of class names' in text


def test_the_detector_itself_is_accepted(
    parts: dict[str, Any], here: Path
) -> None:
    """What is refused above is refused for its payload alone."""
    torch.save(
        dict(
            state_dict=parts['state'], meta=dict(cfg=parts['cfg'].pretty_text)
        ),
        'x.pth',
    )
    for entry in ('inferencer', 'weights', 'source', 'similarity', 'folder'):
        assert WEIGHTS[entry](parts, 'x.pth')
    assert WEIGHTS['publish'](parts, 'x.pth') == 0
    assert load_pretrained('out', device='cpu')


def test_checkpoints_of_all_detectors_can_be_opened() -> None:
    """Nothing that this project's own configs say is refused."""
    names = [n for n in list_configs() if n.startswith('dito_')]
    state = {'text_encoder.token_ids': torch.arange(9)}
    for name in names:
        text = Config.fromfile(find_config(name)).pretty_text
        with mock.patch.object(
            model_file,
            'load_from_file',
            lambda _, t=text: dict(state_dict=state, meta=dict(cfg=t)),
        ):
            cfg, _ = load_model_source('x.pth')
        assert cfg.model.type == 'DITO' and 'teacher' not in cfg.model
    assert len(names) >= 5


# -------------------------------------------------- names, tables, archives

FILES: dict[str, Callable[[dict[str, Any], str], Any]] = {
    'names.txt': lambda p, f: DITOInferencer(
        p['config'], vocabulary=f, device='cpu'
    ),
    'names.json': lambda p, f: DITOInferencer(
        p['config'], vocabulary=f, device='cpu'
    ),
    'names.yaml': lambda p, f: DITOInferencer(
        p['config'], vocabulary=f, device='cpu'
    ),
    'config.yaml': lambda p, f: DITOInferencer(f, device='cpu'),
    'detect.yml': lambda p, f: _tool(
        'detect', p['image'], '--config', p['config'], '--names', f
    ),
    'print.yaml': lambda p, f: _tool('print_config', f),
    'found.yaml': lambda p, f: find_config(f),
    'set.json': lambda p, f: _tool(
        'check_dataset', '--data', f, '--images', '.'
    ),
    'coco.json': lambda p, f: _tool('coco2ov', f, '--classes', 'all'),
    'lvis.json': lambda p, f: _tool('lvis2ov', f),
    'objects.json': lambda p, f: _tool('fix_objects365', f),
    'pairs.parquet': lambda p, f: _tool('pairs2shards', f, '--out-dir', 'out'),
    'pairs.csv': lambda p, f: _tool('pairs2shards', f, '--out-dir', 'out'),
    'pairs.jsonl': lambda p, f: _tool('pairs2shards', f, '--out-dir', 'out'),
    'release.npz': lambda p, f: _tool('official_to_dito', f, 'x.safetensors'),
    'release.msgpack': lambda p, f: _tool(
        'official_to_dito', f, 'x.safetensors'
    ),
    'dito.json': lambda p, f: load_pretrained('.', device='cpu'),
    'report.json': lambda p, f: package_model(
        'out', p['state'], p['cfg'], metrics=f
    ),
}
BYTES: dict[str, Callable[[], bytes]] = dict(
    pickle=lambda: pickle.dumps(_RunsCode()),
    array=lambda: _saved(np.save, np.array([_RunsCode()])),
    arrays=lambda: _saved(np.savez, a=np.array([_RunsCode()])),
    yaml=lambda: b'!!python/object/apply:os.mkdir [ran]\n',
    module=lambda: b'a: !!python/name:evil.x\n',
    deep=lambda: b'[' * 100_000,
)


def _saved(save: Callable[..., None], *args: Any, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *args, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize('kind', BYTES)
@pytest.mark.parametrize('name', FILES)
def test_other_files_are_data(
    parts: dict[str, Any],
    here: Path,
    name: str,
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / name).write_bytes(BYTES[kind]())
    capsys.readouterr()
    try:
        status = FILES[name](parts, name)
    except (ValueError, OSError) as error:
        text = str(error)
    else:
        text = capsys.readouterr().err
        # A list of names may hold any text; all else is refused.
        assert status in (1, 2) or name == 'names.txt', status
    assert '\x1b' not in text and 'Traceback' not in text


def test_members_of_shards_are_data(here: Path) -> None:
    """Names that lead elsewhere are not followed, contents not run."""
    members = {
        '../ran.jpg': b'x',
        '/tmp/ran.txt': b'x',
        'a.pyd': pickle.dumps(_RunsCode()),
        'a.pkl': pickle.dumps(_RunsCode()),
        'a.jpg': b'GIF89a',
        'a.txt': b'a photo',
        'a.json': b'[' * 100_000,
    }
    (here / 'set').mkdir()
    with tarfile.open('set/0.tar', 'w') as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    record = dict(name='pipe:mkdir ran.tar', samples=1, bytes=1, sha256='')
    assert _tool('check_shards', 'set') == 1
    assert _tool('shard_stats', 'set') in (0, 1)
    Path('set/manifest.json').write_text(json.dumps(dict(shards=[record])))
    assert _tool('check_shards', 'set') == 1
    assert sorted(p.name for p in here.parent.glob('ran*')) == []


# ----------------------------------------------------------------- pictures


@pytest.fixture
def eps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """An EPS, and a Ghostscript that leaves a mark when it is started."""
    program = tmp_path / 'gs'
    program.write_text(f'#!/bin/sh\ntouch {tmp_path / "ran"}\n')
    program.chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, 'gs_binary', str(program))
    monkeypatch.setattr(EpsImagePlugin, 'gs_windows_binary', None)
    buffer = io.BytesIO()
    Image.new('RGB', (40, 30)).save(buffer, 'EPS')
    return buffer.getvalue()


def _load(backend: str) -> Callable[[bytes, Path], Any]:

    def load(data: bytes, folder: Path) -> None:
        (folder / 'x.jpg').write_bytes(data)
        DITOLoadImageFromFile(imdecode_backend=backend).transform(
            dict(img_path=str(folder / 'x.jpg'))
        )

    return load


PICTURES: dict[str, Callable[[bytes, Path], Any]] = dict(
    training=lambda data, _: CropTransform(32)(data, np.random.default_rng(0)),
    shards=lambda data, _: prepare_image(data),
    detection=_load('cv2'),
    pillow=_load('pillow'),
)


@pytest.mark.parametrize('entry', PICTURES)
def test_an_eps_starts_no_program(
    eps: bytes, tmp_path: Path, entry: str
) -> None:
    with pytest.raises((BadSample, ValueError), match='cannot be decoded'):
        PICTURES[entry](eps, tmp_path)
    assert image_size(eps) is None
    assert not (tmp_path / 'ran').exists()
    # The mark is left where Pillow may do what it can.
    with pytest.raises(OSError):
        Image.open(io.BytesIO(eps)).load()
    assert (tmp_path / 'ran').exists()


@pytest.mark.parametrize('kind', sorted(set(FORMATS) - {'HEIF', 'SUN'}))
def test_wanted_formats_are_opened(kind: str) -> None:
    buffer = io.BytesIO()
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f'This Pillow was built without {kind}.')
    Image.new('RGB', (32, 32), 'red').save(buffer, kind)
    with open_image(buffer.getvalue()) as image:
        assert image.size == (32, 32) and image.load()


def test_pillow_opens_files_in_one_place() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob('*.py')
        if re.search(
            r'Image\.(open\(|OPEN\b)|plt\.imread|Parser\(\)\.feed',
            path.read_text(encoding='utf-8'),
        )
    }
    # The runner of exported files stands alone, without this package.
    assert found == {
        'datasets/image_text/image_header.py',
        'export/runner.py',
    }


# ------------------------------------------- paths and names out of files


@pytest.fixture
def endless(tmp_path: Path) -> dict[str, str]:
    """Paths that look like pictures and never end, or never begin."""
    os.mkfifo(tmp_path / 'pipe.jpg')
    (tmp_path / 'link.jpg').symlink_to('/dev/zero')
    return dict(pipe='pipe.jpg', link='link.jpg', device='/dev/zero')


@pytest.mark.parametrize('kind', ['pipe', 'link', 'device'])
def test_paths_lead_to_plain_files(
    endless: dict[str, str], tmp_path: Path, kind: str
) -> None:
    """A list, a table or a folder of a stranger may name anything."""
    path = str(tmp_path / endless[kind])
    with pytest.raises(ValueError, match='is a pipe or device, not a file'):
        DITOLoadImageFromFile()(dict(img_path=path))
    skip = DITOLoadImageFromFile(on_error='skip')
    assert skip(dict(img_path=path)) is None and skip.num_skipped == 1
    (tmp_path / 'a.tar').symlink_to(path)
    for tool in ('check_shards', 'shard_stats'):
        assert _tool(tool, str(tmp_path)) == 2
    (tmp_path / 'table.csv').write_text(f'path,caption\n{path},a key\n')
    assert (
        _tool(
            'pairs2shards',
            str(tmp_path / 'table.csv'),
            '--out-dir',
            str(tmp_path / 'out'),
        )
        == 2
    )
    classes = tmp_path / 'classes' / 'key'
    classes.mkdir(parents=True)
    (classes / '0.jpg').symlink_to(path)
    with pytest.raises(ValueError, match='not a file'):
        DATASETS.build(
            dict(type='DITOFolderDataset', root=str(classes.parent), size=16)
        )[0]


@pytest.mark.parametrize(
    'name',
    ['http://127.0.0.1:9/x.jpg', 's3://bucket/x.jpg', 'file:///etc/passwd'],
)
def test_annotations_fetch_nothing(tmp_path: Path, name: str) -> None:
    file = tmp_path / 'a.json'
    file.write_text(
        json.dumps(
            dict(
                images=[dict(id=1, width=4, height=4, file_name=name)],
                categories=[dict(id=1, name='key')],
                annotations=[],
            )
        )
    )
    with pytest.raises(
        ValueError,
        match='neither file_name nor coco_url '
        r'\(its file_name .* is no path\)',
    ):
        DATASETS.build(
            dict(
                type='DITOCocoDataset',
                ann_file=str(file),
                pipeline=[],
                metainfo=dict(classes=('key',)),
            )
        )


ESCAPE = 'a\x1b[2J\u202eb\r'


def _escapes_in_shards(folder: Path) -> None:
    with tarfile.open(folder / '0.tar', 'w') as tar:
        for name in (f'{ESCAPE}.jpg', f'{ESCAPE}.txt', f'{ESCAPE}x.jpg'):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b'abc'))


def _escapes_in_annotations(folder: Path) -> None:
    (folder / 'a.json').write_text(
        json.dumps(
            dict(
                images=[dict(id=ESCAPE, width=4, height=4, file_name=ESCAPE)],
                categories=[dict(id=ESCAPE, name=ESCAPE)],
                annotations=[
                    dict(
                        id=1,
                        image_id=ESCAPE,
                        category_id=ESCAPE,
                        bbox=[1, 1, 1, ESCAPE],
                    )
                ],
            )
        )
    )


def _escapes_in_weights(folder: Path) -> None:
    save_safetensors(
        {f'visual.{ESCAPE}': torch.ones(2)}, folder / 'x.safetensors'
    )


TERMINAL: dict[str, Any] = {
    'check_shards': (_escapes_in_shards, lambda p: ['.']),
    'shard_stats': (_escapes_in_shards, lambda p: ['.']),
    'check_dataset': (
        _escapes_in_annotations,
        lambda p: ['--data', 'a.json', '--images', '.'],
    ),
    'lvis2ov': (_escapes_in_annotations, lambda p: ['a.json']),
    'pairs2shards': (
        lambda folder: (folder / 'a.csv').write_text(
            f'path,caption\n"{ESCAPE}",a\n"{ESCAPE}",a,{ESCAPE}\n'.replace(
                '\r', ''
            ),
            newline='',
        ),
        lambda p: ['a.csv', '--out-dir', 'out'],
    ),
    'clip_to_dito': (
        _escapes_in_weights,
        lambda p: ['x.safetensors', 'y.safetensors'],
    ),
    'detect': (
        lambda folder: Image.new('RGB', (40, 40)).save(
            folder / f'{ESCAPE}.jpg'
        ),
        lambda p: [
            f'{ESCAPE}.jpg',
            '--config',
            p['config'],
            '--checkpoint',
            'own.pth',
            '--names',
            'anchor',
            '--list-top-k',
            '1',
        ],
    ),
}


@pytest.mark.parametrize('tool', TERMINAL)
def test_names_do_not_steer_a_terminal(
    parts: dict[str, Any],
    here: Path,
    tool: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write, arguments = TERMINAL[tool]
    write(here)
    torch.save(dict(state_dict=parts['state']), 'own.pth')
    capfd.readouterr()
    assert _tool(tool, *arguments(parts)) in (0, 1, 2)
    out = ''.join(capfd.readouterr())
    silent = 'shard_stats', 'clip_to_dito', 'pairs2shards'
    assert r'\x1b[2J' in out or tool in silent, out
    assert not re.search('[\x1b\r\u202e]', out)


def test_names_are_text_in_reports(tmp_path: Path) -> None:
    evil = '"><script>ran()</script><img src=x onerror=ran()>&lt;'
    image = np.zeros((8, 8, 3), np.uint8)
    maps = np.eye(4)
    thing = ShownObject((1, 1, 5, 5), evil, True, 0.5)
    write_report(
        ReportData(
            metrics={
                evil: 0.5,
                'stage_seconds': {evil: 3},
                'commands': {evil: [evil]},
            },
            protocol=evil,
            detections=[DetectionSample(evil, image, (thing,), (thing,))],
            similarity=[SimilaritySample(evil, image, evil, maps, maps)],
        ),
        tmp_path / 'report.html',
    )
    text = (tmp_path / 'report.html').read_text(encoding='utf-8')
    assert text.count('&lt;script&gt;ran()') >= 9
    found = []
    page = HTMLParser()
    page.handle_starttag = lambda tag, attrs: found.append(
        (tag, *(name for name, _ in attrs))
    )
    page.feed(text)
    assert len(found) > 20
    assert not any({'script', 'onerror'} & set(names) for names in found)
