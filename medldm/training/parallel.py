"""Where a training runs: device, precision, processes (torchrun or SLURM) through Lightning Fabric, and weights
divided among them (FSDP): divided for a stage, whole in checkpoints and between stages.
"""

from __future__ import annotations

import atexit
import gc
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from medldm.errors import RecipeError
from medldm.model import default_device
from medldm.nets.blocks import rows_last

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class AutocastAlone(MixedPrecision):
    """Mixed precision that leaves the batches as they are.

    Fabric's own rounds them to half precision on their way into the module. Images are what is to be reproduced, and
    those of radiographs have more than the 256 levels that bf16 has between 0.5 and 1: an autoencoder would end at
    59 dB, and put an error of 0.001 beneath noise of 0.005.
    """

    def convert_input(self, data: Any) -> Any:
        return data


def fastest_precision(device: torch.device, dims: int) -> str:
    """bf16 where the hardware multiplies it and the gradients can be believed, fp32 elsewhere.

    On CPUs of AVX512-BF16 PyTorch 2.13 (oneDNN 3.12) reads memory that nobody wrote where it makes the weights'
    gradient of a 3D convolution whose output is two voxels wide: now and then it is wrong, or not finite
    (docs/decisions/0013). In 2D that was not seen.
    """
    if device.type == "cpu" and dims == 3:
        return "32-true"
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "32-true"


def _strategy(name: str, world: int) -> Strategy | str:
    if name != "fsdp":
        return "ddp"
    return ModelParallelStrategy(parallelize_fn=shard, data_parallel_size=world, tensor_parallel_size=1)


def first_process() -> bool:
    """Whether this is the one of all processes (torchrun, SLURM) that speaks; also before any is launched."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0


def _fabric(target: torch.device, precision: str, dims: int, settings: dict[str, Any]) -> tuple[Fabric, str]:
    chosen = fastest_precision(target, dims) if precision == "auto" else PRECISIONS[precision]
    if chosen == "16-mixed" and target.type != "cuda":
        raise RecipeError("precision", "fp16 without a GPU", "bf16, fp32 or auto")
    if chosen == "32-true":
        settings["precision"] = chosen
    else:
        settings["plugins"] = AutocastAlone("bf16-mixed" if chosen == "bf16-mixed" else "16-mixed", target.type)
    return Fabric(accelerator=target.type, **settings), chosen


def alone(device: str | None, precision: str, dims: int) -> tuple[Fabric, str]:
    """Fabric for this process alone, whatever others there are, and the name of its precision.

    Raises ModelError for a device that is not there, RecipeError for a precision that it does not have.
    """
    target = default_device(device)
    devices = 1 if target.index is None else [target.index]
    return _fabric(target, precision, dims, {"devices": devices, "strategy": "auto"})


def start_fabric(device: str | None, precision: str, dims: int, strategy: str = "ddp") -> tuple[Fabric, str]:
    """Fabric, launched, and the name of its precision ("auto": the fastest that is safe).

    Under torchrun or SLURM all processes train together: each with all weights ("ddp"), or with its share of them
    ("fsdp"), for models that one device cannot hold. Raises ModelError for a device that is not there,
    RecipeError for a precision that it does not have.
    """
    world = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")))
    if world == 1:
        fabric, chosen = alone(device, precision, dims)
    else:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", str(world))))
        settings = {"devices": local, "num_nodes": world // local, "strategy": _strategy(strategy, world)}
        fabric, chosen = _fabric(default_device(device), precision, dims, settings)
    fabric.launch()
    return fabric, chosen


_launched = False  # whether the process group was made here: another's is its maker's to end


def _end_groups() -> None:
    """End every process group; what held references to them is gone by then, so that their threads are joined."""
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()


def run_launched(
    work: Callable[[Fabric, str], None], device: str | None, precision: str, dims: int, strategy: str
) -> None:
    """Do `work` with a launched Fabric and the name of its precision; what was launched ends with the interpreter.

    The threads of a process group must have ended before: one that drops its last tensor later ends the process with a
    segmentation fault, after a training that went well. They are joined when the last reference to their group goes,
    hence the function of its own (no network is alive after it). Until then the group serves further trainings: under
    torchrun a second one cannot be made. After a failure it is left: another process may be waiting in it, and
    joining would wait with it.
    """
    global _launched
    there_already = dist.is_initialized()
    atexit.unregister(_end_groups)
    fabric, chosen = start_fabric(device, precision, dims, strategy)
    _launched = _launched or (dist.is_initialized() and not there_already)
    work(fabric, chosen)
    if isinstance(fabric.strategy, ModelParallelStrategy):
        mesh = fabric.strategy.device_mesh
        (mesh._root_mesh or mesh)._pg_registry.clear()  # PyTorch's caches of placements hold it for good
    if _launched:
        atexit.register(_end_groups)


BUCKET_BYTES = 64 * 2**20  # gathered at once: few messages, and no second model on the device


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Divide the weights of a stage over the data-parallel processes; they are gathered for each forward."""
    rows_last(module)
    fully_shard(module, mesh=mesh["data_parallel"])
    return module


