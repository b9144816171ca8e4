"""Bad and hard inputs by number: each function builds its input below `tmp` and asserts what reading does.

B01 to B35 are DICOM and zip, B36 to B40 NIfTI. `data` is the folder of real series. Used by
`test_hard_inputs.py`, and by `benchmarks/hard_inputs.py` for time and memory.
"""

from __future__ import annotations

from tests import hard_inputs_files, hard_inputs_frames, hard_inputs_geometry, hard_inputs_nifti, hard_inputs_pixels
from tests.hard_inputs_cases import FOUND, Case

__all__ = ["CASES", "FAMILIES"]

FAMILIES = (hard_inputs_files, hard_inputs_geometry, hard_inputs_frames, hard_inputs_pixels, hard_inputs_nifti)
CASES: dict[str, Case] = dict(sorted(FOUND.items()))
