"""Is a drawn scan the same whatever it is drawn with, and in whatever tiles?

    python -m benchmarks.tiled_sampling [--model radiographs]

Scans of one seed in batches of 1, 4 and 8, forwards and backwards; the last level of the cascade on the coarser images
of four scans, whole and in tiles of several sizes and overlaps (`halo`, latent cells on each side). Differences are
shares of the model's range. Networks that see no further than the overlap agree to 1e-3
(tests/test_drawing_by_conditions.py); those of packs normalise over their field and see far.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

import medldm
from benchmarks import record
from medldm.diffusion import cascade
from medldm.diffusion.cascade import Guidance, sample_cascade
from medldm.diffusion.noise import FieldNoise
from medldm.diffusion.samplers import dpmpp_2m
from medldm.nets.conditioner import Conditions

SCANS, SEED = 8, 0
TILES, HALOS = (48, 40, 32, 24), (4, 8, 16)
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="radiographs")
    model = medldm.load_model(parser.parse_args().model, "cpu")
    torch.set_num_threads(1)
    table = model.pack.synthesis
    assert table is not None
    networks, size = model.networks, list(table.shape[: model.pack.dims])
    levels = [networks.generator(number) for number in range(len(table.cascade))]

    @torch.inference_mode()
    def drawn(numbers: list[int], generators: list[Any], coarser: Tensor | None = None) -> Tensor:
        asked = Conditions.together([Conditions.of(table.conditions, {}, size)] * len(numbers))
        noise = FieldNoise([(SEED, number) for number in numbers], CPU)
        return sample_cascade(
            networks.autoencoder,
            generators,
            asked,
            noise,
            size,
            steps=None,
            sampler=dpmpp_2m,
            guidance=Guidance(),
            on_step=lambda done, total, preview: None,
            coarser=coarser,
        )

    numbers = list(range(SCANS))
    alone = torch.cat([drawn([number], levels) for number in numbers])
    rows: list[dict[str, Any]] = []
    for batch in (4, 8):
        for order in (numbers, numbers[::-1]):
            parts = [drawn(order[at : at + batch], levels) for at in range(0, SCANS, batch)]
            apart = (torch.cat(parts) - alone[order]).abs().max().item()
            rows.append(
                {"what": f"batches of {batch}, {'forwards' if order is numbers else 'backwards'}", "most": apart}
            )
    worst_batch = max(row["most"] for row in rows)
    few, last = numbers[:4], levels[-1]
    coarser = drawn(few, levels[:-1])
    whole = drawn(few, [last], coarser)
    best = float("inf")
    for halo in HALOS:
        cascade.HALO = halo
        for tile in TILES:
            if tile <= 2 * halo:
                continue
            last.table = last.table.model_copy(update={"tile": (tile,) * model.pack.dims})
            errors = (drawn(few, [last], coarser) - whole).abs()
            row = {"what": f"tiles of {tile}, halo {halo}", "mean": errors.mean().item(), "most": errors.max().item()}
            rows.append(row)
            best = min(best, row["most"])
    for row in rows:
        print("  ".join(f"{key} {value:.2g}" if key != "what" else str(value) for key, value in row.items()))
    bars = [
        record.bar("one seed in batches of 1, 4, 8, any order", worst_batch, "<= 1e-5", worst_batch <= 1e-5),
        record.bar("any tiles, the layout that differs least", best, "<= 1e-3", best <= 1e-3),
    ]
    for one in bars:
        print(f"{'holds' if one['holds'] else 'MISSED'}: {one['name']} {one['value']} ({one['target']})")
    record.write("tiled-sampling", rows, bars)


if __name__ == "__main__":
    main()
