# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What the Hugging Face hub and MMDetection's clients ask of a detector.

``DetInferencer``, ``inference_detector`` and what is built on them (sahi,
``demo/image_demo.py``) set two attributes: ``cfg``, of which they run the test
pipeline, and ``dataset_meta``, with the classes of the checkpoint. Names of a
call, their ``texts``, travel as meta data of a sample.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmdet.registry import HOOKS
from mmdet.structures import SampleList
from mmengine.config import ConfigDict

from ..text import Vocabulary
from ..text.name_checks import unseen_names
from ..text.name_files import parse_names, split_prompt


class HubMixin:
    """``from_pretrained``, ``save_pretrained`` and ``push_to_hub``.

    Attributes:
        hub (callable): Gives :mod:`dito.apis.hub`, which does the work;
            the package sets it, since that module needs this one.
    """

    hub: ClassVar[Callable[[], Any]]

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        device: str = 'cpu',
    ) -> Any:
        """Load a published detector, a folder or 'owner/name' on the hub.

        It is in evaluation mode, with the published vocabulary; ``revision``
        is a branch, tag or commit on the hub.
        """
        load = cls.hub().load_pretrained
        return load(source, revision=revision, device=device).model

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write a folder; see :func:`dito.apis.hub.save_pretrained`."""
        return self.hub().save_pretrained(self, folder, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the detector; see :func:`dito.apis.hub.push_model`."""
        return self.hub().push_model(self, repo_id, **options)


# Meta data of ``texts`` and its like, which test pipelines leave out.
_PROMPT_KEYS = ('text', 'tokens_positive', 'stuff_text')
# Options of DITOLoadImageFromFile that concern training, which MMDetection's
# loaders of arrays would refuse.
_TRAINING_OPTIONS = ('on_error', 'max_skipped')
# What they put in place of a loader.
_CLIENT_LOADERS = ('mmdet.LoadImageFromNDArray', 'mmdet.InferencerLoader')
_MOST_PROMPTS = 64


