# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Safe reading and writing of weights, alone and through mmengine."""

import hashlib
import os
import pickle
import threading
from argparse import Namespace
from collections import OrderedDict, defaultdict, deque
from datetime import datetime, time, timedelta, timezone
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

from dito.utils import checkpoint as ckpt
from dito.utils.checkpoint import (
    load_state_dict_file,
    save_safetensors,
    state_dict_of,
)


class _Toy(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.backbone(inputs.float()).square().mean())


class _RunsCode:
    """Pickles to a call that makes a folder."""

    def __init__(self, folder) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def _runner(work_dir, **kwargs) -> Runner:
    return Runner(
        _Toy(),
        str(work_dir),
        train_dataloader=DataLoader([dict(inputs=torch.ones(2))] * 2),
        train_cfg=dict(by_epoch=False, max_iters=kwargs.pop('iters', 2)),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.1)),
        param_scheduler=dict(type='LinearLR', by_epoch=False),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False),
        ),
        experiment_name=f'toy{os.path.basename(work_dir)}{len(kwargs)}',
        **kwargs,
    )


# ------------------------------------------------------------- writing


def test_safetensors_round_trip_keeps_values_and_metadata(tmp_path) -> None:
    shared = torch.randn(3, 2)
    state = dict(a=shared, b=shared, c=shared.t(), d=torch.tensor(True))
    meta = dict(dataset_meta=dict(classes=['cat'], n=2))
    path = tmp_path / 'sub' / 'x.safetensors'
    save_safetensors(state, path, meta)
    loaded = ckpt.load_from_file(str(path))
    assert loaded['meta'] == meta
    for key, value in state.items():
        assert loaded['state_dict'][key].equal(value)


def test_failed_write_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / 'x.safetensors'
    save_safetensors(dict(a=torch.ones(1)), path)
    with pytest.raises(TypeError):
        save_safetensors(dict(a=torch.zeros(1)), path, dict(m=object()))
    with pytest.raises(Exception, match='.'):
        save_safetensors({3: torch.zeros(1)}, path)
    assert [p.name for p in tmp_path.iterdir()] == ['x.safetensors']
    assert load_file(path)['a'] == 1


# ------------------------------------------------------------- reading


@pytest.mark.parametrize(
    'wrap',
    [
        lambda s: s,
        lambda s: dict(state_dict=s, meta=dict(epoch=1)),
        lambda s: dict(model=s, iteration=3),
        lambda s: {f'module.{k}': v for k, v in s.items()},
        lambda s: {f'module._orig_mod.{k}': v for k, v in s.items()},
        lambda s: dict(model=s, args=Namespace(lr=np.float64(1))),
    ],
)
def test_finds_the_weights(tmp_path, wrap) -> None:
    state = nn.Linear(2, 3).state_dict()
    torch.save(wrap(state), tmp_path / 'x.pth')
    loaded = load_state_dict_file(tmp_path / 'x.pth')
    assert loaded.keys() == state.keys()
    assert all(loaded[k].equal(state[k]) for k in state)


