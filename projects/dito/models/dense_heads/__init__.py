# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .centerness_ops import centerness, distinct, lrtb_to_tblr
from .dito_rpn_head import DITORPNHead

__all__ = ['DITORPNHead', 'centerness', 'distinct', 'lrtb_to_tblr']
