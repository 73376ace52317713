# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Give a model the class names of the set it is trained or tested on."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader

from dito.models.text import Vocabulary
from dito.models.text.name_checks import shorten
from dito.models.utils import unwrap_model

Phase = str


@HOOKS.register_module()
class DITOVocabularyHook(Hook):
    """Set the vocabulary of the training, validation or test set.

    In training the classes are those of the training set, base classes only;
    during a validation those of the validation set, novel ones included
    (paper 3.1). Embeddings come from a file, or from the text tower of the
    model. Classes go by name: a file may have more of them and in any order,
    but must have all; which are novel is what the data set says.

    Wrappers of data sets have the classes of what they wrap; the parts of a
    ``ConcatDataset`` must have the same, in the same order. Copies of the
    model that average its weights (:class:`DITOEMAHook`, MMEngine's
    ``EMAHook``) get each vocabulary too.

    Args:
        train (str, optional): Vocabulary file for training. None: the text
            tower of the model embeds the names. Defaults to None.
        test (str, optional): The same for validation and test. Defaults to
            None.
        templates (str | List[str]): Prompt templates for the text tower, see
            :meth:`Vocabulary.from_names`. Defaults to 'openai', the 80
            templates of CLIP.
        novel_in_training (bool): Whether the training set may have classes
            that it calls novel. Defaults to False: they are refused, as no
            box of theirs may reach the losses (paper 3.1).

    Raises:
        ValueError: If the training set has novel classes, or parts of a set
            have different classes.
    """

    def __init__(
        self,
        train: str | None = None,
        test: str | None = None,
        templates: str | list[str] = 'openai',
        novel_in_training: bool = False,
    ) -> None:
        self.novel_in_training = novel_in_training
        self.files: dict[Phase, str | None] = dict(train=train, test=test)
        self.templates = templates
        self._made: dict[tuple[Any, ...], Vocabulary] = {}

    def before_train(self, runner: Any) -> None:
        """Set the classes of the training set; none may be novel.

        ValueError if the validation set calls one of them novel.
        """
        loop = getattr(runner, '_val_loop', None)
        if isinstance(loop, BaseLoop) and not self.novel_in_training:
            _refuse_novel(
                _one_metainfo(runner.train_dataloader.dataset).get('classes'),
                _one_metainfo(loop.dataloader.dataset).get('novel_classes'),
            )
        self._set(runner, runner.train_dataloader, 'train')

    def before_val(self, runner: Any) -> None:
        """Set the classes of the validation set."""
        self._set(runner, runner.val_dataloader, 'test')

    def after_val(self, runner: Any) -> None:
        """Return to the classes of the training set, if there is one."""
        # Asking a runner that only validates for its loader would build it.
        if isinstance(runner._train_loop, BaseLoop):
            self._set(runner, runner.train_dataloader, 'train')

    def before_test(self, runner: Any) -> None:
        """Set the classes of the test set."""
        self._set(runner, runner.test_dataloader, 'test')

    def _set(self, runner: Any, dataloader: DataLoader, phase: Phase) -> None:
        """Make or recall the vocabulary of a set and hand it to the model."""
        model = unwrap_model(runner.model)
        meta = _one_metainfo(dataloader.dataset)
        names = tuple(meta.get('classes') or ())
        if not names:
            raise ValueError(
                f'The {phase} set {type(dataloader.dataset).__name__} has no '
                'classes in its metainfo; DITOVocabularyHook needs them.'
            )
        novel = tuple(n for n in meta.get('novel_classes') or () if n in names)
        if phase == 'train' and novel and not self.novel_in_training:
            raise ValueError(
                f'The training set has {len(novel)} novel classes, such as '
                f"{novel[0]!r}; give it split='base', or the hook "
                'novel_in_training=True to train on them all the same.'
            )
        key = (self.files[phase], names, novel)
        if key not in self._made:
            # Kept: the tower of a detector is frozen.
            self._made[key] = self._make(model, *key)
            runner.logger.info(
                f'Classes of the {phase} set: {len(names)}, '
                f'{len(novel)} of them novel.'
            )
        for each in (model, *_averaged(runner)):
            each.set_vocabulary(self._made[key])

    def make_vocabulary(
        self, model: Any, names: tuple[str, ...], novel: Sequence[bool]
    ) -> Vocabulary:
        """Make what a test of some classes would set; nothing is kept."""
        return self._make(
            model,
            self.files['test'],
            names,
            tuple(n for n, new in zip(names, novel, strict=True) if new),
        )

    def _make(
        self,
        model: Any,
        path: str | None,
        names: tuple[str, ...],
        novel: tuple[str, ...],
    ) -> Vocabulary:
        """Embed class names, or find them in a vocabulary file."""
        if path is None:
            return model.build_vocabulary(
                names, novel=novel, templates=self.templates
            )
        vocabulary = Vocabulary.load(path)
        try:
            vocabulary = vocabulary.subset(names)
        except ValueError as error:
            raise ValueError(
                f'{path} does not go with the data set: {error}'
            ) from error
        return vocabulary.with_novel(novel)


