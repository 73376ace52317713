# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .fsdp_strategy import DITOFSDPStrategy

__all__ = ['DITOFSDPStrategy']
