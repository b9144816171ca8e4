"""Every real DICOM series against two referees: dcm2niix, and the standard's formula slice by slice.

    python -m benchmarks.geometry

dcm2niix gets the files of one volume at a time. Where it writes a sheared grid as a straight one (tilted
gantry), its corners are off by what it dropped, and the formula alone decides.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from nibabel.nicom.dicomwrappers import wrapper_from_data

import medldm
from benchmarks.protocol import data_folder
from benchmarks.record import bar, write
from medldm.io.dicom.reader import Found, read_each

MOST_MM = 1e-3


def by_formula(found: Found) -> tuple[float, float]:
    """Worst corner (mm) and worst value, from each file's own attributes by DICOM PS3.3 C.7.6.2.1.1."""
    volume = found.volume
    assert volume is not None
    corner_error = value_error = 0.0
    columns, rows, _ = volume.geometry.shape
    for path in found.files:
        ds = pydicom.dcmread(path)
        for image, (position, orientation, spacing, slope, intercept) in _slices(ds):
            k = round(float(volume.geometry.to_voxel(position * (-1, -1, 1))[2]))
            for i in (0, columns - 1):
                for j in (0, rows - 1):
                    place = position + i * spacing[1] * orientation[:3] + j * spacing[0] * orientation[3:]
                    off = np.linalg.norm(place * (-1, -1, 1) - volume.geometry.to_world([i, j, k]))
                    corner_error = max(corner_error, float(off))
            wanted = image.astype(np.float64) * slope + intercept
            value_error = max(value_error, float(np.abs(volume.array[:, :, k] - wanted.T).max()))
    return corner_error, value_error


def _slices(ds: Any) -> Iterator[tuple[Any, tuple[Any, Any, Any, float, float]]]:
    """Stored values and attributes of each slice; those of a mosaic are where nibabel says."""
    if "MOSAIC" not in ds.ImageType:
        stored = ds.pixel_array[None] if ds.get("NumberOfFrames") is None else ds.pixel_array
        for frame, image in enumerate(stored):
            yield image, _attributes(ds, frame)
        return
    wrapper: Any = wrapper_from_data(ds)
    rows, columns, count = wrapper.image_shape
    across = ds.Columns // columns
    for k in range(count):
        row, column = k // across * rows, k % across * columns
        _, *others = _attributes(ds, 0)
        place = (wrapper.affine @ (0, 0, k, 1))[:3]
        yield ds.pixel_array[row : row + rows, column : column + columns], (place, *others)


def _attributes(ds: Any, frame: int) -> tuple[Any, Any, Any, float, float]:
    """Position, orientation, spacing, slope and intercept of a frame, from its groups or the shared ones."""
    if "PerFrameFunctionalGroupsSequence" in ds:
        groups = [ds.PerFrameFunctionalGroupsSequence[frame], *ds.get("SharedFunctionalGroupsSequence", [])]

        def of(macro: str, keyword: str, default: Any = None) -> Any:
            items = [g[macro][0] for g in groups if macro in g]
            return next((item[keyword].value for item in items if keyword in item), default)

        values = (
            of("PlanePositionSequence", "ImagePositionPatient"),
            of("PlaneOrientationSequence", "ImageOrientationPatient"),
            of("PixelMeasuresSequence", "PixelSpacing"),
            of("PixelValueTransformationSequence", "RescaleSlope", 1),
            of("PixelValueTransformationSequence", "RescaleIntercept", 0),
        )
    else:
        keywords = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        values = (*(ds[k].value for k in keywords), ds.get("RescaleSlope", 1), ds.get("RescaleIntercept", 0))
    place, axes, spacing = (np.array(v, dtype=np.float64) for v in values[:3])
    return place, axes, spacing, float(values[3]), float(values[4])


