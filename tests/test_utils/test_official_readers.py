# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Reading of the release's checkpoints in every form."""

import io
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from golden_arrays import DATA, group
from tensor_bundle_writer import write_bundle, write_saved_model

from dito.converters.official.readers import (
    flatten,
    name_variables,
    read_bundle,
    read_checkpoint,
)
from dito.utils.official import OfficialSizes, convert_official
from dito.utils.official.layout import leaf_order


@pytest.fixture
def arrays(golden):
    return golden('detector_end_to_end')


@pytest.fixture
def params(arrays):
    return group(arrays, 'params/')


@pytest.fixture
def sizes(arrays):
    cfg = {k: int(v) for k, v in group(arrays, 'cfg/').items() if not v.ndim}
    return OfficialSizes(
        width=cfg['features'],
        layers=cfg['num_layers'],
        heads=cfg['num_heads'],
        mlp=4 * cfg['features'],
        patch=cfg['patch_size'],
        positions=cfg['pretrained_pos_emb_size'] ** 2,
        filters=cfg['num_filters'],
        fc=cfg['fc_dims'],
        embed=arrays['in/text_features'].shape[-1],
    )


def nested(flat):
    tree = {}
    for name, array in flat.items():
        *groups, leaf = name.split('/')
        place = tree
        for key in groups:
            place = place.setdefault(key, {})
        place[leaf] = array
    return tree


def write_msgpack(tree, path):
    """Write as flax.serialization.msgpack_serialize does."""
    msgpack = pytest.importorskip('msgpack')

    def encode(value):
        value = np.asarray(value)
        content = msgpack.packb(
            (value.shape, value.dtype.name, value.tobytes())
        )
        return msgpack.ExtType(1, content)

    path.write_bytes(msgpack.packb(tree, default=encode, strict_types=True))


def same(got, expected):
    assert set(got) == set(expected)
    assert all(np.array_equal(got[k], expected[k]) for k in expected)


def test_sizes_and_shapes_are_those_of_the_golden_detector(params, sizes):
    shapes = sizes.detector()
    assert {k: v.shape for k, v in params.items()} == shapes
    tower = group(params, 'vision_model/')
    heads = group(params, 'task_heads_0/')
    assert (
        OfficialSizes.infer(
            tower,
            group(heads, 'feature_pyramid_fn/'),
            group(heads, 'fastrcnn_head_fn/'),
        )
        == sizes
    )


def test_shapes_of_vit_l():
    shapes = OfficialSizes().detector()
    count = sum(int(np.prod(s)) for s in shapes.values())
    # Two ViT-L towers of 303 million and the heads.
    assert 620e6 < count < 650e6
    # 24 layers of 16 arrays, 5 beside them.
    assert len(OfficialSizes().tower()) == 24 * 16 + 5


def test_npz(params, tmp_path):
    np.savez(tmp_path / 'x.npz', **params)
    form, got = read_checkpoint(tmp_path / 'x.npz')
    assert form == 'npz'
    same(got, params)


def test_msgpack_file_and_folder(params, tmp_path):
    tree = dict(
        step=np.int32(9),
        optimizer=dict(target=nested(params), state=dict(m=np.ones(2))),
        model_state={},
    )
    write_msgpack(dict(old=np.ones(1)), tmp_path / 'checkpoint_9')
    write_msgpack(tree, tmp_path / 'checkpoint_10')
    for path in (tmp_path, tmp_path / 'checkpoint_10'):
        form, got = read_checkpoint(path)
        assert form == 'msgpack' and got['step'] == 9
        same(group(got, 'optimizer/target/'), params)
        same(convert_official(got), convert_official(params))


def test_file_written_by_flax():
    pytest.importorskip('msgpack')
    form, got = read_checkpoint(DATA / 'official' / 'flax_tiny.msgpack')
    assert form == 'msgpack'
    same(
        got,
        {
            'step': np.int32(7),
            'group/chunked': np.arange(24, dtype='f4').reshape(2, 3, 4),
            'group/half': np.float32([1.5, -2, 0.125]),
            'group/scalar': np.float32(2.5),
            'group/list/0': np.ones(2, 'f4'),
        },
    )


def test_saved_model(params, sizes, tmp_path):
    write_saved_model(tmp_path, params)
    form, got = read_checkpoint(tmp_path, sizes)
    assert form == 'SavedModel'
    same(got, params)
    with pytest.raises(
        ValueError, match='of another shape|has [0-9]+ variables'
    ):
        read_checkpoint(tmp_path)


def test_bundle_written_by_tensorflow():
    """By tf.train.Checkpoint of TensorFlow 2.21, and as it reads it."""
    folder = DATA / 'official' / 'bundle'
    got = read_bundle(folder / 'variables')
    with np.load(folder / 'variables_expected.npz') as file:
        expected = {k.replace('|', '/'): file[k] for k in file.files}
    assert {a.dtype.name for a in got.values()} == {
        'float32',
        'float16',
        'int64',
    }
    assert {a.shape for a in got.values()} > {(), (0, 3), (1, 2, 3), (4, 2)}
    same(got, expected)


