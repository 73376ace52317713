# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A published detector: a folder, locally or on the Hugging Face hub.

The folder holds the weights with their config (``NAME-0123abcd.safetensors``,
named by the start of the file's sha256), the config as text, a vocabulary, the
report of an evaluation, a model card, and ``dito.json``, which lists them.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config
from torch import Tensor

from dito.models.text import Vocabulary
from dito.utils.checkpoint import save_safetensors
from dito.utils.files import new_folder, read_json, sha256_of, write_json
from dito.version import __version__

from .inferencer import DITOInferencer
from .model_file import inference_config, test_dataset, weights_meta
from .published import (
    FORMAT,
    MANIFEST,
    find_published,
    hub_library,
    read_manifest,
)

if TYPE_CHECKING:
    from dito.models.detectors import DITO

PathLike = str | Path

_UNSTATED = 'not stated'
_USE_AND_LIMITS = """\
## Intended use

Finding things in pictures by names that are given when it is run, and training
on other data from these weights. It was not made for decisions about
people, nor where a thing that is overlooked does harm.

## Limits

- Names that were not in the training are found less well than those that were:
  compare the base and novel figures.
- Scores are no probabilities: choose the least score on pictures of your own.
- It has the biases of the pictures and texts that it learned from.
- The figures hold for their data set; other kinds of pictures need a test."""


def package_model(
    folder: PathLike,
    state: Mapping[str, Tensor],
    cfg: Config,
    *,
    name: str = 'dito',
    dataset_meta: dict[str, Any] | None = None,
    vocabulary: Vocabulary | PathLike | None = None,
    metrics: dict[str, Any] | PathLike | None = None,
    notes: Mapping[str, str] | None = None,
) -> Path:
    """Write a detector as a folder that can be published.

    ``folder`` must not exist, or be empty; ``name`` begins the name of the
    file of weights, whose path is returned. ``dataset_meta`` has ``classes``
    and ``novel_classes`` of the training, ``vocabulary`` the classes to look
    for when no others are given. ``metrics`` is the ``evaluation.json`` of a
    test; ``notes``, such as the licence, are further lines of the model card.

    Raises:
        ValueError: If the folder is in use, or a part is not what it should
            be.
    """
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f'{folder} is not empty; give a new folder.')
    if vocabulary is not None and not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary.load(vocabulary)
    if metrics is not None and not isinstance(metrics, dict):
        metrics = read_report(metrics)
    small = inference_config(cfg, dict(state))
    with new_folder(folder) as parts:
        manifest: dict[str, Any] = dict(format=FORMAT, version=__version__)
        weights = parts / 'weights.safetensors'
        save_safetensors(
            dict(state), weights, weights_meta(small, dataset_meta)
        )
        digest = sha256_of(weights)
        manifest.update(
            weights=f'{name}-{digest[:8]}.safetensors', sha256=digest
        )
        weights.rename(parts / manifest['weights'])
        # MMDetection's init_detector builds the data set of a config file.
        test_dataset(small).setdefault('type', 'BaseDetDataset')
        (parts / 'config.py').write_text(small.pretty_text, encoding='utf-8')
        if vocabulary is not None:
            manifest['vocabulary'] = 'vocabulary.safetensors'
            vocabulary.save(parts / manifest['vocabulary'])
        if metrics is not None:
            manifest['metrics'] = 'metrics.json'
            write_json(parts / manifest['metrics'], metrics, indent=1)
        facts = {
            'license': _UNSTATED,
            'data': _UNSTATED,
            'names of the training': _listed(
                (dataset_meta or {}).get('classes')
            ),
            'default names': _listed(vocabulary and vocabulary.names),
            **_american(notes or {}),
            'sha256 of the weights': f'`{digest}`',
        }
        card = _model_card(name, facts, metrics)
        (parts / 'README.md').write_text(card, encoding='utf-8')
        write_json(parts / MANIFEST, manifest, indent=1)
    return folder / manifest['weights']


def read_report(path: PathLike) -> dict[str, Any]:
    """Read the ``evaluation.json`` of a test; ValueError if it is none."""
    report = read_json(str(path))
    results = report.get('results') if isinstance(report, dict) else None
    if not isinstance(results, list) or not all(
        isinstance(r, dict) and 'figures' in r for r in results
    ):
        raise ValueError(
            f'{path} is no report of an evaluation; give the evaluation.json '
            'that dito test writes beside its log.'
        )
    return report


