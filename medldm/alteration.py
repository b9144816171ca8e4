"""Does a picture look as it should, or has it been turned, mirrored, put together? A small network's odds, in numpy.

It learned to tell a training's pictures from altered ones (`medldm.training.alteration`), as one-class classifiers do
that learn from transformations (Golan and El-Yaniv 2018; Hendrycks et al. 2019; Tack et al. 2020). Read without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medldm.appearance import turns

Array = NDArray[np.float64]

CELLS = 32
MIDDLE, SCALE = 0.4, 2.5  # what the network is given, of pictures whose dark is 0 and whose bright is 1
WIDTHS, STRIDES = (16, 32, 32, 48, 48, 64), (1, 2, 1, 2, 1, 2)  # of the convolutions, 3 x 3 each
BY_AN_ANGLE, IN_PIECES, NOTHING = (1 + len(turns(2)) + n for n in range(3))  # classes beside 0, as it is, and the turns
CLASSES = NOTHING + 1
WORDS = {
    BY_AN_ANGLE: "it looks turned by an angle",
    IN_PIECES: "it looks put together, cut off or framed",
}


@dataclass(frozen=True, eq=False)
class Alteration:
    """weights : of each convolution (O, I, 3, 3) and its bias (O,), then of a linear layer (CLASSES, N), (CLASSES,)"""

    weights: Sequence[Array]

    def classes(self, pictures: Array) -> Array:
        """Log probabilities (N, CLASSES) of pictures (N, 32, 32)."""
        x = ((pictures - MIDDLE) * SCALE)[:, None].astype(np.float32)
        *layers, weight, bias = (w.astype(np.float32) for w in self.weights)
        for stride, w, b in zip(STRIDES, layers[::2], layers[1::2], strict=True):
            padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
            seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
            x = np.tensordot(seen, w, axes=([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2) + b[:, None, None]
            x = np.maximum(x, 0)
        logits = (x.reshape(len(x), -1) @ weight.T + bias).astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(1, keepdims=True)))

    def odds(self, pictures: Array) -> Array:
        """(N,) log odds that a picture was altered."""
        found = self.classes(pictures)
        return np.asarray(np.log(np.maximum(np.exp(found[:, 1:]).sum(1), 1e-12)) - np.maximum(found[:, 0], -27.0))

    def likeliest(self, picture: Array) -> int:
        """The class of an altered picture (32, 32)."""
        return 1 + int(self.classes(picture[None])[0, 1:].argmax())

    def to_arrays(self) -> dict[str, NDArray[np.float16]]:
        return {f"{number:02d}": weight.astype(np.float16) for number, weight in enumerate(self.weights)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Alteration:
        return cls([arrays[key].astype(np.float64) for key in sorted(arrays)])
