# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Published folders: round trip without a network, and damaged ones."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from mmengine.config import Config
from tiny_api import NAMES, untrained_detector

from dito.apis import (
    load_pretrained,
    package_model,
    published,
    push_to_hub,
    save_model,
)
from dito.apis.config_text import parse_config_text
from dito.cli import publish_model
from dito.models import DITO
from dito.utils.checkpoint import load_from_file, save_safetensors

REPORT = dict(
    results=[
        dict(
            metric='DITOLVISMetric',
            protocol=dict(split='val|x.json', alpha=0.3),
            figures=dict(bbox_AP=0.25, bbox_APl=-1.0, bbox_AP50=1 / 3),
        )
    ]
)


@pytest.fixture(scope='module')
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An untrained detector, its config and a published folder of it."""
    folder = tmp_path_factory.mktemp('hub')
    images, cfg, model = untrained_detector(folder)
    model.build_vocabulary(
        NAMES, novel=NAMES[1:2], templates=['a photo of {}']
    )
    weights = model.eval().save_pretrained(
        folder / 'published',
        cfg=cfg,
        name='tiny',
        metrics=REPORT,
        dataset_meta=dict(classes=NAMES[:2]),
        notes=dict(license='MIT'),
    )
    return dict(
        model=model,
        cfg=cfg,
        weights=weights,
        images=images,
        folder=folder / 'published',
    )


def test_round_trip(parts: dict[str, Any]) -> None:
    model = DITO.from_pretrained(parts['folder'])
    assert isinstance(model, DITO) and not model.training
    expected = parts['model'].state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    assert model.vocabulary.names == tuple(NAMES)
    assert model.vocabulary.novel.tolist() == [False, True, False]
    torch.testing.assert_close(
        model.vocabulary.embeddings, parts['model'].vocabulary.embeddings
    )


def test_loaded_twice_it_detects_the_same(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    first = load_pretrained(parts['folder'], device='cpu')
    again = first.model.save_pretrained(tmp_path / 'again')
    second = load_pretrained(again.parent, device='cpu')
    image = str(parts['images'][0])
    found, other = (x(image, score_thr=0) for x in (first, second))
    assert found == other and found['predictions'][0]['scores']
    assert first.train_meta['classes'] == NAMES[:2]


def test_files(parts: dict[str, Any]) -> None:
    folder, weights = parts['folder'], parts['weights']
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert weights.name == f'tiny-{digest[:8]}.safetensors'
    assert {path.name for path in folder.iterdir()} == {
        weights.name,
        'config.py',
        'vocabulary.safetensors',
        'metrics.json',
        'README.md',
        'dito.json',
    }
    assert json.loads((folder / 'metrics.json').read_text()) == REPORT
    card = (folder / 'README.md').read_text()
    for text in (
        'license: mit\n---',
        '- license: MIT',
        '- data: not stated',
        '- names of the training: 2 (red umbrella, anchor)',
        '- default names: 3 (red umbrella, anchor, chess knight)',
        '## Limits',
        digest,
        '| bbox_AP | 0.25 |',
        '| bbox_APl | - |',
        '| bbox_AP50 | 0.3333 |',
        'val\\|x.json',
    ):
        assert text in card
    assert 'data_root' not in (folder / 'config.py').read_text()
    assert [p.name for p in folder.parent.iterdir() if 'tmp' in p.name] == []


def test_damaged_folders_are_refused(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / 'copy'

    def copy() -> dict[str, Any]:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(parts['folder'], folder)
        return json.loads((folder / 'dito.json').read_text())

    def write(manifest: Any) -> None:
        (folder / 'dito.json').write_text(json.dumps(manifest))

    manifest = copy()
    weights = folder / manifest['weights']
    weights.write_bytes(weights.read_bytes() + b'x')
    with pytest.raises(ValueError, match='has the sha256 .* download it'):
        load_pretrained(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match='lacks tiny-'):
        load_pretrained(folder)
    write(dict(copy(), weights='../outside.safetensors'))
    with pytest.raises(ValueError, match='not a file name'):
        load_pretrained(folder)
    for digest in (None, 3, 'abc', ['a' * 64], '\x1b' * 64):
        write(dict(copy(), sha256=digest))
        with pytest.raises(ValueError, match='sha256=.* is not that of'):
            load_pretrained(folder)
    write(dict(copy(), format='other'))
    with pytest.raises(ValueError, match='not in the format'):
        load_pretrained(folder)
    (folder / 'dito.json').unlink()
    with pytest.raises(FileNotFoundError, match='has no dito.json'):
        load_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="'owner/name'"):
        load_pretrained(tmp_path / 'gone')
    with pytest.raises(ValueError, match='is not empty'):
        package_model(parts['folder'], {}, parts['cfg'])


def test_suffixes_in_capitals(parts: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / 'copy'
    shutil.copytree(parts['folder'], folder)
    manifest = json.loads((folder / 'dito.json').read_text())
    for key in ('weights', 'vocabulary'):
        path = folder / manifest[key]
        manifest[key] = path.with_suffix('.SAFETENSORS').name
        path.rename(folder / manifest[key])
    (folder / 'dito.json').write_text(json.dumps(manifest))
    image = str(parts['images'][0])
    assert load_pretrained(folder, device='cpu')(image) == load_pretrained(
        parts['folder'], device='cpu'
    )(image)


def test_an_endless_name_is_cut(parts: dict[str, Any], tmp_path: Path) -> None:
    manifest = json.loads((parts['folder'] / 'dito.json').read_text())
    for name in 'w' * 300 + '.pth', 'w' * 3_000_000, ['w' * 3_000_000]:
        (tmp_path / 'dito.json').write_text(
            json.dumps(dict(manifest, weights=name))
        )
        with pytest.raises(ValueError, match='not a file name') as error:
            load_pretrained(tmp_path)
        assert len(str(error.value)) < len(str(tmp_path)) + 200


def _evil(path: Path) -> str:
    """Write a Python file that leaves a mark; gives its name."""
    path.write_text(f'open({str(path.parent / "ran")!r}, "w")\n')
    return path.name


@pytest.mark.parametrize(
    'key, name',
    [
        ('weights', 'evil.py'),
        ('weights', 'evil.pkl'),
        ('weights', 'x.JSON'),
        ('vocabulary', 'evil.py'),
        ('vocabulary', 'evil.txt'),
        ('vocabulary', 'evil.pth'),
        ('metrics', 'evil.py'),
        ('weights', '.pth'),
        ('weights', 'a\\b.pth'),
        ('weights', '..'),
        ('weights', 'a\x1b.pth'),
        ('weights', ['evil.pth']),
        ('vocabulary', dict(a=1)),
        ('metrics', 7),
    ],
)
def test_a_manifest_does_not_choose_how_files_are_read(
    parts: dict[str, Any], tmp_path: Path, key: str, name: Any
) -> None:
    folder = tmp_path / 'copy'
    shutil.copytree(parts['folder'], folder)
    manifest = json.loads((folder / 'dito.json').read_text())
    if isinstance(name, str) and name != '..':
        _evil(folder / name)
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        manifest.update({'sha256': digest} if key == 'weights' else {})
    manifest[key] = name
    (folder / 'dito.json').write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=f'{key}=') as error:
        load_pretrained(folder, device='cpu')
    assert str(error.value).isprintable()
    assert not (folder / 'ran').exists()


@pytest.mark.parametrize('key', ['weights', 'vocabulary', 'metrics'])
def test_links_out_of_a_folder_are_refused(
    parts: dict[str, Any], tmp_path: Path, key: str
) -> None:
    folder = tmp_path / 'copy'
    shutil.copytree(parts['folder'], folder)
    file = folder / json.loads((folder / 'dito.json').read_text())[key]
    file.rename(tmp_path / 'elsewhere')
    file.symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(ValueError, match='a link that leads out'):
        load_pretrained(folder, device='cpu')


def test_the_cache_of_the_hub_links_its_files(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    folder, blobs = tmp_path / 'snapshots' / 'abc', tmp_path / 'blobs'
    folder.mkdir(parents=True)
    shutil.copytree(parts['folder'], blobs)
    for file in blobs.iterdir():
        (folder / file.name).symlink_to(Path('../../blobs') / file.name)
    assert len(load_pretrained(folder, device='cpu').vocabulary) == 3


def _republish(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Put another config into the weights of a published folder."""
    manifest = json.loads((folder / 'dito.json').read_text())
    weights = folder / manifest['weights']
    content = load_from_file(str(weights))
    config = parse_config_text(content['meta']['cfg'])
    change(config)
    content['meta']['cfg'] = Config(config).pretty_text
    save_safetensors(content['state_dict'], weights, content['meta'])
    manifest['sha256'] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / 'dito.json').write_text(json.dumps(manifest))


