"""A pack with its networks: loaded, asked, saved. What a pack is stands in `medldm.pack`; loading executes nothing."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

from medldm import thumbnail
from medldm.calibration import CALIBRATION, Calibration, load_calibration
from medldm.conformal import Intervals
from medldm.errors import MedldmError, ModelError
from medldm.installed import CARD, FORMAT, PACK, TRAINING, WEIGHTS, folder_of, read_tables, weights_of
from medldm.io.atomic import write_whole
from medldm.net_tables import ImportedNetTable
from medldm.nets.autoencoder import Autoencoder
from medldm.nets.build import build_autoencoder
from medldm.networks import Networks
from medldm.operators.problem import Problem, problem_of
from medldm.pack import AutoencoderPack, ModelPack
from medldm.space import ModelSpace, side_by_side, spread_evenly
from medldm.volume import Volume
from medldm.weights import load_weights, stored

Network = TypeVar("Network", bound=nn.Module)
PREFIX = "autoencoder."  # as a whole model names these weights


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """Networks and everything that belongs to them, as `medldm.load_model` gives them.

    name : of the pack
    networks, pack : those of the autoencoder and of each task; for which scans and tasks it is
    card : Markdown, for a person
    weights_sha256 : of the weights' file
    calibration : what is known of scans like the training's; None: nothing

    >>> model
    Model(tiny-3d: denoise, super_resolve, inpaint, synthesize; 3D MR; cpu)
    """

    name: str
    networks: Networks
    pack: ModelPack
    card: str
    weights_sha256: str
    calibration: Calibration | None = None

    def __repr__(self) -> str:
        kind = f"{self.pack.dims}D {', '.join(self.pack.trained_modality)}; {self.device}"
        return f"Model({self.name}: {', '.join(self.pack.tasks)}; {kind})"

    def _repr_html_(self) -> str:
        pack, (low, high) = self.pack, self.pack.trained_range
        figures = {
            "for": ", ".join(pack.tasks),
            "scans": f"{pack.dims}D {', '.join(pack.trained_modality)}, voxels of {low:.3g} to {high:.3g} mm",
            "asked by": ", ".join(pack.synthesis.conditions if pack.synthesis else ()),
            "parameters": f"{sum(p.numel() for p in self.networks.parameters()):,} on {self.device}",
        }
        return thumbnail.page({}, figures, f"Model: {self.name}")

    @property
    def device(self) -> torch.device:
        return self.networks.autoencoder.latent_mean.device

    def on(self, device: str | None) -> Model:
        """This model on another `device`: itself where it is there already, or where None is asked for; else a copy."""
        target = self.device if device is None else default_device(device)
        if target == self.device or (target.type == self.device.type and target.index is None):
            return self
        return replace(self, networks=copy.deepcopy(self.networks).to(target))

    @property
    def intervals(self) -> Intervals | None:
        """What the pack knows of the errors of these weights; None: they were not calibrated."""
        found = None if self.calibration is None else self.calibration.intervals
        return found if found is not None and found.weights_sha256 == self.weights_sha256 else None

    def value_range(self, scan: Volume) -> tuple[float, float]:
        """Values of a `scan` that are the model's 0 and 1; in 2D, those of all slices of a volume together."""
        seen = scan
        if self.pack.dims == 2 and scan.geometry.shape[2] != 1:
            axis = self.pack.slice_axis(scan)
            stack = scan.permute((*(a for a in range(3) if a != axis), axis))
            slices = [stack.array[..., k : k + 1] for k in spread_evenly(stack.geometry.shape[2])]
            seen = side_by_side(slices, stack)
        space = ModelSpace.of(self.pack, seen)
        scaling = space.fitted(space.turned(seen)).range
        return scaling.offset, scaling.offset + scaling.scale

    def problem(self, name: str) -> Problem:
        """The problem `name` that this model was trained for. Raises ModelError for another."""
        if name not in self.pack.problems:
            got, known = f"no training for {name.replace('_', ' ')}", ", ".join(self.pack.problems) or "none"
            raise ModelError(f"model {self.name}", got, f"a model for it (this one: {known})", "see medldm models")
        return problem_of(name, self.pack.problems[name], f"model {self.name}")

    def fits(self, volume: Volume, factor: tuple[float, float, float] = (1, 1, 1)) -> list[str]:
        """Reasons for doubt about using the model on `volume`, refined by `factor` (none: an empty list)."""
        unlike = [] if self.calibration is None else self.calibration.doubts(volume, self.pack)
        return [*self.pack.doubts(volume, factor), *unlike]

    def refuses(self, volume: Volume) -> bool:
        """Whether `volume` is certainly nothing to restore: noise alone. Only a calibrated model refuses."""
        return self.calibration is not None and self.calibration.refuses(volume)

    def save(self, folder: str | Path, training: dict[str, Any] | None = None, *, eight_bits: bool = False) -> Path:
        """Write the pack into `folder`; networks are stored in half precision, buffers and imported networks in
        full. Raises OutputError.

        training : how it was trained, kept beside it; default None: not said
        eight_bits : layers in 8 bits, a file half as large (`medldm.weights`); measure what it costs; default False
        """
        full = {name for name, _ in self.networks.named_buffers()}
        if self.pack.autoencoder.kind == "imported":
            full |= {name for name, _ in self.networks.named_parameters() if name.startswith(PREFIX)}
        if self.pack.synthesis is not None and isinstance(self.pack.synthesis.cascade[0].unet, ImportedNetTable):
            full |= {name for name, _ in self.networks.named_parameters() if name.startswith("generators.")}
        state = stored(self.networks.state_dict(), full, eight_bits=eight_bits)
        written = _write(folder, self.pack, state, self.card, training=training)
        if self.calibration is not None:
            self.calibration.save(written)
        else:  # of what was trained here before
            (written / CALIBRATION).unlink(missing_ok=True)
        return written


