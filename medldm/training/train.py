"""Train a model: linear start, autoencoder, latent statistics, denoiser, heads, pack."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from medldm.diffusion.schedule import SIGMA_MAX, level_of
from medldm.errors import ModelError, OutputError
from medldm.model import Model, Networks, default_device, load_model
from medldm.nets.conditioning import Measurement
from medldm.nets.patches import pad_to_multiple, space_to_depth
from medldm.recipe import Recipe
from medldm.training.card import write_card
from medldm.training.checkpoint import load_checkpoint, save_checkpoint
from medldm.training.data import Batches, Scan, load_scans
from medldm.training.loop import Hooks, Progress, fastest_precision, run_stage
from medldm.training.stages import AutoencoderStage, DenoiserStage, HeadStage, Stage

STAGES = ("autoencoder", "denoiser", "head", "super_head")
LINEAR_START = 10**9  # steps of the patches of the linear code, far from those of training


def _start_from(networks: Networks, name_or_folder: str | Path) -> str:
    """Take over the weights of a model; returns which. A super-resolution head that it lacks begins anew.

    Raises ModelError where its networks are others.
    """
    model = load_model(name_or_folder, "cpu")
    weights = model.networks.state_dict()
    if networks.super_head is not None and model.networks.super_head is None:
        weights |= {f"super_head.{name}": value for name, value in networks.super_head.state_dict().items()}
    try:
        networks.load_state_dict(weights)
    except RuntimeError:
        got = "networks of other sizes than the recipe's"
        raise ModelError(f"model {model.name}", got, "the same autoencoder, unet and head tables") from None
    return f"{model.name}, weights sha256 {model.weights_sha256[:12]}"


def _start_linear(networks: Networks, batches: Batches) -> float | None:
    patches = []
    for step in range(60):
        cells = (
            space_to_depth(batches.images(LINEAR_START + step), networks.autoencoder.factor)
            .movedim(1, -1)
            .flatten(0, -2)
        )
        patches.append(cells)
    return networks.autoencoder.begin(torch.cat(patches))


@torch.no_grad()
def _measure_latents(networks: Networks, scans: list[Scan]) -> None:
    """Latent mean and deviation a channel over the whole training set, not over one batch."""
    code = networks.autoencoder
    count, total, squares = 0, torch.zeros(code.channels), torch.zeros(code.channels)
    code.set_latent_statistics(torch.zeros(code.channels), torch.ones(code.channels))
    for scan in scans:
        image, _ = pad_to_multiple(scan.image[None, None].to(code.latent_mean), code.factor)
        z = code.encode(image)[0].double().cpu().movedim(1, 0).flatten(1)
        count += z.shape[1]
        total, squares = total + z.sum(1), squares + z.square().sum(1)
    mean = total / count
    code.set_latent_statistics(mean.float(), (squares / count - mean.square()).clamp_min(1e-8).sqrt().float())


def _stage(name: str, networks: Networks) -> Stage:
    networks.requires_grad_(True)
    if name == "autoencoder":
        return AutoencoderStage(networks)
    if name == "denoiser":
        return DenoiserStage(networks)
    head = networks.head if name == "head" else networks.super_head
    assert head is not None
    return HeadStage(networks, head)


@torch.no_grad()
def _panel(networks: Networks, validation: Batches) -> Tensor:
    """(1, H, W * 3) one validation crop: measurement, posterior mean, truth (middle plane)."""
    x, measurement = validation.restoration(0)
    device = networks.autoencoder.latent_mean.device
    moved = Measurement(*(part.to(device) for part in measurement))
    cond = moved.to_latent_condition(networks.autoencoder)
    z = networks.denoiser.posterior_mean(cond, networks.autoencoder.channels)
    level = level_of(torch.full((len(x),), SIGMA_MAX, device=device))
    image, _ = networks.head_for(moved)(networks.autoencoder.decode(z), moved, level)
    row = [t[0, 0].float().cpu() for t in (measurement.image, image, x)]
    planes = [t if t.ndim == 2 else t[:, :, t.shape[2] // 2] for t in row]
    return torch.cat(planes, dim=1).clamp(0, 1)[None]


def train(
    recipe: Recipe,
    *,
    data: Path,
    out: Path,
    start: str | Path | None = None,
    resume: bool = True,
    device: str | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Model:
    """Train every stage of `recipe` on the scans below `data`; the pack is written to `out`.

    With `start`, a model of the same networks, its weights are gone on from instead of the linear code.

    A checkpoint is kept in `out` and, with `resume`, gone on from. Several processes (torchrun, SLURM) share
    the work through Lightning Fabric. Raises InputError for data that cannot be read, RunError for a
    training that fails, OutputError where `out` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise OutputError(str(out), failure.strerror or "not writable", "a folder to write to") from None
    target = default_device(device)
    fabric = Fabric(accelerator=target.type, precision=fastest_precision(target))  # type: ignore[arg-type]
    fabric.launch()
    torch.manual_seed(recipe.seed)
    networks = Networks(recipe)
    done: dict[str, Any] = {"seconds": {}, "losses": {}}
    if start is not None:
        done["start"] = _start_from(networks, start)
    networks = networks.to(fabric.device)
    scans = load_scans(recipe, data)
    held_out = load_scans(recipe, data, part="validation") or scans
    table = recipe.model_dump(mode="json")
    state: dict[str, Any] | None = load_checkpoint(out, table) if resume else None
    at = 0
    if state is not None:
        networks.load_state_dict(state["networks"])
        done, at = state["done"], STAGES.index(state["stage"])
    writer = SummaryWriter(str(out / "tensorboard")) if fabric.is_global_zero else None
    share = recipe.degradation.super_resolution_share
    panel_batches = Batches(
        held_out, recipe, recipe.stage_head, salt=999_000, all_flips=False, super_resolution_share=share
    )

    for index, name in enumerate(STAGES[at:], start=at):
        settings = {
            "autoencoder": recipe.stage_autoencoder,
            "denoiser": recipe.stage_denoiser,
            "head": recipe.stage_head,
            "super_head": recipe.stage_super_head,
        }[name]
        if settings is None:
            continue
        batches = Batches(
            scans,
            recipe,
            settings,
            salt=100 * index + fabric.global_rank,
            all_flips=name != "denoiser",
            super_resolution_share=recipe.super_resolution_share(name),
        )
        inside = state["inside"] if state is not None and state["stage"] == name else None
        linear = name == "autoencoder" and inside is None and start is None
        if linear:
            done["linear_variance"] = _start_linear(networks, batches)
        if settings.steps == 0:
            if linear:
                _measure_latents(networks, scans)
            continue
        started = time.monotonic()
        before = done["seconds"].get(name, 0.0)

        def checkpoint(
            inside: dict[str, Any] | None, name: str = name, started: float = started, before: float = before
        ) -> None:
            done["seconds"][name] = before + time.monotonic() - started
            if fabric.is_global_zero:
                save_checkpoint(
                    out,
                    {
                        "recipe": table,
                        "stage": name,
                        "inside": inside,
                        "networks": networks.state_dict(),
                        "done": done,
                    },
                )

        def scalars(stage: str, values: dict[str, float], step: int) -> None:
            if writer is not None:
                for key, value in values.items():
                    writer.add_scalar(f"{stage}/{key}", value, step)
                with (out / "losses.jsonl").open("a", encoding="utf-8") as log:
                    log.write(
                        json.dumps({"stage": stage, "step": step, **{k: round(v, 6) for k, v in values.items()}}) + "\n"
                    )

        def pictures(stage: str, step: int) -> None:
            if writer is not None:
                writer.add_image(f"{stage}/measured, restored, truth", _panel(networks, panel_batches), step)

        hooks = Hooks(progress if fabric.is_global_zero else None, scalars, checkpoint, pictures)
        done["losses"][name] = run_stage(name, fabric, _stage(name, networks), batches, settings, hooks, inside)
        if name == "autoencoder":
            _measure_latents(networks, scans)
        state = None
        if index + 1 < len(STAGES):
            done["seconds"][name] = before + time.monotonic() - started
            if fabric.is_global_zero:
                save_checkpoint(
                    out,
                    {
                        "recipe": table,
                        "stage": STAGES[index + 1],
                        "inside": None,
                        "networks": networks.state_dict(),
                        "done": done,
                    },
                )
    if writer is not None:
        writer.close()
    if fabric.is_global_zero:
        card = write_card(recipe, done, scans=len(scans), command=command)
        Model(recipe.name, networks, recipe, card, "").save(out)
    fabric.barrier()
    return load_model(out, device)
