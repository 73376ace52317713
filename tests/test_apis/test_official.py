# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The authors' detector from archives to detections, with small arrays."""

import io
import threading
import zipfile
from dataclasses import asdict
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
from golden_arrays import group, load_golden
from mmengine.config import Config
from official_detector import CONFIG, tiny_official_config
from PIL import Image
from tensor_bundle_writer import write_saved_model

from dito.__main__ import main
from dito.apis import DITOInferencer, load_pretrained
from dito.utils.download import check_known, download, unpack_zip
from dito.utils.official import OfficialSizes

DEMO, EMBEDDINGS = 'demo_dito_large.zip', 'dito_large_embeddings.zip'
RARE = 7  # a row of LVIS that is not among those of base classes


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@pytest.fixture(scope='module')
def release(tmp_path_factory):
    """Archives as the release has them, around its golden detector."""
    folder = tmp_path_factory.mktemp('release')
    arrays = load_golden('detector_end_to_end')
    params = group(arrays, 'params/')
    write_saved_model(folder / 'model', params)
    demo = {
        f'vit_large_demo/{p.relative_to(folder / "model")}': p.read_bytes()
        for p in (folder / 'model').rglob('*')
        if p.is_file()
    }
    demo['text_model/saved_model.pb'] = b''
    demo['tokenizer/dito_tokenizer.model'] = b''
    width = arrays['in/text_features'].shape[-1]
    rng = np.random.default_rng(0)
    lvis, coco = (
        rng.standard_normal((n, width)).astype(np.float32) for n in (1204, 92)
    )
    base = np.delete(lvis, RARE, 0)
    rows = {
        'lvis_embed': lvis,
        'coco_embed': coco,
        'lvis_base_embed': base,
        'bg_empty_embed': lvis[:2],
    }
    # The sizes of the golden file, in the shipped config.
    cfg = Config.fromfile(CONFIG)
    cfg.model = tiny_official_config(arrays=arrays)
    side = int(arrays['cfg/image_size'])
    cfg.test_dataloader.dataset.pipeline[1].size = side
    cfg.dump(str(folder / 'tiny.py'))
    tree = {
        k.partition('/')[2]: v
        for k, v in params.items()
        if k.startswith('vision_model/')
    }
    pyramid = group(params, 'task_heads_0/feature_pyramid_fn/')
    box = group(params, 'task_heads_0/fastrcnn_head_fn/')
    sizes = OfficialSizes.infer(tree, pyramid, box)
    return SimpleNamespace(
        archives={
            DEMO: zipped(demo),
            EMBEDDINGS: zipped(
                {f'embeddings/{k}.npy': npy(v) for k, v in rows.items()}
            ),
        },
        lvis=lvis,
        coco=coco,
        options=[
            '--config',
            str(folder / 'tiny.py'),
            '--sizes',
            *(f'{k}={v}' for k, v in asdict(sizes).items()),
        ],
    )


class Server(BaseHTTPRequestHandler):
    """Serves bytes with ranges; breaks off where it is asked to."""

    def __init__(self, state, *args):
        self.state = state
        super().__init__(*args)

    def log_message(self, *args):
        pass

    def do_GET(self):
        content = self.state.files.get(self.path.strip('/'))
        self.state.asked.append(
            (self.path.strip('/'), self.headers.get('Range'))
        )
        if content is None:
            self.send_error(404)
            return
        tag, start = f'"{hash(content)}"', 0
        wanted = self.headers.get('Range')
        if wanted and self.headers.get('If-Range', tag) == tag:
            start = int(wanted.removeprefix('bytes=').rstrip('-'))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header('ETag', tag)
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        end = len(content)
        if self.state.breaks:
            end = min(end, start + self.state.breaks.pop(0))
        self.wfile.write(content[start:end])


@pytest.fixture
def server():
    state = SimpleNamespace(files={}, asked=[], breaks=[])
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Server, state)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        state.address = f'http://127.0.0.1:{http.server_port}'
        yield state
        http.shutdown()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('DITO_HOME', str(tmp_path / 'home'))
    return tmp_path / 'home'