@dataclass(frozen=True, eq=False)
class LoadedAutoencoder:
    """The autoencoder of a pack, in eval mode, with its tables, card and the hash of the weights' file."""

    name: str
    autoencoder: Autoencoder
    pack: AutoencoderPack
    card: str
    weights_sha256: str


def default_device(device: str | None = None) -> torch.device:
    """The device named, else a GPU where there is one, else the CPU. Raises ModelError."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as failure:
        reason = str(failure).splitlines()[0][:80]
        raise ModelError(f"device {device}", reason, "cpu, cuda or cuda:N", "see medldm doctor") from None
    return chosen


def load_model(name_or_folder: str | Path, device: str | None = None) -> Model:
    """Load a pack by name or folder.

    name_or_folder : as `medldm models` lists it, or the folder that a training left
    device : "cpu", "cuda", "cuda:1"; default None: a GPU where there is one
    Raises ModelError for an unknown name (the nearest ones are named), a damaged folder or a bad device.

    >>> medldm.load_model("runs/brain", device="cpu").pack.dims
    3
    """
    given: object = name_or_folder
    if not isinstance(given, str | Path):
        raise ModelError(f"model {given}"[:60], f"a {type(given).__name__}", "a name or a folder", "see medldm models")
    target, where, pack = default_device(device), _where(name_or_folder), read_tables(str(name_or_folder))
    if not isinstance(pack, ModelPack):
        do = "train one on it (docs/importing.md)"
        raise ModelError(where, "an autoencoder alone", "a model with a denoiser", do)
    weights, card, digest = _read(name_or_folder, where)
    networks = _built(functools.partial(Networks, pack), weights, where)
    calibration = load_calibration(folder_of(str(name_or_folder)), where)
    return Model(pack.name, networks.to(target).eval().requires_grad_(False), pack, card, digest, calibration)


def load_autoencoder(name_or_folder: str | Path, device: str | torch.device = "cpu") -> LoadedAutoencoder:
    """Load the autoencoder of a pack, by name or folder; of a whole model, the autoencoder alone.

    Raises ModelError for an unknown name, a damaged folder or a family that is not installed.
    """
    where, pack = _where(name_or_folder), autoencoder_alone(read_tables(str(name_or_folder)))
    weights, card, digest = _read(name_or_folder, where)
    own = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    found = _built(functools.partial(build_autoencoder, pack), own, where)
    if found.factor != pack.latent_factor or found.channels != pack.autoencoder.channels:
        got = f"a network of factor {found.factor} and {found.channels} channels"
        raise ModelError(where, got, f"the pack's {pack.latent_factor} and {pack.autoencoder.channels}")
    ready = found.to(device).eval().requires_grad_(False)
    return LoadedAutoencoder(pack.name, ready, pack, card, digest)


def save_autoencoder(folder: str | Path, pack: AutoencoderPack, autoencoder: Autoencoder, card: str) -> Path:
    """Write the pack of an autoencoder alone into `folder`, the weights in full precision. Raises OutputError."""
    weights = {PREFIX + name: value for name, value in autoencoder.state_dict().items()}
    return _write(folder, autoencoder_alone(pack), stored(weights), card)


def autoencoder_alone(pack: AutoencoderPack) -> AutoencoderPack:
    """What of a pack concerns the autoencoder."""
    return AutoencoderPack.model_validate({key: getattr(pack, key) for key in AutoencoderPack.model_fields})


def _where(name_or_folder: str | Path) -> str:
    """What messages call a pack: never where it lies."""
    path = Path(name_or_folder)
    return f"model {path.resolve().name if path.is_dir() else name_or_folder}"


def _built(build: Callable[[], Network], weights: dict[str, Tensor], where: str) -> Network:
    """The network with its weights. Raises ModelError where they do not go together."""
    try:
        network = build()
        network.load_state_dict(weights)
    except MedldmError as failure:
        raise ModelError(where, str(failure), "a pack of this version, whose networks can be built") from None
    except (ValueError, TypeError, RuntimeError) as failure:
        raise _damaged(where, failure) from None
    return network


def _read(name_or_folder: str | Path, where: str) -> tuple[dict[str, Tensor], str, str]:
    """Float32 weights by name, the card, the hash of the weights' file (of several: of all, one after the other).

    Raises ModelError.
    """
    folder, digest = folder_of(str(name_or_folder)), hashlib.sha256()
    try:
        weights: dict[str, Tensor] = {}
        for path in weights_of(folder):
            weights |= load_weights(path)
            digest.update(path.read_bytes())
        card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    except (OSError, ValueError, SafetensorError) as failure:
        raise _damaged(where, failure) from None
    return weights, card, digest.hexdigest()


def _damaged(where: str, failure: Exception) -> ModelError:
    reason = (str(failure).splitlines() or [type(failure).__name__])[0][:120]
    return ModelError(where, f"damaged pack ({reason})", f"weights that match {PACK}", "reinstall it")


def _write(
    folder: str | Path,
    pack: AutoencoderPack,
    state: dict[str, Tensor],
    card: str,
    *,
    training: dict[str, Any] | None = None,
) -> Path:
    """Each file whole or not at all. state : weights as they are written"""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = save(state)  # safetensors' own save_file makes files that others cannot read
    write_whole(folder / WEIGHTS, lambda path: path.write_bytes(content))
    for path in weights_of(folder)[1:]:  # of what was there before
        path.unlink()
    texts = {PACK: _json({"format": FORMAT, **pack.model_dump(mode="json")}), CARD: card}
    if training is not None:
        texts[TRAINING] = _json(training)
    for name, text in texts.items():
        write_whole(folder / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    return folder


def _json(table: dict[str, Any]) -> str:
    return json.dumps(table, indent=2) + "\n"
