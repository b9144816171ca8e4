"""DICOM out: a derived series, marked as such, whole or not at all.

Three kinds: restored (the source's grid), super-resolved (a new grid in the source's space), and one of a
patient that does not exist or is not known (synthetic, or read from NIfTI). Radiographs become secondary captures.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import InputError, OutputError
from medldm.io.atomic import write_folder_whole, write_whole
from medldm.io.choice import MAX_BYTES, Choice
from medldm.io.dicom.attributes import (
    SOP_CLASSES,
    code,
    common,
    description,
    from_nothing,
    from_source,
    link_to_source,
    new_uids,
    now,
    source_of,
    version,
    without_uids,
)
from medldm.io.dicom.grid import is_part, is_same, nearest_slices, place, scale
from medldm.io.dicom.quantise import Quantised, ds_text, grey, quantise
from medldm.io.dicom.reader import read
from medldm.io.dicom.volume import DicomSource
from medldm.volume import Volume

SUFFIXES = (".dcm",)
# Slice axis -> directions of columns, rows and slices as radiologists look at them, right-handed
_VIEWS = {"S": "LPS", "I": "LPS", "A": "LIP", "P": "LIP", "L": "PIR", "R": "PIR"}
_STACK_LEVEL = 4
_WINDOW = ("WindowCenter", "WindowWidth")
_IMPLEMENTATION = "2.25.327806237151498203715409364270196817302"


def write(volume: Volume, path: Path) -> Path:
    """Write a folder of one-slice files (or, to a name ending in .dcm, a single slice).

    Each image is reread before the folder appears under its name.

    Parameters
    ----------
    volume : Volume
        With a `DicomSource`, the patient and study stay the source's; without, they are new.
    path : Path
        A folder in the way is replaced if it holds nothing but .dcm files.

    Raises
    ------
    OutputError
        For values that are not finite, a kind of image that cannot be written, a folder with other files, or
        a place that cannot be written to.
    """
    path = Path(path)
    single = path.name.lower().endswith(SUFFIXES)
    if single and volume.geometry.shape[2] != 1:
        raise OutputError(path.name, f"{volume.geometry.shape[2]} slices", "one slice in a file", "name a folder")
    if path.is_dir() and any(p.is_dir() or p.suffix != ".dcm" for p in path.iterdir()):
        raise OutputError(path.name, "a folder with other files", "a new folder", "choose another name")
    modality = _modality(volume, path.name)
    aligned, values, datasets = _images(volume, modality)

    def fill(folder: Path) -> None:
        for number, dataset in enumerate(datasets, start=1):
            save(dataset, folder / f"{number:04d}.dcm")
        _check(folder, aligned, values, modality)

    def fill_one(part: Path) -> None:
        save(datasets[0], part)
        _check(part, aligned, values, modality)

    if single:
        write_whole(path, fill_one)
    else:
        write_folder_whole(path, fill)
    return path


def save(dataset: Any, path: Path) -> None:
    """Write a data set as Explicit VR Little Endian. Raises OSError, OutputError."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, UID(_IMPLEMENTATION)
    meta.ImplementationVersionName = f"MEDLDM {version()}"[:16]
    dataset.file_meta = meta
    with warnings.catch_warnings(record=True) as heard:  # they quote values, which may be a patient's
        warnings.simplefilter("always")
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    lossy = ("Failed to encode value", "Failed to decode byte string")
    if any(str(warning.message).startswith(lossy) for warning in heard):
        got, do = "text that SpecificCharacterSet cannot hold", "correct it in the source, or write .nii.gz"
        raise OutputError("derived series", got, "text that can be copied", do)


def _modality(volume: Volume, where: str) -> str:
    """Kind of image to write: the source's, else what modality and unit say."""
    if source_of(volume) is not None and volume.modality in ("CT", "MR", "PT"):
        return volume.modality
    if volume.unit in ("grey8", "grey16") or source_of(volume) is not None:
        if volume.geometry.shape[2] != 1:
            raise OutputError(
                where, f"{volume.geometry.shape[2]} slices of a picture or radiograph", "one", "write .nii.gz"
            )
        return "SC"
    known = {"CT": "HU", "MR": "arbitrary", "": volume.unit}
    if known.get(volume.modality) != volume.unit or volume.unit not in ("HU", "arbitrary"):
        got = f"modality {volume.modality or 'unknown'} in {volume.unit} without a DICOM source"
        raise OutputError(where, got, "a CT in HU or an MR in arbitrary units", "write .nii.gz")
    return "CT" if volume.unit == "HU" else "MR"


