"""Maps out: a DICOM Parametric Map of the deviation of the error or of the residual, float32, in the scan's unit.

highdicom builds the object from stand-ins without a patient, since it checks and logs what it is given;
patient, study and references to the source are put in afterwards.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import OutputError
from medldm.io.atomic import write_whole
from medldm.io.dicom.attributes import (
    SOP_CLASSES,
    common,
    description,
    from_source,
    link_to_source,
    new_uids,
    now,
    provenance,
    source_images,
    source_of,
)
from medldm.io.dicom.classic import complete_laterality
from medldm.io.dicom.geometry import LPS_TO_RAS
from medldm.io.dicom.grid import is_same, nearest_slices, place
from medldm.io.dicom.quantise import ds_text
from medldm.io.dicom.volume import DicomSource
from medldm.io.dicom.writer import save
from medldm.volume import Volume

SUFFIXES: tuple[str, ...] = ()  # never by its name alone: .dcm is an image
_LARGEST_BYTES = 2**32 - 2
# Unit of a volume -> code value and meaning in UCUM; of CT by PS3.3 C.11.1.1.2, of PET by C.8.9.1.1.3
_UNITS = {
    "HU": ("[hnsf'U]", "Hounsfield unit"),
    "HU_MOD": ("[hnsf'U]", "Hounsfield unit"),
    "MGML": ("mg/ml", "Milligrams/milliliter"),
    "Z_EFF": ("1", "no units"),
    "ED": ("10*23/ml", "Electron density"),
    "PCT": ("%", "Percent"),
    "arbitrary": ("1", "no units"),
    "NONE": ("1", "no units"),
    "BQML": ("Bq/ml", "Becquerels/milliliter"),
    "GML": ("g/ml", "Grams/milliliter"),
    "CNTS": ("{counts}", "Counts"),
    "CPS": ("{counts}/s", "Counts per second"),
    "PROPCNTS": ("{propcounts}", "Proportional to counts"),
    "PROPCPS": ("{propcounts}/s", "Proportional to counts per second"),
    "PCNT": ("%", "Percent"),
}
_STUDY = (
    "SpecificCharacterSet", "TimezoneOffsetFromUTC", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyDescription", "ReferringPhysicianName",
    "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName", "PhysiciansOfRecord",
    "ProcedureCodeSequence", "ReferencedStudySequence", "FrameOfReferenceUID", "PositionReferenceIndicator",
    "BodyPartExamined", "Laterality", "InstitutionName", "InstitutionAddress", "StationName",
    "ContributingEquipmentSequence", "SyntheticData",
)  # fmt: skip
# What a map holds -> label and explanation
_LABELS = {
    "uncertainty": ("UNCERTAINTY", "standard deviation of the error"),
    "residual": ("RESIDUAL", "measurement minus result"),
    "lower bound": ("LOWER", "lower bound of an interval"),
    "upper bound": ("UPPER", "upper bound of an interval"),
}
_EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions")


def write(volume: Volume, path: Path) -> Path:
    """Write a map beside a result (its uncertainty, a residual, a bound) to one file, reread before it appears.

    Parameters
    ----------
    volume : Volume
        Made of a scan that came from DICOM (`volume.source`), on its grid or a finer one. "HU", "arbitrary"
        or the unit of a PET. What it holds is its `quantity`; one without is taken for an uncertainty.
    path : Path
        A name ending in .dcm.

    Raises
    ------
    OutputError
        Without a DICOM source, for values that are no deviation, an unknown unit, another name, more voxels
        than a file can hold, or a place that cannot be written to.
    """
    path = Path(path)
    source = _source(volume, path.name)
    if path.suffix.lower() != ".dcm" or path.is_dir():
        raise OutputError(path.name, "another name", "a file whose name ends in .dcm")
    aligned = volume.reorient("".join(source.geometry.axcodes))
    array = aligned.array
    if not np.isfinite(array).all() or (_what(volume) == "uncertainty" and float(array.min()) < 0):
        raise OutputError(path.name, "values below 0 or not finite", f"a map of the {_what(volume)}", "write .nii.gz")
    if array.nbytes > _LARGEST_BYTES:
        raise OutputError(path.name, f"{array.nbytes / 2**30:.3g} GiB", "less than 4 GiB", "write .nii.gz")
    dataset = _map(aligned, source, path.name)

    def fill(part: Path) -> None:
        save(dataset, part)
        _check(part, aligned)

    write_whole(path, fill)
    return path


def check_source(volume: Volume, where: str) -> None:
    """Raise OutputError for a scan that no map can be made for."""
    _source(volume, where)
    _unit(volume, where)


def _source(volume: Volume, where: str) -> DicomSource:
    source = source_of(volume)
    if source is not None:
        if "ImagePositionPatient" not in source.datasets[0]:
            got = "a parametric map of an image that does not say where it lies"
            raise OutputError(where, got, "a CT, MR or PET", "name it .nii.gz")
        return source
    got = "a parametric map of a scan that is not from DICOM"
    raise OutputError(where, got, "a DICOM series as input", "name it .nii.gz")


def _what(volume: Volume) -> str:
    return volume.quantity or "uncertainty"


def _unit(volume: Volume, where: str) -> Any:
    from pydicom.sr.coding import Code

    if volume.unit not in _UNITS:
        raise OutputError(where, f"unit {volume.unit}", ", ".join(_UNITS), "name it .nii.gz")
    value, meaning = _UNITS[volume.unit]
    return Code(value, "UCUM", meaning)


def _map(aligned: Volume, source: DicomSource, where: str) -> Any:
    """The data set: one frame a slice along axis 2."""
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    uids, lowest, largest = new_uids(), float(aligned.array.min()), float(aligned.array.max())
    label, explanation = _LABELS[_what(aligned)]
    header = from_source(source, 0, aligned.modality, uids)
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label=label,
        lut_explanation=explanation,
        unit=_unit(aligned, where),
        value_range=(lowest, largest),
        quantity_definition=codes.SCT.StandardDeviation if _what(aligned) == "uncertainty" else None,
    )
    centre, width = _window(lowest, largest)
    window = highdicom.VOILUTTransformation(centre, width, voi_lut_function="LINEAR_EXACT")
    maker = {name: str(_first(header.get(name)) or "unknown")[:64] for name in _EQUIPMENT}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = highdicom.pm.ParametricMap(
            _stand_ins(aligned, source),
            np.ascontiguousarray(aligned.array.transpose(2, 1, 0)),
            series_instance_uid=uids["series"],
            series_number=int(header.SeriesNumber) + 1,
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer=maker["Manufacturer"],
            manufacturer_model_name=maker["ManufacturerModelName"],
            software_versions=maker["SoftwareVersions"],
            device_serial_number=maker["DeviceSerialNumber"],
            contains_recognizable_visual_features=True,
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[window],
            content_label=label,
            content_description=explanation,
            content_creator_name="medldm^",
        )
    text = description(aligned)
    _identify(dataset, header)
    _link(dataset, aligned, source, text)
    moment = now(source.datasets[0])
    common(dataset, aligned, text, uids, moment)
    dataset.SeriesDescription = f"medldm {_what(aligned)} {provenance(aligned).get('model', '')}".strip()[:64]
    return dataset


def _window(lowest: float, largest: float) -> tuple[float, float]:
    """Centre and width: from 0 to the largest value, or, where some are below 0, as far on both sides of it."""
    reach = float(ds_text(float(f"{max(largest, -lowest):.6g}"))) or 1.0
    return (0.0, 2 * reach) if lowest < 0 else (reach / 2, reach)


def _first(value: Any) -> Any:
    several = value is not None and not isinstance(value, str) and hasattr(value, "__len__")
    return (value[0] if len(value) else None) if several else value


def _stand_ins(aligned: Volume, source: DicomSource) -> list[Any]:
    """Images on the map's grid that belong to nobody, one a slice."""
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    same, uids = is_same(source, aligned.geometry), new_uids()
    columns, rows, count = aligned.geometry.shape
    images = []
    for k in range(count):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = SOP_CLASSES["CT"], generate_uid(prefix=None)
        image.StudyInstanceUID, image.SeriesInstanceUID = uids["study"], uids["series"]
        image.FrameOfReferenceUID, image.PositionReferenceIndicator = uids["frame"], ""
        image.PatientName = image.PatientID = image.PatientBirthDate = image.PatientSex = ""
        image.AccessionNumber = image.StudyID = image.StudyDate = image.StudyTime = ""
        image.ReferringPhysicianName, image.Modality = "", "CT"
        image.Rows, image.Columns, image.LossyImageCompression = rows, columns, "00"
        place(image, aligned.geometry, k, "CT", spacing=True)
        if same:
            image.ImagePositionPatient = source.datasets[k].ImagePositionPatient
        images.append(image)
    return images


