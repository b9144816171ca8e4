"""A foreign network behind our interface: its range of values, its channels, its order of axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from medldm.errors import ModelError
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.blocks import last_convolution


class ForeignTable(BaseModel):
    """What every family's configuration holds.

    input_range : what our 0 and 1 are in the network's images
    rows_first : a 2D network sees rows x columns; ours are columns x rows, the order of a file
    in_channels, out_channels : 1, or 3 where a grey image is repeated and the mean of the result taken
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_range: tuple[float, float] = (0.0, 1.0)
    rows_first: bool = False
    in_channels: int = Field(1, ge=1)
    out_channels: int = Field(1, ge=1)
    latent_channels: int = Field(ge=1)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.input_range[0] < self.input_range[1]:
            raise ValueError("input_range must be two numbers, the first one smaller")
        if {self.in_channels, self.out_channels} - {1, 3}:
            raise ValueError("images must have 1 or 3 channels")
        return self


Table = TypeVar("Table", bound=ForeignTable)


def checked(table: type[Table], config: dict[str, Any], family: str) -> Table:
    """A family's configuration. Raises ModelError naming the first wrong key."""
    try:
        return table.model_validate(config)
    except ValidationError as failure:
        first = failure.errors()[0]
        key = ".".join(map(str, first["loc"])) or "configuration"
        got = "nothing" if first["type"] == "missing" else str(first.get("input"))[:60]
        raise ModelError(f"{family} {key}", got, first["msg"]) from None


class ForeignAutoencoder(Autoencoder):
    """A network of another library, in full precision: some of them overflow in half.

    network : its `encode` gives mean and deviation, its `decode` the image, both in the library's units
    Tiles depend on the whole image (halo None): these networks have group norms.
    """

    def __init__(self, dims: int, network: nn.Module, table: ForeignTable, factor: Sequence[int]) -> None:
        super().__init__(dims, channels=table.latent_channels, factor=factor, halo=None)
        self.network: Any = network
        self.table = table
        norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
        # over one voxel a group of one channel has no deviation
        self.cells = 2 if any(norm.num_groups == norm.num_channels for norm in norms) else 1

    @property
    def multiple(self) -> tuple[int, ...]:
        return tuple(self.cells * factor for factor in self.factor)

    def _turned(self, x: Tensor) -> Tensor:
        return x.transpose(-1, -2) if self.table.rows_first else x

    @property
    def last_weight(self) -> Tensor:
        return last_convolution(self.network.decoder)

    def raw_encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.table.input_range
        with torch.autocast(x.device.type, enabled=False):
            image = self._turned(x.float()) * (high - low) + low
            mean, std = self.network.encode(image.expand(-1, self.table.in_channels, *image.shape[2:]))
        return self._turned(mean), self._turned(std)

    def raw_decode(self, z: Tensor) -> Tensor:
        low, high = self.table.input_range
        with torch.autocast(z.device.type, enabled=False):
            image: Tensor = self.network.decode(self._turned(z.float())).mean(1, keepdim=True)
        return (self._turned(image) - low) / (high - low)
