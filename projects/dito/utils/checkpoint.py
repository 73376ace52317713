# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Reading and writing of weights that never runs code from a file.

:func:`install` gives mmengine's ``load_from``, ``--resume``,
``init_cfg=dict(type='Pretrained', ...)`` and ``dito test`` files named
``*.safetensors``, and loaders of ``.pth`` files, from wherever, that refuse
what is more than weights and plain values. mmengine's own falls back to
unpickling, which runs whatever the file says.
"""

import hashlib
import io
import json
import os
import pickle
import pickletools
import re
import reprlib
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import get_file_backend
from mmengine.runner import checkpoint as mmengine_lists
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import PathLike, replacing
from .plain_values import PlainValues

# Bytes up to which a tensor may be expanded, as buffers are.
_SMALL = 1 << 22

_SUFFIX = '.safetensors'
# Lists of MMEngine's, by the scheme that its loaders look up in them.
_NAMED = {
    'torchvision': mmengine_lists.get_torchvision_models,
    'modelzoo': mmengine_lists.get_torchvision_models,
    'open-mmlab': mmengine_lists.get_external_models,
    'openmmlab': mmengine_lists.get_external_models,
    'mmcls': mmengine_lists.get_mmcls_models,
}
# Where trainers put the weights.
_WEIGHTS_KEYS = ('state_dict', 'model')
# Bytes that are searched for them, and how many pickles the old format had.
_LOOKED_AT, _PICKLES = 1 << 24, 4


def install() -> None:
    """Register the safe loaders with mmengine; a second call does nothing."""
    register = CheckpointLoader.register_scheme
    # Not for paths with a scheme such as s3://.
    register(r'(?!\S+://).*\.safetensors$', load_from_safetensors, force=True)
    register(['http://', 'https://'], _load_from_http, force=True)
    register(
        [r'(\S+\:)?s3://', r'(\S+\:)?petrel://'],
        _load_from_storage,
        force=True,
    )
    register(
        [f'{scheme}://' for scheme in (*_NAMED, 'pavi')],
        _load_by_name,
        force=True,
    )
    register('', load_from_file, force=True)


def load_from_safetensors(
    filename: str, map_location: Any = None
) -> dict[str, Any]:
    """``state_dict`` and ``meta`` of a safetensors file.

    What is no device in ``map_location`` means the CPU.
    """
    path = _existing(filename)
    device = (
        map_location
        if isinstance(map_location, (str, torch.device))
        else 'cpu'
    )
    try:
        with safe_open(path, framework='pt', device=str(device)) as file:
            state = {key: file.get_tensor(key) for key in file.keys()}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(_broken(path, error)) from error
    return _without_program(
        dict(state_dict=state, meta=_decode_metadata(metadata, path))
    )


def read_metadata(filename: PathLike) -> dict[str, Any]:
    """``meta`` of a safetensors file, without its tensors."""
    path = _existing(filename)
    try:
        with safe_open(path, framework='pt') as file:
            return _decode_metadata(file.metadata() or {}, path)
    except SafetensorError as error:
        raise ValueError(_broken(path, error)) from error


def load_from_file(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load a ``.pth`` or ``.safetensors`` file without running its code.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is broken, no checkpoint, or holds objects other than
            tensors and plain values.
    """
    path = _existing(filename)
    if path.suffix.lower() == _SUFFIX:
        return load_from_safetensors(filename, map_location)
    try:
        with PlainValues() as values:
            checkpoint = values.finish(
                torch.load(path, map_location=map_location, weights_only=True)
            )
    except Exception as error:  # a damaged archive can lead to any
        text = _refusal(path, error) or _broken(path, error)
        raise ValueError(text) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f'{path} holds a {type(checkpoint).__name__}, not a checkpoint; '
            'give a file with a state dict.'
        )
    return _without_program(checkpoint)


