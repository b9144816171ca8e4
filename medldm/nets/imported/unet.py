"""Diffusion networks of other libraries behind our interface: MONAI's U-Net, that of diffusers in the same network, and
MAISI's with its ControlNet. They are asked at their own times (`medldm.diffusion.timed`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.conditions import LabelMapCondition, NumberCondition, Tables
from medldm.errors import ModelError
from medldm.net_tables import ImportedNetTable
from medldm.nets import monai_files
from medldm.nets.conditioner import Conditions
from medldm.nets.unet import Condition, DiffusionModelUNet
from medldm.pack import PROMPT

MAISI = "monai.apps.generation.maisi.networks"
REGIONS = 4  # head, chest, abdomen, pelvis


class ForeignConditioner(nn.Module):
    """`Conditions` as an imported network takes them; what is not said is the table's `null`.

    Numbers are brought to 0 to 1 by their range, a class is its number among its values; together they are the
    network's context vector, channels beside x_t that are alike everywhere, or both, as the network has it. A prompt is
    looked up among those that were embedded before; the last stands for none.
    """

    prompts: Tensor

    def __init__(self, tables: Tables, dims: int, table: ImportedNetTable) -> None:
        super().__init__()
        self.tables, self.dims, self.table = dict(tables), dims, table
        config: Any = table.config
        self.beside, self.context = config["in_channels"] > config["out_channels"], config["with_conditioning"]
        if table.prompts:
            count = 1 + len(self.tables[PROMPT].values)
            self.register_buffer("prompts", torch.zeros(count, table.prompts, config["cross_attention_dim"]))

    def forward(self, asked: Conditions) -> Condition:
        """concat (B, n, 1, ...) and tokens (B, 1, n): the numbers, or tokens (B, L, width): the prompt; vector (B,):
        the class; control: the label map in the values of its files (B, 1, *S), and whether there is one (B, 1, ...).
        Of MAISI, tokens are (B, 2, 4): the regions."""
        vector = torch.stack([self._number(n, asked) for n in self.table.numbers], 1) if self.table.numbers else None
        tokens = vector[:, None] if vector is not None and self.context else None
        if self.table.prompts:
            tokens = self.prompts[torch.where(asked.present[PROMPT], asked.values[PROMPT], len(self.prompts) - 1)]
        if self.table.regions:
            regions = [F.one_hot(asked.values[name], REGIONS) for name in self.table.regions]
            tokens = torch.stack(regions, 1).float()
        label = None if self.table.label is None else self._number(self.table.label, asked).long()
        concat = vector.view(*vector.shape, *(1,) * self.dims) if vector is not None and self.beside else None
        return Condition(concat, label, tokens, self._map(asked) if self.table.control else None)

    def _map(self, asked: Conditions) -> tuple[Tensor, ...]:
        name, kind = next((n, k) for n, k in self.tables.items() if isinstance(k, LabelMapCondition))
        numbers, here = asked.values[name], asked.present[name]
        values = torch.tensor([0, *(group[0] for group in kind.labels.values())], device=numbers.device)
        return values[numbers.long()], here.view(-1, *(1,) * (self.dims + 1)).float()

    def _number(self, name: str, asked: Conditions) -> Tensor:
        kind, value = self.tables[name], asked.values[name].float()
        if isinstance(kind, NumberCondition):
            value = (value - kind.low) / (kind.high - kind.low)
        null = 0.0 if self.table.null is None else self.table.null
        return torch.where(asked.present[name], value, null)


class ForeignUNet(nn.Module):
    """(x_t in the network's units, its time, condition) -> what it says, in full precision."""

    def __init__(self, dims: int, table: ImportedNetTable, spacing: Sequence[float]) -> None:
        """spacing : mm, which MAISI's is told. Raises ModelError for arguments that do not go together."""
        super().__init__()
        self.table, self.spacing, self.control = table, tuple(spacing), None
        config: dict[str, Any] = dict(table.config)
        eps = config.pop("transformer_norm_eps", None)
        try:
            if table.family == "maisi":
                maisis = monai_files.load(f"{MAISI}.diffusion_model_unet_maisi.DiffusionModelUNetMaisi")
                self.unet: Any = maisis(dims, num_channels=config.pop("channels"), **config)
            else:
                self.unet = DiffusionModelUNet(dims, **config, use_flash_attention=True)
            if table.control is not None:
                told: dict[str, Any] = dict(table.control)
                net = monai_files.load(f"{MAISI}.controlnet_maisi.ControlNetMaisi")
                self.control = net(dims, num_channels=told.pop("channels"), use_checkpointing=False, **told)
        except (TypeError, ValueError) as failure:
            raise ModelError(f"{table.family} unet", str(failure)[:120], "arguments that go together") from None
        for module in self.unet.modules():
            if eps is not None and type(module).__name__ == "SpatialTransformer":
                module.norm.eps = eps

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """x : (B, C, *S), each size a multiple of the table's; time : (B,); a condition of 1 is for the whole batch."""
        told = condition.map(lambda part: part if len(part) == len(x) else part.expand(len(x), *part.shape[1:]))
        with torch.autocast(x.device.type, enabled=False):
            seen = self._turned(x.float())
            beside = () if told.concat is None else (told.concat.to(seen).expand(-1, -1, *seen.shape[2:]),)
            more = self._maisis(seen, told) if self.table.family == "maisi" else {"context": told.tokens}
            if told.control is not None and self.control is not None:
                more |= self._controlled(seen, time, told)
            out: Tensor = self.unet(torch.cat([seen, *beside], 1), timesteps=time, class_labels=told.vector, **more)
        return self._turned(out)

    def _maisis(self, seen: Tensor, told: Condition) -> dict[str, Tensor]:
        """What MAISI's network alone is told, in its hundredths."""
        more = {}
        if self.table.config.get("include_spacing_input"):
            more["spacing_tensor"] = 100 * seen.new_tensor([self.spacing]).expand(len(seen), -1)
        if told.tokens is not None:
            more |= {
                "top_region_index_tensor": 100 * told.tokens[:, 0],
                "bottom_region_index_tensor": 100 * told.tokens[:, 1],
            }
        return more

    def _controlled(self, seen: Tensor, time: Tensor, told: Condition) -> dict[str, Any]:
        """What the ControlNet adds to the U-Net's levels, told the bits of the label map's values."""
        assert told.control is not None and self.control is not None
        labels, here = told.control
        config: Any = self.table.control
        bits = 2 ** torch.arange(config.get("conditioning_embedding_in_channels", 1), device=seen.device)
        planes = labels.bitwise_and(bits.view(1, -1, *(1,) * (seen.ndim - 2))).ne(0).float()
        classes = told.vector if config.get("num_class_embeds") else None
        down, middle = self.control(seen, time, planes, class_labels=classes)
        return {
            "down_block_additional_residuals": tuple(here * part for part in down),
            "mid_block_additional_residual": here * middle,
        }

    def _turned(self, x: Tensor) -> Tensor:
        return x.transpose(-1, -2) if self.table.rows_first else x