def get(server, release, *more):
    return main(
        [
            'get',
            'official',
            '--address',
            server.address,
            *release.options,
            *more,
        ]
    )


def test_from_the_archives_to_detections(
    release, server, home, tmp_path, capsys
):
    server.files.update(release.archives)
    assert get(server, release) == 0
    out = capsys.readouterr().out
    assert '1224 names, 1 of them novel' in out, out
    assert 'official-text-embeddings' in out and f'{DEMO}: ' in out
    Image.fromarray(
        np.random.default_rng(1).integers(0, 255, (60, 80, 3), np.uint8)
    ).save(tmp_path / 'photo.png')
    arguments = [
        'detect',
        str(tmp_path / 'photo.png'),
        '--checkpoint',
        'official',
        '--out-dir',
        str(tmp_path / 'out'),
        '--names',
    ]
    assert main([*arguments, 'dog, traffic light', '--score-thr', '0']) == 0
    assert (tmp_path / 'out' / 'vis' / 'photo.jpg').is_file()
    capsys.readouterr()
    assert main([*arguments, 'dog, kiwibird, trafic light']) == 2
    error = capsys.readouterr().err
    assert '2 names are not among the 1224' in error, error
    assert "'traffic light'" in error
    assert 'official-text-embeddings' in error
    # A second time nothing is asked for, and nothing changes.
    asked = len(server.asked)
    assert get(server, release) == 0
    assert len(server.asked) == asked


def test_vocabulary_of_the_archives(release, server, home):
    server.files.update(release.archives)
    assert get(server, release) == 0
    detector = load_pretrained('official')
    names = detector.vocabulary
    assert len(names) == 1224
    unit = release.lvis / np.linalg.norm(release.lvis, axis=1, keepdims=True)
    np.testing.assert_allclose(names.embeddings[:1203], unit[1:], atol=1e-6)
    np.testing.assert_allclose(names.background, unit[0], atol=1e-6)
    assert np.flatnonzero(names.novel).tolist() == [RARE - 1]
    # Of COCO: what LVIS has under no such name; ids have gaps.
    row = release.coco[90] / np.linalg.norm(release.coco[90])
    found = detector.set_vocabulary(['hair drier', 'car'])
    assert found.names == ('hair drier', 'car')
    own = names.find(['hair drier']).embeddings[0]
    np.testing.assert_allclose(found.embeddings[0], own)
    assert names.find(['person']).embeddings.shape == (1, len(row))
    same = DITOInferencer('official', vocabulary='hair drier, car')
    np.testing.assert_allclose(same.vocabulary.embeddings, found.embeddings)


def test_archives_of_a_folder(release, home, tmp_path, capsys):
    for name, content in release.archives.items():
        (tmp_path / name).write_bytes(content)
    options = ['get', 'official', '--from', str(tmp_path), *release.options]
    assert main(options) == 0
    assert sorted(p.name for p in tmp_path.glob('*.zip')) == sorted(
        release.archives
    )
    assert not (home / 'official' / 'archives' / DEMO).exists()
    changed = zipped({'x.npy': npy(np.ones(3))})
    (tmp_path / EMBEDDINGS).write_bytes(changed)
    capsys.readouterr()
    assert main(options) == 2
    assert 'but on 20' in capsys.readouterr().err
    assert main([*options, '--accept-change']) == 2
    error = capsys.readouterr().err
    assert 'lack lvis_embed.npy, coco_embed.npy' in error
    assert 'x.npy' in error and 'text_model/saved_model.pb' in error
    # What was made before is still there.
    assert load_pretrained('official').vocabulary is not None
    (tmp_path / DEMO).unlink()
    assert main(options) == 2
    assert f'has no {DEMO}; it is at https://' in capsys.readouterr().err


def test_official_that_is_not_there(home, capsys, tmp_path):
    image = tmp_path / 'x.jpg'
    Image.new('RGB', (8, 8)).save(image)
    given = ['--checkpoint', 'official', '--names', 'dog']
    assert main(['detect', str(image), *given]) == 2
    assert '"dito get official" downloads' in capsys.readouterr().err


