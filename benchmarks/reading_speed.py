"""Reading a CT of 300 slices against what pydicom alone needs to decode its pixels, in turn in one process.

python -m benchmarks.reading_speed
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom

import medldm
from benchmarks.record import bar, write
from tests.dicom_maker import make_series

SLICES, SIZE, ROUNDS = 300, 512, 7
MOST = 1.5


def main() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 4096, (8, SIZE, SIZE)).astype(np.uint16)
    with tempfile.TemporaryDirectory() as name:
        folder = make_series(
            Path(name) / "ct", n=SLICES, rows=SIZE, columns=SIZE, modality="CT", pixels=lambda k: images[k % 8]
        )
        files, ratios, rows = sorted(folder.iterdir()), [], []
        for number in range(ROUNDS + 1):
            start = time.perf_counter()
            decoded = [pydicom.dcmread(file).pixel_array for file in files]
            middle = time.perf_counter()
            volume = medldm.read(folder)
            end = time.perf_counter()
            assert len(decoded) == volume.geometry.shape[2] == SLICES
            del decoded, volume
            if number == 0:
                continue  # the first round pays for imports and for memory that the machine has not given out yet
            ratios.append((end - middle) / (middle - start))
            rows.append({"pydicom_s": round(middle - start, 3), "medldm_s": round(end - middle, 3)})
            print(f"pydicom {middle - start:.3f} s, medldm {end - middle:.3f} s, ratio {ratios[-1]:.2f}")
    median = statistics.median(ratios)
    result = bar(f"reading {SLICES} slices, times pydicom's decoding (median)", median, f"<= {MOST}", median <= MOST)
    print(f"{result['name']}: {median:.2f} (bar {result['target']}) {'holds' if result['holds'] else 'MISSED'}")
    write("reading-speed", rows, [result])


if __name__ == "__main__":
    main()
