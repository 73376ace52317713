# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detect with an exported file, on numpy, Pillow and onnxruntime alone.

This one file needs neither PyTorch nor the rest of the package: copy it
beside the exported one.

    python runner.py detector.onnx photo.jpg
    python runner.py detector.onnx photo.jpg --vocabulary names.safetensors
"""

import argparse
import importlib
import json
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

FORMAT = 'dito-onnx-1'
# The last two are run by PyTorch, see export/torch_file.py.
_FORMATS = (FORMAT, 'dito-pt2-1', 'dito-aoti-1')
# Runs a graph on named arrays.
Engine = Callable[[dict[str, np.ndarray]], list[np.ndarray]]
# Larger pictures are read at reduced size by the programming interface.
FULL_PIXELS = 50_000_000
_BITS = 11  # of OpenCV's weights when it resizes bytes
# What metadata must hold, and the type of each value.
_FIELDS: dict[str, type | tuple[type, ...]] = dict(
    format=str,
    version=str,
    precision=str,
    names=(list, type(None)),
    novel=(list, type(None)),
    mean=list,
    std=list,
    channels=str,
    resize=dict,
    step=int,
    embed_dims=int,
    score_thr=(int, float),
    mask_thr=(int, float, type(None)),
    fingerprint=str,
    text_fingerprint=(str, type(None)),
    templates=(list, type(None)),
    licence=str,
)
PRECISIONS = ('float32', 'float16', 'int8')


class Names(NamedTuple):
    """Names that are looked for, with their embeddings.

    Attributes:
        names (tuple[str]): K names.
        embeddings (ndarray): float32, (K, D).
        background (ndarray): float32, (D, ).
        novel (ndarray): bool, (K, ).
        fingerprint (str, optional): Of the text tower that made them.
    """

    names: tuple[str, ...]
    embeddings: np.ndarray
    background: np.ndarray
    novel: np.ndarray
    fingerprint: str | None = None


def parse_metadata(text: str | None, path: Any) -> dict[str, Any]:
    """Check what an exported file says of itself.

    Args:
        text (str, optional): Value of the key 'dito' of its metadata.
        path (str | Path): The file, for errors.

    Returns:
        dict: What the writer has put in, see docs/deploy.md.

    Raises:
        ValueError: If something is missing, of another type, or not known.
    """
    try:
        meta = json.loads(text or '')
    except ValueError:
        meta = None
    if not isinstance(meta, dict):
        raise ValueError(f'{path} was not written by "dito export".')
    if meta.get('format') not in _FORMATS:
        raise ValueError(
            f'{path} has the format {meta.get("format")!r:.60}; this runner '
            f'reads {FORMAT}: take the runner of the version that wrote it.'
        )
    for key, kind in _FIELDS.items():
        value = meta.get(key)
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(
                f'{path} has {key}={value!r:.60} in its metadata, which this '
                'runner does not understand; export the detector again.'
            )
    resize, names, novel = meta['resize'], meta['names'], meta['novel']
    scale = resize.get('scale')
    wrong = [
        (not set(meta) <= set(_FIELDS), 'keys', sorted(set(meta))),
        (meta['precision'] not in PRECISIONS, 'precision', meta['precision']),
        (meta['channels'] not in ('RGB', 'BGR'), 'channels', meta['channels']),
        (not _are(meta['mean'], 3, float), 'mean', meta['mean']),
        (not _are(meta['std'], 3, float), 'std', meta['std']),
        (
            set(resize) != {'kind', 'scale'}
            or resize['kind'] != 'keep_ratio'
            or not _are(scale, 2, int)
            or min(scale) < 1,
            'resize',
            resize,
        ),
        (meta['step'] < 1, 'step', meta['step']),
        (names is not None and not _are(names, None, str), 'names', names),
        (
            (names is None) != (novel is None)
            or (novel is not None and not _are(novel, len(names), bool)),
            'novel',
            novel,
        ),
    ]
    for bad, key, value in wrong:
        if bad:
            raise ValueError(
                f'{path} has {key}={value!r:.60} in its metadata, which this '
                'runner does not understand; take the one of the version '
                'that wrote it, or export the detector again.'
            )
    return meta


def _are(values: Any, count: int | None, kind: type) -> bool:
    """Whether this is a list of so many values of a type."""
    return (
        isinstance(values, list)
        and (count is None or len(values) == count)
        and all(
            type(v) in {kind, {float: int}.get(kind, kind)} for v in values
        )
    )


def read_names(path: str | Path) -> Names:
    """Read a vocabulary file (``dito build-text-embeddings``).

    Args:
        path (str | Path): A ``.safetensors`` file.

    Returns:
        Names: With unit vectors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    data = Path(path).read_bytes()
    try:
        (size,) = struct.unpack('<Q', data[:8])
        header = json.loads(data[8 : 8 + size])
        meta = json.loads(header['__metadata__']['meta'])
        names, tower = meta['names'], str(meta['fingerprint'])
        if meta.get('groups'):
            raise ValueError('its names share labels')
        arrays = {
            key: _tensor(data[8 + size :], header[key])
            for key in ('embeddings', 'background', 'novel')
        }
        embeddings = _unit(arrays['embeddings'].astype(np.float32))
        background = _unit(arrays['background'].astype(np.float32))
        novel = arrays['novel'].astype(bool)
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise ValueError(
            f'{path} is not a vocabulary file ({type(error).__name__}: '
            f'{error!s:.80}); make one with dito build-text-embeddings.'
        ) from error
    if not (
        _are(names, None, str)
        and embeddings.shape == (len(names), len(background))
        and novel.shape == (len(names),)
    ):
        raise ValueError(
            f'{path} is not a vocabulary file: its parts do not fit together.'
        )
    return Names(tuple(names), embeddings, background, novel, tower)


