# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A detector as a file of torch.export, or compiled by AOTInductor."""

import contextlib
import json
import logging
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram

from dito.apis import DITOInferencer
from dito.models.text import Vocabulary

from .graph import DetectorGraph, trace
from .onnx_file import metadata
from .runner import Engine
from .self_test import Differences, write_tested

PT2, AOTI = 'dito-pt2-1', 'dito-aoti-1'
_ENTRIES = re.compile(
    r'data/weights/weight_\d+|data/constants/tensor_\d+|'
    r'data/(weights/model_weights|constants/model_constants)_config\.json|'
    r'data/sample_inputs/model\.pt|models/model\.json|extra/dito|'
    r'archive_format|archive_version|byteorder|'
    r'\.data/(version|serialization_id)'
)
_ARITHMETIC = {
    f'_operator.{name}'
    for name in 'add sub mul floordiv truediv mod neg pow '
    'eq ne lt le gt ge getitem and_ or_ not_'.split()
}
_BLOCKS = {
    f'torch.ops.higher_order.wrap_with_{name}'
    for name in ('autocast', 'set_grad_enabled')
}
# Words of sizes, such as "Mul(Integer(64), Symbol('s1', positive=True))".
_SIZE_WORDS = re.compile(
    r'[su]\d+|Symbol|Integer|Rational|positive|integer|nonnegative|True|False|'
    r'Add|Mul|Pow|Min|Max|Mod|PythonMod|FloorDiv|CleanDiv|oo|int_oo'
)


def export_torch(
    inferencer: DITOInferencer,
    path: str | Path,
    vocabulary: Vocabulary | None = None,
    licence: str = 'unknown',
    compiled: bool = False,
) -> Differences:
    """Write a detector for PyTorch, as a file that has passed its test.

    Args:
        inferencer (DITOInferencer): The detector, on the CPU.
        path (str | Path): Target, ending in ``.pt2``.
        vocabulary (Vocabulary, optional): As of :func:`.export_onnx`.
        licence (str): Of the weights, for the metadata.
        compiled (bool): Whether AOTInductor compiles the graph for this
            kind of processor; else it is stored as it is.

    Returns:
        Differences: As of :func:`.self_test`.

    Raises:
        ValueError: If a setting of the detector has no form in a graph, there
            is no compiler, or the test fails.
    """
    if Path(path).suffix != '.pt2':
        raise ValueError(f'A file of torch.export ends in .pt2, got {path}.')
    if compiled:
        require_compiler()
    graph = DetectorGraph(inferencer.model.eval(), vocabulary).eval()
    meta = metadata(inferencer, graph, vocabulary, licence)
    meta['format'] = AOTI if compiled else PT2
    program = trace(graph)
    return write_tested(
        path,
        lambda unfinished: (compile_program if compiled else save_program)(
            program, json.dumps(meta), unfinished
        ),
        inferencer,
        vocabulary,
        engine=load_compiled if compiled else load_program,
    )


def require_compiler() -> None:
    """Refuse to begin where AOTInductor finds no C++ compiler.

    Raises:
        ValueError: If there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        found = shutil.which(get_cpp_compiler())
    except InvalidCxxCompiler:
        found = None
    if found is None:
        raise ValueError(
            'AOTInductor needs a C++ compiler and found none: install g++, or '
            'set the environment variable CXX to another.'
        )


def save_program(program: ExportedProgram, meta: str, path: Path) -> None:
    """Write a program by torch.export, its metadata in the entry ``dito``."""
    # What it was traced with would be pickled, and large.
    program.example_inputs = None
    # The folder within the archive is named after a path, not after a stream.
    with path.open('w+b') as file:
        torch.export.save(program, file, extra_files=dict(dito=meta))


def compile_program(program: ExportedProgram, meta: str, path: Path) -> None:
    """Compile a program by AOTInductor into one file, its weights inside.

    Args:
        program (ExportedProgram): Of :func:`trace`.
        meta (str): Value of the key ``dito`` of the metadata.
        path (Path): Target.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(Path(folder, 'dito.pt2')),
            inductor_configs={
                'aot_inductor.metadata': dict(dito=meta),
                # As many threads as the machine that runs it has.
                'cpp.dynamic_threads': True,
            },
        )
        shutil.move(made, path)


def load_program(path: str) -> tuple[Engine, str]:
    """An engine of :class:`.runner.Runner` for files of torch.export.

    PyTorch would unpickle or evaluate some of what such a file may hold.
    All of this is refused before PyTorch reads the file: see
    docs/deploy.md.

    Args:
        path (str): The file.

    Returns:
        tuple: A function that runs it, and its metadata.

    Raises:
        ValueError: If it holds anything but what :func:`save_program` writes.
    """
    meta = _check_program(path)
    try:
        with Path(path).open('rb') as file, _silence():
            program = torch.export.load(file)
    except Exception as error:  # of many types
        raise ValueError(
            f'{path} cannot be read by torch {torch.__version__}: '
            f'{error!s:.200}'
        ) from error
    # Guards hold what was seen when it was traced: no side of one step.
    return _engine(program.module(check_guards=False)), meta


