# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Exported files: their test, their metadata and their runner."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_api import write_detector

from dito.apis import DITOInferencer
from dito.export import onnx_file, runner, self_test, torch_file
from dito.export.graph import Found, trace
from dito.export.self_test import TOLERANCES, Differences, compare

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

NAMES = ['red umbrella', 'anchor', 'wheel']


def _keep(
    kept: dict[str, Any], name: str, make: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """The function, whose result is kept: it takes most of the time."""

    def keep(source: Any) -> Any:
        kept[name] = make(source)
        return kept[name]

    return keep


@pytest.fixture(scope='module')
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny detector, its file with names as an input, and a vocabulary."""
    folder = tmp_path_factory.mktemp('export')
    made = write_detector(folder)
    inferencer = DITOInferencer(str(made['weights']), device='cpu')
    kept: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, make in (('trace', trace), ('_convert', onnx_file._convert)):
            patch.setattr(onnx_file, name, _keep(kept, name, make))
        differences = onnx_file.export_onnx(
            inferencer, folder / 'tiny.onnx', licence='Apache-2.0'
        )
    vocabulary = inferencer._resolve(NAMES)
    vocabulary.save(folder / 'names.safetensors')
    return dict(
        made,
        inferencer=inferencer,
        file=folder / 'tiny.onnx',
        traced=kept['trace'],
        program=kept['_convert'],
        vocabulary=vocabulary,
        differences=differences,
    )


def test_a_file_passes_its_test(exported: dict[str, Any]) -> None:
    assert _allowed(exported['differences'], 'float32')
    found = self_test.self_test(exported['file'], exported['inferencer'], None)
    assert _allowed(found, 'float32')


def _allowed(found: Differences, precision: str) -> bool:
    return found.worst(TOLERANCES[precision]) == TOLERANCES[precision]


def test_a_file_has_standard_operators_and_no_paths(
    exported: dict[str, Any],
) -> None:
    model = onnx.load(exported['file'])
    assert {node.domain for node in model.graph.node} == {''}
    assert not model.functions
    assert b'projects/dito' not in exported['file'].read_bytes()
    onnx.checker.check_model(model)


def test_channels_of_zeros_are_not_divided_by_zero(
    exported: dict[str, Any],
) -> None:
    graph = onnx.load(exported['file']).graph
    lengths = {n.output[0] for n in graph.node if n.op_type == 'ReduceL2'}
    divided = [n.input[1] for n in graph.node if n.op_type == 'Div']
    assert lengths
    assert not lengths & set(divided)


def test_a_file_that_differs_is_not_left(
    exported: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnx_file, 'trace', lambda _: exported['traced'])
    monkeypatch.setattr(onnx_file, '_convert', lambda _: exported['program'])
    model = exported['inferencer'].model
    bias = model.rpn_head.rpn_reg.bias.data
    bias += 0.01  # the graph has the old one
    try:
        with pytest.raises(ValueError, match='differs from PyTorch by'):
            onnx_file.export_onnx(
                exported['inferencer'], tmp_path / 'other.onnx'
            )
    finally:
        bias -= 0.01
    assert not list(tmp_path.iterdir())


def test_the_runner_alone_gives_what_the_interface_gives(
    exported: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copy(runner.__file__, tmp_path / 'runner.py')
    code = (
        'import sys, runner\n'
        'code = runner.main(sys.argv[1:])\n'
        "heavy = {'torch', 'mmdet', 'dito', 'cv2'} & set(sys.modules)\n"
        'assert not heavy, heavy\n'
        'sys.exit(code)'
    )
    images = [str(path) for path in exported['images']]
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            code,
            str(exported['file']),
            *images,
            '--vocabulary',
            str(exported['folder'] / 'names.safetensors'),
            '--score-thr',
            '0',
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = exported['inferencer'](
        images, exported['vocabulary'], score_thr=0
    )['predictions']
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.pop('image') for line in lines] == images
    for got, own in zip(lines, wanted, strict=True):
        assert set(got) == set(own)
        assert _apart(got, own) == Differences()


@pytest.mark.parametrize('precision', ['float16', 'int8'])
def test_less_precise_files_keep_what_must_be_exact(
    exported: dict[str, Any], tmp_path: Path, precision: str
) -> None:
    path = shutil.copy(exported['file'], tmp_path / 'less.onnx')
    change = dict(float16=onnx_file.halve, int8=onnx_file.quantize)[precision]
    change(path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    operator, place, kind = dict(
        float16=('Conv', 1, onnx.TensorProto.FLOAT16),
        int8=('DequantizeLinear', 0, onnx.TensorProto.INT8),
    )[precision]
    weights = {
        kinds[node.input[place]]
        for node in model.graph.node
        if node.op_type == operator and node.input[place] in kinds
    }
    assert weights == {kind}
    assert {node.domain for node in model.graph.node} == {''}
    assert path.stat().st_size < exported['file'].stat().st_size
    found = self_test.self_test(
        path, exported['inferencer'], None, precision=precision
    )
    assert _allowed(found, precision)
    # They do differ: the weights are rounded.
    assert max(found) > max(exported['differences'])


def test_a_program_of_torch_gives_what_the_detector_gives(
    exported: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, Any] = {}
    monkeypatch.setattr(torch_file, 'trace', lambda _: exported['traced'])
    load = _keep(kept, 'load', torch_file.load_program)
    monkeypatch.setattr(torch_file, 'load_program', load)
    path = tmp_path / 'tiny.pt2'
    found = torch_file.export_torch(
        exported['inferencer'], path, licence='Apache-2.0'
    )
    assert _allowed(found, 'float32')
    with zipfile.ZipFile(path) as archive:
        assert not any(b'.py' in archive.read(n) for n in archive.namelist())
    names = exported['folder'] / 'names.safetensors'
    run = runner.Runner(path, names, lambda _: kept['load'])
    assert run.meta['licence'] == 'Apache-2.0'
    image = str(exported['images'][0])
    got = run(image, score_thr=0)
    own = exported['inferencer'](image, exported['vocabulary'], score_thr=0)
    assert _apart(got, own['predictions'][0]) == Differences()
    assert set(got) == set(own['predictions'][0])


def test_a_broken_picture_beside_sound_ones(
    exported: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad, good = tmp_path / 'bad.png', str(exported['images'][0])
    bad.write_bytes(b'no picture')
    start = [str(exported['file'])]
    names = exported['folder'] / 'names.safetensors'
    end = ['--vocabulary', str(names)]
    for images, code in (
        ([str(bad), good], 3),
        ([str(bad), 'none.png'], 2),
        ([good], 0),
    ):
        assert runner.main([*start, *images, *end]) == code
        said = capsys.readouterr()
        lines = said.out.splitlines()
        assert [json.loads(x)['image'] for x in lines] == [
            image for image in images if image == good
        ]
        assert len(said.err.splitlines()) == len(images) - len(lines)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    assert runner.main([*start, good, '--engine', 'openvino']) == 2
    assert 'openvino is not installed' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        runner.main([*start, good, '--score-thr', 'nan'])


def test_openvino_finds_the_same(exported: dict[str, Any]) -> None:
    pytest.importorskip('openvino')
    found = self_test.self_test(
        exported['file'], exported['inferencer'], None, 'openvino'
    )
    assert _allowed(found, 'float32')


def _apart(got: dict[str, Any], own: dict[str, Any]) -> Any:
    """Differences above the tolerance, whatever the order of equal ones."""
    one, two = (
        Found(
            torch.tensor(x['bboxes']),
            torch.tensor(x['scores']),
            torch.tensor(x['labels']),
        )
        for x in (got, own)
    )
    found = compare(one, two)
    return Differences(*(0.0 if value < 1e-3 else value for value in found))


def test_bytes_are_resized_as_opencv_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        old, new = rng.integers(4, 120, 2), rng.integers(4, 90, 2)
        image = rng.integers(0, 256, (*old, 3), dtype=np.uint8)
        wanted = cv2.resize(image, (int(new[1]), int(new[0])))
        got = runner.resize(image, (int(new[0]), int(new[1])))
        assert np.array_equal(got, wanted), (old, new)
    image = rng.integers(0, 256, (20, 32, 3), dtype=np.uint8)
    assert np.array_equal(
        runner.resize(image, (10, 16)), cv2.resize(image, (16, 10))
    )


def test_masks_are_pasted_as_the_interface_does() -> None:
    from dito.models.roi_heads.box_masks import paste_masks

    rng = np.random.default_rng(0)
    boxes = rng.uniform(-10, 90, (40, 4)).astype(np.float32)
    boxes[:30] = np.sort(boxes[:30].reshape(-1, 2, 2), 1).reshape(-1, 4)
    boxes[0, 2] = boxes[0, 0]
    masks = rng.random((40, 28, 28)).astype(np.float32)
    wanted = paste_masks(
        torch.from_numpy(masks), torch.from_numpy(boxes), (60, 75)
    )
    for mask, box, own in zip(masks, boxes, wanted, strict=True):
        got = runner.paste_mask(mask, box, (60, 75), 0.5)
        assert got == dict(size=[60, 75], counts=own['counts'].decode())


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('format', 'dito-onnx-2'),
        ('precision', 'float8'),
        ('resize', {'kind': 'stretch', 'scale': [64, 64]}),
        ('step', 0),
        ('mean', [1.0, 2.0]),
        ('names', ['a']),
        ('something', 1),
        ('licence', None),
    ],
)
def test_metadata_that_are_not_understood_are_refused(
    exported: dict[str, Any], key: str, value: Any
) -> None:
    model = onnx.load(exported['file'])
    meta = json.loads({p.key: p.value for p in model.metadata_props}['dito'])
    assert runner.parse_metadata(json.dumps(meta), 'x')['names'] is None
    with pytest.raises(ValueError, match='^x has '):
        runner.parse_metadata(json.dumps({**meta, key: value}), 'x')
    with pytest.raises(ValueError, match='not written by'):
        runner.parse_metadata(None, 'x')


def test_names_of_another_tower_are_refused(exported: dict[str, Any]) -> None:
    names = runner.read_names(exported['folder'] / 'names.safetensors')
    assert names.names == tuple(NAMES)
    with pytest.raises(ValueError, match='another text tower'):
        runner.Runner(exported['file'], names._replace(fingerprint='0'))
    with pytest.raises(ValueError, match='takes names'):
        runner.Runner(exported['file'])
    with pytest.raises(ValueError, match='not a vocabulary file'):
        runner.read_names(exported['weights'])


def test_what_is_no_number_on_one_side_differs() -> None:
    one = Found(
        torch.tensor([[0.0, 0, 9, 9]]),
        torch.tensor([0.5]),
        torch.tensor([0]),
        torch.zeros(1, 2, 2),
    )
    masks = one.masks.clone()
    masks[0, 1, 1] = torch.nan
    other = one._replace(masks=masks)
    assert compare(other, other) == Differences()
    for pair in ((one, other), (other, one)):
        assert compare(*pair) == Differences(masks=float('inf'))


def test_lists_are_compared_whatever_their_order() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 0, 29, 9], [5, 5, 8, 8]])
    scores, labels = torch.tensor([0.5, 0.5, 0.4]), torch.tensor([0, 0, 1])
    masks = torch.zeros(3, 2, 2)
    one = Found(boxes, scores, labels, masks)
    turned = Found(*(x[[1, 0, 2]] for x in one))
    assert compare(one, turned) == Differences()
    moved = one._replace(boxes=boxes + torch.tensor([0.25, 0, 0, 0]))
    assert compare(moved, one).boxes == 0.25
    fewer = Found(*(x[:2] for x in one))
    assert compare(one, fewer).scores == pytest.approx(0.4)
    # The end of a full list may differ where scores are equal.
    other = one._replace(labels=torch.tensor([0, 0, 2]))
    assert compare(other, one) == Differences()
