"""How much an adversarial loss counts beside the reconstruction's (Esser et al. 2021, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

STABILISER = 1e-4
LARGEST = 1e4


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
