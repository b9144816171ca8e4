"""Scans that are opened without their voxels: how soon, with how much memory, and how long a slice takes to be drawn.

    python -m benchmarks.slices

Series of 300 slices (raw, JPEG-LS, JPEG 2000), one of 1100, and an uncompressed NIfTI file of 2.5 GB, sparse on the
disk. Where there are napari and a display (`xvfb-run -a -s "-screen 0 1600x1000x24"`), the same in its window.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

import medldm
from benchmarks.record import bar, write
from tests.dicom_maker import make_series

SLICES, SIZE, LOOKED_AT = 300, 512, 40
MANY = 1100  # slices: above the limit of napari's reader, 1 GiB
LARGE = (1024, 1024, 1192)  # of int16: 2.5 GB
MOST_OPENING_S, MOST_MB = 1.0, 100.0


def images() -> np.ndarray[Any, Any]:
    """Heads with noise of 12 bits, as hard to compress as scans are."""
    from skimage.data import shepp_logan_phantom
    from skimage.transform import resize

    plane = resize(shepp_logan_phantom(), (SIZE, SIZE), anti_aliasing=True)
    noise = np.random.default_rng(0).normal(0, 12, (8, SIZE, SIZE))
    return np.clip(1000 * plane + 24 + noise, 0, 4095).astype(np.uint16)


def series(folder: Path, syntax: str | None, count: int = SLICES) -> Path:
    pixels = images()
    size = {"n": count, "rows": SIZE, "columns": SIZE}
    make_series(folder, modality="CT", pixels=lambda k: pixels[k % len(pixels)], **size)
    for file in folder.iterdir() if syntax is not None else ():
        dataset = dcmread(file)
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(file)
    return folder


def sparse_nifti(path: Path) -> Path:
    import nibabel as nib

    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(LARGE)
    header.set_sform(np.eye(4), code=1)
    header.set_xyzt_units("mm")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with path.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        file.truncate(352 + 2 * int(np.prod(LARGE)))
    return path


def scans(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, path) of what is opened."""
    for name, syntax in (("raw", None), ("JPEG-LS", JPEGLSLossless), ("JPEG 2000", JPEG2000Lossless)):
        yield f"{SLICES} slices, {name}", series(folder / name, syntax)
    yield f"{MANY} slices, raw", series(folder / "many", None, MANY)
    yield "NIfTI of 2.5 GB", sparse_nifti(folder / "large.nii")


def memory(peak: bool) -> float:
    """What this process holds now, MB, or (Linux) the most that it has held since this was last asked for now."""
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")
    name = "VmHWM:" if peak else "VmRSS:"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def measured(path: Path) -> dict[str, Any]:
    """In a process that has opened a small scan already: imports are not what is asked about."""
    with tempfile.TemporaryDirectory() as name:
        medldm.open_lazily(make_series(Path(name) / "small", modality="CT")).plane(0)
        small = medldm.Volume(np.ones((3, 3, 3), np.float32), medldm.Geometry(np.eye(4), (3, 3, 3)))
        medldm.open_lazily(medldm.write(small, Path(name) / "small.nii")).plane(0)
    before, started = memory(peak=False), time.perf_counter()
    scan = medldm.open_lazily(path)
    opening, more = time.perf_counter() - started, memory(peak=True) - before
    times = []
    for k in np.random.default_rng(0).permutation(scan.shape[2])[:LOOKED_AT]:
        started = time.perf_counter()
        scan.plane(int(k))
        times.append(time.perf_counter() - started)
    return {"opening_s": opening, "opening_mb": more, "slice_ms": 1000 * statistics.median(times)}


def in_napari(path: Path) -> dict[str, Any]:
    """From the call to the drawn canvas, and the same for each further slice."""
    import napari
    from napari_medldm import _reader

    _reader.LARGE_BYTES = 0  # a series of 300 slices is read whole otherwise
    viewer = napari.Viewer(show=True)
    with tempfile.TemporaryDirectory() as name:
        viewer.open(str(make_series(Path(name) / "small", modality="CT")), plugin="napari-medldm")
        viewer.screenshot(canvas_only=True, flash=False)
    viewer.layers.clear()
    started = time.perf_counter()
    viewer.open(str(path), plugin="napari-medldm")
    viewer.screenshot(canvas_only=True, flash=False)
    opening, times = time.perf_counter() - started, []
    axis = viewer.dims.order[0]
    for k in np.random.default_rng(0).permutation(viewer.layers[-1].data.shape[axis])[:LOOKED_AT]:
        started = time.perf_counter()
        viewer.dims.set_current_step(axis, int(k))
        viewer.screenshot(canvas_only=True, flash=False)
        times.append(time.perf_counter() - started)
    viewer.close()
    return {"napari_opening_s": opening, "napari_slice_ms": 1000 * statistics.median(times)}


def alone(what: str, path: Path) -> dict[str, Any]:
    """One measurement in a process of its own, so that its memory is its own."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.slices", what, path], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def window() -> bool:
    """Whether napari can be asked, too."""
    return importlib.util.find_spec("napari") is not None and bool(os.environ.get("DISPLAY"))


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for what, path in scans(Path(name)):
            row = {"scan": what} | alone("measured", path) | (alone("in_napari", path) if window() else {})
            rows.append({key: value if isinstance(value, str) else round(value, 3) for key, value in row.items()})
    columns = list(rows[-1])
    print(" | ".join(columns))
    for row in rows:
        print(" | ".join(str(row[column]) for column in columns))
    slowest, most = max(row["opening_s"] for row in rows), max(row["opening_mb"] for row in rows)
    bars = [
        bar("longest opening, s", slowest, f"< {MOST_OPENING_S:g}", slowest < MOST_OPENING_S),
        bar("most memory for opening, MB", most, f"< {MOST_MB:g}", most < MOST_MB),
    ]
    if "napari_opening_s" in rows[0]:
        shown = max(row["napari_opening_s"] for row in rows)
        bars.append(bar("longest opening in napari, s", shown, f"< {MOST_OPENING_S:g}", shown < MOST_OPENING_S))
    for each in bars:
        print(f"{each['name']}: {each['value']:g} (bar {each['target']}) {'holds' if each['holds'] else 'MISSED'}")
    write("slices", rows, bars)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps({"measured": measured, "in_napari": in_napari}[sys.argv[1]](Path(sys.argv[2]))))
    else:
        main()
