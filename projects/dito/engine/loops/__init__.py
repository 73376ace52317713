# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .image_text_train_loop import ImageTextTrainLoop

__all__ = ['ImageTextTrainLoop']
