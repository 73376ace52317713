# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A second device that does not exist, on which models compute for real.

Its tensors say that they are elsewhere and hold ordinary ones of the CPU, with
which each operator is computed. So what depends on data runs as on a GPU, and
two faults show without one: an operator given tensors of both devices raises
:class:`MixedDevices`, and whatever makes the host wait for the device is
counted with the line it comes from. Which kernels a GPU has, their speed and
their memory do not show.

The device calls itself 'meta', the only one besides the CPU that every build
of PyTorch knows; nothing else of it is used.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from mmengine.structures import instance_data
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device('meta')
# Operators that may meet tensors of both devices.
_TRANSFERS = {'_to_copy', 'copy_', 'set_', 'lift', 'lift_fresh', 'detach'}
_INDEXING = {'index', 'index_put', 'index_put_', '_index_put_impl_'}
# Operators whose result's size, or value, the host must know.
_READS = {
    '_local_scalar_dense',
    '_unique2',
    'bincount',
    'equal',
    'masked_select',
    'nms',
    'nonzero',
    'repeat_interleave',
    'unique_consecutive',
    'unique_dim',
}
_OWN_FILES = ('projects/dito', 'mmdet/', 'mmengine/', 'mmcv/')


class MixedDevices(RuntimeError):
    """An operator was given tensors of both devices."""


class Elsewhere(torch.Tensor):
    """A tensor of the second device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> 'Elsewhere':
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        return f'Elsewhere({self.held!r})'

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f'{func} outside of second_device().')


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (
        torch.bool,
        torch.uint8,
    )


class SecondDevice(TorchDispatchMode):
    """Computes with tensors of the second device.

    Attributes:
        reads (Counter): How often the host waited for a result, by operator
            and line.
        sends (Counter): How often it waited until what it sent had arrived:
            copies to the device that are not ``non_blocking``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.sends: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [
            x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)
        ]
        there = [x for x in tensors if isinstance(x, Elsewhere)]
        target = kwargs.get('device')
        here = target is not None and torch.device(target) != DEVICE
        if there:
            self._refuse_mix(func, name, tensors)
        self._count(name, args, kwargs, there, here)
        if target is not None:
            kwargs['device'] = 'cpu'
        plain_args, plain_kwargs = tree_map(_held, (args, kwargs))
        result = func(*plain_args, **plain_kwargs)
        written = _written(func, args, kwargs)
        if written is not None:
            return written
        if name == '_local_scalar_dense' or here:
            return result
        wanted = bool(there) if target is None else True
        return tree_map(_elsewhere, result) if wanted else result

    @staticmethod
    def _refuse_mix(func: Any, name: str, tensors: list[Tensor]) -> None:
        """Operators take numbers, as tensors without axes, from the CPU."""
        if name in _TRANSFERS | _INDEXING:
            return
        for x in tensors:
            if not isinstance(x, Elsewhere) and x.dim():
                raise MixedDevices(
                    f'{func} has a tensor of shape {tuple(x.shape)} on the '
                    'CPU among those of the second device.'
                )

    def _count(
        self,
        name: str,
        args: tuple,
        kwargs: dict,
        there: list[Tensor],
        here: bool,
    ) -> None:
        """Note what makes the host wait."""
        blocking = not kwargs.get('non_blocking')
        if name == 'copy_' and isinstance(args[0], Elsewhere) != isinstance(
            args[1], Elsewhere
        ):
            blocking = not (len(args) > 2 and args[2]) and blocking
            sent = isinstance(args[0], Elsewhere)
            if blocking and (not sent or args[1].dim()):
                self._note(self.sends if sent else self.reads, name)
        elif name == '_to_copy' and not there:
            if kwargs.get('device') is not None and not here and blocking:
                self._note(self.sends, name)
        elif there and (
            name in _READS
            or (name == '_to_copy' and here)
            or (name in _INDEXING and self._waits_for_mask(args))
        ):
            self._note(self.reads, name)

    @staticmethod
    def _waits_for_mask(args: tuple) -> bool:
        """Masks are counted, but where one number is written to all."""
        masked = any(_is_mask(x) for x in args[1])
        return masked and (len(args) < 3 or args[2].numel() != 1)

    @staticmethod
    def _note(counter: Counter, name: str) -> None:
        frames = [
            frame
            for frame in traceback.extract_stack()
            if any(part in frame.filename for part in _OWN_FILES)
        ]
        where = 'elsewhere'
        if frames:
            path = frames[-1].filename.split('site-packages/')[-1]
            path = path.split('projects/')[-1]
            where = f'{path}:{frames[-1].lineno} {frames[-1].line}'
        counter[f'{name}  {where}'] += 1

    def report(self) -> str:
        """Waits by line, the most frequent first."""
        lines = []
        for kind in ('reads', 'sends'):
            counter = getattr(self, kind)
            lines.append(f'{counter.total()} {kind}')
            lines += [f'{n:5}  {where}' for where, n in counter.most_common()]
        return '\n'.join(lines)


def _held(x: Any) -> Any:
    return x.held if isinstance(x, Elsewhere) else x


def _elsewhere(x: Any) -> Any:
    plain = isinstance(x, Tensor) and not isinstance(x, Elsewhere)
    return Elsewhere(x) if plain else x


def _written(func: Any, args: tuple, kwargs: dict) -> Any:
    """The argument that an operator writes to and returns, if any."""
    returns = func._schema.returns
    if len(returns) != 1 or returns[0].alias_info is None:
        return None
    if not returns[0].alias_info.is_write:
        return None
    found = kwargs.get('out', args[0])
    return found if isinstance(found, Elsewhere) else None


class _Numbers(TorchFunctionMode):
    """What goes between tensors and Python's numbers is no operator."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.new_tensor and isinstance(args[0], Elsewhere):
            kwargs.setdefault('dtype', args[0].dtype)
            device = kwargs.pop('device', DEVICE)
            return torch.tensor(*args[1:], **kwargs).to(device)
        if func is torch.Tensor.tolist:
            return args[0].cpu().tolist()
        if func in (torch.tensor, torch.as_tensor):
            device = kwargs.get('device')
            if device is not None and torch.device(device) == DEVICE:
                del kwargs['device']
                return func(*args, **kwargs).to(DEVICE)
        return func(*args, **kwargs)


class _Autocast(torch.autocast):
    """Autocast of the second device is that of the CPU."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        kind = 'cpu' if device_type == DEVICE.type else device_type
        super().__init__(kind, *args, **kwargs)


@contextmanager
def second_device() -> Iterator[SecondDevice]:
    """Compute with the second device inside this block."""
    index_type = instance_data.IndexType | Elsewhere
    with ExitStack() as stack:
        for target, name, value in (
            (instance_data, 'IndexType', index_type),
            (torch, 'autocast', _Autocast),
            (torch.amp, 'autocast', _Autocast),
        ):
            stack.enter_context(patch.object(target, name, value))
        stack.enter_context(_Numbers())
        yield stack.enter_context(SecondDevice())


def move(model: nn.Module) -> nn.Module:
    """Move a model with its preprocessor, and a detector's teacher."""
    convert: Callable[[Tensor], Tensor] = _elsewhere
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(
                    convert(parameter.data),
                    requires_grad=parameter.requires_grad,
                )
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = convert(buffer)
    teacher = getattr(model, '_teacher', None)
    if teacher is not None:
        teacher.build(torch.device('cpu'))
        move(teacher.backbone)
    if getattr(model, 'data_preprocessor', None) is not None:
        model.data_preprocessor._device = DEVICE
    return model