def _identify(dataset: Any, header: Any) -> None:
    """Patient and study of the source in place of nobody's."""
    from pydicom.datadict import keyword_for_tag

    def is_theirs(tag: Any) -> bool:
        return tag.group in (0x0010, 0x0012) or keyword_for_tag(tag) in _STUDY

    for tag in filter(is_theirs, list(dataset.keys())):
        del dataset[tag]
    for tag, element in header.items():
        if is_theirs(tag):
            dataset[tag] = copy.deepcopy(element)
    dataset.set_original_encoding(*header.original_encoding, header.original_character_set)
    complete_laterality(dataset)


def _link(dataset: Any, aligned: Volume, source: DicomSource, text: str) -> None:
    """References to the slices of the source in place of those to the stand-ins."""
    used: set[int] = set()
    same = is_same(source, aligned.geometry)
    for frame, k in zip(dataset.PerFrameFunctionalGroupsSequence, _slices(dataset, aligned), strict=True):
        near = [k] if same else nearest_slices(source, aligned.geometry, k)
        used.update(near)
        derivation = frame.DerivationImageSequence[0]
        derivation.SourceImageSequence = source_images(source, near)
        derivation.DerivationDescription = text
    link_to_source(dataset, source, sorted(used))


def _positions(dataset: Any) -> NDArray[np.float64]:
    """Places (n, 3) of the first voxel of each frame, LPS mm."""
    groups = dataset.PerFrameFunctionalGroupsSequence
    return np.array([[float(x) for x in g.PlanePositionSequence[0].ImagePositionPatient] for g in groups])