def _tensor(data: bytes, entry: dict[str, Any]) -> np.ndarray:
    """One tensor of a safetensors file."""
    kinds = {'F32': '<f4', 'F16': '<f2', 'BOOL': '|b1', 'U8': '|u1'}
    first, last = entry['data_offsets']
    return np.frombuffer(data[first:last], kinds[entry['dtype']]).reshape(
        entry['shape']
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-12)


# ------------------------------------------------------------------ pictures


def load_picture(path: str | Path) -> np.ndarray:
    """Decode a picture, turned upright.

    Args:
        path (str | Path): The file.

    Returns:
        ndarray: RGB, uint8, (H, W, 3).

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it is too large or cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > FULL_PIXELS:
                raise ValueError(
                    f'{path} has {image.width} x {image.height} pixels, more '
                    f'than {FULL_PIXELS:,}; reduce it first.'
                )
            return np.array(ImageOps.exif_transpose(image).convert('RGB'))
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:  # decoders raise types of their own
        raise ValueError(f'{path} cannot be decoded: {error}') from error


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize bytes bilinearly, to the very bytes that OpenCV makes.

    Args:
        image (ndarray): uint8, (H, W, C).
        size (tuple[int, int]): Height and width wanted.

    Returns:
        ndarray: uint8, (*size, C).
    """
    if image.shape[:2] == tuple(size):
        return image
    if image.shape[:2] == (2 * size[0], 2 * size[1]):
        # OpenCV takes the mean of four here.
        cells = image.reshape(size[0], 2, size[1], 2, -1).astype(np.int32)
        return ((cells.sum((1, 3)) + 2) >> 2).astype(np.uint8)
    low, high, near, far = _axis(image.shape[1], size[1])
    pixels = image.astype(np.int32)
    rows = pixels[:, low] * near[:, None] + pixels[:, high] * far[:, None]
    rows >>= 4
    low, high, near, far = _axis(image.shape[0], size[0])
    mixed = (rows[low] * near[:, None, None]) >> 16
    mixed += (rows[high] * far[:, None, None]) >> 16
    return ((mixed + 2) >> 2).clip(0, 255).astype(np.uint8)


def _axis(old: int, new: int) -> tuple[np.ndarray, ...]:
    """Both neighbours of each new place, and the weights of both."""
    places = (np.arange(new) + 0.5) * (1 / (new / old)) - 0.5
    places = places.astype(np.float32)
    low = np.floor(places).astype(np.int64)
    fraction = places - low.astype(np.float32)
    # Each is rounded by itself, as OpenCV does: their sum may be off by one.
    near, far = (
        np.rint(weight * np.float32(2**_BITS)).astype(np.int32)
        for weight in (1 - fraction, fraction)
    )
    return low.clip(0, old - 1), (low + 1).clip(0, old - 1), near, far


# --------------------------------------------------------------------- masks


def paste_mask(
    mask: np.ndarray, box: np.ndarray, shape: tuple[int, int], least: float
) -> dict[str, Any]:
    """Paste a mask into its image.

    Args:
        mask (ndarray): Probabilities within the box, (h, w).
        box (ndarray): x1, y1, x2, y2 in pixels of the image.
        shape (tuple[int, int]): Height and width of the image.
        least (float): Least probability of the object.

    Returns:
        dict: COCO's compressed run lengths: ``size`` and ``counts``.
    """
    pixels = np.zeros(shape, bool)
    x1, y1, x2, y2 = box.astype(np.float32)
    left, top = (max(int(np.floor(max(v, 0))) - 1, 0) for v in (x1, y1))
    right = min(int(np.ceil(min(x2, shape[1]))) + 1, shape[1])
    bottom = min(int(np.ceil(min(y2, shape[0]))) + 1, shape[0])
    if x1 <= x2 and y1 <= y2 and left < right and top < bottom:
        values = _sample(mask.astype(np.float32), left, right, x1, x2, 1)
        values = _sample(values, top, bottom, y1, y2, 0)
        pixels[top:bottom, left:right] = values >= least
    return dict(size=[*shape], counts=_run_lengths(pixels))


