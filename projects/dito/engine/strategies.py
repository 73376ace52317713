# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Training in bfloat16, and of models that do not fit one device.

Tensors are sharded in a run and whole in a checkpoint.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mmengine
import torch
from mmdet.registry import OPTIM_WRAPPERS
from mmengine._strategy import DDPStrategy
from mmengine.device import get_device
from mmengine.dist import (
    all_reduce,
    get_world_size,
    is_distributed,
    is_main_process,
)
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS, STRATEGIES
from mmengine.runner import FlexibleRunner
from mmengine.runner.checkpoint import save_checkpoint
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from .work_folder import resolve_resume

__all__ = ['DITOBF16OptimWrapper', 'DITOFSDPStrategy', 'DITOFlexibleRunner']


def _gather_tensors(value: Any) -> Any:
    """Make sharded tensors of a nest whole; None but on the main rank."""
    if isinstance(value, DTensor):
        whole = value.full_tensor()
        return whole.detach().cpu() if is_main_process() else None
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return type(value)((k, _gather_tensors(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_gather_tensors(v) for v in value)
    return value


def _shard_like(whole: Tensor, like: Tensor | None) -> Tensor:
    """Cut this process' part out of a whole tensor, if ``like`` is cut."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    # No source rank: every process has the whole and cuts its own part.
    return distribute_tensor(
        whole.to(like.device),
        like.device_mesh,
        like.placements,
        src_data_rank=None,
    )


def _shard_model_state(
    model: nn.Module, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Shard a whole state dict as a model is sharded."""
    own = model.state_dict()
    return {
        key: _shard_like(value, own.get(key)) for key, value in state.items()
    }


def _shard_optim_state(
    optimizer: Optimizer, state: Mapping[str, Any]
) -> dict[str, Any]:
    """Shard a whole state of an optimizer as its parameters are sharded."""
    params = [p for group in optimizer.param_groups for p in group['params']]
    numbers = [n for group in state['param_groups'] for n in group['params']]
    by_number = dict(zip(numbers, params, strict=True))
    slots = {
        number: {
            key: _shard_like(value, by_number[number])
            if isinstance(value, Tensor)
            else value
            for key, value in slot.items()
        }
        for number, slot in state['state'].items()
    }
    return dict(state, state=slots)


def _average_gradient(parameter: nn.Parameter) -> None:
    """Average the gradient of a parameter that is not sharded over ranks."""

    def reduce(param: nn.Parameter) -> None:
        all_reduce(param.grad, op='mean')

    parameter.register_post_accumulate_grad_hook(reduce)


@STRATEGIES.register_module()
class DITOFSDPStrategy(DDPStrategy):
    """Shard parameters, gradients and optimizer state (FSDP2).

    MMEngine's ``FSDPStrategy`` wraps torch's first FSDP, which refuses to
    run without an accelerator (torch 2.11) and saves another optimizer state
    than a run that is not sharded. This one uses ``fully_shard``: the model
    stays the class it is, so that loops and hooks work as before, and
    checkpoints hold whole tensors under the usual names, written by one
    process. They can be resumed with any number of processes, sharded or
    not.

    For use with ``runner_type='DITOFlexibleRunner'``. Parameters without an
    axis (the temperature) are kept whole on every process.

    Args:
        shard_modules (Sequence[str]): Classes whose modules are gathered one
            at a time: by default the layers of both towers, and the text
            tower, which hooks call by itself.
        shard_size (int, optional): Number of processes that share a copy
            of the weights, such as those of one machine; a divisor of all.
            Defaults to None, all processes.
        param_dtype (str, optional): Type that parameters are gathered and
            used in, such as 'bfloat16': half the traffic. Defaults to None,
            the parameters' own.
        reduce_dtype (str): Type gradients are averaged in. Defaults to
            'float32'.
        reshard_after_forward (bool): Whether a layer's weights are given up
            between forward and backward pass: less memory, more traffic.
            Defaults to True.
        kwargs: Those of MMEngine's ``DDPStrategy``.
    """

    def __init__(
        self,
        *,
        shard_modules: Sequence[str] = (
            'Block',
            'ResidualAttentionBlock',
            'DITOTextEncoder',
        ),
        shard_size: int | None = None,
        param_dtype: str | None = None,
        reduce_dtype: str = 'float32',
        reshard_after_forward: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shard_modules = frozenset(shard_modules)
        self.shard_size = shard_size
        self.policy = MixedPrecisionPolicy(
            param_dtype=param_dtype and getattr(torch, param_dtype),
            reduce_dtype=getattr(torch, reduce_dtype),
            cast_forward_inputs=False,
        )
        self.reshard_after_forward = reshard_after_forward

    def _mesh(self) -> DeviceMesh:
        """Lay the processes out: (copies, shares of a copy)."""
        if not is_distributed():
            raise ValueError(
                'Sharded weights (DITOFSDPStrategy) need a launcher, for one '
                'process too: start tools/dist_train.sh CONFIG 1.'
            )
        total = get_world_size()
        size = total if self.shard_size is None else self.shard_size
        if total % size:
            raise ValueError(
                f'shard_size={size} does not divide the {total} processes of '
                'this run; give a divisor.'
            )
        kind = torch.device(get_device()).type
        if size == total:
            return init_device_mesh(kind, (total,))
        return init_device_mesh(
            kind, (total // size, size), mesh_dim_names=('copy', 'share')
        )

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        """Shard the model, built and initialised, in place."""
        model = self.convert_model(model.to(get_device()))
        options = dict(
            mesh=self._mesh(),
            mp_policy=self.policy,
            reshard_after_forward=self.reshard_after_forward,
        )
        whole = {p for p in model.parameters() if p.ndim == 0}
        for parameter in whole:
            if parameter.requires_grad:
                _average_gradient(parameter)
        # Inner modules first: an outer one takes what is left.
        for module in reversed(list(model.modules())):
            if type(module).__name__ in self.shard_modules:
                fully_shard(module, **options)
        options.pop('reshard_after_forward')
        fully_shard(model, ignored_params=whole, **options)
        # A hook may call a part, such as the text tower, before the first
        # step, which would make a root of it; torch has no public way.
        model._get_fsdp_state()._lazy_init()
        return model

    def model_state_dict(self) -> dict[str, Tensor]:
        """Return the whole state of the model on the main process."""
        return _gather_tensors(self.model.state_dict())

    def optim_state_dict(self) -> dict[str, Any]:
        """Return the whole state of the optimizer on the main process."""
        return _gather_tensors(self.optim_wrapper.state_dict())

    def load_model_state_dict(
        self,
        state_dict: dict[str, Tensor],
        *,
        strict: bool = False,
        revise_keys: list | None = None,
    ) -> None:
        """Load whole weights, the same on every process."""
        super().load_model_state_dict(
            _shard_model_state(self.model, state_dict),
            strict=strict,
            revise_keys=revise_keys or [],
        )

    def load_optim_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the whole state of an optimizer, sharded or not then."""
        super().load_optim_state_dict(
            _shard_optim_state(self.optim_wrapper.optimizer, state_dict)
        )

    def load_checkpoint(
        self,
        filename: str,
        *,
        map_location: str | Callable = 'cpu',
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Load a checkpoint; whole tensors stay in the host's memory."""
        return super().load_checkpoint(filename, map_location='cpu', **kwargs)

    def save_checkpoint(
        self,
        filename: str,
        *,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        extra_ckpt: dict[str, Any] | None = None,
        callback: Callable | None = None,
    ) -> None:
        """Gather on all processes, write on one.

        Args:
            filename (str): Path.
            save_optimizer (bool): Whether to save the optimizer.
            save_param_scheduler (bool): Whether to save the schedules.
            extra_ckpt (dict, optional): What else to save.
            callback (callable, optional): Called with the checkpoint before
                it is written, on the main process.
        """
        checkpoint: dict[str, Any] = dict(state_dict=self.model_state_dict())
        if save_optimizer and hasattr(self, 'optim_wrapper'):
            checkpoint['optimizer'] = self.optim_state_dict()
        if save_param_scheduler and hasattr(self, 'param_schedulers'):
            checkpoint['param_schedulers'] = self.scheduler_state_dict()
        if not is_main_process():
            return
        checkpoint.update(extra_ckpt or {})
        checkpoint.setdefault('meta', {}).update(
            seed=self.seed,
            time=time.strftime('%Y%m%d_%H%M%S', time.localtime()),
            mmengine=mmengine.__version__,
        )
        if callback is not None:
            callback(checkpoint)
        save_checkpoint(checkpoint, filename)


@RUNNERS.register_module()
class DITOFlexibleRunner(FlexibleRunner):
    """MMEngine's :obj:`FlexibleRunner` with DITO's safe resume.

    MMEngine's loads the checkpoint before any hook is called, so that
    :class:`DITOCheckpointHook` cannot choose a whole one.

    Args:
        Those of :obj:`FlexibleRunner`.
    """

    def load_or_resume(self) -> None:
        """Load weights, or resume from the newest whole checkpoint."""
        if not self._has_loaded:
            resolve_resume(self)
        super().load_or_resume()


@OPTIM_WRAPPERS.register_module()
class DITOBF16OptimWrapper(OptimWrapper):
    """:obj:`OptimWrapper` whose forward passes run in bfloat16 autocast.

    mmengine's ``AmpOptimWrapper`` does this too, but only on accelerators
    and always with a gradient scaler. bfloat16 has float32's range and needs
    no scaler, and CPUs support it. ``dito train --amp`` selects this.

    Args:
        Those of :obj:`OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, and no gradient exchange while accumulating.

        Args:
            model (nn.Module): The model that is trained.
        """
        device = next(model.parameters()).device.type
        with (
            super().optim_context(model),
            torch.autocast(device, dtype=torch.bfloat16),
        ):
            yield
