# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Strict reading of a flat Flax parameter tree, and its weight layouts."""

from typing import Dict, Mapping

import numpy as np
import torch
from torch import Tensor

StateDict = Dict[str, Tensor]


class ParamTree:
    """A flat parameter tree that knows which of its arrays were read.

    Args:
        params (Mapping[str, ndarray]): Arrays by path, such as
            'transformer/resblocks.0/ln_1/scale'.
        part (str): What the tree belongs to, for error messages.
    """

    def __init__(self, params: Mapping[str, np.ndarray], part: str) -> None:
        self.params = params
        self.part = part
        self.unread = set(params)

    def read(self, path: str) -> np.ndarray:
        """Return one array as float32.

        Raises:
            ValueError: If there is no such path.
        """
        if path not in self.params:
            raise ValueError(
                f'{self.part}: the parameter {path!r} is missing; is this '
                'the tree of another part?')
        self.unread.discard(path)
        return np.asarray(self.params[path], dtype=np.float32)

    def conv(self, path: str) -> Tensor:
        """Convolution kernel (kh, kw, in, out) as (out, in, kh, kw)."""
        return to_tensor(self.read(f'{path}/kernel').transpose(3, 2, 0, 1))

    def conv_transpose(self, path: str) -> Tensor:
        """Transposed convolution (kh, kw, in, out) as (in, out, kh, kw).

        Flax kernels of this kind are flipped in space against PyTorch's.
        """
        kernel = self.read(f'{path}/kernel')[::-1, ::-1]
        return to_tensor(kernel.transpose(2, 3, 0, 1))

    def linear(self, path: str) -> Tensor:
        """Dense kernel (in, out) as (out, in)."""
        return to_tensor(self.read(f'{path}/kernel').T)

    def bias(self, path: str) -> Tensor:
        """Bias as one vector."""
        return to_tensor(self.read(f'{path}/bias').ravel())

    def norm(self, path: str, name: str) -> StateDict:
        """LayerNorm scale and bias as ``name``'s weight and bias."""
        return {
            f'{name}.weight': to_tensor(self.read(f'{path}/scale')),
            f'{name}.bias': to_tensor(self.read(f'{path}/bias')),
        }

    def finish(self) -> None:
        """Check that every array was read.

        Raises:
            ValueError: If some were not.
        """
        if self.unread:
            raise ValueError(
                f'{self.part}: the parameters {sorted(self.unread)} are not '
                'known; is this the tree of another part?')


def to_tensor(array: np.ndarray) -> Tensor:
    """Copy an array to a float32 tensor."""
    return torch.from_numpy(np.array(array, dtype=np.float32, order='C'))