def load_compiled(path: str) -> tuple[Engine, str]:
    """The same for files of AOTInductor, whose machine code is run.

    Load such a file only if you made it, or trust who did.

    Args:
        path (str): The file.

    Returns:
        tuple: A function that runs it, and its metadata.

    Raises:
        ValueError: If it was not written by :func:`compile_program`.
    """
    loader = torch._C._aoti.AOTIModelPackageLoader
    try:
        meta = loader.load_metadata_from_package(path, 'model').get('dito')
    except RuntimeError as error:
        meta, cause = None, error
    else:
        cause = None
    if _format_of(meta) != AOTI:
        raise ValueError(
            f'{path} was not written by "dito export --format aoti".'
        ) from cause
    try:
        return _engine(torch._inductor.aoti_load_package(path)), meta
    except RuntimeError as error:
        raise ValueError(
            f'{path} cannot be loaded here: {error!s:.200}; it was compiled '
            'for another version of torch or another kind of processor, so '
            'export the detector on this machine.'
        ) from error


def _engine(model: Any) -> Engine:
    """A function of named arrays that gives arrays."""

    @torch.no_grad()
    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        tensors = {k: torch.from_numpy(v.copy()) for k, v in inputs.items()}
        return [found.numpy() for found in model(**tensors)]

    return run


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without PyTorch's notes about empty and read-only buffers."""
    logger = logging.getLogger('torch.export.pt2_archive._package')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='The given buffer')
            yield
    finally:
        logger.setLevel(level)


def _format_of(meta: str | None) -> Any:
    try:
        return json.loads(meta or '{}').get('format')
    except (ValueError, AttributeError):
        return None


# ----------------------------------------------------------------- the check


def _check_program(path: str) -> str:
    """The metadata of a file in which nothing but tensors is left to read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _checked(archive, path)
    except (
        zipfile.BadZipFile,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
    ) as error:
        raise ValueError(
            f'{path} was not written by "dito export --format pt2": '
            f'{error!s:.200}'
        ) from error


def _checked(archive: zipfile.ZipFile, path: str) -> str:
    names = archive.namelist()
    folder = names[0].partition('/')[0] + '/'
    for name in names:
        if not (
            name.startswith(folder)
            and _ENTRIES.fullmatch(name.removeprefix(folder))
        ):
            raise ValueError(f'it has the entry {name!r:.80}.')
    if len(set(names)) != len(names):
        raise ValueError('it has two entries of one name.')
    for part in ('weights', 'constants'):
        config = archive.read(f'{folder}data/{part}/model_{part}_config.json')
        for key, value in json.loads(config)['config'].items():
            if value['use_pickle'] is not False:
                raise ValueError(f'{key!r:.60} is pickled.')
    if archive.read(f'{folder}data/sample_inputs/model.pt'):
        raise ValueError('it has pickled inputs.')
    graph = json.loads(archive.read(f'{folder}models/model.json'))
    for target in _values(graph, 'target'):
        _check_target(target)
    for size in (*_values(graph, 'expr_str'), *graph['range_constraints']):
        _check_size(size)
    meta = archive.read(f'{folder}extra/dito').decode()
    if _format_of(meta) != PT2:
        raise ValueError(f'its format is not {PT2}.')
    return meta


def _values(tree: Any, key: str) -> Iterator[Any]:
    """All that is under a key, however deep."""
    if isinstance(tree, dict):
        if key in tree:
            yield tree[key]
        tree = tree.values()
    if not isinstance(tree, (str, int, float, type(None))):
        for value in tree:
            yield from _values(value, key)


def _check_target(target: Any) -> None:
    """Refuse to call anything but operators on tensors and arithmetic."""
    if target in _ARITHMETIC or target in _BLOCKS:
        return
    found = re.fullmatch(
        r'torch\.ops\.(aten|dito|torchvision)\.(\w+)\.(\w+)', target
    )
    operator = None
    if found and found[2] != 'from_file':
        space = getattr(torch.ops, found[1])
        operator = getattr(getattr(space, found[2], None), found[3], None)
    if not isinstance(operator, OpOverload):
        raise ValueError(f'its graph calls {target!r:.80}.')


def _check_size(size: str) -> None:
    """Refuse sizes of more than sums and products: PyTorch evaluates them."""
    words = re.findall(r'[^\W\d]\w*', size)
    if re.search(r"[^\w\s()',=*+/-]", size) or not all(
        map(_SIZE_WORDS.fullmatch, words)
    ):
        raise ValueError(f'its graph has the size {size!r:.80}.')
