"""Where a training runs: device, precision, processes (torchrun or SLURM), through Lightning Fabric."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy

from medldm.errors import RecipeError
from medldm.model import default_device
from medldm.training.sharding import shard

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class AutocastAlone(MixedPrecision):
    """Mixed precision that leaves the batches as they are.

    Fabric's own rounds them to half precision on their way into the module. Images are what is to be reproduced, and
    those of radiographs have more than the 256 levels that bf16 has between 0.5 and 1: it would cap a code at 59 dB,
    and put an error of 0.001 beneath noise of 0.005.
    """

    def convert_input(self, data: Any) -> Any:
        return data


def fastest_precision(device: torch.device) -> str:
    """bf16 where the hardware multiplies it, fp32 elsewhere."""
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


def _fabric(target: torch.device, precision: str, settings: dict[str, Any]) -> tuple[Fabric, str]:
    chosen = fastest_precision(target) if precision == "auto" else PRECISIONS[precision]
    if chosen == "16-mixed" and target.type != "cuda":
        raise RecipeError("precision", "fp16 without a GPU", "bf16, fp32 or auto")
    if chosen == "32-true":
        settings["precision"] = chosen
    else:
        settings["plugins"] = AutocastAlone("bf16-mixed" if chosen == "bf16-mixed" else "16-mixed", target.type)
    return Fabric(accelerator=target.type, **settings), chosen


def alone(device: str | None, precision: str) -> tuple[Fabric, str]:
    """Fabric for this process alone, whatever others there are, and the name of its precision.

    Raises ModelError for a device that is not there, RecipeError for a precision that it does not have.
    """
    target = default_device(device)
    return _fabric(target, precision, {"devices": 1 if target.index is None else [target.index], "strategy": "auto"})


def start_fabric(device: str | None, precision: str, strategy: str = "ddp") -> tuple[Fabric, str]:
    """Fabric, launched, and the name of its precision ("auto": the fastest that is safe).

    Under torchrun or SLURM all processes train together: each with all weights ("ddp"), or with its share of them
    ("fsdp"), for models that one device cannot hold. Raises ModelError for a device that is not there,
    RecipeError for a precision that it does not have.
    """
    world = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")))
    if world == 1:
        fabric, chosen = alone(device, precision)
    else:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", str(world))))
        settings = {"devices": local, "num_nodes": world // local, "strategy": _strategy(strategy, world)}
        fabric, chosen = _fabric(default_device(device), precision, settings)
    fabric.launch()
    return fabric, chosen


_launched = False  # whether the process group was made here: another's is its maker's to end


def _end_groups() -> None:
    """End every process group; what held references to them is gone by then, so that their threads are joined."""
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()


def run_launched(work: Callable[[Fabric, str], None], device: str | None, precision: str, strategy: str) -> None:
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
    fabric, chosen = start_fabric(device, precision, strategy)
    _launched = _launched or (dist.is_initialized() and not there_already)
    work(fabric, chosen)
    if isinstance(fabric.strategy, ModelParallelStrategy):
        mesh = fabric.strategy.device_mesh
        (mesh._root_mesh or mesh)._pg_registry.clear()  # PyTorch's caches of placements hold it for good
    if _launched:
        atexit.register(_end_groups)