def _without_program(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Put ``meta.config``, which a runner would run to resume, elsewhere."""
    meta = checkpoint.get('meta')
    if isinstance(meta, dict) and 'config' in meta:
        meta.setdefault('cfg', meta.pop('config'))
    return checkpoint


def _load_from_http(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Download a checkpoint once; a hash in its name is checked."""
    name = os.path.basename(urlparse(filename).path)
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    folder.mkdir(parents=True, exist_ok=True)
    digits = re.search(r'-([0-9a-f]{8,64})\.[^.]+$', name)
    # Rank 0 goes first, the others find the file.
    if get_rank() > 0:
        barrier()
    try:
        if not (folder / name).is_file():
            torch.hub.download_url_to_file(
                filename,
                str(folder / name),
                digits and digits[1],
                progress=os.isatty(0),
            )
    except (
        URLError,
        HTTPException,
        ConnectionError,
        TimeoutError,
        RuntimeError,
    ) as error:  # the last is another hash
        raise ValueError(
            f'{filename} cannot be downloaded ({error}); check the address '
            'and the connection, or download it and give its path.'
        ) from error
    finally:
        if get_rank() == 0:
            barrier()
    return load_from_file(str(folder / name), map_location)


def _load_from_storage(
    filename: str, map_location: Any = None
) -> dict[str, Any]:
    """Load a checkpoint of a file backend such as petrel's ``s3://``."""
    backend = get_file_backend(filename, backend_args=dict(backend='petrel'))
    suffix = Path(filename).suffix
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(backend.get(filename))
        file.flush()
        return load_from_file(file.name, map_location)


def _load_by_name(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load weights that MMEngine's lists know, as ``torchvision://NAME``."""
    scheme, name = filename.split('://', 1)
    known = _NAMED.get(scheme, dict)()
    if scheme.startswith('open'):
        name = mmengine_lists.get_deprecated_model_names().get(name, name)
    if name not in known:
        raise ValueError(
            f'MMEngine has no address of {filename}; give the path or the '
            'https:// address of the file.'
        )
    address = known[name]
    if not address.startswith(('http://', 'https://')):
        home = mmengine_lists._get_mmengine_home()
        address = os.path.join(home, address)
    loaded = CheckpointLoader.load_checkpoint(address, map_location)
    if scheme == 'mmcls':
        return mmengine_lists._process_mmcls_checkpoint(loaded)
    return loaded


def load_state_dict_file(
    path: PathLike, map_location: Any = 'cpu'
) -> dict[str, Tensor]:
    """Load the weights of a file, whatever wraps them.

    The ``module.`` of DistributedDataParallel and the ``_orig_mod.`` of
    torch.compile are stripped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is broken or holds no weights.
    """
    return state_dict_of(load_from_file(str(path), map_location), path)


def state_dict_of(
    checkpoint: Mapping[str, Any], path: PathLike = 'the checkpoint'
) -> dict[str, Tensor]:
    """Find the weights inside a checkpoint."""
    for key in _WEIGHTS_KEYS:
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    state = {
        re.sub(r'^((module|_orig_mod)\.)+', '', key): value
        for key, value in checkpoint.items()
        if isinstance(value, Tensor) and isinstance(key, str)
    }
    if not state:
        raise ValueError(
            f'{path} holds no weights (keys: {reprlib.repr(list(checkpoint))})'
            '; give a file with a state dict.'
        )
    for key, value in state.items():
        # A kilobyte may hold one number in the shape of a terabyte.
        if not _holds_its_numbers(value):
            raise ValueError(
                f'{path} does not hold the numbers of {key!r} '
                f'({reprlib.repr(tuple(value.shape))}); it is no file of '
                'weights.'
            )
    return state


def hash_of(facts: str, state: Mapping[str, Tensor]) -> str:
    """Sha256 of ``facts`` and weights of any precision, by their values."""
    digest = hashlib.sha256(facts.encode())
    for name, value in sorted(state.items()):
        if hasattr(value, 'full_tensor'):  # of a sharded model
            value = value.full_tensor()
        value = value.detach().cpu()
        if value.is_floating_point():
            value = value.float()
        digest.update(f'{name}{tuple(value.shape)}'.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _holds_its_numbers(value: Tensor) -> bool:
    """Whether a tensor is as large as it says, but for small ones."""
    if value.is_meta or value.layout is not torch.strided:
        return False
    size = value.numel() * value.element_size()
    return size <= max(_SMALL, value.untyped_storage().nbytes())


def check_suffix(path: PathLike, what: str) -> None:
    """Refuse, before any work, a target that is no ``.safetensors`` file."""
    if Path(path).suffix != '.safetensors':
        raise ValueError(f'{what} is saved as .safetensors, got {path}.')


def save_safetensors(
    state: Mapping[str, Tensor],
    path: PathLike,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write tensors and metadata; the file appears whole or not at all."""
    # Tied weights share memory, which the format refuses: each gets a copy.
    tensors = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in state.items()
    }
    header = dict(format='pt')
    if metadata is not None:
        header['meta'] = json.dumps(metadata)
    with replacing(path) as unfinished:
        # The library makes files that nobody else can read, which a
        # published or shared folder must not have.
        unfinished.touch()
        mode = unfinished.stat().st_mode
        save_file(tensors, unfinished, metadata=header)
        unfinished.chmod(mode)


def _existing(filename: PathLike) -> Path:
    """Expand the path and refuse what is no file with weights."""
    path = Path(os.path.expanduser(filename))
    if path.is_dir():
        raise ValueError(
            f'{path} is a folder; give the checkpoint file inside it.'
        )
    if not path.is_file():
        raise FileNotFoundError(
            f'The checkpoint {path} does not exist; check the path '
            '(relative ones start at the working directory).'
        )
    with open(path, 'rb') as file:
        head = file.read(64)
    if head.startswith(b'version https://git-lfs'):
        raise ValueError(
            f'{path} is a Git LFS pointer, not the weights; run '
            '"git lfs pull".'
        )
    # Eight bytes of a length, then json; the other is a zip archive.
    kind = (
        _SUFFIX
        if head[8:10] == b'{"'
        else '.pth'
        if head.startswith(b'PK\3\4')
        else None
    )
    if kind and (kind == _SUFFIX) != (path.suffix.lower() == _SUFFIX):
        raise ValueError(
            f'{path} is a {kind} file by its content; rename it '
            f'to {path.with_suffix(kind).name}.'
        )
    return path


def _decode_metadata(
    metadata: Mapping[str, str], path: Path
) -> dict[str, Any]:
    """Undo the json of :func:`save_safetensors`; foreign texts stay."""
    if 'meta' not in metadata:
        return dict(metadata)
    try:
        meta = json.loads(metadata['meta'])
    except (ValueError, RecursionError) as error:
        raise ValueError(_broken(path, error)) from error
    return meta if isinstance(meta, dict) else dict(metadata)


def _broken(path: Path, error: Exception) -> str:
    # Of torch's long texts only what is special to the file.
    reason = str(error).rpartition('WeightsUnpickler error:')[2]
    reason = reason.partition('Check the documentation')[0]
    reason = ' '.join(reason.split()).partition('. ')[0][:200]
    # Instructions that are new in protocol 4.
    if 'TorchScript' in reason:
        return (
            f'{path} is a TorchScript program, not a file of weights; '
            'save its weights: torch.save(torch.jit.load(path)'
            '.state_dict(), new_path).'
        )
    if re.search(r'Unsupported operand 1(4\d|5[0-2])', reason):
        return (
            f'{path} is damaged, or was saved with another pickle '
            f"protocol than torch.save's own ({reason.lower()}); copy it "
            'again, or save it anew with the default protocol.'
        )
    return (
        f'{path} ({path.stat().st_size} bytes) is damaged or is no '
        f'checkpoint: {reason or type(error).__name__}; copy or download '
        'it again.'
    )


def _refusal(path: Path, error: Exception) -> str | None:
    """Say what was refused; None if the file has another fault."""
    if not isinstance(error, pickle.UnpicklingError):
        return None
    found = re.search(
        r'(?:GLOBAL|unrecognized function|allowlisted .* got)'
        r" (?:<class ')?([^\s']+)",
        str(error),
    )
    if not found:
        return None
    key = _weights_key(path)
    weights = 'torch.load(path, weights_only=False)'
    weights = (
        f'{weights}[{key!r}]'
        if key
        else (
            '{k: v for k, v in ' + weights + '.items() if torch.is_tensor(v)}'
        )
    )
    return (
        f'{path} holds {found[1]} beside weights, and loading it could '
        'run code from the file, so it is refused; save its weights '
        'alone, if you trust where it comes from: '
        f'torch.save({weights}, new_path).'
    )


def _weights_key(path: Path) -> str | None:
    """Under which key a file that is not loaded has its weights, if any."""
    seen = set(_texts_of(path))
    return next((key for key in _WEIGHTS_KEYS if key in seen), None)


def _texts_of(path: Path) -> Iterator[str]:
    """Texts of the pickles of a file, as far as they can be read."""
    try:
        stream = _pickled(path)
        for _ in range(_PICKLES):
            # Lists instructions and follows none of them.
            for _, value, _ in pickletools.genops(stream):
                if isinstance(value, str):
                    yield value
    except Exception:  # cut off or damaged: what was seen till then counts
        return


def _pickled(path: Path) -> io.BytesIO:
    """The start of the pickles of a file that ``torch.save`` wrote."""
    if not zipfile.is_zipfile(path):
        with open(path, 'rb') as file:
            return io.BytesIO(file.read(_LOOKED_AT))
    with zipfile.ZipFile(path) as archive:
        part = next(n for n in archive.namelist() if n.endswith('data.pkl'))
        with archive.open(part) as file:
            return io.BytesIO(file.read(_LOOKED_AT))
