# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Labels of other tools as annotations in COCO's format.

The libraries ``supervision`` (YOLO, Pascal VOC) and ``datumaro`` (CVAT) read
them; what is here finds the files, and keeps what a training can use.
"""

import importlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_utils
import yaml

from dito.utils.files import read_json

from .load_image import DITOLoadImageFromFile

PathLike = str | Path

_IMAGES = frozenset('.bmp .jpg .jpeg .png .tif .tiff .webp'.split())
_SPLITS = ('train', 'valid', 'val', 'test')
_LIBRARY = dict(yolo='supervision', voc='supervision', cvat='datumaro')


class Labels(NamedTuple):
    """Objects of an image: a name, a box x1, y1, x2, y2 in pixels each.

    ``boxes`` are (N, 4); ``masks`` COCO's segmentation of each object, or
    None.
    """

    path: Path
    names: list[str]
    boxes: np.ndarray
    masks: list[Any]


# Folder of the images, names of the classes, and the images' labels.
Read = tuple[Path, Sequence[str], Iterator[Labels]]


@dataclass
class Imported:
    """Annotations in COCO's form, made of another tool's labels.

    File names start from ``images``; ``dropped`` counts things left out, by
    what they are.
    """

    content: dict[str, list]
    images: Path
    dropped: Counter = field(default_factory=Counter)


def import_labels(
    kind: str, folder: PathLike, split: str | None = None
) -> Imported:
    """Read a folder of labels, exported by another tool and unpacked.

    ``kind`` is a key of :data:`KINDS`; ``split`` ('train', 'valid' ...) is
    needed where the folder has several. Every image is kept, with the objects
    that can be used.

    Raises:
        FileNotFoundError: If the folder has not the files of this kind.
        ValueError: If they cannot be read, or a library is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f'There is no folder {folder}; unpack the export and give its '
            'folder.'
        )
    dropped: Counter = Counter()
    try:
        images, names, labels = KINDS[kind](folder, split, dropped)
        content = _to_coco(images, labels, dropped)
        used = {c['name'] for c in content['categories']}
        unused = {name.strip() for name in names} - used
        if unused:
            dropped[f'names without a box ({_shown(sorted(unused))})'] = len(
                unused
            )
        return Imported(content, images, dropped)
    except (ValueError, FileNotFoundError):
        raise
    except Exception as error:  # the libraries' have no common type
        error = error.__cause__ or error
        reason = ' '.join(str(error).split())[:300]
        raise ValueError(
            f'{folder} cannot be read as an export of {kind} '
            f'({type(error).__name__}: {reason}); mend it, or export it in '
            'another format.'
        ) from error


# ------------------------------------------------------------------- reading


def _read_yolo(folder: Path, split: str | None, dropped: Counter) -> Read:
    """Ultralytics', Roboflow's and Label Studio's folders, and YOLO 1.1."""
    images = _folder_of_images(folder, split)
    above = images.parent
    places = [
        above.parent / 'labels' / images.name
        if above.name == 'images'
        else above / 'labels',
        *(folder / part for part in ('labels', 'obj_train_data')),
        images,
    ]
    labels = _first(places, '*.txt', folder, 'labels, a .txt an image')
    with tempfile.TemporaryDirectory() as scratch:
        # supervision takes the names from such a file alone.
        names = Path(scratch) / 'data.yaml'
        names.write_text(yaml.safe_dump(_yolo_settings(folder)))
        data = _library('yolo').DetectionDataset.from_yolo(
            str(images), str(labels), str(names)
        )
    _count_unpaired(images, labels, '.txt', dropped)
    return images, data.classes, _of_supervision(data)


def _yolo_settings(folder: Path) -> dict[str, Any]:
    """Names of the classes, and whether there are key points."""
    for name in ('data.yaml', 'data.yml', 'dataset.yaml'):
        if (folder / name).is_file():
            found = yaml.safe_load((folder / name).read_text('utf-8'))
            if not isinstance(found, dict) or not found.get('names'):
                raise ValueError(f'{folder / name} has no names of classes.')
            return {k: found[k] for k in ('names', 'kpt_shape') if k in found}
    for name in ('classes.txt', 'obj.names'):
        if (folder / name).is_file():
            lines = (folder / name).read_text('utf-8').splitlines()
            return dict(names=[x.strip() for x in lines if x.strip()])
    raise FileNotFoundError(
        f'{folder} has no data.yaml, classes.txt or obj.names, which name '
        'the classes of YOLO labels.'
    )