class MMDetClientsMixin:
    """A detector that MMDetection's clients can use; see the module."""

    _vocabulary: Vocabulary | None
    text_encoder: Any
    dataset_meta: dict[str, Any] | None
    set_vocabulary: Callable[[Vocabulary], None]

    @property
    def cfg(self) -> Any:
        """Config of the whole run, once somebody has set it.

        What is set is changed in place by :func:`prepare_for_clients`:
        ``DetInferencer`` builds its pipeline of the object that it sets. It,
        and ``inference_detector`` for arrays, put loaders of their own into
        the pipeline, which give way again when the config is asked for.
        """
        prepare_for_clients(self._cfg)
        return self._cfg

    @cfg.setter
    def cfg(self, cfg: Any) -> None:
        prepare_for_clients(cfg)
        self._cfg = cfg

    def _settings(self) -> dict[str, Any]:
        """Settings of the vocabulary hook in the config, if there is one."""
        for hook in self.__dict__.get('_cfg', {}).get('custom_hooks') or ():
            if hook.get('type') == 'DITOVocabularyHook':
                return {k: v for k, v in hook.items() if k != 'type'}
        return {}

    def _take_checkpoint_classes(self) -> None:
        """Look for the classes that a client has put into dataset_meta."""
        meta = self.dataset_meta or {}
        names = tuple(meta.get('classes') or ())
        if names:
            hook = dict(self._settings(), novel_in_training=True)
            hook = HOOKS.build(dict(hook, type='DITOVocabularyHook'))
            self.set_vocabulary(
                hook.make_vocabulary(self, names, unseen_names(names, meta))
            )

    def embed_names(
        self,
        names: Sequence[str],
        novel: Iterable[str | bool] | None = None,
        templates: str | Sequence[str] | None = None,
    ) -> Vocabulary:
        """Embed class names with the text tower; nothing is set.

        ``novel`` has names or a flag a class; by default those outside the
        training, where a checkpoint has its classes. ``templates`` are by
        default those of the config, or 'openai'. ValueError if the model has
        no text tower.
        """
        if self.text_encoder is None:
            raise ValueError(
                'This model has no text_encoder to embed names with: give it '
                'one in the config, or set_vocabulary(Vocabulary.load(...)).'
            )
        trained = self._trained_on()
        if novel is None and trained.get('classes'):
            novel = unseen_names(names, trained)
        if templates is None:
            templates = self._settings().get('templates', 'openai')
        return Vocabulary.from_names(
            names,
            self.text_encoder,
            templates,
            novel=list(novel or ()) or None,
        )

    def _prompted(self, samples: SampleList) -> list[bool]:
        """Give samples the vocabulary of their ``texts``; which got one."""
        got = []
        for sample in samples:
            for key in ('tokens_positive', 'stuff_text'):
                if sample.metainfo.get(key) is not None:
                    raise ValueError(
                        f'{key}={sample.metainfo[key]!r} has no meaning for '
                        'DITO, which parses no sentence and has no stuff '
                        "classes; give names alone: texts='red umbrella . "
                        "anchor'."
                    )
            text = sample.metainfo.get('text')
            got.append(text is not None and sample.get('vocabulary') is None)
            if got[-1]:
                sample.vocabulary = self._vocabulary_of(text)
        return got

    def _vocabulary_of(self, text: Any) -> Vocabulary:
        """Embed the names of a prompt; the last prompts are remembered."""
        names = parse_names(
            split_prompt(text) if isinstance(text, str) else list(text)
        )
        tower = self.text_encoder
        key = (tower and tower.fingerprint(), names)
        made: dict[Any, Vocabulary] = self.__dict__.setdefault('_prompts', {})
        found = made.get(key)
        if found is None:
            found = self.embed_names(names)
            if len(made) >= _MOST_PROMPTS:
                made.clear()
            made[key] = found
        return found

    def _trained_on(self) -> dict[str, Any]:
        """Meta information of the training, as far as a checkpoint has it."""
        if self._vocabulary is None:
            return self.dataset_meta or {}
        return self.__dict__.get('_train_meta') or {}

    def _note_names(self, names: Sequence[str]) -> None:
        """Write the names of labels, in place, where clients read them."""
        if self._vocabulary is None:
            self._train_meta = dict(self.dataset_meta or {})
        meta = self.dataset_meta = self.dataset_meta or {}
        meta['classes'] = tuple(names)
        palette = meta.get('palette')
        if isinstance(palette, list) and len(palette) < len(names):
            meta['palette'] = 'random'


def prepare_for_clients(cfg: Any) -> None:
    """Make a config one that MMDetection's clients can use, in place.

    They search the test pipeline for a step called ``LoadImageFromFile``,
    which is :class:`DITOLoadImageFromFile` in the scope ``dito``. A file made
    for inference says nothing of data sets, which they ask for a palette
    (MMDetection) and for masks (sahi).
    """
    loader = cfg.get('test_dataloader') or {}
    for dataset in _datasets(loader.get('dataset')):
        if not isinstance(dataset.get('pipeline'), list):
            continue
        dataset.setdefault('type', 'BaseDetDataset')
        for step in dataset['pipeline']:
            if step['type'] == 'DITOLoadImageFromFile' or (
                step.get('_scope_') == 'dito'
                and step['type'] in _CLIENT_LOADERS
            ):
                step.update(type='LoadImageFromFile', _scope_='dito')
                for key in _TRAINING_OPTIONS:
                    step.pop(key, None)
            if 'meta_keys' in step:
                step['meta_keys'] = tuple(
                    dict.fromkeys((*step['meta_keys'], *_PROMPT_KEYS))
                )
    cfg.setdefault('visualizer', ConfigDict(type='DetLocalVisualizer'))
    if 'train_dataloader' not in cfg:
        mask = (cfg['model'].get('roi_head') or {}).get('mask_head')
        cfg['train_dataloader'] = ConfigDict(
            dataset=dict(
                type='BaseDetDataset',
                pipeline=[
                    dict(
                        type='LoadAnnotations',
                        with_bbox=True,
                        with_mask=mask is not None,
                    )
                ],
            )
        )


def _datasets(dataset: Any) -> Iterator[Any]:
    """Innermost data sets of wrappers."""
    if isinstance(dataset, dict):
        inner: Iterable[Any] = dataset.get('datasets') or [
            dataset.get('dataset')
        ]
        found = [part for item in inner for part in _datasets(item)]
        yield from found or [dataset]
