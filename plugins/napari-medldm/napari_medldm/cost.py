"""About how long and how much memory a restoration will take: a first guess, then from what this machine did."""

from __future__ import annotations

import time

from napari_medldm.request import Request

SECONDS_PER_VOXEL = 6e-6  # one pass of a 3D model on two cores
BYTES_PER_VOXEL = 700
STEP_SHARE = 0.15  # of a whole pass: the steps of a sampler stay in the latent space


class Cost:
    """Seconds a voxel and pass, learned from every run that ends."""

    def __init__(self) -> None:
        self.seconds_per_voxel = SECONDS_PER_VOXEL
        self._begun: tuple[float, float] | None = None

    def work(self, voxels: int, request: Request) -> float:
        """Voxels times passes."""
        if request.mode == 0 and request.samples == 1:
            return float(voxels)
        return voxels * request.samples * (1 + STEP_SHARE * request.steps)

    def describe(self, voxels: int, request: Request) -> str:
        """One sentence for the form."""
        seconds = self.work(voxels, request) * self.seconds_per_voxel
        text = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
        return f"about {max(seconds, 1):.0f} s" if seconds < 1 else f"about {text}, {self.gigabytes(voxels):.1f} GB"

    def gigabytes(self, voxels: int) -> float:
        return 0.6 + voxels * BYTES_PER_VOXEL / 1e9

    def begin(self, voxels: int, request: Request) -> None:
        self._begun = time.monotonic(), self.work(voxels, request)

    def end(self) -> None:
        """Learn from the run that `begin` started."""
        if self._begun is not None:
            started, work = self._begun
            self.seconds_per_voxel = (time.monotonic() - started) / max(work, 1)
            self._begun = None
