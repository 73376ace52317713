# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Published detectors: where they are, and what their folders hold."""

import os
import re
from pathlib import Path
from typing import Any

from dito.models.text import Vocabulary
from dito.utils.files import read_json, sha256_of

PathLike = str | Path

MANIFEST = 'dito.json'
FORMAT = 'dito-model-1'
#: The name of the authors' detector, where a published folder can stand.
OFFICIAL = 'official'
# What ends in these is a file that is not there, and no 'owner/name'.
_FILES = frozenset(
    '.safetensors .pth .pt .bin .ckpt .onnx .npz .zip .py .json'.split()
)
_MAX_NAME = 200  # file systems have 255 bytes
# What a manifest may name, by the suffix that says how it is opened.
_SUFFIXES = dict(
    weights=('.safetensors', '.pth'),
    vocabulary=('.safetensors',),
    metrics=('.json',),
)


def dito_home() -> Path:
    """Folder of what DITO downloads: ``DITO_HOME``, else in the cache."""
    home = os.environ.get('DITO_HOME')
    if home:
        return Path(os.path.expanduser(home))
    cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(os.path.expanduser(cache), 'dito')


def find_published(source: PathLike, revision: str | None = None) -> Path:
    """Folder of a published detector, downloaded if need be.

    ``source`` is a folder, 'official', or 'owner/name' on the Hugging Face
    hub.

    Raises:
        FileNotFoundError: If there is none.
    """
    folder = Path(os.path.expanduser(source))
    if folder.is_dir():
        return folder
    text = str(source)
    if text == OFFICIAL:
        folder = dito_home() / OFFICIAL / 'detector'
        if (folder / MANIFEST).is_file():
            return folder
        raise FileNotFoundError(
            f"There is no detector of the authors' in {folder}; "
            '"dito get official" downloads and converts it.'
        )
    if not _is_repository(text):
        raise FileNotFoundError(
            f'There is no folder {source}; a repository of the hub is '
            "'owner/name'."
        )
    library = hub_library()
    try:
        return Path(library.snapshot_download(text, revision=revision))
    except (OSError, ValueError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise FileNotFoundError(
            f'There is no file or folder {source}, and the hub gives no such '
            f'repository ({type(error).__name__}: {reason}).'
        ) from error


def hub_library() -> Any:
    """The optional library of the hub; ValueError if it is not installed."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            'The Hugging Face hub needs huggingface_hub: pip install '
            'huggingface_hub.'
        ) from error
    return huggingface_hub


def open_published(folder: Path) -> tuple[Path, Vocabulary | None]:
    """File of weights and vocabulary, if any, of a published folder.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the folder is something else, or the weights have
            another hash than listed.
    """
    manifest = read_manifest(folder)
    weights = folder / manifest['weights']
    found = sha256_of(weights)
    if found != manifest['sha256']:
        raise ValueError(
            f'{weights} has the sha256 {found[:8]}, but {MANIFEST} says '
            f'{manifest["sha256"][:8]}; copy or download it again.'
        )
    vocabulary = manifest.get('vocabulary')
    return weights, (
        Vocabulary.load(folder / vocabulary) if vocabulary else None
    )


def read_manifest(folder: PathLike) -> dict[str, Any]:
    """Read which files a published folder holds.

    These are ``weights``, their ``sha256`` and, if there are some,
    ``vocabulary`` and ``metrics``.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the folder is something else.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f'{folder} has no {MANIFEST}; it is not a folder written by '
            'dito publish-model.'
        )
    manifest = read_json(str(path))
    if not isinstance(manifest, dict) or manifest.get('format') != FORMAT:
        raise ValueError(f'{path} is not in the format {FORMAT}.')
    for key in ('weights', 'vocabulary', 'metrics'):
        file = manifest.get(key)
        if file is None and key != 'weights':
            continue
        _check_listed(path, key, file)
    digest = manifest.get('sha256')
    if not isinstance(digest, str) or not re.fullmatch('[0-9a-f]{64}', digest):
        raise ValueError(
            f'{path} has sha256={ascii(digest)[:80]}, which is not that of a '
            'file; make the folder with '
            'dito publish-model.'
        )
    return manifest


def _check_listed(path: Path, key: str, file: Any) -> None:
    """Refuse a listed file that is none of this folder, or of its kind."""
    # A backslash is a separator on Windows.
    if (
        not isinstance(file, str)
        or not 0 < len(file) <= _MAX_NAME
        or not file.isprintable()
        or Path(file).name != file
        or '\\' in file
    ):
        raise ValueError(
            f'{path} has {key}={repr(file)[:80]}, not a file name.'
        )
    if Path(file).suffix.lower() not in _SUFFIXES[key]:
        raise ValueError(
            f'{path} has {key}={file!r}, which must end in '
            f'{" or ".join(_SUFFIXES[key])}; make the folder with '
            'dito publish-model.'
        )
    if not (path.parent / file).is_file():
        raise FileNotFoundError(
            f'{path.parent} lacks {file}, which {MANIFEST} lists; copy or '
            'download it again.'
        )
    # The hub's cache keeps files beside the folders of revisions.
    folder = path.parent.resolve()
    homes = {folder}
    if folder.parent.name == 'snapshots':
        homes.add(folder.parents[1] / 'blobs')
    if (folder / file).resolve().parent not in homes:
        raise ValueError(
            f'{path.parent / file} is a link that leads out of the folder; '
            'copy the file itself there.'
        )


def resolve_published(
    model: Any, weights: PathLike | None
) -> tuple[Any, PathLike | None, Vocabulary | None]:
    """Replace published folders by their weights and vocabulary.

    Raises:
        FileNotFoundError: If a folder is missing, or a file of it.
        ValueError: If a folder is no published one.
    """
    if _is_published(model) and weights is None:
        model, weights = None, model
    on_hub = (
        isinstance(weights, str)
        and _is_repository(weights)
        and not Path(weights).exists()
        and Path(weights).suffix.lower() not in _FILES
    )
    if not on_hub and not _is_published(weights):
        return model, weights, None
    return model, *open_published(find_published(weights))


def _is_repository(text: str) -> bool:
    """Whether a text can be 'owner/name' of the hub."""
    return re.fullmatch(r'\w[\w.-]*/[\w.-]+', text) is not None


def _is_published(source: Any) -> bool:
    """Whether this is a folder or the name of the authors' detector."""
    return (
        isinstance(source, (str, Path))
        and str(source) != ''
        and (
            str(source) == OFFICIAL
            or Path(os.path.expanduser(source)).is_dir()
        )
    )
