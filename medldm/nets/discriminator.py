"""MONAI's patch discriminator with least squares (Isola et al. 2017, Mao et al. 2017).

Its losses are means over examples, and its norm is each example's own, so that a batch may be divided.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call

from medldm.nets import monai_files
from medldm.nets.patches import pad_to_multiple

PatchDiscriminator = monai_files.load("monai.networks.nets.patchgan_discriminator.PatchDiscriminator")
SMALLEST = 24  # with three layers and kernels of four, two scores along an axis


class PatchScores(nn.Module):
    """A discriminator that scores overlapping patches of images (B, 1, *S) of any size, in [0, 1].

    dims : 2 or 3
    width : channels of the first layer, doubled in each of the three that follow

    Least squares without an activation: MONAI's loss bends the scores, and its hinge works on their hyperbolic
    tangent, which the hinge of Lim and Ye 2017 does not.
    """

    def __init__(self, dims: int, *, width: int = 32) -> None:
        super().__init__()
        self.discriminator = PatchDiscriminator(
            spatial_dims=dims, channels=width, in_channels=1, num_layers_d=3, norm="INSTANCE"
        )

    def scores(self, x: Tensor) -> Tensor:
        """(B, 1, *S) -> (B, 1, *patches); 1 is what real images should have, 0 what reconstructions should."""
        found: list[Tensor] = self.discriminator(_prepared(x))
        return found[-1].float()

    def generator_loss(self, fake: Tensor) -> Tensor:
        """Mean squared distance of the scores of `fake` from 1. No gradient goes to the discriminator."""
        fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        found: list[Tensor] = functional_call(self.discriminator, fixed, (_prepared(fake),))
        return (found[-1].float() - 1).square().mean()

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Half the mean squared distance of real scores from 1, and of fake ones from 0. No gradient goes to `fake`."""
        on_real, on_fake = self.scores(real.detach()) - 1, self.scores(fake.detach())
        return 0.5 * (on_real.square().mean() + on_fake.square().mean())


def _prepared(x: Tensor) -> Tensor:
    """Centred, and thin axes mirrored until a score fits: a stack of few slices is judged, too."""
    multiple = [SMALLEST if size < SMALLEST else 1 for size in x.shape[2:]]
    padded, _ = pad_to_multiple(2 * x - 1, multiple)
    return padded
