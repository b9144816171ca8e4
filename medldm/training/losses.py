"""Terms beside the pixelwise error of a reconstruction, and the adversary that judges it.

Each term is one number >= 0 an example, (B,), 0 for equal images. Images are (B, 1, *S) in [0, 1], two or three
dimensional; gradients flow to the first. All are computed in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.nets.discriminator import PatchScores
from medldm.nets.efficientnet import EfficientNetLite0, wide_planes
from medldm.stage_tables import AdversaryTable

FEATURE_EPS = 1e-10
AMPLITUDE_FLOOR = 1e-3


class PerceptualDistance(nn.Module):
    """Mean over five stages of the squared difference of features, normalised over channels (Zhang et al. 2018).

    The features are EfficientNet-Lite0's, all channels counted alike. At equal squared error it finds noise worse
    than blur: beside it belongs a term that punishes blur.

    Raises ModelError where the network's weights are not installed.
    """

    def __init__(self, network: EfficientNetLite0 | None = None) -> None:
        super().__init__()
        self.network = network or EfficientNetLite0.pretrained()

    def forward(self, estimate: Tensor, truth: Tensor, places: Tensor | None = None) -> Tensor:
        """(B, 1, *S), (B, 1, *S) -> (B,).

        places : where volumes are cut, (B, 3, n) from 0 to 1 (`slice_places`): n slices across each axis. Planes
            narrower than 16 voxels are left out, so a thin stack is judged in its own plane alone.
        """
        if estimate.ndim == 4:
            return self._of_planes(estimate, truth)
        if places is None:
            raise ValueError("volumes need the places of the slices")
        judged = []
        for axis in wide_planes(estimate.shape[2:]):
            index = (places[:, axis] * estimate.shape[2 + axis]).long()
            a, b = (_slices(x, axis, index) for x in (estimate, truth))
            judged.append(self._of_planes(a, b).view(index.shape).mean(1))
        return torch.stack(judged).mean(0)

    def _of_planes(self, estimate: Tensor, truth: Tensor) -> Tensor:
        with torch.autocast(estimate.device.type, enabled=False):
            found = self.network.stages(estimate.float())
            with torch.no_grad():
                wanted = self.network.stages(truth.float())
            parts = [
                (_normalised(a) - _normalised(b)).square().sum(1).mean((1, 2))
                for a, b in zip(found, wanted, strict=True)
            ]
        return torch.stack(parts).mean(0)


def slice_places(count: int, slices: int, generator: torch.Generator) -> Tensor:
    """Where `count` volumes are cut, `slices` times across each axis: (count, 3, slices), uniform from 0 to 1."""
    return torch.rand(count, 3, slices, generator=generator)


def _slices(x: Tensor, axis: int, index: Tensor) -> Tensor:
    """(B, 1, I, J, K) cut across one axis at index (B, n): (B * n, 1, H, W)."""
    moved = x.movedim(2 + axis, 1)[:, :, 0]
    cut = moved[torch.arange(len(x), device=x.device).unsqueeze(1), index]
    return cut.flatten(0, 1).unsqueeze(1)


def _normalised(features: Tensor) -> Tensor:
    # inside the root, so that the gradient stays finite where all channels are 0
    return features / (features.square().sum(1, keepdim=True) + FEATURE_EPS).sqrt()


def lost_gradient(estimate: Tensor, truth: Tensor) -> Tensor:
    """How much weaker the differences between neighbours are than in the truth, mean over voxels and axes.

    One-sided, in place of the difference of gradients (Mathieu et al. 2016): at equal squared error that one, too,
    finds noise worse than blur. It never asks for less contrast; the squared error does. Axes of length one do not
    count.
    """
    parts = []
    for axis in range(2, truth.ndim):
        if truth.shape[axis] > 1:
            lost = truth.float().diff(dim=axis).abs() - estimate.float().diff(dim=axis).abs()
            parts.append(F.relu(lost).flatten(1).mean(1))
    return torch.stack(parts).mean(0) if parts else truth.new_zeros(len(truth))


def spectral_distance(estimate: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference of the logarithms of the Fourier amplitudes, each frequency counted alike.

    Blur takes nearly all of what high frequencies hold, which is little in squared error and much in logarithms.
    Amplitudes below those of white noise of standard deviation 0.001 do not count.
    """
    a, b = (_log_amplitudes(x) for x in (estimate, truth))
    return (a - b).abs().flatten(1).mean(1)