def _read_voc(folder: Path, split: str | None, dropped: Counter) -> Read:
    """A folder ``Annotations``, or .xml files beside the images."""
    images = _folder_of_images(folder, split)
    labels = _first(
        [folder / 'Annotations', folder / 'annotations', images],
        '*.xml',
        folder,
        'labels, an .xml an image',
    )
    data = _library('voc').DetectionDataset.from_pascal_voc(
        str(images), str(labels)
    )
    _count_unpaired(images, labels, '.xml', dropped)
    return images, data.classes, _of_supervision(data)


def _of_supervision(data: Any) -> Iterator[Labels]:
    """Objects of a data set of supervision."""
    for path, found in data.annotations.items():
        masks = [None] * len(found) if found.mask is None else found.mask
        yield Labels(
            Path(path),
            [data.classes[i] for i in found.class_id] if len(found) else [],
            found.xyxy,
            [m if m is None else _run_lengths(m) for m in masks],
        )


def _read_cvat(folder: Path, split: str | None, dropped: Counter) -> Read:
    """CVAT's own ``annotations.xml`` with its images."""
    if not (folder / 'annotations.xml').is_file():
        raise FileNotFoundError(
            f'{folder} has no annotations.xml; export the task as "CVAT for '
            'images 1.1" with images.'
        )
    if split is not None:
        raise ValueError(
            'An annotations.xml of CVAT has no splits; leave --split out.'
        )
    data = _library('cvat').Dataset.import_from(str(folder), 'cvat')
    kinds = data.categories().items()
    names = [c.name for c in next(c for k, c in kinds if k.name == 'label')]
    return folder, names, _of_datumaro(data, names, dropped)


def _of_datumaro(
    data: Any, classes: Sequence[str], dropped: Counter
) -> Iterator[Labels]:
    """Objects of a data set of datumaro."""
    for item in data:
        names, boxes, masks = [], [], []
        for shape in item.annotations:
            kind = shape.type.name
            if kind not in ('bbox', 'polygon', 'mask'):
                dropped[f'labels of the kind {kind}'] += 1
                continue
            x, y, w, h = shape.get_bbox()
            names.append(classes[shape.label])
            boxes.append([x, y, x + w, y + h])
            masks.append(
                [list(map(float, shape.points))]
                if kind == 'polygon'
                else _run_lengths(shape.image)
                if kind == 'mask'
                else None
            )
        yield Labels(
            Path(item.media.path), names, np.reshape(boxes, (-1, 4)), masks
        )


def _read_coco(folder: Path, split: str | None, dropped: Counter) -> Read:
    """Exports that are in COCO's format: Roboflow, Label Studio, CVAT."""
    part = folder / split if split and (folder / split).is_dir() else folder
    files = [
        f
        for pattern in ('*.json', 'annotations/*.json')
        for f in sorted(part.glob(pattern))
        if split is None or part != folder or split in f.stem
    ]
    if len(files) != 1:
        splits = [s for s in _SPLITS if (folder / s).is_dir()]
        raise FileNotFoundError(
            f'{part} should have one .json of annotations, it has '
            f'{[f.name for f in files] or "none"}; '
            f'say which split{f" of {splits}" if splits else ""} with --split.'
        )
    content = read_json(files[0])
    images = _folder_of_images(folder, split)
    names = {c['id']: c['name'] for c in content['categories']}
    return images, [*names.values()], _of_coco(content, names, images, dropped)


def _of_coco(
    content: Any, names: dict[Any, str], images: Path, dropped: Counter
) -> Iterator[Labels]:
    """Objects of a file of COCO; images are found by their names alone."""
    there = {p.name: p for p in _list_images(images)}
    of_image: dict[Any, list] = {}
    for annotation in content['annotations']:
        of_image.setdefault(annotation['image_id'], []).append(annotation)
    for image in content['images']:
        path = there.get(image['file_name'].replace('\\', '/').split('/')[-1])
        if path is None:
            dropped['images that are not there'] += 1
            continue
        kept = []
        for annotation in of_image.get(image['id'], ()):
            if annotation.get('iscrowd'):
                dropped['crowds'] += 1
            elif len(annotation.get('bbox') or ()) != 4:
                dropped['labels without a box'] += 1
            else:
                kept.append(annotation)
        boxes = np.reshape([a['bbox'] for a in kept], (-1, 4)).astype(float)
        boxes[:, 2:] += boxes[:, :2]
        yield Labels(
            path,
            [names[a['category_id']] for a in kept],
            boxes,
            [a.get('segmentation') or None for a in kept],
        )


