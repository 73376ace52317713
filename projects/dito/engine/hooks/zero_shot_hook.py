# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Give a pretrainer the class names of the set it is evaluated on."""

from typing import Any, List, Union

from mmdet.registry import HOOKS
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

    def __init__(self, templates: Union[str, List[str]] = 'openai') -> None:
        self.templates = templates

    def before_val_epoch(self, runner: Any) -> None:
        """Set the validation set's class names."""
        self._set_vocabulary(runner, runner.val_dataloader)

    def before_test_epoch(self, runner: Any) -> None:
        """Set the test set's class names."""
        self._set_vocabulary(runner, runner.test_dataloader)

    def _set_vocabulary(self, runner: Any, dataloader: DataLoader) -> None:
        """Embed the names of a loader's set and hand them to the model."""
        model = runner.model
        model = model.module if is_model_wrapper(model) else model
        meta = dataloader.dataset.metainfo
        training = model.training
        model.eval()
        vocabulary = Vocabulary.from_names(
            meta['classes'], model.text_encoder, templates=self.templates,
            novel=meta.get('novel_classes', ()))
        model.set_vocabulary(vocabulary)
        model.train(training)