@pytest.mark.parametrize('entries', [1, 3, 100])
def test_bundle_of_several_blocks(tmp_path, entries):
    arrays = {
        f'group/{i}/x': np.full((i % 3, 2), i, np.float32) for i in range(300)
    }
    write_bundle(tmp_path / 'v', arrays, entries)
    same(read_bundle(tmp_path / 'v'), arrays)


def test_damaged_bundles_are_refused(tmp_path):
    write_bundle(tmp_path / 'v', dict(a=np.ones(5), b=np.ones(3)))
    index, data = tmp_path / 'v.index', tmp_path / 'v.data-00000-of-00001'
    sound, numbers = index.read_bytes(), data.read_bytes()
    for at in range(len(sound)):
        for value in (0, 0x7F, 0xFF):
            index.write_bytes(sound[:at] + bytes([value]) + sound[at + 1 :])
            try:
                read_bundle(tmp_path / 'v')
            except (ValueError, FileNotFoundError) as error:
                assert str(index) in str(error) or 'not exist' in str(error)
    for size in range(len(sound)):
        index.write_bytes(sound[:size])
        with pytest.raises(ValueError, match='is damaged, or no checkpoint'):
            read_bundle(tmp_path / 'v')
    index.write_bytes(sound)
    data.write_bytes(numbers[:-1])
    with pytest.raises(ValueError, match='of 24 bytes has 23'):
        read_bundle(tmp_path / 'v')
    data.unlink()
    with pytest.raises(FileNotFoundError, match='unpack the archive again'):
        read_bundle(tmp_path / 'v')


def test_saved_model_without_masks(params, sizes):
    names = [k for k in leaf_order(params) if 'maskrcnn' not in k]
    got = name_variables([params[k] for k in names], sizes)
    assert list(got) == names


def test_saved_model_of_other_shapes(params, sizes):
    arrays = [params[k] for k in leaf_order(params)]
    every, width = len(params), sizes.width
    boxes = sum('maskrcnn' not in k for k in params)
    with pytest.raises(
        ValueError, match=f'has 3 variables.*{every} or {boxes}'
    ):
        name_variables(arrays[:3], sizes)
    with pytest.raises(
        ValueError,
        match=r'1 variables.*0 \(frozen_vision_mo'
        rf'del/conv1/bias\) \({width - 1},\) instead of '
        rf'\({width},\)',
    ):
        name_variables([arrays[0][:-1], *arrays[1:]], sizes)


def test_orbax(params, tmp_path, monkeypatch):
    class Checkpointer:
        """Stands for orbax.checkpoint.PyTreeCheckpointer."""

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def metadata(self, path):
            assert path == tmp_path
            return SimpleNamespace(item_metadata=nested(params))

        def restore(self, path, restore_args):
            assert all(
                a.restore_type is np.ndarray for a in flat_args(restore_args)
            )
            return nested(params)

    def flat_args(tree):
        return [
            x
            for v in tree.values()
            for x in (flat_args(v) if isinstance(v, dict) else [v])
        ]

    module = SimpleNamespace(
        PyTreeCheckpointer=Checkpointer,
        RestoreArgs=lambda restore_type: SimpleNamespace(
            restore_type=restore_type
        ),
    )
    monkeypatch.setitem(sys.modules, 'orbax', SimpleNamespace())
    monkeypatch.setitem(sys.modules, 'orbax.checkpoint', module)
    (tmp_path / '_METADATA').touch()
    form, got = read_checkpoint(tmp_path)
    assert form == 'orbax'
    same(got, params)


@pytest.mark.parametrize(
    'module, make, package',
    [
        ('msgpack', lambda p: (p / 'x').write_bytes(b'\x81'), 'msgpack'),
        (
            'orbax.checkpoint',
            lambda p: (p / '_METADATA').touch(),
            'orbax-checkpoint',
        ),
    ],
)
def test_missing_packages_are_named(
    tmp_path, monkeypatch, module, make, package
):
    make(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / 'x' if module == 'msgpack' else tmp_path
    with pytest.raises(ValueError, match=f'pip install {package}'):
        read_checkpoint(path)


def test_other_files_are_refused(tmp_path):
    pytest.importorskip('msgpack')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        read_checkpoint(tmp_path / 'nothing')
    with pytest.raises(ValueError, match='neither a SavedModel'):
        read_checkpoint(tmp_path)
    (tmp_path / 'x').write_bytes(b'hello, this is no checkpoint')
    with pytest.raises(ValueError, match='neither .npz nor a Flax'):
        read_checkpoint(tmp_path / 'x')
    np.savez(tmp_path / 'o.npz', a=np.array([None]))
    with pytest.raises(ValueError, match='damaged, or holds more'):
        read_checkpoint(tmp_path / 'o.npz')
    with zipfile.ZipFile(tmp_path / 'huge.npz', 'w') as file:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, dict(descr='<f4', fortran_order=False, shape=(10**15,))
        )
        file.writestr('a.npy', header.getvalue())
    with pytest.raises(ValueError, match='damaged, or holds more.*allocate'):
        read_checkpoint(tmp_path / 'huge.npz')
    write_msgpack(dict(a='//GDAPlaceholder:a'), tmp_path / 'gda')
    with pytest.raises(ValueError, match='several hosts'):
        read_checkpoint(tmp_path / 'gda')
    with pytest.raises(ValueError, match='not a tree'):
        flatten(3)