def by_dcm2niix(found: Found) -> tuple[float, float] | str:
    """Worst corner (mm) and worst value of one volume, or why there is nothing to compare."""
    volume = found.volume
    assert volume is not None
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "in", Path(name) / "out"
        source.mkdir(), out.mkdir()
        for number, file in enumerate(found.files):
            shutil.copy(file, source / f"{number:05d}.dcm")
        tool = Path(sys.executable).parent / "dcm2niix"
        command = [tool, "-b", "n", "-z", "n", "-p", "n", "-f", "%s", "-o", out, source]
        done = subprocess.run(command, capture_output=True, text=True)
        images = [p for p in sorted(out.glob("*.nii")) if "Tilt" not in p.name and "Eq" not in p.name]
        if len(images) != 1:
            return f"{len(images)} files, exit code {done.returncode}"
        image: Any = nib.load(images[0])
        array = np.asarray(image.dataobj, dtype=np.float64)
    if array.ndim == 4 and array.shape[3] > 1:
        return "4D"
    array = array.reshape(array.shape[:3])
    theirs = medldm.Volume(array, medldm.Geometry(image.affine, array.shape))
    theirs = theirs.reorient(volume.geometry.axcodes)
    if theirs.geometry.shape != volume.geometry.shape:
        return f"shape {theirs.geometry.shape}"
    corners = np.linalg.norm(theirs.geometry.corners() - volume.geometry.corners(), axis=1)
    return float(corners.max()), float(np.abs(theirs.array.astype(np.float64) - volume.array).max())


def _folders(data: Path) -> list[Path]:
    """Folders that hold files themselves: each is looked at alone, as a user would give it."""
    return sorted({path.parent for path in (data / "dicom").rglob("*") if path.is_file()} - {data / "dicom"})


def main() -> None:
    data = data_folder()
    rows: list[dict[str, Any]] = []
    print(f"{'series':34s} {'formula: mm, value':>22s} {'dcm2niix: mm, value':>22s}")
    for folder in _folders(data):
        for found in read_each(folder):
            label = str(folder.relative_to(data / "dicom"))
            label += "".join(f" {k}={v}" for k, v in found.select.items())
            if found.refusal is not None:
                rows.append({"series": label, "refused": str(found.refusal)})
                print(f"{label:34s} refused: {found.refusal}")
                continue
            corner, value = by_formula(found)
            referee = by_dcm2niix(found)
            assert found.volume is not None
            scale = float(np.abs(found.volume.array).max())
            row = {"series": label, "formula_mm": corner, "formula_value": value, "largest_value": scale}
            row["sheared"] = found.volume.geometry.is_sheared
            if isinstance(referee, str):
                row["dcm2niix"] = text = referee
            else:
                row["dcm2niix_mm"], row["dcm2niix_value"] = referee
                text = f"{referee[0]:12.2e} {referee[1]:9.2e}"
            rows.append(row)
            print(f"{label:34s} {corner:12.2e} {value:9.2e} {text:>22s}")
    accepted = [row for row in rows if "refused" not in row]
    straight = [row for row in accepted if "dcm2niix_mm" in row and not row["sheared"]]
    worst = max(row["formula_mm"] for row in accepted)
    worst_value = max(row["formula_value"] / row["largest_value"] for row in accepted)
    referee_mm = max(row["dcm2niix_mm"] for row in straight)
    referee_value = max(row["dcm2niix_value"] / row["largest_value"] for row in straight)
    compared = len(straight) + sum(row["sheared"] for row in accepted)
    bars = [
        bar("worst corner by the formula, mm", worst, f"<= {MOST_MM}", worst <= MOST_MM),
        bar("worst value by the formula, share of the largest", worst_value, "<= 1e-6", worst_value <= 1e-6),
        bar("worst corner by dcm2niix, straight grids, mm", referee_mm, f"<= {MOST_MM}", referee_mm <= MOST_MM),
        bar("worst value by dcm2niix, share of the largest", referee_value, "<= 1e-6", referee_value <= 1e-6),
        bar("accepted series compared", compared, str(len(accepted)), compared == len(accepted)),
    ]
    for each in bars:
        print(f"{each['name']}: {each['value']:g} (bar {each['target']}) {'holds' if each['holds'] else 'MISSED'}")
    write("geometry", rows, bars)


if __name__ == "__main__":
    main()