def _one_metainfo(dataset: Any) -> dict[str, Any]:
    """Give a set of several parts the metainfo of the first, in place."""
    meta = dataset.metainfo
    if not isinstance(meta, (list, tuple)):
        return meta
    first = meta[0]
    for number, other in enumerate(meta[1:], 1):
        for key in ('classes', 'novel_classes'):
            mine, its = (list(m.get(key) or ()) for m in (first, other))
            if mine == its:
                continue
            odd = [n for n in (*mine, *its) if (n in mine) != (n in its)]
            differ = (
                f'only one of them has {shorten(odd)}'
                if odd
                else 'the same ones in another order'
            )
            raise ValueError(
                f'The sets of this {type(dataset).__name__} have different '
                f'{key}: set 0 has {len(mine)} and set {number} has '
                f'{len(its)}, {differ}; give all of them the same '
                f'metainfo.{key}.'
            )
    dataset._metainfo = first
    return first


def _averaged(runner: Any) -> list[Any]:
    """Copies of the model that hooks average its weights in."""
    return [
        hook.ema_model.module
        for hook in runner.hooks
        if isinstance(hook, EMAHook) and hasattr(hook, 'ema_model')
    ]


def _refuse_novel(
    trained: Sequence[str] | None, novel: Sequence[str] | None
) -> None:
    """Stop a training on boxes of classes that a test calls novel."""
    both = sorted(set(trained or ()) & set(novel or ()))
    if both:
        raise ValueError(
            f'{len(both)} classes of the training set are novel in the '
            f'validation set, so its figures would not be open-vocabulary: '
            f"{shorten(both)}; set split='base' of the training set, or take "
            'them out of novel_classes of the validation set.'
        )


@HOOKS.register_module()
class DITOZeroShotHook(Hook):
    """Embed class names with the current text tower before validation.

    Embeddings are computed anew before each validation, because the text
    tower is trained meanwhile.

    Args:
        templates (str or list[str]): Prompt templates, see
            :meth:`Vocabulary.from_names`. Defaults to 'openai', the 80
            templates of CLIP.
    """

    def __init__(self, templates: str | list[str] = 'openai') -> None:
        self.templates = templates

    def _before_epoch(self, runner: Any, mode: str = 'train') -> None:
        """Set the class names of a validation or test set."""
        if mode != 'train':
            self.set_vocabulary(runner, getattr(runner, f'{mode}_dataloader'))

    def set_vocabulary(self, runner: Any, dataloader: DataLoader) -> None:
        """Embed the names of a loader's set and hand them to the model.

        A set without ``classes`` in its ``metainfo``, for retrieval, is passed
        over.
        """
        model = unwrap_model(runner.model)
        meta = getattr(dataloader.dataset, 'metainfo', {})
        if not meta.get('classes'):
            return
        training = model.training
        model.eval()
        model.set_vocabulary(
            embed_names(
                meta['classes'],
                meta.get('novel_classes', ()),
                model.text_encoder,
                self.templates,
            )
        )
        model.train(training)


def embed_names(
    names: Sequence[str],
    novel: Sequence[str],
    text_encoder: Any,
    templates: str | list[str],
) -> Vocabulary:
    """Embed class names, each process a share of them.

    ImageNet with 80 prompts a class is 80,000 texts.
    """
    rank, world_size = get_dist_info()
    if world_size == 1 or len(names) < world_size:
        return Vocabulary.from_names(
            names, text_encoder, templates=templates, novel=novel
        )
    part = Vocabulary.from_names(
        names[rank::world_size], text_encoder, templates=templates
    )
    embeddings = part.embeddings.new_empty(
        len(names), part.embeddings.shape[1]
    )
    for number, rows in enumerate(all_gather_object(part.embeddings)):
        embeddings[number::world_size] = rows
    flags = torch.tensor([name in set(novel) for name in names])
    return Vocabulary(
        tuple(names),
        embeddings,
        part.background,
        flags,
        part.fingerprint,
        part.templates,
        background_name=part.background_name,
    )