def _scale_rule(modality: str, unit: str) -> str:
    """How to quantise: whole numbers are enough for HU alone; a CT in another unit keeps the source's scale."""
    return "MR" if modality == "SC" or (modality == "CT" and unit != "HU") else modality


def _rescale_type(modality: str, unit: str, source: DicomSource | None) -> str:
    """RescaleType (PS3.3 C.11.1.1.2): of a CT the unit, or what its source calls an unknown one; else unspecified."""
    if modality != "CT":
        return "US"
    if unit != "arbitrary" or source is None:
        return unit
    return str(source.datasets[0].get("RescaleType") or "US")


def _images(volume: Volume, modality: str) -> tuple[Volume, Quantised, list[Any]]:
    """The scan with its slices along axis 2, its stored values, and one dataset a slice."""
    source, uids = source_of(volume), new_uids()
    if source is not None:
        aligned = volume.reorient("".join(source.geometry.axcodes))
        same, part = is_same(source, aligned.geometry), is_part(source, aligned.geometry)
        values = quantise(aligned.array, _scale_rule(modality, volume.unit), source.slopes, source.intercepts)
    else:
        aligned, same, part = volume.reorient(_VIEWS[volume.geometry.axcodes[2]]), False, False
        values = grey(aligned.array, volume.unit) if modality == "SC" else quantise(aligned.array, modality)
    remarks = _remarks(volume, aligned, values, None if part else source, modality)
    missing = without_uids(source) if source is not None else []
    if missing:
        remarks.append(f"Source without {', '.join(missing)}.")
        text = f"derived series: the source has no {', '.join(missing)}; new, and no reference to what lacks its own"
        warnings.warn(text, UserWarning, stacklevel=_STACK_LEVEL)
    derivation, window = description(volume, *remarks), _window(aligned)
    count = aligned.geometry.shape[2]
    moment = now(source.datasets[0]) if source is not None else now()
    datasets = []
    for k in range(count):
        if source is None:
            dataset = from_nothing(volume, modality, uids, moment)
        else:
            near = [k] if same else nearest_slices(source, aligned.geometry, k)
            dataset = from_source(source, near[0], modality, uids)
            link_to_source(dataset, source, near)
            if not part:
                dataset.DerivationCodeSequence = [code("113085", "Spatial resampling")]
        common(dataset, volume, derivation, uids, moment)
        dataset.InstanceNumber = str(k + 1)
        if modality == "PT":
            dataset.ImageIndex, dataset.NumberOfSlices = k + 1, count
            if "NumberOfTimeSlices" in dataset:
                dataset.NumberOfTimeSlices = 1
        if not same and (modality != "SC" or "ImagePositionPatient" in dataset):
            place(dataset, aligned.geometry, k, modality, spacing=not part)
            dataset.pop("ImagesInAcquisition", None)
        elif modality == "SC" and source is not None:
            if not same:
                scale(dataset, source.geometry, aligned.geometry)
        elif modality == "SC" and not any(s.get("spacing_assumed") for s in volume.history):
            column, row, _ = aligned.geometry.spacing
            dataset.PixelSpacing = [ds_text(row), ds_text(column)]
        if not (modality == "CT" and _has_window(dataset)):
            for keyword in ("WindowCenterWidthExplanation", "VOILUTFunction"):
                dataset.pop(keyword, None)  # of the source's window
            dataset.WindowCenter, dataset.WindowWidth = window
            if float(window[1]) < 1:  # the usual function has none so narrow (PS3.3 C.11.2.1.2.1)
                dataset.VOILUTFunction = "LINEAR_EXACT"
        _pixels(dataset, values, k, modality)
        if "RescaleSlope" in dataset and modality != "PT":
            dataset.RescaleType = _rescale_type(modality, volume.unit, source)
        datasets.append(dataset)
    return aligned, values, datasets