def _sample(
    values: np.ndarray, first: int, last: int, low: Any, high: Any, axis: int
) -> np.ndarray:
    """Bilinear samples along an axis, zero beyond its ends."""
    count = values.shape[axis]
    pixels = np.arange(first, last).astype(np.float32) + np.float32(0.5)
    with np.errstate(divide='ignore', invalid='ignore'):
        places = (pixels - low) / (high - low) * 2 - 1
    places = np.where(np.isinf(places), np.float32(0), places)
    places = ((places + 1) * count - 1) / 2
    # Beyond the ends all is zero; NaN, of a box without width, is too.
    places = np.where(np.isnan(places), -2, places).clip(-2, count + 1)
    start = np.floor(places).astype(np.int64)
    fraction = (places - start).astype(np.float32)
    width = [(0, 0), (0, 0)]
    width[axis] = (2, 3)
    padded = np.pad(values, width)
    shape = [1, 1]
    shape[axis] = -1
    fraction = fraction.reshape(shape)
    return (
        padded.take(start + 2, axis) * (1 - fraction)
        + padded.take(start + 3, axis) * fraction
    )


def _run_lengths(pixels: np.ndarray) -> str:
    """COCO's text of the run lengths of bool pixels (H, W)."""
    flat = np.concatenate([[False], pixels.T.ravel()])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [pixels.size]])).tolist()
    text = []
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            low = value & 0x1F
            value >>= 5
            more = value != (-1 if low & 0x10 else 0)
            text.append(chr((low | 0x20 if more else low) + 48))
    return ''.join(text)


# -------------------------------------------------------------------- engine


