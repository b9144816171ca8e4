"""Does the result agree with the measurement? What is left over should be noise, and look like it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import ModelError
from medldm.model import Model
from medldm.restoration.settings import Settings
from medldm.volume import Volume

UNCHANGED = 1e-3  # of the range
FAINT = 0.5  # of the noise; where less was taken off, no anatomy was


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


def doubts(checks: dict[str, Any], residual: NDArray[np.float32], scale: float, *, same_grid: bool) -> list[str]:
    """What of the checks a person has to hear.

    scale : the model's range in the scan's unit; same_grid : whether a result could equal its scan
    """
    ratio = checks.get("residual_std_over_noise_std", 0.0)
    correlation = checks.get("residual_neighbour_correlation", 0.0)
    if checks.get("residual_has_structure") and ratio > FAINT:
        text = f"the residual is not plain noise ({ratio:.2g} times as strong, correlation {correlation:.2g})"
        return [f"{text}: anatomy may be lost in the result; look at the residual, give noise_std"]
    if same_grid and "residual_mean" in checks and float(np.abs(residual).max()) < UNCHANGED * scale:
        return ["the result is the scan as it was: no noise was found, or less than the model treats"]
    return []


def is_forced(model: Model, volume: Volume, settings: Settings) -> bool:
    """Whether a scan is restored that the model refuses. Raises ModelError where that was not asked for."""
    refused = model.refuses(volume)
    if refused and not settings.force:
        do = "force=True (--force) restores it all the same"
        raise ModelError(f"model {model.name}", "a scan of noise alone", "a scan that shows something", do)
    return refused