def _log_amplitudes(x: Tensor) -> Tensor:
    transformed = torch.fft.rfftn(x.float(), dim=tuple(range(2, x.ndim)), norm="ortho")
    power = transformed.real.square() + transformed.imag.square()
    return 0.5 * torch.log(power + AMPLITUDE_FLOOR**2)


def pseudo_huber(error: Tensor) -> Tensor:
    """Length of each example's error, squared where it is small: (B, ...) -> (B,) (Song and Dhariwal 2024)."""
    error = error.float().flatten(1)
    bend = HUBER * error.shape[1] ** 0.5
    distance: Tensor = (error.square().sum(1) + bend**2).sqrt() - bend
    return distance


HUBER = 0.00054
STABILISER = 1e-4
LARGEST = 1e4


class Adversary(nn.Module):
    """The discriminator of a training of `steps` steps, as its table says: both sides learn in one step of one loop.

    Before its start neither does; from then on the loss for the autoencoder rises over the ramp.
    """

    def __init__(self, dims: int, table: AdversaryTable, steps: int) -> None:
        super().__init__()
        self.patches, self.table = PatchScores(dims, width=table.width), table
        self.start, self.ramp = round(table.start * steps), round(table.ramp * steps)

    def forward(
        self, step: int, others: Tensor, fake: Tensor, real: Tensor, last_weight: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is added to the other terms' sum `others`, and what of it is worth a line in the log.

        fake, real : reconstructions and images (B, 1, *S); last_weight : of the decoder
        Without gradients (a search for a spoilt example) the weight is 1. A batch in parts has a weight a part.
        """
        idle = 0 * torch.stack([weight.sum() for weight in self.parameters()]).sum()  # every process expects a gradient
        share = self.table.weight * warm_up(step, self.start, self.ramp)
        nothing = others.new_zeros(())
        if share == 0:
            return idle, {"adversarial": nothing, "discriminator": nothing, "adaptive_weight": nothing}
        adversarial = self.patches.generator_loss(fake)
        balance = adaptive_weight(others, adversarial, last_weight) if torch.is_grad_enabled() else nothing + 1
        discriminator = self.patches.discriminator_loss(real, fake)
        shown = {"adversarial": adversarial, "discriminator": discriminator, "adaptive_weight": balance}
        loss = share * balance * adversarial + discriminator + idle
        return loss, {name: value.detach() for name, value in shown.items()}


def adaptive_weight(reconstruction_loss: Tensor, adversarial_loss: Tensor, last_parameter: Tensor) -> Tensor:
    """The factor that makes the adversarial gradient as long as the reconstruction's at the decoder's last layer.

    reconstruction_loss, adversarial_loss : numbers with a graph that leads to `last_parameter`; it is kept
    Returns a number without gradient, 0 to 10 000, the same in each process: gradients are averaged over them.
    """
    with_error, with_adversary = (_gradient(x, last_parameter) for x in (reconstruction_loss, adversarial_loss))
    weight: Tensor = with_error.norm() / (with_adversary.norm() + STABILISER)
    return weight.clamp(0, LARGEST)


def _gradient(loss: Tensor, parameter: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
    gradient = gradient.detach().float().clone()  # summed in place over the processes
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(gradient)
        gradient /= torch.distributed.get_world_size()
    return gradient


def warm_up(step: int, start: int, ramp: int = 0) -> float:
    """Share of the adversarial loss at a step: 0 before `start`, then rising to 1 over `ramp` steps.

    The discriminator would otherwise learn to tell reconstructions by what a few more steps mend anyway.
    """
    if step < start:
        return 0.0
    return 1.0 if ramp <= 0 else min((step - start + 1) / ramp, 1.0)