def is_divided(module: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def _share(tensor: DTensor) -> Tensor:
    """This process's rows of a divided tensor, flat, filled up to the number that the first process has."""
    world = tensor.device_mesh.size()
    if tensor.placements != (Shard(0),):
        raise NotImplementedError(f"weights divided as {tensor.placements}")
    local = tensor.to_local().flatten()
    rows = -(-tensor.shape[0] // world)
    return nn.functional.pad(local, (0, rows * math.prod(tensor.shape[1:]) - len(local)))


@torch.no_grad()
def _gather(tensors: list[DTensor]) -> list[Tensor]:
    """The whole of tensors of one type and mesh, in one message. All processes must call it."""
    mesh = tensors[0].device_mesh
    shares = [_share(tensor) for tensor in tensors]
    mine = torch.cat(shares)
    all_of = mine.new_empty(mesh.size() * len(mine))
    dist.all_gather_into_tensor(all_of, mine, mesh.get_group())
    parts = all_of.view(mesh.size(), -1).split([len(share) for share in shares], dim=1)
    # only the last rows are filled up: the shares one after the other begin with the tensor
    return [part.reshape(-1)[: tensor.numel()].view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _buckets(tensors: list[DTensor]) -> Iterator[list[DTensor]]:
    """Tensors of one type each, in their order, of BUCKET_BYTES at most (or a single one)."""
    bucket: list[DTensor] = []
    for tensor in tensors:
        size = sum(t.numel() * t.element_size() for t in [*bucket, tensor])
        if bucket and (size > BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def gathered(tree: Any) -> Any:
    """The same nest of dicts and lists with every divided tensor whole, on the CPU. All processes must call it.

    Many tensors travel in one message: one each is slow, and gloo, sent tens of thousands of small ones by a
    training that saved at every step, now and then brought the process down with a damaged heap.
    """
    divided: list[DTensor] = []

    def find(part: Any) -> None:
        if isinstance(part, DTensor):
            divided.append(part)
        elif isinstance(part, dict | list):
            for value in part.values() if isinstance(part, dict) else part:
                find(value)

    def replace(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: replace(value) for key, value in part.items()}
        if isinstance(part, list):
            return [replace(value) for value in part]
        return next(whole) if isinstance(part, DTensor) else part

    find(tree)
    whole = iter([tensor.to("cpu", copy=True) for bucket in _buckets(divided) for tensor in _gather(bucket)])
    return replace(tree)


def scattered(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in all processes, divided as `like` is: each takes its share, nothing is sent."""
    if isinstance(like, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return value


def scatter_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Divide the loaded state of an optimizer as its parameters are."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = scattered(value, parameter)


def make_whole(module: nn.Module) -> None:
    """Give a module its whole weights back. All processes must call it."""
    places = [
        (part, name, parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if isinstance(parameter, DTensor)
    ]
    divided: list[DTensor] = [parameter for *_, parameter in places]
    weights = [whole.clone() for bucket in _buckets(divided) for whole in _gather(bucket)]
    for (part, name, parameter), whole in zip(places, weights, strict=True):
        part.register_parameter(name, nn.Parameter(whole, requires_grad=parameter.requires_grad))