def test_home_folder_is_expanded(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    save_safetensors(dict(a=torch.ones(1)), tmp_path / 'x.safetensors')
    assert load_state_dict_file('~/x.safetensors')['a'] == 1


def test_foreign_metadata_stays_text(tmp_path) -> None:
    path = tmp_path / 'x.safetensors'
    save_file(dict(a=torch.ones(1)), path, metadata=dict(licence='MIT'))
    assert ckpt.load_from_file(str(path))['meta'] == dict(licence='MIT')


def test_plain_values_beside_weights_are_allowed(tmp_path) -> None:
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    extra = dict(
        buffer=buffer,
        array=np.arange(3),
        bools=np.ones(2, bool),
        single=np.float32(2.5),
        integer=np.int64(3),
        text='a',
        piece=slice(1, 2),
    )
    torch.save(
        dict(state_dict=dict(a=torch.ones(1)), extra=extra), tmp_path / 'x.pth'
    )
    loaded = ckpt.load_from_file(str(tmp_path / 'x.pth'))['extra']
    assert loaded['buffer'].mean() == 1.5
    assert loaded['array'].tolist() == [0, 1, 2]
    assert loaded['single'] == 2.5 and loaded['integer'] == 3


class _Odd(dict):
    """No type that a checkpoint may hold."""


def _deeper() -> dict[str, Any]:
    queue = deque([1, defaultdict(list, a=[deque()])], maxlen=3)
    return dict(a=(queue, [queue]), b=queue, c=ConfigDict(x=[queue]))


PLAIN = dict(
    uint8=np.uint8(3),
    float16=np.float16(2.5),
    text=np.str_('a\u00e9'),
    data=np.bytes_(b'ab'),
    flag=np.bool_(True),
    long=np.longdouble(1.5),
    complex=np.complex64(1j),
    day=np.datetime64('2026-01-02'),
    span=np.timedelta64(3, 'h'),
    unsigned=np.uint64(2**63),
    uint8s=np.arange(6, dtype=np.uint8).reshape(2, 3),
    float16s=np.arange(3, dtype=np.float16),
    texts=np.array(['a', 'bc']),
    scalar=np.array(3.5),
    fortran=np.ones((2, 3), order='F'),
    kind=np.dtype('float32'),
    config=ConfigDict(a=1, b=dict(c=[1, (2, 3)])),
    lists=defaultdict(list, a=[1]),
    numbers=defaultdict(int, a=1),
    ordered=defaultdict(OrderedDict),
    queues=defaultdict(deque),
    nothing=defaultdict(None, a=1),
    queue=deque([1, 2], maxlen=3),
    empty=deque(),
    deeper=_deeper(),
    some={1, 2},
    frozen=frozenset([1]),
    day_and_time=datetime(2026, 1, 2, 3),
    wait=timedelta(1),
    path=Path('a/b'),
    windows=PureWindowsPath('a/b'),
    hour=time(3, tzinfo=timezone.utc),
    arguments=Namespace(lr=np.float32(2), more=[deque([1]), Namespace()]),
)


@pytest.mark.parametrize('numpy', ['numpy.core', 'numpy._core'])
@pytest.mark.parametrize('key', PLAIN)
def test_values_of_both_numpys(tmp_path, key, numpy) -> None:
    """Files differ in the place of two functions alone."""
    path = tmp_path / 'x.pth'
    torch.save(
        dict(state_dict=dict(a=torch.ones(1)), meta=PLAIN[key]),
        path,
        _use_new_zipfile_serialization=False,
    )
    content = path.read_bytes()
    for place in (b'numpy.core', b'numpy._core'):
        content = content.replace(
            b'c' + place + b'.multiarray\n', f'c{numpy}.multiarray\n'.encode()
        )
    path.write_bytes(content)
    found = CheckpointLoader.load_checkpoint(str(path), 'cpu')['meta']
    assert type(found) is type(PLAIN[key])
    assert repr(found) == repr(PLAIN[key])
    if isinstance(found, defaultdict):
        assert found.default_factory is PLAIN[key].default_factory
    elif isinstance(found, deque):
        assert found.maxlen == PLAIN[key].maxlen
    elif key == 'deeper':
        assert found['a'][0] is found['a'][1][0] is found['b']
        assert found['c'].x[0] is found['b']


def test_containers_may_hold_themselves(tmp_path) -> None:
    queue = deque([1])
    queue.append([queue])
    torch.save(dict(meta=queue), tmp_path / 'x.pth')
    found = ckpt.load_from_file(str(tmp_path / 'x.pth'))['meta']
    assert found[1][0] is found


@pytest.mark.parametrize(
    'value',
    [
        _Odd(a=1),
        defaultdict(_Odd),
        defaultdict(os.getcwd),
        print,
        os.system,
        np.array([None]),
        np.zeros(1, [('a', 'i4')]),
        [float],
        {'a': dict},
        Namespace(kind=int),
    ],
)
def test_other_types_are_named(tmp_path, value) -> None:
    torch.save(dict(meta=value), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x.pth holds \w+\S* beside .* ref'):
        ckpt.load_from_file(str(tmp_path / 'x.pth'))


def test_methods_are_not_shadowed(tmp_path) -> None:
    state = nn.Linear(2, 2).state_dict()
    state.get = 3
    torch.save(dict(state_dict=state), tmp_path / 'x.pth')
    found = ckpt.load_from_file(str(tmp_path / 'x.pth'))['state_dict']
    assert found.get('weight') is not None
    assert found._metadata == state._metadata


class _Calls:
    """Pickles to a call of a type that a defaultdict may have."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    'call',
    [
        _Calls(list, 'ab'),
        _Calls(int, '3'),
        _Calls(str, b'a', 'utf-8'),
        _Calls(getattr, 'a', 'upper'),
        _Calls(np.dtype, 'O'),
        _Calls(np.dtype, [('a', 'i4')]),
        _Calls(defaultdict, print),
        _Calls(np.ndarray, (1,), 'f8', bytes(8)),
        _Calls(np.load, 'x'),
    ],
)
def test_builtins_in_a_file_are_not_called(tmp_path, call) -> None:
    torch.save(dict(meta=call), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='x.pth .*(damaged|refused)'):
        ckpt.load_from_file(str(tmp_path / 'x.pth'))


@pytest.mark.parametrize('protocol', [3, 4, 5])
def test_other_pickle_protocols(tmp_path, protocol) -> None:
    path = tmp_path / 'x.pth'
    torch.save(dict(meta=[1, 'a']), path, pickle_protocol=protocol)
    if protocol == 3:
        with pytest.warns(UserWarning, match='protocol 3'):
            assert ckpt.load_from_file(str(path))['meta'] == [1, 'a']
        return
    with pytest.warns(UserWarning, match=f'protocol {protocol}'):
        with pytest.raises(ValueError, match='save it anew with the default'):
            ckpt.load_from_file(str(path))


# ------------------------------------------------------------ refusals


@pytest.mark.parametrize('protocol', ['zip', 'legacy', 'pickle'])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, protocol) -> None:
    path, folder = tmp_path / 'x.pth', tmp_path / 'made'
    content = dict(state_dict=dict(a=torch.ones(1)), evil=_RunsCode(folder))
    if protocol == 'pickle':
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(
            content, path, _use_new_zipfile_serialization=protocol == 'zip'
        )
    for load in (load_state_dict_file, CheckpointLoader.load_checkpoint):
        with pytest.raises(ValueError, match='could run code.*refused'):
            load(str(path))
    assert not folder.exists()


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(
    'content, hint',
    [
        (
            dict(model=1, state_dict={}),
            r"weights_only=False\)\['state_dict'\],",
        ),
        (dict(model={}, optimizer={}), r"weights_only=False\)\['model'\],"),
        (dict(bias=1), r'torch.load\(path, weights_only=False\).items\(\)'),
    ],
)
def test_the_remedy_names_the_key_of_the_weights(
    tmp_path, content, hint, zipped
) -> None:
    path = tmp_path / 'x.pth'
    torch.save(
        dict(content, evil=_RunsCode(tmp_path / 'made')),
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(ValueError, match=hint):
        ckpt.load_from_file(str(path))
    assert not (tmp_path / 'made').exists()


def test_getattr_in_a_file_is_refused(tmp_path) -> None:

    class _Reach:
        def __reduce__(self):
            return getattr, (HistoryBuffer, '__init__')

    torch.save(dict(a=torch.ones(1), b=_Reach()), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='getattr.*refused'):
        ckpt.load_from_file(str(tmp_path / 'x.pth'))


def test_missing_file_and_folder(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match='no.pth does not exist'):
        load_state_dict_file(tmp_path / 'no.pth')
    with pytest.raises(ValueError, match='is a folder'):
        load_state_dict_file(tmp_path)


@pytest.mark.parametrize('name', ['x.pth', 'x.safetensors'])
@pytest.mark.parametrize('keep', [0, 30, 200, -5])
def test_cut_file_is_told(tmp_path, name, keep) -> None:
    path = tmp_path / name
    state = dict(a=torch.randn(40))
    if name.endswith('pth'):
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match='damaged or is no checkpoint'):
        load_state_dict_file(path)


@pytest.mark.parametrize('content', [b'<html>404</html>', b'{"a": 1}'])
@pytest.mark.parametrize('name', ['x.pth', 'x.safetensors'])
def test_other_file_is_told(tmp_path, name, content) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match='x.(pth|saf.*).*is no checkpoint'):
        load_state_dict_file(tmp_path / name)


def test_the_suffix_is_that_of_the_content(tmp_path) -> None:
    state = dict(a=torch.ones(1))
    save_file(state, tmp_path / 'X.SafeTensors')
    assert load_state_dict_file(tmp_path / 'X.SafeTensors')['a'] == 1
    save_file(state, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='rename it to x.safetensors'):
        load_state_dict_file(tmp_path / 'x.pth')
    torch.save(state, tmp_path / 'y.safetensors')
    with pytest.raises(ValueError, match='rename it to y.pth'):
        load_state_dict_file(tmp_path / 'y.safetensors')


def test_a_program_is_told(tmp_path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), tmp_path / 'x.pt')
    with pytest.raises(ValueError, match='x.pt is a TorchScript program'):
        load_state_dict_file(tmp_path / 'x.pt')


def test_lfs_pointer_is_told(tmp_path) -> None:
    (tmp_path / 'x.pth').write_text(
        'version https://git-lfs.github.com/spec/v1\noid sha256:0\n'
    )
    with pytest.raises(ValueError, match='git lfs pull'):
        load_state_dict_file(tmp_path / 'x.pth')


def test_file_without_weights_is_told(tmp_path) -> None:
    torch.save([1, 2], tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='holds a list, not a checkpoint'):
        load_state_dict_file(tmp_path / 'x.pth')
    with pytest.raises(ValueError, match="holds no weights .keys: .'epoch'"):
        state_dict_of(dict(epoch=3))
    with pytest.raises(ValueError, match='holds no weights .keys: .5'):
        state_dict_of({5: torch.ones(2)})
    assert list(state_dict_of({5: torch.ones(2), 'a': torch.ones(2)})) == ['a']


@pytest.mark.parametrize(
    'value',
    [
        torch.zeros(1).expand(10**12),
        torch.zeros(3, device='meta'),
        torch.eye(3).to_sparse(),
    ],
)
def test_numbers_that_are_not_there_are_told(tmp_path, value) -> None:
    """Copied to where they belong they would take a terabyte."""
    torch.save(
        dict(state_dict=dict(a=torch.ones(2), b=value)), tmp_path / 'x.pth'
    )
    with pytest.raises(ValueError, match="not hold the numbers of 'b'"):
        load_state_dict_file(tmp_path / 'x.pth')


def test_small_expanded_buffers_are_numbers(tmp_path) -> None:
    torch.save(dict(a=torch.zeros(1, 7).expand(5, 7)), tmp_path / 'x.pth')
    assert load_state_dict_file(tmp_path / 'x.pth')['a'].shape == (5, 7)


# ---------------------------------------------------------- downloads


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    (tmp_path / 'www').mkdir()
    handler = partial(
        SimpleHTTPRequestHandler, directory=str(tmp_path / 'www')
    )
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{http.server_port}', tmp_path / 'www'
        http.shutdown()


def test_downloads_once_and_checks_the_digest(server) -> None:
    address, folder = server
    save_safetensors(dict(a=torch.ones(1)), folder / 'x.safetensors')
    digest = hashlib.sha256((folder / 'x.safetensors').read_bytes())
    good = f'x-{digest.hexdigest()[:8]}.safetensors'
    (folder / 'x.safetensors').rename(folder / good)
    (folder / 'x-00000000.safetensors').write_bytes(
        (folder / good).read_bytes()
    )
    load = CheckpointLoader.load_checkpoint
    assert load(f'{address}/{good}')['state_dict']['a'] == 1
    (folder / good).unlink()
    assert load(f'{address}/{good}')['state_dict']['a'] == 1
    with pytest.raises(ValueError, match='invalid hash'):
        load(f'{address}/x-00000000.safetensors')
    with pytest.raises(ValueError, match='no.pth cannot be downloaded .*404'):
        load(f'{address}/no.pth')


def test_code_in_a_download_is_refused(server, tmp_path) -> None:
    address, folder = server
    torch.save(dict(a=_RunsCode(tmp_path / 'made')), folder / 'x.pth')
    with pytest.raises(ValueError, match='could run code'):
        CheckpointLoader.load_checkpoint(f'{address}/x.pth')
    assert not (tmp_path / 'made').exists()


# ------------------------------------------------------ through mmengine


def test_mmengine_loads_safetensors_by_name(tmp_path) -> None:
    model = _Toy()
    path = tmp_path / 'x.safetensors'
    save_safetensors(model.state_dict(), path)
    other = _Toy()
    load_checkpoint(other, str(path), strict=True)
    assert other.backbone.weight.equal(model.backbone.weight)


SCHEMES = (
    's3://b/',
    'petrel://b/',
    'cluster:s3://b/',
    'torchvision://',
    'modelzoo://',
    'open-mmlab://',
    'openmmlab://',
    'mmcls://',
)


@pytest.mark.parametrize('scheme', SCHEMES)
def test_no_scheme_runs_code(scheme, server, tmp_path, monkeypatch) -> None:
    """MMEngine's loaders of these unpickle what is no plain weights file."""
    address, folder = server
    lists = dict(x=f'{address}/x.pth', good=f'{address}/good.pth')
    for name in list(ckpt._NAMED):
        monkeypatch.setitem(ckpt._NAMED, name, lambda: lists)
    stored = SimpleNamespace(
        get=lambda name: (folder / Path(name).name).read_bytes()
    )
    monkeypatch.setattr(
        ckpt, 'get_file_backend', lambda *args, **kwargs: stored
    )
    suffix = '.pth' if 's3' in scheme or 'petrel' in scheme else ''
    torch.save(dict(a=_RunsCode(tmp_path / 'made')), folder / 'x.pth')
    load = CheckpointLoader.load_checkpoint
    with pytest.raises(ValueError, match='could run code'):
        load(f'{scheme}x{suffix}')
    assert not (tmp_path / 'made').exists()
    torch.save(
        dict(state_dict={'backbone.a': torch.ones(2)}), folder / 'good.pth'
    )
    loaded = load(f'{scheme}good{suffix}', 'cpu')
    (value,) = loaded['state_dict'].values()
    assert value.equal(torch.ones(2))


@pytest.mark.parametrize('name', ['torchvision://none', 'pavi://a/b'])
def test_names_without_an_address_are_refused(name) -> None:
    with pytest.raises(ValueError, match=f'no address of {name}'):
        CheckpointLoader.load_checkpoint(name)


def test_pretrained_init_with_prefix(tmp_path) -> None:
    path = tmp_path / 'x.safetensors'
    save_safetensors(_Toy().state_dict(), path)

    class _Backbone(BaseModule, nn.Linear):
        def __init__(self, init_cfg) -> None:
            nn.Linear.__init__(self, 2, 2)
            self._is_init, self.init_cfg = False, init_cfg

    module = _Backbone(
        dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    )
    module.init_weights()
    assert module.weight.equal(load_file(path)['backbone.weight'])


def test_training_state_resumes(tmp_path) -> None:
    _runner(tmp_path / 'a').train()
    saved = tmp_path / 'a' / 'iter_2.pth'
    assert 'message_hub' in ckpt.load_from_file(str(saved))
    runner = _runner(tmp_path / 'a', iters=4, resume=True)
    runner.train()
    assert runner.iter == 4
    assert (tmp_path / 'a' / 'iter_4.pth').is_file()


def test_runner_loads_safetensors(tmp_path) -> None:
    path = tmp_path / 'x.safetensors'
    state = _Toy().state_dict()
    save_safetensors(state, path)
    runner = _runner(tmp_path / 'b', load_from=str(path))
    runner.load_or_resume()
    assert runner.model.backbone.weight.equal(state['backbone.weight'])


def test_config_text_in_meta_survives(tmp_path) -> None:
    text = Config(dict(a=1)).pretty_text
    save_safetensors(
        dict(a=torch.ones(1)), tmp_path / 'x.safetensors', dict(cfg=text)
    )
    meta = ckpt.load_from_file(str(tmp_path / 'x.safetensors'))['meta']
    assert Config.fromstring(meta['cfg'], '.py').a == 1
