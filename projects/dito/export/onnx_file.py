# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write a detector as one ONNX file, and test the file before it is left."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from dito.apis import DITOInferencer
from dito.apis.model_file import templates_of, test_dataset
from dito.models.text import Vocabulary
from dito.utils.checkpoint import hash_of
from dito.utils.files import replacing
from dito.version import __version__

from .graph import DetectorGraph, Found
from .runner import FORMAT, Names, Runner

OPSET = 18
# How far boxes (pixels), scores and masks of a file may be from PyTorch's.
TOLERANCE = 1e-3
# Batch, rows and columns in steps of the size, and names of each test.
CASES = ((1, 1, 1, 1), (2, 1, 2, 3), (3, 2, 1, 20))


class Differences(NamedTuple):
    """How far detections are from PyTorch's, at most.

    Attributes:
        boxes (float): Pixels of the input.
        scores (float): Of detections in both; or the score of one that has no
            counterpart, as far as it is above the last of a full list.
        masks (float): Probabilities.
    """

    boxes: float = 0.0
    scores: float = 0.0
    masks: float = 0.0

    def worst(self, other: 'Differences') -> 'Differences':
        """The larger of each."""
        return Differences(*map(max, self, other))


def export_onnx(
    inferencer: DITOInferencer,
    path: str | Path,
    vocabulary: Vocabulary | None = None,
    licence: str = 'unknown',
    tolerance: float = TOLERANCE,
) -> Differences:
    """Write a detector as an ONNX file that has passed its test.

    The file is run in onnxruntime on drawn images of several sizes, batches
    and vocabularies first, and is not written where boxes, scores or masks
    are further from the detector's than the tolerance.

    Args:
        inferencer (DITOInferencer): The detector, on the CPU.
        path (str | Path): Target, ending in ``.onnx``.
        vocabulary (Vocabulary, optional): Names to fold in. None: names are
            an input of any number.
        licence (str): Of the weights, for the metadata.
        tolerance (float): See :data:`TOLERANCE`.

    Returns:
        Differences: The largest that were found.

    Raises:
        ValueError: If a setting of the detector has no form in the file, a
            package is missing, or the test fails.
    """
    require_packages()
    if Path(path).suffix != '.onnx':
        raise ValueError(f'An ONNX file ends in .onnx, got {path}.')
    model = inferencer.model.eval()
    graph = DetectorGraph(model, vocabulary).eval()
    meta = metadata(inferencer, graph, vocabulary, licence)
    program = _convert(graph)
    program.model.metadata_props['dito'] = json.dumps(meta)
    with replacing(path) as unfinished:
        program.save(unfinished, external_data=False)
        found = self_test(unfinished, inferencer, vocabulary)
        if max(found) > tolerance:
            raise ValueError(
                f'The file differs from PyTorch by {found.boxes:.2g} pixels, '
                f'{found.scores:.2g} in scores and {found.masks:.2g} in '
                f'masks, more than {tolerance}, and was not written; try '
                'other versions of torch and onnxruntime.'
            )
    return found


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
        precision='float32',
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


def example_inputs(graph: DetectorGraph) -> dict[str, Tensor]:
    """Tensors that a graph is traced with, all sizes different."""
    step = graph.step
    inputs = dict(
        images=torch.zeros(2, 3, 2 * step, 3 * step),
        sizes=torch.tensor([[2.0, 3.0]] * 2) * step,
    )
    if not graph.folded:
        dims = graph.detector.roi_head.bbox_head.embed_dims
        inputs.update(
            embeddings=torch.eye(7, dims),
            background=torch.ones(dims),
            novel=torch.zeros(7, dtype=torch.bool),
        )
    return inputs


def dynamic_shapes(graph: DetectorGraph) -> dict[str, Any]:
    """Which sizes of the inputs are open, and their rules."""
    batch = torch.export.Dim('batch', min=1, max=1024)
    rows, columns = (
        graph.step * torch.export.Dim(name, min=1, max=1024)
        for name in ('rows', 'columns')
    )
    shapes: dict[str, Any] = dict(
        images={0: batch, 2: rows, 3: columns}, sizes={0: batch}
    )
    if not graph.folded:
        names = torch.export.Dim('names', min=1)
        shapes.update(embeddings={0: names}, background=None, novel={0: names})
    return shapes


