# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Give a pretrainer the class names of the set it is evaluated on."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch.utils.data import DataLoader

from dito.models.text import Vocabulary


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

    def before_val_epoch(self, runner: Any) -> None:
        """Set the validation set's class names."""
        self.set_vocabulary(runner, runner.val_dataloader)

    def before_test_epoch(self, runner: Any) -> None:
        """Set the test set's class names."""
        self.set_vocabulary(runner, runner.test_dataloader)

    def set_vocabulary(self, runner: Any, dataloader: DataLoader) -> None:
        """Embed the names of a loader's set and hand them to the model.

        Args:
            runner (Runner): Its model has ``text_encoder`` and
                ``set_vocabulary``.
            dataloader (DataLoader): Its set's ``metainfo`` has ``classes``;
                one without, for retrieval, is passed over.
        """
        model = runner.model
        model = model.module if is_model_wrapper(model) else model
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

    Args:
        names (sequence[str]): Class names.
        novel (sequence[str]): Those that are novel.
        text_encoder (DITOTextEncoder): The tower, the same everywhere.
        templates (str or list[str]): Prompts.

    Returns:
        Vocabulary: All names, on every process.
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
