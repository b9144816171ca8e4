"""An adversary in training, and how much its loss counts beside the reconstruction's (Esser et al. 2021, 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medldm.nets.discriminator import PatchAdversary
from medldm.recipe import AdversaryTable

STABILISER = 1e-4
LARGEST = 1e4


class Opponent(nn.Module):
    """The discriminator of a training of `steps` steps, as its table says: both sides learn in one step of one loop.

    Before its start neither does; from then on the loss for the autoencoder rises over the ramp.
    """

    def __init__(self, dims: int, table: AdversaryTable, steps: int) -> None:
        super().__init__()
        self.adversary, self.table = PatchAdversary(dims, width=table.width), table
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
        adversarial = self.adversary.generator_loss(fake)
        balance = adaptive_weight(others, adversarial, last_weight) if torch.is_grad_enabled() else nothing + 1
        discriminator = self.adversary.discriminator_loss(real, fake)
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
