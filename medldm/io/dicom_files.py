"""Finding the DICOM images below a path and reading their headers; nothing else is decoded here."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medldm.errors import AmbiguousInput, EmptyInput, InputError, NotImage, PixelError, UnsupportedInput

CLASSIC = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
}
_MULTI_FRAME = {
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.4.3",
    "1.2.840.10008.5.1.4.1.1.4.4",
    "1.2.840.10008.5.1.4.1.1.128.1",
    "1.2.840.10008.5.1.4.1.1.130",
}
# These have rows and columns, but their values are no picture that a scanner took.
_DERIVED_DATA = {
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.66.7",
    "1.2.840.10008.5.1.4.1.1.481.2",
    "1.2.840.10008.5.1.4.1.1.30",
}
_LARGE_BLOB = 16384


@dataclass(frozen=True)
class Header:
    """One file's attributes without pixels; `name` is its file name, for messages."""

    path: Path
    dataset: Any

    @property
    def name(self) -> str:
        return self.path.name

    def text(self, keyword: str) -> str:
        """An attribute as text, "" where absent."""
        value = self.dataset.get(keyword)
        return "" if value is None else str(value)

    @property
    def sop_class(self) -> str:
        """UID of the kind of object, if need be from the file meta information (a DICOMDIR, a cut file)."""
        meta = getattr(self.dataset, "file_meta", None)
        return self.text("SOPClassUID") or str((meta or {}).get("MediaStorageSOPClassUID", ""))


def looks_like_dicom(path: Path) -> bool:
    """Whether a file has the DICOM prefix, or starts as a data set without it."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    if start[128:132] == b"DICM":
        return True
    # group 0002 or 0008 in front, and a VR of two capitals or the upper half of a short length
    return start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08") and (
        start[4:6].isalpha() or start[6:8] == b"\0\0"
    )


def list_files(path: Path, skipped: Counter[str]) -> list[Path]:
    """Regular files below `path` by name; hidden ones and links are counted and left out."""
    if path.is_file():
        return [path]
    found = []
    for folder, folders, names in os.walk(path, followlinks=False):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            file = Path(folder) / name
            if name.startswith("."):
                skipped["hidden"] += 1
            elif file.is_symlink() or not file.is_file():
                skipped["link"] += 1
            else:
                found.append(file)
    return found


def read_header(path: Path) -> Header | None:
    """Attributes before the pixels, None where a file is not DICOM. Raises PixelError for a damaged one."""
    if not looks_like_dicom(path):
        return None
    import pydicom
    from pydicom.errors import InvalidDicomError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, which may be a patient's
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            try:
                dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            except Exception:
                return None
            if "SOPClassUID" not in dataset or "Rows" not in dataset:
                return None
        except Exception as failure:
            raise PixelError(
                path.name, f"a damaged header ({type(failure).__name__})", "a whole file"
            ) from None
        for tag in [t for t in dataset.keys() if _is_blob(dataset.get_item(t))]:  # noqa: SIM118
            del dataset[tag]
    return Header(path, dataset)


def _is_blob(element: Any) -> bool:
    """Private data and overlays that would only fill memory."""
    value = element.value
    heavy = isinstance(value, bytes) and len(value) > _LARGE_BLOB
    return heavy and (element.tag.is_private or element.tag.group & 0xFF00 == 0x6000)


def sop_class_name(header: Header) -> str:
    """Name of the kind of object, from the standard's table."""
    from pydicom.uid import UID

    return str(UID(header.sop_class).name)


def check_kind(header: Header) -> None:
    """Raise NotImage for an object that is no image; PixelError for an image that lacks its size."""
    sop_class = header.sop_class
    if not sop_class:
        raise PixelError(header.name, "a header that ends early", "a whole file", "copy it again")
    if sop_class in _DERIVED_DATA or ("Rows" not in header.dataset and sop_class not in CLASSIC):
        raise NotImage(header.name, sop_class_name(header), "an image of a scanner")
    if "Rows" not in header.dataset or "Columns" not in header.dataset:
        raise PixelError(header.name, "an image without Rows and Columns", "a whole file", "copy it again")
    if header.dataset.get("BitsAllocated") == 1:
        raise NotImage(header.name, "a bitmap of 1 bit", "an image of a scanner")


def check_supported(header: Header) -> None:
    """Raise UnsupportedInput for images that are no classic CT, MR or PET slice."""
    sop_class = header.sop_class
    if sop_class in _MULTI_FRAME:
        do = "convert it to classic slices first"
        raise UnsupportedInput(header.name, f"{sop_class_name(header)} (multi-frame)", "one file a slice", do)
    dataset = header.dataset
    samples, photometric = dataset.get("SamplesPerPixel", 1), header.text("PhotometricInterpretation")
    if samples != 1 or not photometric.startswith("MONOCHROME"):
        raise UnsupportedInput(header.name, f"colour ({photometric})", "grey values")
    if "ModalityLUTSequence" in dataset:
        raise UnsupportedInput(header.name, "a ModalityLUTSequence", "RescaleSlope and RescaleIntercept")
    frames = dataset.get("NumberOfFrames")
    if frames is not None and int(frames) != 1:
        error = PixelError if int(frames) < 1 else UnsupportedInput
        raise error(header.name, f"NumberOfFrames {int(frames)}", "1 in a classic image")


def one_series(path: Path, series: str | None, skipped: Counter[str]) -> list[Header]:
    """Headers of the images of the one series below `path`, or of the one whose UID is `series`.

    Raises
    ------
    EmptyInput, NotImage
        Where there is no DICOM file, or none with an image.
    AmbiguousInput
        For several series and no `series`; they are listed.
    InputError
        Where none has the UID `series`.
    """
    groups: dict[str, list[Header]] = {}
    reason: InputError | None = None
    for file in list_files(path, skipped):
        header = read_header(file)
        if header is None:
            skipped["not_dicom"] += 1
            continue
        try:
            check_kind(header)
        except NotImage as refusal:
            skipped["not_image"] += 1
            reason = reason or refusal
            continue
        groups.setdefault(header.text("SeriesInstanceUID"), []).append(header)
    if not groups:
        if reason is not None:
            raise reason
        raise EmptyInput(path.name, "no DICOM image", "a DICOM file or a folder with a series")
    listing = ", ".join(
        f"{uid or 'no UID'} ({headers[0].text('Modality') or 'no modality'}, {len(headers)} images)"
        for uid, headers in sorted(groups.items())
    )
    if series is not None:
        if series not in groups:
            raise InputError(path.name, f"no series {series}", f"one of {listing}")
        skipped["other_series"] += sum(len(h) for uid, h in groups.items() if uid != series)
        return groups[series]
    if len(groups) > 1:
        raise AmbiguousInput(
            path.name, f"{len(groups)} series: {listing}", "one", "choose one by its UID (series)"
        )
    return next(iter(groups.values()))
