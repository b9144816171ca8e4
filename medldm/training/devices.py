"""Where a training runs: device, precision, processes (torchrun or SLURM), through Lightning Fabric."""

from __future__ import annotations

import os
from typing import Any

import torch
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


def start_fabric(device: str | None, precision: str, strategy: str = "ddp") -> tuple[Fabric, str]:
    """Fabric, launched, and the name of its precision ("auto": the fastest that is safe).

    Under torchrun or SLURM all processes train together: each with all weights ("ddp"), or with its share of them
    ("fsdp"), for models that one device cannot hold. Raises ModelError for a device that is not there,
    RecipeError for a precision that it does not have.
    """
    target = default_device(device)
    chosen = fastest_precision(target) if precision == "auto" else PRECISIONS[precision]
    if chosen == "16-mixed" and target.type != "cuda":
        raise RecipeError("precision", "fp16 without a GPU", "bf16, fp32 or auto")
    world = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")))
    settings: dict[str, Any] = {"devices": 1}
    if world > 1:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", str(world))))
        settings = {"devices": local, "num_nodes": world // local, "strategy": _strategy(strategy, world)}
    elif target.index is not None:
        settings = {"devices": [target.index]}
    if chosen == "32-true":
        settings["precision"] = chosen
    else:
        settings["plugins"] = AutocastAlone("bf16-mixed" if chosen == "bf16-mixed" else "16-mixed", target.type)
    fabric = Fabric(accelerator=target.type, **settings)
    fabric.launch()
    return fabric, chosen