def load_pretrained(
    source: PathLike, *, revision: str | None = None, device: str | None = None
) -> DITOInferencer:
    """Load a published detector, with its vocabulary if it has one.

    ``source`` is a folder of :func:`package_model`, or 'owner/name' of one on
    the Hugging Face hub, of which ``revision`` is a branch, tag or commit. The
    device is a GPU by default, if there is one.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a file is missing, or has another hash than listed.
    """
    return DITOInferencer(
        weights=find_published(source, revision), device=device
    )


def push_to_hub(
    folder: PathLike,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = 'Upload DITO detector',
) -> str:
    """Upload a published folder; returns the address of the commit.

    ``repo_id`` is 'owner/name', made if it does not exist; ``token`` by
    default the one stored by ``hf auth login``.
    """
    read_manifest(folder)
    api = hub_library().HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    info = api.upload_folder(
        repo_id=repo_id, folder_path=str(folder), commit_message=message
    )
    return str(getattr(info, 'commit_url', info))


def save_pretrained(
    model: 'DITO', folder: PathLike, cfg: Config | None = None, **options: Any
) -> Path:
    """Write a detector in memory as such a folder.

    By default its config is what :class:`DITOInferencer` built it from, its
    vocabulary the present one. For ``options`` see :func:`package_model`.
    """
    cfg = cfg if cfg is not None else getattr(model, 'cfg', None)
    if cfg is None:
        raise ValueError(
            'The detector does not know the config it was built '
            'from: give cfg.'
        )
    options.setdefault('vocabulary', model.vocabulary)
    return package_model(folder, model.state_dict(), cfg, **options)


def _model_card(
    name: str, facts: Mapping[str, str], metrics: dict[str, Any] | None
) -> str:
    """Text of the README; figures only where a report was given."""
    lines = [
        '---',
        'library_name: dito',
        'pipeline_tag: zero-shot-object-detection',
    ]
    if facts['license'] != _UNSTATED:
        # The hub knows licences by names in small letters.
        lines.append(f'license: {facts["license"].lower()}')
    lines += [
        '---',
        '',
        f'# {name}',
        '',
        'An open-vocabulary detector of DITO for MMDetection.',
        '',
        '```python',
        'from dito.apis import load_pretrained',
        '',
        "detector = load_pretrained('FOLDER_OR_OWNER/NAME')",
        "detector('image.jpg', ['red umbrella', 'anchor'])",
        '```',
        '',
    ]
    lines += [f'- {key}: {value}' for key, value in facts.items()]
    lines += ['', _USE_AND_LIMITS]
    if not metrics:
        lines += ['', 'No figures were published with this detector.']
    for result in (metrics or {}).get('results', ()):
        lines += ['', f'## {result.get("metric", "figures")}', '']
        for part in ('protocol', 'figures'):
            items = result.get(part) or {}
            lines += ['| ' + part + ' | |', '|---|---|']
            lines += [
                f'| {key} | {_cell(key, value)} |'
                for key, value in items.items()
                if value is not None
            ]
            lines.append('')
    return '\n'.join(lines) + '\n'


def _american(notes: Mapping[str, str]) -> dict[str, str]:
    """Notes with the key ``license``, as cards have it, for ``licence``."""
    return {'license' if k == 'licence' else k: notes[k] for k in notes}


def _listed(names: Sequence[str] | None) -> str:
    """How many names, and the first of them."""
    if not names:
        return _UNSTATED
    more = ', ...' if len(names) > 5 else ''
    return f'{len(names)} ({", ".join(names[:5])}{more})'


def _cell(key: str, value: Any) -> str:
    """A value in one cell; metrics.json has all of it."""
    if isinstance(value, float):
        # An AP of -1 is that of a group without objects.
        value = '-' if value == -1 else f'{value:.4g}'
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) > 80 and not key.startswith('note'):
        text = f'{text[:77]}...'
    return text.replace('|', '\\|').replace('\n', ' ')


def push_model(model: 'DITO', repo_id: str, **options: Any) -> str:
    """Write a detector to a temporary folder and upload it.

    ``private``, ``token`` and ``message`` are those of :func:`push_to_hub`;
    all other options go to :func:`save_pretrained`.
    """
    upload = {
        key: options.pop(key)
        for key in ('private', 'token', 'message')
        if key in options
    }
    parent = tempfile.mkdtemp(prefix='dito-push-')
    try:
        folder = Path(parent) / 'model'
        save_pretrained(model, folder, **options)
        return push_to_hub(folder, repo_id, **upload)
    finally:
        shutil.rmtree(parent, ignore_errors=True)
