# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .image_text_train_loop import ImageTextTrainLoop
from .train_loop import DITOMultiValLoop, DITOTrainLoop

__all__ = ['DITOMultiValLoop', 'DITOTrainLoop', 'ImageTextTrainLoop']