class Runner:
    """An exported detector.

    Args:
        path (str | Path): The ``.onnx`` file, or what the engine reads.
        vocabulary (Names | str | Path, optional): What to look for, where the
            file has names as an input.
        engine (str | Callable): 'onnxruntime' or 'openvino', on the CPU; or
            what gives an engine and the metadata of a path, as
            ``dito.export.torch_file.load_program`` does.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its metadata are not understood, or names are missing,
            needless, or of another text tower.
    """

    def __init__(
        self,
        path: str | Path,
        vocabulary: Names | str | Path | None = None,
        engine: str | Callable[[str], tuple[Engine, str | None]] = (
            'onnxruntime'
        ),
    ) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f'There is no file {path}.')
        engines = dict(onnxruntime=_onnxruntime, openvino=_openvino)
        if not callable(engine) and engine not in engines:
            raise ValueError(
                f'engine is {engine!r}; choose from {", ".join(engines)}.'
            )
        load = engine if callable(engine) else engines[engine]
        self._run, text = load(str(path))
        self.meta = parse_metadata(text, path)
        if isinstance(vocabulary, (str, Path)):
            vocabulary = read_names(vocabulary)
        self._path = path
        self.set_names(vocabulary)

    def set_names(self, vocabulary: Names | None) -> None:
        """Look for these names from now on.

        Args:
            vocabulary (Names, optional): None where the file has names.

        Raises:
            ValueError: As of the class.
        """
        folded = self.meta['names']
        if (folded is None) == (vocabulary is None):
            raise ValueError(
                f'{self._path} has its names inside: give no vocabulary.'
                if folded is not None
                else f'{self._path} takes names: give a vocabulary file of '
                'dito build-text-embeddings.'
            )
        self.names = tuple(folded or ())
        self._names: dict[str, np.ndarray] = {}
        if vocabulary is None:
            return
        dims, own = self.meta['embed_dims'], vocabulary.embeddings.shape[1]
        tower, other = self.meta['text_fingerprint'], vocabulary.fingerprint
        if dims != own or None not in (tower, other) and tower != other:
            raise ValueError(
                f'The vocabulary was made by another text tower ({own} '
                f'numbers a name) than that of {self._path} ({dims}); build '
                'it with the tower of the detector.'
            )
        self.names = vocabulary.names
        self._names = {
            key: getattr(vocabulary, key)
            for key in ('embeddings', 'background', 'novel')
        }

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Resize and normalise.

        Args:
            image (ndarray): RGB, uint8, (H, W, 3).

        Returns:
            ndarray: float32, (3, h, w), not padded yet.
        """
        sides = self.meta['resize']['scale']
        height, width = image.shape[:2]
        factor = min(
            max(sides) / max(height, width), min(sides) / min(height, width)
        )
        size = [int(side * factor + 0.5) for side in (height, width)]
        pixels = resize(image, (size[0], size[1])).transpose(2, 0, 1)
        if self.meta['channels'] == 'BGR':
            pixels = pixels[::-1]
        mean, std = (
            np.array(self.meta[key], np.float32)[:, None, None]
            for key in ('mean', 'std')
        )
        return (pixels.astype(np.float32) - mean) / std

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the graph.

        Args:
            inputs (Sequence[ndarray]): Of :meth:`prepare`; padded here to one
                size.

        Returns:
            list[ndarray]: Boxes (B, M, 4), scores (B, M), labels (B, M) and,
            of a detector with masks, masks (B, M, h, w).
        """
        sizes = np.array([x.shape[1:] for x in inputs])
        step = self.meta['step']
        padded = -(-sizes.max(0) // step) * step
        images = np.zeros((len(inputs), 3, *padded), np.float32)
        for image, own in zip(images, inputs, strict=True):
            image[:, : own.shape[1], : own.shape[2]] = own
        return self._run(
            dict(images=images, sizes=sizes.astype(np.float32), **self._names)
        )

    def __call__(
        self, image: np.ndarray | str | Path, score_thr: float = 0.3
    ) -> dict[str, Any]:
        """Detect in one picture.

        Args:
            image (ndarray | str | Path): File, or RGB pixels, uint8,
                (H, W, 3).
            score_thr (float): Least score of what is returned.

        Returns:
            dict: ``labels``, ``names``, ``scores``, ``bboxes`` in pixels of
            the picture and, of a detector with masks, ``masks`` as COCO's
            compressed run lengths; best first.
        """
        if not isinstance(image, np.ndarray):
            image = load_picture(image)
        data = self.prepare(image)
        boxes, scores, labels, *masks = (x[0] for x in self.run([data]))
        # Labels behind the names are those of negative names.
        kept = (labels >= 0) & (labels < len(self.names))
        kept = np.flatnonzero(kept & (scores >= score_thr))
        kept = kept[np.argsort(-scores[kept], kind='stable')]
        shape = image.shape[:2]
        factors = [
            new / old
            for new, old in zip(data.shape[:0:-1], shape[::-1], strict=True)
        ]
        boxes = boxes[kept] / np.array(factors * 2, np.float32)
        found: dict[str, Any] = dict(
            labels=labels[kept].tolist(),
            names=[self.names[i] for i in labels[kept]],
            scores=scores[kept].tolist(),
            bboxes=boxes.tolist(),
        )
        if masks:
            found['masks'] = [
                paste_mask(mask, box, shape, self.meta['mask_thr'])
                for mask, box in zip(masks[0][kept], boxes, strict=True)
            ]
        return found


def _library(name: str) -> Any:
    """Import an engine; ValueError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f'{name} is not installed: pip install {name}.'
        ) from error


def _onnxruntime(path: str) -> tuple[Engine, str | None]:
    """A function that runs the file, and its metadata."""
    onnxruntime = _library('onnxruntime')
    try:
        session = onnxruntime.InferenceSession(
            path, providers=['CPUExecutionProvider']
        )
    except Exception as error:  # of types of its own
        raise ValueError(f'{path} is no ONNX file: {error!s:.200}') from error
    meta = session.get_modelmeta().custom_metadata_map.get('dito')
    return lambda inputs: session.run(None, inputs), meta


def _openvino(path: str) -> tuple[Engine, str | None]:
    """The same with OpenVINO."""
    core = _library('openvino').Core()
    model = core.read_model(path)
    meta = model.get_rt_info()['framework']['dito'].value
    compiled = core.compile_model(
        model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'}
    )
    return lambda inputs: list(compiled(inputs).values()), meta


def main(argv: Sequence[str] | None = None) -> int:
    """Print what is found in pictures as json, one line per picture.

    Returns 3 where some of several pictures could not be read, 2 where none.
    """
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('model', help='file of dito export')
    parser.add_argument('image', nargs='+', help='files of pictures')
    parser.add_argument('--vocabulary', help='vocabulary file with names')
    parser.add_argument('--score-thr', type=float, default=0.3)
    parser.add_argument('--engine', default='onnxruntime')
    args = parser.parse_args(argv)
    if not 0 <= args.score_thr <= 1:
        parser.error(f'--score-thr is from 0 to 1, got {args.score_thr}')
    try:
        runner = Runner(args.model, args.vocabulary, args.engine)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    failed = 0
    for image in args.image:
        try:
            found = runner(image, args.score_thr)
        except (OSError, ValueError) as error:
            print(f'error: {error}', file=sys.stderr)
            failed += 1
            continue
        print(json.dumps(dict(image=image, **found)))
    if failed:
        return 3 if failed < len(args.image) else 2
    return 0


if __name__ == '__main__':
    if hasattr(signal, 'SIGPIPE'):  # end quietly as in "| head"
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    raise SystemExit(main())
