"""DICOM in: each image at its place and in its unit, or a reason why not.

Classic, tiled and enhanced multi-frame CT, MR and PET; single radiographs and secondary captures.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medldm.errors import InputError, MedldmError, PixelError
from medldm.io import archive
from medldm.io.choice import Choice, series_key
from medldm.io.dicom.anatomy import anatomy
from medldm.io.dicom.files import Damaged, one_series, scan_files
from medldm.io.dicom.header import Header, looks_like_dicom
from medldm.io.dicom.kinds import modality_of
from medldm.io.dicom.pixels import Decoder
from medldm.io.dicom.stacks import split_stacks
from medldm.io.dicom.volume import DicomSource, Slices, assembled, check_images, marks, planned, volume_of
from medldm.io.lazy import LazyScan
from medldm.io.walk import walk_files
from medldm.volume import Volume

__all__ = ["SUFFIXES", "DicomSource", "Found", "can_read", "read", "read_each"]

SUFFIXES = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True, eq=False)
class Found:
    """One volume below a path, or the reason why it is none.

    files : of its images
    series, select : what reads it alone (`series` is a key, not a UID)
    modality : DICOM code, "" where unknown
    patient : sha256 of the PatientID (of the StudyInstanceUID if there is none), "" where unknown
    volume, refusal : exactly one of them
    """

    files: tuple[Path, ...]
    series: str
    select: dict[str, str]
    modality: str
    patient: str
    volume: Volume | None
    refusal: InputError | None


def can_read(path: Path) -> bool:
    """Whether a file is DICOM, or a folder holds one."""
    files = [path] if path.is_file() else walk_files(path, Counter())
    return any(looks_like_dicom(file) or file.name.lower().endswith(SUFFIXES) for file in files)


def read(path: Path, choice: Choice | None = None) -> Volume:
    """Read the series in a folder (searched through, links followed once), or the image in a file.

    The array is [column, row, slice], slices ordered along the normal by ImagePositionPatient; file names and
    InstanceNumber play no part. Values are ``stored * RescaleSlope + RescaleIntercept`` of each slice.

    Parameters
    ----------
    path : Path
    choice : Choice, optional
        Which series and which part of it, where there are several.

    Raises
    ------
    EmptyInput, NotImage
        No DICOM, or no image in it.
    AmbiguousInput
        Several series, orientations, echoes, times or b-values.
    GeometryError
        Where the slices lie is unknown or uneven; a missing slice is named by its place.
    PixelError
        A file is cut off or damaged, or its unit unknown; the file is named.
    LimitError
        More voxels than the choice allows, or a header that cannot be true.
    UnsupportedInput
        Colour, or a kind of image that has no place in a patient.
    """
    path, choice = Path(path), choice or Choice()
    skipped: Counter[str] = Counter()
    headers = one_series(path, choice.series, skipped, choice.max_bytes)
    with _typed(path):
        return volume_of(headers, choice, skipped)


def lazily(path: Path, choice: Choice | None = None) -> LazyScan | None:
    """The same without pixels, which are decoded slice by slice; None where a slice cannot be decoded alone.

    Raises what `read` raises for the headers.
    """
    path, choice = Path(path), choice or Choice()
    skipped: Counter[str] = Counter()
    headers = one_series(path, choice.series, skipped, choice.max_bytes)
    with _typed(path):
        plan = planned(headers, choice)
        slices = Slices(plan.headers)
    if plan.places is not None or plan.headers[0].frame is not None:
        return None
    columns, rows, _ = plan.geometry.shape

    def plane(k: int) -> NDArray[np.float32]:
        out = np.empty((rows, columns), dtype=np.float32)
        with _typed(plan.headers[k].path):
            slices.decode(k, Decoder(), out)
        return out.T

    def load() -> Volume:
        with _typed(path):
            return assembled(plan, skipped)

    step = {"step": "read", "format": "dicom", **anatomy(plan.headers[0]), **marks(plan.headers)}
    return LazyScan(plan.geometry, slices.unit, modality_of(plan.headers[0]), (step,), plane, load)


@contextlib.contextmanager
def _typed(path: Path) -> Iterator[None]:
    """pydicom decodes values late, and what it raises may quote them: PixelError in its place."""
    try:
        yield
    except MedldmError:
        raise
    except Exception as failure:
        raise _damaged(path, failure) from None


def read_each(path: str | Path, choice: Choice | None = None) -> Iterator[Found]:
    """Every volume below `path`, and every one that is refused; the files are looked through once.

    path : of a folder or file; of a zip file, too
    choice : what may be assumed; its `series` and `select` are not heeded; default None: nothing is assumed
    Files that are not DICOM, or hold no image, are left out.

    >>> [found.volume.geometry.shape for found in medldm.read_each("dicom")]
    [(10, 12, 6)]
    """
    path, choice = Path(path), choice or Choice()
    if archive.can_read(path):
        with archive.unpacked(path, choice.max_bytes) as folder:
            yield from read_each(folder, choice)
        return
    found = scan_files(path, Counter(), choice.max_bytes)
    waiting: dict[int, list[str]] = {}
    for uid, headers in sorted(found.series.items()):
        concerned = [n for n, damaged in enumerate(found.damaged) if damaged.concerns(uid, headers)]
        if concerned:
            waiting.setdefault(concerned[0], []).append(uid)
    for number, damaged in enumerate(found.damaged):
        yield _refused(damaged, {uid: found.series[uid] for uid in waiting.get(number, [])})
    held_back = {uid for uids in waiting.values() for uid in uids}
    for uid, headers in sorted(found.series.items()):
        if uid in held_back:
            continue
        refusal = None
        stacks: list[tuple[list[Header], dict[str, str]]] = [(headers, {})]
        try:
            check_images(headers, choice)
            stacks = [(list(s.headers), s.select) for s in split_stacks(headers)]
        except Exception as failure:
            refusal = _reason(headers[0].path, failure)
        for members, select in stacks:
            yield _found(uid, members, select, refusal, choice)


def _refused(damaged: Damaged, waiting: dict[str, list[Header]]) -> Found:
    """A damaged file, once, together with the series that cannot be read because of it."""
    headers = [header for own in waiting.values() for header in own]
    files, error = tuple(dict.fromkeys([damaged.path, *(h.path for h in headers)])), damaged.error
    if len(waiting) > 1:
        do = f"{len(waiting)} series beside it are refused, since it may belong to any of them"
        error = type(error)(error.where, error.got, error.expected, f"{error.do}; {do}" if error.do else do)
    uid = damaged.series or next(iter(waiting), "") if len(waiting) < 2 else ""
    modality, patient = (modality_of(headers[0]), _patient(headers[0])) if len(waiting) == 1 else ("", "")
    return Found(files, series_key(uid) if uid else "", {}, modality, patient, None, error)


def _found(
    uid: str, headers: list[Header], select: dict[str, str], refusal: InputError | None, choice: Choice
) -> Found:
    volume, first = None, headers[0]
    if refusal is None:
        try:
            volume = volume_of(headers, replace(choice, series=None, select={}), Counter())
        except Exception as failure:
            refusal = _reason(first.path, failure)
    files = tuple(dict.fromkeys(header.path for header in headers))
    return Found(files, series_key(uid), select, modality_of(first), _patient(first), volume, refusal)


def _reason(path: Path, failure: Exception) -> InputError:
    return failure if isinstance(failure, InputError) else _damaged(path, failure)


def _damaged(path: Path, failure: Exception) -> PixelError:
    return PixelError(path.name, f"a damaged header ({type(failure).__name__})", "a whole file", "copy it again")


def _patient(header: Header) -> str:
    try:
        identity = header.text("PatientID") or header.text("StudyInstanceUID")
    except Exception:
        return ""
    return hashlib.sha256(identity.encode()).hexdigest() if identity else ""