#: Readers by the name of the format.
KINDS: dict[str, Callable[..., Read]] = dict(
    yolo=_read_yolo, voc=_read_voc, coco=_read_coco, cvat=_read_cvat
)


# ------------------------------------------------------------------- finding


def _library(kind: str) -> Any:
    """The optional library that reads a format."""
    name = _LIBRARY[kind]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f'Reading labels of the format {kind} needs {name}, which is not '
            f'installed ({error}): pip install {name}.'
        ) from error


def _shown(names: Sequence[str], limit: int = 5) -> str:
    """First names of a list."""
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def _list_images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _IMAGES)


def _folder_of_images(folder: Path, split: str | None) -> Path:
    """The folder of a split that images lie in."""
    places: dict[str | None, Path] = {}
    for name in (None, *_SPLITS):
        for place in (
            ('images', '', 'JPEGImages', 'obj_train_data', 'images/default')
            if name is None
            else (f'{name}/images', f'images/{name}', name)
        ):
            path = folder / place
            if path.is_dir() and _list_images(path):
                places.setdefault(name, path)
                break
    if split is None and len(places) == 1:
        return next(iter(places.values()))
    if split in places:
        return places[split]
    known = [name for name in places if name]
    raise FileNotFoundError(
        f'{folder} has no images{f" of the split {split!r}" if split else ""}'
        + (
            f'; it has the splits {known}: say which with --split.'
            if known
            else ' where they are looked for: images/, SPLIT/images/, '
            'images/SPLIT/, SPLIT/, JPEGImages/ or the folder itself.'
        )
    )


def _first(places: list[Path], pattern: str, folder: Path, what: str) -> Path:
    """The first folder with such files."""
    for place in places:
        if place.is_dir() and any(place.glob(pattern)):
            return place
    shown = ', '.join(dict.fromkeys(str(p) for p in places))
    raise FileNotFoundError(
        f'{folder} has no {what}, where they are looked for: {shown}.'
    )


def _count_unpaired(
    images: Path, labels: Path, suffix: str, dropped: Counter
) -> None:
    """Count files of labels whose image is not there."""
    stems = {p.stem for p in _list_images(images)}
    alone = [
        p
        for p in labels.glob(f'*{suffix}')
        if p.stem not in stems and p.name not in ('classes.txt', 'train.txt')
    ]
    if alone:
        dropped['files of labels without their image'] += len(alone)


# ------------------------------------------------------------------- writing


def _run_lengths(mask: np.ndarray) -> dict[str, Any] | None:
    if not mask.any():
        return None
    found = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=list(found['size']), counts=found['counts'].decode())


def _to_coco(
    root: Path, labels: Iterator[Labels], dropped: Counter
) -> dict[str, list]:
    """Write down what can be used of the objects."""
    images: list[dict] = []
    objects: list[tuple[str, dict]] = []
    read = DITOLoadImageFromFile()
    for path, names, boxes, masks in labels:
        try:
            # As a training reads it: turned where its EXIF data says so.
            height, width = read(dict(img_path=str(path)))['ori_shape']
        except (OSError, ValueError):
            dropped['images that cannot be read'] += 1
            continue
        images.append(
            dict(
                id=len(images) + 1,
                file_name=path.relative_to(root).as_posix(),
                width=width,
                height=height,
            )
        )
        for name, box, mask in zip(names, boxes, masks, strict=True):
            x1, y1, x2, y2 = np.clip(box, 0, [width, height] * 2).tolist()
            if not (x2 - x1 > 0 and y2 - y1 > 0 and name.strip()):
                dropped['boxes without area or name'] += 1
                continue
            record = dict(
                id=len(objects) + 1,
                image_id=len(images),
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=(x2 - x1) * (y2 - y1),
                iscrowd=0,
            )
            if mask:
                record['segmentation'] = mask
            objects.append((name.strip(), record))
    masked = [r for _, r in objects if 'segmentation' in r]
    if len(masked) < len(objects):
        for record in masked:
            del record['segmentation']
        if masked:
            dropped['masks, as not every object has one'] += len(masked)
    # Names in the order of the alphabet: those of all splits agree.
    numbers = {n: i for i, n in enumerate(sorted({n for n, _ in objects}), 1)}
    return dict(
        images=images,
        categories=[dict(id=i, name=n) for n, i in numbers.items()],
        annotations=[
            dict(record, category_id=numbers[name]) for name, record in objects
        ],
    )