def test_a_download_goes_on_where_it_broke_off(server, tmp_path):
    content = np.random.default_rng(0).bytes(3_000_000)
    server.files['x.zip'] = content
    server.breaks = [1_200_000]
    seen = []
    with pytest.raises(ValueError, match='broke off|cannot be downloaded'):
        download(f'{server.address}/x.zip', tmp_path / 'x.zip')
    have = (tmp_path / 'x.zip.part').stat().st_size
    assert 0 < have <= 1_200_000 and not (tmp_path / 'x.zip').exists()
    download(
        f'{server.address}/x.zip',
        tmp_path / 'x.zip',
        lambda *state: seen.append(state),
    )
    assert (tmp_path / 'x.zip').read_bytes() == content
    assert server.asked[-1] == ('x.zip', f'bytes={have}-')
    assert seen[-1] == (len(content), len(content)) and seen[0][0] > have
    assert [p.name for p in tmp_path.iterdir()] == ['x.zip']


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    first, second = (np.random.default_rng(i).bytes(2_000_000) for i in (0, 1))
    server.files['x.zip'], server.breaks = first, [900_000]
    with pytest.raises(ValueError):
        download(f'{server.address}/x.zip', tmp_path / 'x.zip')
    server.files['x.zip'] = second
    download(f'{server.address}/x.zip', tmp_path / 'x.zip')
    assert (tmp_path / 'x.zip').read_bytes() == second
    server.files['y.zip'] = first[:10]
    (tmp_path / 'y.zip.part').write_bytes(first)
    with pytest.raises(ValueError, match='cannot be downloaded .*416'):
        download(f'{server.address}/y.zip', tmp_path / 'y.zip')
    download(f'{server.address}/y.zip', tmp_path / 'y.zip')
    assert (tmp_path / 'y.zip').read_bytes() == first[:10]
    with pytest.raises(ValueError, match='404.*0 bytes are kept'):
        download(f'{server.address}/no.zip', tmp_path / 'no.zip')


def test_content_is_known_again(tmp_path):
    file = tmp_path / 'x.zip'
    file.write_bytes(b'first')
    digest = check_known(file)
    assert check_known(file) == digest
    file.write_bytes(b'second')
    with pytest.raises(ValueError, match='take the new one with --accept'):
        check_known(file)
    assert check_known(file, accept_change=True) != digest
    check_known(file)


def link(name):
    member = zipfile.ZipInfo(name)
    member.external_attr = 0o120777 << 16
    return member


@pytest.mark.parametrize(
    'member, message',
    [
        ('../x', 'leads out of the folder'),
        ('/etc/x', 'leads out'),
        ('a/../../x', 'leads out'),
        ('a\\..\\x', 'leads out'),
        (link('x'), 'a link or a device'),
    ],
)
def test_hostile_archives_are_not_unpacked(tmp_path, member, message):
    (tmp_path / 'x.zip').write_bytes(zipped({'good': b'1', member: b'/etc'}))
    with pytest.raises(ValueError, match=message):
        unpack_zip(tmp_path / 'x.zip', tmp_path / 'out')
    assert [p.name for p in tmp_path.iterdir()] == ['x.zip']


def test_damaged_archives_leave_nothing(tmp_path):
    sound = zipped({'a/b': bytes(1000), 'c': b'1'})
    file = tmp_path / 'x.zip'
    for content in (
        b'',
        sound[:-30],
        sound[:500] + b'?' + sound[501:],
        zipped({'a': b'1', 'a/b': b'2'}),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match='no sound zip archive'):
            unpack_zip(file, tmp_path / 'out')
    file.write_bytes(sound)
    with pytest.raises(ValueError, match='become 1,001 bytes, over'):
        unpack_zip(file, tmp_path / 'out', most=1000)
    assert [p.name for p in tmp_path.iterdir()] == ['x.zip']
    assert (unpack_zip(file, tmp_path / 'out') / 'a' / 'b').is_file()
