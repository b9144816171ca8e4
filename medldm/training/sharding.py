"""Weights divided among processes (FSDP): divided for a stage, whole in checkpoints and between stages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from medldm.training.layout import rows_last


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Divide the weights of a stage over the data-parallel processes; they are gathered for each forward."""
    rows_last(module)
    fully_shard(module, mesh=mesh["data_parallel"])
    return module


def is_divided(module: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def gathered(tree: Any) -> Any:
    """The same nest of dicts and lists with every divided tensor whole, on the CPU. All processes must call it."""
    if isinstance(tree, dict):
        return {key: gathered(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [gathered(value) for value in tree]
    return tree.full_tensor().cpu() if isinstance(tree, DTensor) else tree


def scattered(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor divided as `like` is."""
    if isinstance(like, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value


def scatter_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Divide the loaded state of an optimizer as its parameters are."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = scattered(value, parameter)


@torch.no_grad()
def make_whole(module: nn.Module) -> None:
    """Give a module its whole weights back. All processes must call it."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                whole = nn.Parameter(parameter.full_tensor(), requires_grad=parameter.requires_grad)
                part.register_parameter(name, whole)
