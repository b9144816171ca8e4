"""The networks of a pack, built from its tables. Their parts are in `medldm.nets`; `medldm.model` keeps them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from medldm.diffusion.generator import Generator
from medldm.diffusion.process import Denoiser, NoiseProcess
from medldm.nets.build import build_autoencoder
from medldm.nets.collaborative import collaborative_estimates
from medldm.nets.condition import condition_channels, latent_condition
from medldm.nets.head import MeasurementHead
from medldm.nets.unet import Condition, LatentUNet
from medldm.operators.measurement import Measurement, noise_model
from medldm.pack import ModelPack


class Networks(nn.Module):
    """The networks of a model: autoencoder; denoiser and heads by their names, which restore; generators, coarse to
    fine, which synthesize, and guides of some, by their numbers."""

    def __init__(self, pack: ModelPack) -> None:
        super().__init__()
        self.told, self.noise = pack.measurement, noise_model(pack.noise)
        self.autoencoder = build_autoencoder(pack)
        if pack.unet is not None:
            net = LatentUNet(
                pack.dims,
                latent_channels=self.autoencoder.channels,
                concat_channels=condition_channels(self.autoencoder),
                channels=pack.unet.channels,
                attention_levels=pack.unet.attention_levels,
                num_res_blocks=pack.unet.num_res_blocks,
            )
            self.denoiser = Denoiser(net, NoiseProcess(**pack.process.model_dump()))
        self.heads = nn.ModuleDict(
            {
                name: MeasurementHead(
                    pack.dims,
                    channels=table.channels,
                    depth=table.depth,
                    separable=table.separable,
                    mask=table.mask,
                    after=table.after,
                    told=pack.measurement,
                )
                for name, table in pack.heads.items()
            }
        )
        levels = 0 if pack.synthesis is None else len(pack.synthesis.cascade)
        self.generators = nn.ModuleList([Generator(pack, number) for number in range(levels)])
        self.guides = nn.ModuleDict()
        for number in range(levels):
            level = self.generator(number)
            if level.table.guide is not None:
                guide = Generator(pack, number, level.table.of_guide())
                self.guides[str(number)] = guide
                level.follow(guide)

    def head(self, name: str) -> MeasurementHead:
        found = self.heads[name]
        assert isinstance(found, MeasurementHead)
        return found

    def generator(self, number: int) -> Generator:
        found = self.generators[number]
        assert isinstance(found, Generator)
        return found

    def condition(self, measurement: Measurement) -> Condition:
        """What the denoiser is told of a measurement."""
        return Condition(concat=latent_condition(measurement, self.autoencoder, self.told))

    def before(
        self,
        after: str | None,
        decoded: Tensor,
        measurement: Measurement,
        merge: Callable[[MeasurementHead, Tensor, Measurement], Tensor],
        on_block: Callable[[], None] = lambda: None,
    ) -> tuple[Tensor, Measurement]:
        """What a head is given in place of a decoded estimate (B, 1, *S) and a measurement.

        Where it comes `after` another head, that one's image, as `merge` gets it, and beside the measurement what
        patches that look alike make of it (docs/decisions/0022-collaborative.md).
        """
        if after is None:
            return decoded, measurement
        pilot = merge(self.head(after), decoded, measurement)
        alike = collaborative_estimates(measurement, pilot, self.noise, on_block)
        return pilot, measurement._replace(alike=alike)
