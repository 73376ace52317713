# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write a detector as one ONNX file, and test the file before it is left."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from dito.apis import DITOInferencer
from dito.apis.model_file import templates_of, test_dataset
from dito.models.text import Vocabulary
from dito.utils.checkpoint import hash_of
from dito.version import __version__

from .graph import DetectorGraph, Found, trace
from .runner import FORMAT
from .self_test import Differences, write_tested

OPSET = 18
# Products with weights: what is computed in less than float32 in such a file.
_PRODUCTS = ('Conv', 'ConvTranspose', 'Gemm')


def export_onnx(
    inferencer: DITOInferencer,
    path: str | Path,
    vocabulary: Vocabulary | None = None,
    licence: str = 'unknown',
    precision: str = 'float32',
) -> Differences:
    """Write a detector as an ONNX file that has passed its test.

    The file is run in onnxruntime on drawn images of several sizes, batches
    and vocabularies first, and is not written where boxes, scores or masks
    are further from the detector's than :data:`.TOLERANCES` allow.

    Args:
        inferencer (DITOInferencer): The detector, on the CPU.
        path (str | Path): Target, ending in ``.onnx``.
        vocabulary (Vocabulary, optional): Names to fold in. None: names are
            an input of any number.
        licence (str): Of the weights, for the metadata.
        precision (str): 'float32'; 'float16', see :func:`halve`; or 'int8',
            see :func:`quantize`.

    Returns:
        Differences: As of :func:`.self_test`.

    Raises:
        ValueError: If a setting of the detector has no form in the file, a
            package is missing, or the test fails.
    """
    require_packages()
    if Path(path).suffix != '.onnx':
        raise ValueError(f'An ONNX file ends in .onnx, got {path}.')
    reduce = dict(float32=None, float16=halve, int8=quantize)[precision]
    graph = DetectorGraph(inferencer.model.eval(), vocabulary).eval()
    meta = metadata(inferencer, graph, vocabulary, licence, precision)
    program = _convert(trace(graph))
    program.model.metadata_props['dito'] = json.dumps(meta)

    def write(unfinished: Path) -> None:
        program.save(unfinished, external_data=False)
        if reduce is not None:
            reduce(unfinished)

    return write_tested(
        path,
        write,
        inferencer,
        vocabulary,
        precision=precision,
    )


def require_packages() -> None:
    """Refuse to begin without the packages of the extra ``export``.

    Raises:
        ValueError: If one is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"The export needs {error.name}: pip install 'dito-mmdet[export]'."
        ) from error


def metadata(
    inferencer: DITOInferencer,
    graph: DetectorGraph,
    vocabulary: Vocabulary | None,
    licence: str,
    precision: str = 'float32',
) -> dict[str, Any]:
    """What a file says of itself, see :func:`.runner.parse_metadata`.

    Raises:
        ValueError: If pictures are prepared in a way that the runner lacks.
    """
    model = inferencer.model
    prepare = model.data_preprocessor
    rcnn = model.test_cfg.rcnn
    tower = model.text_encoder
    asked = None if vocabulary is None else inferencer.vocabulary
    if vocabulary is not None and asked is None:
        asked = vocabulary
    return dict(
        format=FORMAT,
        version=__version__,
        precision=precision,
        names=None if asked is None else list(asked.names),
        novel=None if asked is None else asked.novel.tolist(),
        mean=prepare.mean.flatten().tolist(),
        std=prepare.std.flatten().tolist(),
        channels='RGB' if prepare._channel_conversion else 'BGR',
        resize=_resize_of(inferencer.cfg),
        step=graph.step,
        embed_dims=model.roi_head.bbox_head.embed_dims,
        score_thr=rcnn.score_thr,
        mask_thr=rcnn.get('mask_thr_binary')
        if model.roi_head.with_mask
        else None,
        fingerprint=hash_of('', graph.detector.state_dict()),
        text_fingerprint=None if tower is None else tower.fingerprint(),
        templates=_templates(inferencer),
        licence=licence,
    )


def _templates(inferencer: DITOInferencer) -> list[str] | None:
    templates = templates_of(inferencer.cfg)
    return [templates] if isinstance(templates, str) else list(templates)


def _resize_of(cfg: Any) -> dict[str, Any]:
    """How the test pipeline resizes, if the runner can do it."""
    steps = [
        step
        for step in test_dataset(cfg)['pipeline']
        if not str(step['type']).startswith(('DITOLoad', 'Load', 'Pack'))
    ]
    if len(steps) != 1 or not (
        str(steps[0]['type']) == 'Resize'
        and steps[0].get('keep_ratio')
        and isinstance(steps[0].get('scale'), (tuple, list))
        and set(steps[0]) <= {'type', 'scale', 'keep_ratio', '_scope_'}
    ):
        raise ValueError(
            'A file can say of its pictures that they are resized by '
            'dict(type="Resize", scale=(w, h), keep_ratio=True); the test '
            f'pipeline has {steps}.'
        )
    return dict(kind='keep_ratio', scale=list(steps[0]['scale']))


# -------------------------------------------------------------- conversion


def _convert(traced: ExportedProgram) -> Any:
    """Translate the program of a graph to ONNX's standard operators."""
    outputs = traced.graph_signature.user_outputs
    with warnings.catch_warnings(), torch.no_grad():
        # Of the exporter about names of sizes and of its own parts.
        warnings.simplefilter('ignore')
        program = torch.onnx.export(
            traced,
            dynamo=True,
            output_names=Found._fields[: len(outputs)],
            custom_translation_table={
                torch.ops.dito.nms_mask.default: _nms_mask()
            },
            opset_version=OPSET,
            verbose=False,
        )
    # Notes of the exporter hold paths and source lines of this machine.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    return program


