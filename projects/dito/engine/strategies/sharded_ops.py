# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Between sharded tensors of a run and whole tensors of a checkpoint."""

from collections.abc import Mapping
from typing import Any

from mmengine.dist import all_reduce, is_main_process
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


def gather_tensors(value: Any) -> Any:
    """Replace the sharded tensors in a nest of values by whole ones.

    Every process must call this with the same nest.

    Args:
        value (Any): Tensors, dicts, lists, tuples and others.

    Returns:
        Any: The same with whole tensors on the CPU. On all but the main
        process what was sharded is None: only one process writes a file.
    """
    if isinstance(value, DTensor):
        whole = value.full_tensor()
        return whole.detach().cpu() if is_main_process() else None
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return type(value)((k, gather_tensors(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(gather_tensors(v) for v in value)
    return value


def shard_like(whole: Tensor, like: Tensor | None) -> Tensor:
    """Cut this process' part out of a whole tensor.

    Args:
        whole (Tensor): The same on every process.
        like (Tensor, optional): Tensor whose layout is wanted.

    Returns:
        Tensor: ``whole``, sharded if ``like`` is and has its shape.
    """
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    # No source rank: every process has the whole and cuts its own part.
    return distribute_tensor(
        whole.to(like.device),
        like.device_mesh,
        like.placements,
        src_data_rank=None,
    )


def shard_model_state(
    model: nn.Module, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Shard a whole state dict as a model is sharded.

    Args:
        model (nn.Module): Sharded model.
        state (dict[str, Tensor]): Whole tensors, the same on every process.

    Returns:
        dict[str, Tensor]: To be loaded into the model.
    """
    own = model.state_dict()
    return {
        key: shard_like(value, own.get(key)) for key, value in state.items()
    }


def shard_optim_state(
    optimizer: Optimizer, state: Mapping[str, Any]
) -> dict[str, Any]:
    """Shard the whole state of an optimizer as its parameters are sharded.

    Args:
        optimizer (Optimizer): Over sharded parameters.
        state (dict): State with whole tensors, as a run that is not sharded
            saves it: ``state`` by the number of the parameter.

    Returns:
        dict: To be loaded into the optimizer.
    """
    params = [p for group in optimizer.param_groups for p in group['params']]
    numbers = [n for group in state['param_groups'] for n in group['params']]
    by_number = dict(zip(numbers, params, strict=True))
    slots = {
        number: {
            key: shard_like(value, by_number[number])
            if isinstance(value, Tensor)
            else value
            for key, value in slot.items()
        }
        for number, slot in state['state'].items()
    }
    return dict(state, state=slots)


def average_gradient(parameter: nn.Parameter) -> None:
    """Average the gradient of a parameter that is not sharded over ranks.

    With several backward passes to a step each is averaged on arrival; what
    was averaged before stays as it is.
    """

    def reduce(param: nn.Parameter) -> None:
        all_reduce(param.grad, op='mean')

    parameter.register_post_accumulate_grad_hook(reduce)
