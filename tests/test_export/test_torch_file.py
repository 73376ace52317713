# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Files of torch.export and AOTInductor, and what their reader refuses."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dito.export import torch_file
from dito.export.runner import Engine, Runner


class _Suppression(nn.Module):
    """The one operator of a graph that is not PyTorch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.25), requires_grad=False)

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        kept = torch.ops.dito.nms_mask(boxes, scores + self.shift, 0.5, 3)
        return kept.float(), scores * 2

    def example_inputs(self) -> dict[str, Tensor]:
        return dict(boxes=torch.ones(3, 5, 4), scores=torch.ones(3, 2, 5))

    def dynamic_shapes(self) -> dict[str, Any]:
        batch = torch.export.Dim('batch', min=1, max=64)
        return dict(boxes={0: batch}, scores={0: batch})


@pytest.fixture(scope='module')
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file of torch.export."""
    path = tmp_path_factory.mktemp('program') / 'small.pt2'
    meta = json.dumps(dict(format=torch_file.PT2))
    torch_file.save_program(torch_file.trace(_Suppression()), meta, path)
    return path


def test_a_program_holds_no_paths_and_no_pickle(program: Path) -> None:
    with zipfile.ZipFile(program) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert b'site-packages' not in content, name
            assert b'.py' not in content, name
            assert not content.startswith((b'\x80\x02', b'PK')), name


def test_a_program_runs_for_any_batch(program: Path) -> None:
    run, text = torch_file.load_program(str(program))
    assert json.loads(text) == dict(format=torch_file.PT2)
    _assert_runs_for_any_batch(run)


def _assert_runs_for_any_batch(run: Engine) -> None:
    graph = _Suppression()
    for batch in (1, 4):
        boxes = torch.rand(batch, 5, 4)
        boxes[..., 2:] += boxes[..., :2]
        inputs = dict(boxes=boxes, scores=torch.rand(batch, 2, 5))
        got = run({key: value.numpy() for key, value in inputs.items()})
        for one, two in zip(got, graph(**inputs), strict=True):
            torch.testing.assert_close(torch.from_numpy(one), two)


def _in_json(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    """A change of the content of a json file."""

    def changed(content: bytes) -> bytes:
        tree = json.loads(content)
        change(tree)
        return json.dumps(tree).encode()

    return changed


def _call(target: str) -> Callable[[bytes], bytes]:
    def change(tree: Any) -> None:
        tree['graph_module']['graph']['nodes'][0]['target'] = target

    return _in_json(change)


def _pickled(tree: Any) -> None:
    next(iter(tree['config'].values()))['use_pickle'] = True


@pytest.mark.parametrize(
    ('entry', 'change', 'message'),
    [
        ('models/model.json', _call('torch.os.system'), 'graph calls'),
        ('models/model.json', _call('torch.ops.load_library'), 'graph calls'),
        ('models/model.json', _call('_operator.attrgetter'), 'graph calls'),
        (
            'models/model.json',
            _call('torch.ops.aten.from_file.default'),
            'graph calls',
        ),
        (
            'models/model.json',
            _in_json(
                lambda tree: tree['range_constraints'].update(
                    {"__import__('os').getpid()": {}}
                )
            ),
            'the size',
        ),
        (
            'data/weights/model_weights_config.json',
            _in_json(_pickled),
            'is pickled',
        ),
        (
            'data/sample_inputs/model.pt',
            lambda _: pickle.dumps(1),
            'pickled inputs',
        ),
        ('data/constants/custom_obj_0', None, 'has the entry'),
        ('data/weights/model.pt', None, 'has the entry'),
        (
            'extra/dito',
            _in_json(lambda tree: tree.update(format='dito-onnx-1')),
            'its format',
        ),
    ],
)
def test_what_would_be_run_is_refused(
    program: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    entry: str,
    change: Callable[[bytes], bytes] | None,
    message: str,
) -> None:
    path = tmp_path / 'other.pt2'
    with (
        zipfile.ZipFile(program) as source,
        zipfile.ZipFile(path, 'w') as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            if change and name.partition('/')[2] == entry:
                content = change(content)
            target.writestr(name, content)
        if change is None:
            target.writestr(f'archive/{entry}', b'')
    # PyTorch's reader must not see such a file.
    monkeypatch.setattr(torch.export, 'load', pytest.fail)
    with pytest.raises(ValueError, match=f'^{path}.*{message}'):
        torch_file.load_program(str(path))


def test_other_files_are_refused(program: Path, tmp_path: Path) -> None:
    broken = tmp_path / 'broken.pt2'
    broken.write_bytes(program.read_bytes()[:1000])
    with pytest.raises(ValueError, match='not written by'):
        torch_file.load_program(str(broken))
    for path in (broken, program):
        with pytest.raises(ValueError, match='not written by'):
            torch_file.load_compiled(str(path))
    # The runner checks the rest of the metadata.
    with pytest.raises(ValueError, match='version=None'):
        Runner(program, None, torch_file.load_program)


@pytest.mark.slow
def test_a_compiled_graph_runs_for_any_batch(tmp_path: Path) -> None:
    if shutil.which('g++') is None:
        pytest.skip('there is no compiler')
    meta = json.dumps(dict(format=torch_file.AOTI))
    path = tmp_path / 'small.pt2'
    torch_file.compile_program(torch_file.trace(_Suppression()), meta, path)
    run, text = torch_file.load_compiled(str(path))
    assert json.loads(text) == json.loads(meta)
    _assert_runs_for_any_batch(run)


def test_no_compiler_is_said_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, 'which', lambda _: None)
    with pytest.raises(ValueError, match='needs a C\\+\\+ compiler'):
        torch_file.require_compiler()