def _nms_mask() -> Any:
    """:func:`.graph.nms_mask` in operators of ONNX."""
    from onnxscript import opset18 as op

    def translated(
        boxes: Any, scores: Any, iou_threshold: float, most: int
    ) -> Any:
        found = op.NonMaxSuppression(
            boxes,
            scores,
            op.Constant(value_ints=[most]),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[-0.5]),
        )
        # (n, 3) of image, class and box: where a one goes.
        ones = op.Expand(
            op.Constant(value_float=1.0),
            op.Slice(
                op.Shape(found),
                op.Constant(value_ints=[0]),
                op.Constant(value_ints=[1]),
            ),
        )
        zeros = op.Mul(scores, op.Constant(value_float=0.0))
        return op.Cast(op.ScatterND(zeros, found, ones), to=9)  # bool

    return translated


# --------------------------------------------------------------- precision


def halve(path: str | Path) -> None:
    """Let a file compute its products with weights in float16.

    Everything else stays in float32, above all RoiAlign, NonMaxSuppression,
    TopK, Softmax, LayerNormalization, coordinates, attention and scores.

    Args:
        path (str | Path): The file, which is replaced.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    halved: set[str] = set()

    def cast(source: str, target: str, kind: int) -> None:
        nodes.append(helper.make_node('Cast', [source], [target], to=kind))

    for node in graph.node:
        if node.op_type not in _PRODUCTS:
            nodes.append(node)
            continue
        for place, name in enumerate(node.input):
            half = f'{name}_half'
            if half not in halved and name in weights:
                values = numpy_helper.to_array(weights[name])
                graph.initializer.append(
                    numpy_helper.from_array(values.astype(np.float16), half)
                )
            elif half not in halved:
                cast(name, half, TensorProto.FLOAT16)
            halved.add(half)
            node.input[place] = half
        result = node.output[0]
        node.output[0] = half = f'{result}_half'
        halved.add(half)
        nodes.append(node)
        cast(half, result, TensorProto.FLOAT)
    _replace_nodes(graph, nodes)
    onnx.save(model, path)


def quantize(path: str | Path) -> None:
    """Keep the weights of a file's products in int8, a scale a channel.

    They become float32 again where they are used, and all is computed in
    float32.

    Args:
        path (str | Path): The file, which is replaced.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    seen: set[str] = set()
    for node in graph.node:
        name = node.input[1] if node.op_type in _PRODUCTS else ''
        if name not in weights:
            nodes.append(node)
            continue
        node.input[1] = f'{name}_float'
        if name not in seen:
            seen.add(name)
            parts = [f'{name}_int8', f'{name}_scale']
            turned = any(a.name == 'transB' and a.i for a in node.attribute)
            axis = 0 if node.op_type == 'Conv' or turned else 1
            values = numpy_helper.to_array(weights[name])
            graph.initializer.extend(
                numpy_helper.from_array(array, part)
                for array, part in zip(_int8(values, axis), parts, strict=True)
            )
            nodes.append(
                helper.make_node(
                    'DequantizeLinear', parts, [node.input[1]], axis=axis
                )
            )
        nodes.append(node)
    _replace_nodes(graph, nodes)
    onnx.save(model, path)


def _int8(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights as int8, and the scale of each channel along the axis."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    most = np.abs(values).max(others, keepdims=True)
    scale = np.maximum(most, np.finfo(np.float32).tiny * 127) / 127
    return np.rint(values / scale).astype(np.int8), scale.ravel()


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    """Give a graph these nodes, and drop the weights that none of them has."""
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