def _convert(graph: DetectorGraph) -> Any:
    """Trace a graph and translate it to ONNX's standard operators."""
    outputs = [*Found._fields]
    if not graph.detector.roi_head.with_mask:
        outputs.remove('masks')
    with warnings.catch_warnings(), torch.no_grad():
        # Of the exporter about names of sizes and of its own parts.
        warnings.simplefilter('ignore')
        program = torch.onnx.export(
            graph,
            kwargs=example_inputs(graph),
            dynamo=True,
            dynamic_shapes=dynamic_shapes(graph),
            input_names=list(example_inputs(graph)),
            output_names=outputs,
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


# --------------------------------------------------------------- self-test


def self_test(
    path: str | Path,
    inferencer: DITOInferencer,
    vocabulary: Vocabulary | None,
    engine: str = 'onnxruntime',
) -> Differences:
    """Compare a file with the detector it was made of.

    Args:
        path (str | Path): The file.
        inferencer (DITOInferencer): The detector.
        vocabulary (Vocabulary, optional): What was folded in, if anything.
        engine (str): See :class:`.runner.Runner`.

    Returns:
        Differences: The largest.
    """
    worst = Differences()
    rng = np.random.default_rng(0)
    model = inferencer.model
    runner: Runner | None = None
    for batch, rows, columns, count in CASES:
        names = vocabulary or _draw_names(model, count, rng)
        given = None
        if vocabulary is None:
            given = Names(
                names.names,
                names.embeddings.numpy(),
                names.background.numpy(),
                names.novel.numpy(),
            )
        if runner is None or given is not None:
            runner = runner or Runner(path, given, engine)
            runner.set_names(given)
        step = runner.meta['step']
        images = [
            draw_image(rng, rows * step - cut, columns * step - 2 * cut)
            for cut in range(batch)
        ]
        found = Found(*map(torch.from_numpy, runner.run(images)))
        wanted = detect(model, images, step, names)
        for number, own in enumerate(wanted):
            one = Found(*(None if x is None else x[number] for x in found))
            worst = worst.worst(compare(one, own))
    return worst


def _draw_names(model: nn.Module, count: int, rng: Any) -> Vocabulary:
    """Classes with random embeddings, every third of them novel.

    Like those of texts they are close to each other: of distant ones most
    scores would be 0 or 1, and equal.
    """
    dims = model.roi_head.bbox_head.embed_dims
    vectors = rng.normal(size=(1, dims))
    vectors = vectors + 0.3 * rng.normal(size=(count + 1, dims))
    vectors = torch.from_numpy(vectors).float()
    vectors = nn.functional.normalize(vectors, dim=1)
    tower = model.text_encoder
    return Vocabulary(
        tuple(f'name {i}' for i in range(count)),
        vectors[1:],
        vectors[0],
        torch.arange(count) % 3 == 1,
        '' if tower is None else tower.fingerprint(),
    )


def draw_image(rng: Any, height: int, width: int) -> np.ndarray:
    """A normalised picture of plain shapes, float32 (3, H, W)."""
    image = np.empty((3, height, width), np.float32)
    image[:] = rng.normal(size=(3, 1, 1))
    for _ in range(12):
        top, left = rng.integers(height), rng.integers(width)
        part = image[
            :,
            top : top + rng.integers(4, height // 2 + 5),
            left : left + rng.integers(4, width // 2 + 5),
        ]
        part[:] = rng.normal(size=(3, 1, 1))
    return image + rng.normal(size=image.shape, scale=0.05).astype(np.float32)


@torch.no_grad()
def detect(
    model: nn.Module, images: list[np.ndarray], step: int, names: Vocabulary
) -> Iterator[Found]:
    """What the detector itself finds in prepared images.

    Args:
        model (DITO): The detector.
        images (list[ndarray]): Normalised, float32 (3, h, w) each.
        step (int): Both sides of a batch are a multiple of it.
        names (Vocabulary): The classes.

    Yields:
        Found: Of one image; of boxes that were found only.
    """
    sizes = np.array([image.shape[1:] for image in images])
    padded = tuple((-(-sizes.max(0) // step) * step).tolist())
    inputs = torch.zeros(len(images), 3, *padded)
    samples = []
    for place, image in zip(inputs, images, strict=True):
        size = image.shape[1:]
        place[:, : size[0], : size[1]] = torch.from_numpy(image)
        samples.append(
            DetDataSample(
                metainfo=dict(
                    img_shape=size,
                    ori_shape=size,
                    batch_input_shape=padded,
                    scale_factor=(1.0, 1.0),
                    mask_form='box',
                )
            )
        )
        samples[-1].vocabulary = names
    for sample in model.predict(inputs, samples):
        found: InstanceData = sample.pred_instances
        yield Found(
            found.bboxes,
            found.scores,
            found.labels,
            found.get('box_masks'),
        )


def compare(found: Found, wanted: Found) -> Differences:
    """Differences between detections of one image.

    Neither their order nor the end of a full list is compared where scores
    are equal but for the tolerance: a detection is looked for among those of
    its name.

    Args:
        found (Found): Of a graph, tensors without batch.
        wanted (Found): Of the detector, no more places than ``found``.

    Returns:
        Differences: The largest.
    """
    places = len(found.labels)
    there = found.labels >= 0
    found = Found(*(None if x is None else x[there] for x in found))
    full = places == len(wanted.labels) == len(found.labels)
    least = 0.0
    if full:
        least = max(float(found.scores.min()), float(wanted.scores.min()))
    apart = (found.boxes[:, None] - wanted.boxes).abs().amax(2)
    apart = apart + (found.scores[:, None] - wanted.scores).abs()
    other = found.labels[:, None] != wanted.labels
    pairs = apart.masked_fill(other, torch.inf)
    worst, rows, columns = Differences(), set(), set()
    for place in pairs.flatten().argsort().tolist():
        row, column = divmod(place, pairs.shape[1])
        if pairs[row, column] > 1:
            break
        if row in rows or column in columns:
            continue
        rows.add(row)
        columns.add(column)
        worst = worst.worst(_differ(found, row, wanted, column))
    for own, paired in ((found, rows), (wanted, columns)):
        for i, score in enumerate(own.scores.tolist()):
            if i not in paired:
                worst = worst.worst(Differences(scores=max(score - least, 0)))
    return worst


def _differ(one: Found, i: int, two: Found, j: int) -> Differences:
    """Differences of two detections."""
    return Differences(
        *(
            0.0 if a is None or b is None else float((a[i] - b[j]).abs().max())
            for a, b in (
                (one.boxes, two.boxes),
                (one.scores, two.scores),
                (one.masks, two.masks),
            )
        )
    )
