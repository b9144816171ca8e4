"""Does the result agree with the measurement? What is left over should be noise, and look like it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def residual_checks(
    residual: NDArray[np.float32], restored: NDArray[np.float32], noise_std: float
) -> dict[str, float | bool]:
    """Ratio of the residual's deviation to the noise, and its correlation with its neighbours.

    residual, restored : (I, J, K) on the scan's grid
    noise_std : in their unit
    Only voxels with signal count, where Rician noise is nearly Gaussian. White noise has no correlation with
    its neighbours; anatomy that was removed does.
    """
    signal = restored > max(3 * noise_std, 0.05 * float(np.percentile(restored, 99)))
    if signal.sum() < 100:
        signal = np.ones(residual.shape, dtype=bool)
    values = residual[signal]
    deviation = float(values.std())
    ratio = deviation / noise_std if noise_std > 0 else float("nan")
    correlation = 0.0
    for axis in range(3):
        if residual.shape[axis] < 3:
            continue
        a, b = (
            np.take(residual, range(residual.shape[axis] - 1), axis),
            np.take(residual, range(1, residual.shape[axis]), axis),
        )
        both = np.take(signal, range(residual.shape[axis] - 1), axis) & np.take(
            signal, range(1, residual.shape[axis]), axis
        )
        if both.sum() > 100 and a[both].std() > 0 and b[both].std() > 0:
            correlation = max(correlation, float(np.corrcoef(a[both], b[both])[0, 1]), key=abs)
    structured = noise_std > 0 and (ratio > 1.3 or abs(correlation) > 0.3)
    return {
        "residual_std_over_noise_std": round(ratio, 4),
        "residual_neighbour_correlation": round(correlation, 4),
        "residual_mean": float(values.mean()),
        "residual_has_structure": bool(structured),
    }
