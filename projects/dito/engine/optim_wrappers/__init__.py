# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .bf16_optim_wrapper import DITOBF16OptimWrapper

__all__ = ['DITOBF16OptimWrapper']