def _remarks(
    volume: Volume,
    aligned: Volume,
    values: Quantised,
    resampled: DicomSource | None,
    modality: str,
) -> list[str]:
    """What a reader of the images must know, in sentences."""
    remarks = []
    if volume.synthetic:
        varied = any("like_sha256" in step for step in volume.history)
        remarks.append("Synthetic variation of a scan." if varied else "Synthetic image, not a patient.")
    if resampled is not None:
        old, new = (" x ".join(f"{s:.4g}" for s in g.spacing) for g in (resampled.geometry, aligned.geometry))
        remarks.append(f"Grid of {old} mm resampled to {new} mm.")
    if not volume.modality and modality == "MR":
        remarks.append("Modality unknown, stored as MR.")
    if modality in ("MR", "SC") and values.slope != 1:
        remarks.append(f"Value = stored * {values.slope_text} + {values.intercept_text}.")
    if values.clipped:
        remarks.append(f"{values.clipped} values outside of 0..{np.iinfo(values.stored.dtype).max} limited to it.")
    return remarks


def _window(volume: Volume) -> tuple[str, str]:
    """Centre and width from the percentiles 0.5 and 99.5; of the range where few voxels stand out of the rest."""
    low, high = (float(x) for x in np.percentile(volume.array, (0.5, 99.5)))
    if low == high:
        low, high = float(volume.array.min()), float(volume.array.max())
    digits = 6 if high - low >= 1 else 6 - int(np.floor(np.log10(high - low))) if high > low else 6
    return ds_text(round((low + high) / 2, digits)), ds_text(round(high - low, digits) or 1.0)


def _has_window(dataset: Any) -> bool:
    """Whether there are a centre and a width that mean something."""
    least = 1.0 if dataset.get("VOILUTFunction") in (None, "", "LINEAR") else 0.0
    try:
        centres, widths = (np.atleast_1d(np.array(dataset.get(k), dtype=float)) for k in _WINDOW)
    except (TypeError, ValueError):
        return False
    good = np.isfinite(centres).all() and (widths >= least).all() and (widths > 0).all()
    return bool(len(centres) == len(widths) > 0 and good)


def _pixels(dataset: Any, values: Quantised, k: int, modality: str) -> None:
    """Stored values of slice `k` and what says how to read them."""
    from pydicom.uid import generate_uid

    stored = np.ascontiguousarray(values.stored[:, :, k].T)
    bits = stored.dtype.itemsize * 8
    dataset.SOPClassUID, dataset.SOPInstanceUID = SOP_CLASSES[modality], generate_uid(prefix=None)
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (
        1,
        bits,
        bits,
        bits - 1,
    )
    dataset.PixelRepresentation = int(values.signed)
    if modality in ("CT", "PT") or (
        modality in ("MR", "SC") and (values.slope_text, values.intercept_text) != ("1", "0")
    ):
        dataset.RescaleSlope, dataset.RescaleIntercept = values.slope_text, values.intercept_text
    data = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    dataset.add_new(0x7FE00010, "OW", data + b"\0" * (len(data) % 2))


def _check(path: Path, aligned: Volume, values: Quantised, modality: str) -> None:
    """Reread what was written: the grid within 1e-3 mm, values within half a step. Raises OutputError.

    Of an image that does not say where it lies, the distances of its pixels are compared.
    """
    bound = values.slope / 2 * (1 + 1e-6) + 1e-6 * float(np.abs(aligned.array).max())
    if modality == "SC" and source_of(aligned) is None:
        found: NDArray[Any] = _reread_picture(path)
        wanted: NDArray[Any] = values.stored
        right, bound = True, 0.0
    else:
        try:
            again = read(path, Choice(assume_affine=True, max_bytes=max(MAX_BYTES, 8 * aligned.array.size)))
        except InputError as failure:
            raise OutputError(
                "derived series", f"files that cannot be reread ({failure.got})", "", "report this"
            ) from None
        found, wanted, right = again.array, aligned.array, again.geometry.isclose(aligned.geometry, 1e-3)
        if again.history[0].get("affine_assumed"):
            right = bool(np.allclose(again.geometry.spacing[:2], aligned.geometry.spacing[:2], rtol=1e-4))
    if not right or found.shape != wanted.shape:
        raise OutputError("derived series", "another grid when reread", "the same one", "report this")
    worst = float(np.abs(found.astype(np.float64) - wanted).max())
    if worst > bound:
        raise OutputError("derived series", f"values off by {worst:g} when reread", f"{bound:g}", "report this")


def _reread_picture(path: Path) -> NDArray[Any]:
    import pydicom

    file = path if path.is_file() else path / "0001.dcm"
    return np.asarray(pydicom.dcmread(file).pixel_array).T[..., None]