@pytest.mark.parametrize('part', ['model', 'step', 'nms', 'scope', 'import'])
def test_a_config_in_a_folder_runs_nothing(
    parts: dict[str, Any],
    tmp_path: Path,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / 'copy'
    shutil.copytree(parts['folder'], folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'here').mkdir()
    for name in ('here/__init__.py', 'here/registry.py', 'evil.py'):
        _evil(tmp_path / name)
    command = dict(type='mmengine.call_command', cmd=['touch', 'ran'])

    def change(config: dict[str, Any]) -> None:
        if part == 'model':
            config['model']['neck'] = command
        elif part == 'step':
            config['test_dataloader']['dataset']['pipeline'].append(command)
        elif part == 'nms':
            config['model']['test_cfg']['rcnn']['nms']['type'] = (
                "open('ran', 'w')"
            )
        elif part == 'scope':
            config['default_scope'] = 'here'
        else:
            config['custom_imports'] = ['evil']

    _republish(folder, change)
    with pytest.raises(ValueError, match='config inside .* is refused: '):
        load_pretrained(folder, device='cpu')
    assert not list(tmp_path.rglob('ran'))


def test_from_the_hub(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple] = []

    def download(name: str, revision: Any = None) -> str:
        asked.append((name, revision))
        return str(parts['folder'])

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    model = DITO.from_pretrained('someone/tiny', revision='v1')
    assert asked == [('someone/tiny', 'v1')] and len(model.vocabulary) == 3
    # A point is no beginning of a suffix here, but of a file's it is.
    found = published.resolve_published(None, 'someone/tiny-1.5')
    assert asked[-1] == ('someone/tiny-1.5', None)
    assert found[1] == next(parts['folder'].glob('tiny-*.safetensors'))
    for name in ('work_dirs/iter_1.pth', 'some/model.safetensors'):
        assert published.resolve_published(None, name)[1] == name
    assert len(asked) == 2


def test_to_the_hub(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple] = []

    class Api:
        def __init__(self, token: Any) -> None:
            calls.append(('token', token))

        def create_repo(self, name: str, **options: Any) -> None:
            calls.append((name, options))

        def upload_folder(
            self, repo_id: str, folder_path: str, commit_message: str
        ) -> str:
            files = {path.name for path in Path(folder_path).iterdir()}
            assert {'dito.json', 'config.py', 'README.md'} <= files
            return f'https://hub/{repo_id}'

    monkeypatch.setattr(huggingface_hub, 'HfApi', Api)
    url = push_to_hub(parts['folder'], 'me/tiny', private=True, token='t')
    assert url == 'https://hub/me/tiny'
    assert calls == [
        ('token', 't'),
        ('me/tiny', dict(private=True, exist_ok=True)),
    ]
    url = parts['model'].push_to_hub('me/other', cfg=parts['cfg'])
    assert url == 'https://hub/me/other'
    with pytest.raises(FileNotFoundError, match='has no dito.json'):
        push_to_hub(tmp_path, 'me/tiny')


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__('sys').modules, 'huggingface_hub', None)
    with pytest.raises(ValueError, match='pip install huggingface_hub'):
        load_pretrained('someone/tiny')