def _slices(dataset: Any, aligned: Volume) -> list[int]:
    """Slice that each frame shows; highdicom puts the frames into an order of its own."""
    ijk = aligned.geometry.to_voxel(_positions(dataset) @ LPS_TO_RAS[:3, :3])
    return [int(k) for k in np.rint(ijk[:, 2])]


def _check(path: Path, aligned: Volume) -> None:
    """Reread the file: the grid within 1e-3 mm, values as they were. Raises OutputError."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pydicom.dcmread(path)
        frames = np.asarray(found.pixel_array).reshape(-1, found.Rows, found.Columns)
    slices, (columns, rows, count) = _slices(found, aligned), aligned.geometry.shape
    wanted = aligned.array[:, :, slices].transpose(2, 1, 0) if sorted(slices) == list(range(count)) else None
    if wanted is None or not np.array_equal(frames, wanted):
        raise OutputError("parametric map", "other values when reread", "the same ones", "report this")
    shared = found.SharedFunctionalGroupsSequence[0]
    row, column = (float(s) for s in shared.PixelMeasuresSequence[0].PixelSpacing)
    u, v = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    for i, j in ((0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)):
        theirs = _positions(found) + i * column * u + j * row * v
        ours = aligned.geometry.to_world([[i, j, k] for k in slices]) @ LPS_TO_RAS[:3, :3]
        if np.abs(theirs - ours).max() > 1e-3:
            raise OutputError("parametric map", "another grid when reread", "the same one", "report this")
