# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Classes follow the data set in training, validation and test."""

import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import BaseLoop
from tiny_detector import TEXT_ENCODER, build, vocabulary
from torch.utils.data import DataLoader

from dito.engine import DITOVocabularyHook
from dito.models import Vocabulary

BASE, ALL = ('cat', 'dog'), ('cat', 'bird', 'dog')


class Names(BaseDataset):
    """No data, only class names."""

    def load_data_list(self):
        """Nothing to load."""
        return []


class Loop(BaseLoop):
    """A built training loop."""

    def run(self):
        """Nothing to run."""


def loader(classes, novel=()):
    meta = dict(classes=classes, novel_classes=novel)
    return DataLoader(Names(metainfo=meta, lazy_init=True), batch_size=1)


class Runner:
    """What the hook uses of a runner."""

    def __init__(self, model, training=True):
        self.model, self.hooks = model, []
        self.train_dataloader = loader(BASE)
        self.val_dataloader = self.test_dataloader = loader(ALL, ('bird',))
        self._train_loop = dict()
        if training:
            self._train_loop = Loop(self, self.train_dataloader)
        self.logger = MMLogger.get_instance('test_vocabulary_hook')


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(mask=False, text_encoder=TEXT_ENCODER)


def state(model):
    head = model.roi_head.bbox_head
    return model.vocabulary.names, head.num_classes, head.novel.tolist()


def test_classes_change_with_the_phase(model):
    hook, runner = DITOVocabularyHook(templates='none'), Runner(model)
    hook.before_train(runner)
    training = state(model)
    assert training == (BASE, 2, [False, False])
    text = model.roi_head.bbox_head.text
    hook.before_val(runner)
    assert state(model) == (ALL, 3, [False, True, False])
    torch.testing.assert_close(model.roi_head.bbox_head.text[[0, 2]], text)
    hook.after_val(runner)
    assert state(model) == training
    hook.before_test(runner)
    assert state(model) == (ALL, 3, [False, True, False])


def test_validation_alone_leaves_the_training_set_alone(model):
    hook, runner = DITOVocabularyHook(), Runner(model, training=False)
    del runner.train_dataloader
    hook.before_val(runner)
    hook.after_val(runner)
    assert state(model)[0] == ALL


def test_names_are_embedded_once(model, monkeypatch):
    hook, runner = DITOVocabularyHook(templates='none'), Runner(model)
    calls = []
    encode = model.text_encoder.encode
    monkeypatch.setattr(
        model.text_encoder,
        'encode',
        lambda *args, **kw: calls.append(args) or encode(*args, **kw),
    )
    for _ in range(3):
        hook.before_val(runner)
        hook.after_val(runner)
    once = len(calls)
    hook.before_val(runner)
    assert once > 0 and len(calls) == once


def test_a_file_may_have_more_names_in_any_order(model, tmp_path):
    path = str(tmp_path / 'words.safetensors')
    names = ['red', 'dog', 'bird', 'cat']
    file = Vocabulary.from_names(
        names, model.text_encoder, templates='none', novel=['dog']
    )
    file.save(path)
    runner = Runner(model)
    hook = DITOVocabularyHook(train=path, test=path)
    hook.before_train(runner)
    assert state(model) == (BASE, 2, [False, False])
    hook.before_test(runner)
    # Which classes are novel is said by the data set, not by the file.
    assert state(model) == (ALL, 3, [False, True, False])
    torch.testing.assert_close(
        model.roi_head.bbox_head.text, file.embeddings[[3, 2, 1]]
    )


def test_a_model_without_text_tower_takes_files(tmp_path):
    model, path = build(mask=False), str(tmp_path / 'words.safetensors')
    vocabulary(3).save(path)
    runner = Runner(model)
    runner.train_dataloader = loader(('c2', 'c0'))
    DITOVocabularyHook(train=path).before_train(runner)
    assert state(model)[0] == ('c2', 'c0')
    with pytest.raises(ValueError, match='has no text_encoder'):
        DITOVocabularyHook(train=path).before_val(runner)


def test_a_file_of_other_names_is_refused(model, tmp_path):
    path = str(tmp_path / 'words.safetensors')
    Vocabulary.from_names(BASE, model.text_encoder, templates='none').save(
        path
    )
    hook = DITOVocabularyHook(train=path, test=path)
    hook.before_train(Runner(model))
    with pytest.raises(ValueError, match="data set: .*'bird'"):
        hook.before_test(Runner(model))


def test_a_file_of_another_tower_is_refused(model, tmp_path):
    path = str(tmp_path / 'words.safetensors')
    vocabulary(3).save(path)
    runner = Runner(model)
    runner.train_dataloader = loader(('c0',))
    with pytest.raises(ValueError, match='text tower'):
        DITOVocabularyHook(train=path).before_train(runner)


def test_a_set_without_classes_is_refused(model):
    runner = Runner(model)
    runner.train_dataloader = loader(())
    with pytest.raises(ValueError, match='has no classes'):
        DITOVocabularyHook().before_train(runner)


def test_wrapped_models_are_unwrapped(model):
    wrapper = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    torch.nn.Module.__init__(wrapper)
    wrapper.module = model
    DITOVocabularyHook(templates='none').before_train(Runner(wrapper))
    assert state(model)[0] == BASE


def test_training_on_novel_classes_is_refused(model):
    hook, runner = DITOVocabularyHook(templates='none'), Runner(model)
    runner._val_loop = Loop(runner, runner.val_dataloader)
    hook.before_train(runner)
    runner.train_dataloader = loader(('bird', 'dog'))
    with pytest.raises(ValueError, match="1 classes .* 'bird'; set split="):
        hook.before_train(runner)
    # In a closed vocabulary nothing is novel.
    runner._val_loop = Loop(runner, loader(ALL))
    hook.before_train(runner)
    assert state(model)[0] == ('bird', 'dog')


def test_training_on_novel_classes_can_be_asked_for(model):
    runner = Runner(model)
    runner.train_dataloader = loader(ALL, ('bird',))
    runner._val_loop = Loop(runner, runner.val_dataloader)
    options = dict(templates='none', novel_in_training=True)
    DITOVocabularyHook(**options).before_train(runner)
    assert state(model)[0] == ALL
    runner._val_loop = None
    with pytest.raises(ValueError, match='has 1 novel classes'):
        DITOVocabularyHook(templates='none').before_train(runner)