def test_tool_writes_a_folder(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / 'model.safetensors'
    save_model(weights, parts['model'], parts['cfg'], dict(classes=NAMES[:2]))
    report = tmp_path / 'evaluation.json'
    report.write_text(json.dumps(REPORT))
    vocabulary = tmp_path / 'names.safetensors'
    parts['model'].vocabulary.save(vocabulary)
    out = tmp_path / 'tiny-model'
    options = [
        '--vocabulary',
        str(vocabulary),
        '--metrics',
        str(report),
        '--note',
        'license=mit',
    ]
    assert publish_model.main([str(weights), str(out), *options]) == 0
    assert 'tiny-model-' in capsys.readouterr().out
    assert load_pretrained(out).train_meta['classes'] == NAMES[:2]
    assert publish_model.main([str(weights), str(out)]) == 2
    assert 'is not empty' in capsys.readouterr().err
    assert publish_model.main([str(weights), 'x.pth']) == 2
    # What the umask allows, not the owner alone.
    assert (
        out.joinpath('dito.json').stat().st_mode
        == next(out.glob('*model*.safetensors')).stat().st_mode
    )
    with pytest.raises(SystemExit):
        publish_model.main([str(weights), 'x.safetensors', *options])


def test_figures_of_other_weights_are_refused(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / 'model.safetensors'
    save_model(weights, parts['model'], parts['cfg'], dict(classes=NAMES[:2]))
    report = tmp_path / 'evaluation.json'
    argv = [str(weights), str(tmp_path / 'out'), '--metrics', str(report)]

    def publish(digest: str) -> int:
        result = dict(
            metric='M', figures={}, protocol=dict(checkpoint_sha256=digest)
        )
        report.write_text(json.dumps(dict(results=[result])))
        return publish_model.main(argv)

    assert publish('0' * 64) == 2
    assert 'sha256 00000000, but' in capsys.readouterr().err
    # Another kind of file, such as the figures of the quickstart.
    report.write_text('{"novel_ap50": 0.4}')
    assert publish_model.main(argv) == 2
    assert 'is no report of an evaluation' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
    assert publish(hashlib.sha256(weights.read_bytes()).hexdigest()) == 0


def test_half_precision(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half the size, the same names, rounded; what does not fit is said."""
    weights = tmp_path / 'model.safetensors'
    save_model(weights, parts['model'], parts['cfg'], dict(classes=NAMES[:2]))
    out = tmp_path / 'half'
    assert publish_model.main([str(weights), str(out), '--half']) == 0
    file = next(out.glob('*-*.safetensors'))
    assert file.stat().st_size < 0.6 * weights.stat().st_size
    whole = load_from_file(str(weights))['state_dict']
    small = load_from_file(str(file))['state_dict']
    assert small.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(
            small[name].to(value.dtype), value, rtol=1e-3, atol=1e-7
        )
    assert load_pretrained(out).train_meta['classes'] == NAMES[:2]
    large = tmp_path / 'large.safetensors'
    save_safetensors({'a.b': torch.tensor([1.0, -70_000])}, large)
    assert (
        publish_model.main(
            [str(large), str(tmp_path / 'x.safetensors'), '--half']
        )
        == 2
    )
    assert 'a.b holds 7e+04' in capsys.readouterr().err
    assert not (tmp_path / 'x.safetensors').exists()
