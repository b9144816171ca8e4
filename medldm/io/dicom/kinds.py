"""Kinds of DICOM objects: which are read, and enhanced multi-frame CT, MR and PET frame by frame.

Each frame becomes a classic header, so that one way leads to the volume. DICOM PS3.3 C.7.6.16: an attribute of a frame
is in its own functional groups, else in the shared ones.
"""

from __future__ import annotations

from typing import Any

from medldm.errors import GeometryError, NotImage, PixelError, UnsupportedInput
from medldm.io.choice import check_size
from medldm.io.dicom.header import Header, private_element, private_numbers

CLASSIC = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
}
MULTI_FRAME = {
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
}
# Single images; only some say where they lie in the patient. Mammography, intra-oral images and digital radiographs
# come for presentation and for processing; secondary captures in one frame and in grey of 8 and 16 bits
RADIOGRAPHS = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.2": "MG",
    "1.2.840.10008.5.1.4.1.1.1.2.1": "MG",
    "1.2.840.10008.5.1.4.1.1.1.3": "IO",
    "1.2.840.10008.5.1.4.1.1.1.3.1": "IO",
    "1.2.840.10008.5.1.4.1.1.12.1": "XA",
    "1.2.840.10008.5.1.4.1.1.12.2": "RF",
    "1.2.840.10008.5.1.4.1.1.7": "OT",
    "1.2.840.10008.5.1.4.1.1.7.2": "OT",
    "1.2.840.10008.5.1.4.1.1.7.3": "OT",
}
# These have rows and columns, but their values are no picture that a scanner took.
_DERIVED_DATA = {
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.66.7",
    "1.2.840.10008.5.1.4.1.1.481.2",
    "1.2.840.10008.5.1.4.1.1.30",
}
KIND_KEYWORDS = (
    "SOPClassUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "ModalityLUTSequence",
    "SequenceName",
    "PulseSequenceName",
    "0019109C",
    "001910B3",
)
# GE's sequence for both polarities; what it does in (0019,10B3): 0 forward, 1 reversed, 2 and 3 by turns
_PEPOLAR = "epi_pepolar"
_GE_SEQUENCE, _GE_POLARITY = (0x0019, "GEMS_ACQU_01", 0x9C), (0x0019, "GEMS_ACQU_01", 0xB3)
# What the functional groups call otherwise, or what a classic image has at its top level.
_CLASSIC_NAMES = {
    "EffectiveEchoTime": "EchoTime",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
    "FrameType": "ImageType",
}
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_OF_THE_WHOLE = (*_GROUPS, "NumberOfFrames", "DimensionIndexSequence", "DimensionOrganizationSequence")


def modality_of(header: Header) -> str:
    """CT, MR, PT, CR, DX, MG, IO, XA, RF or OT; "" for an object that is none of these."""
    return next((t[header.sop_class] for t in (CLASSIC, MULTI_FRAME, RADIOGRAPHS) if header.sop_class in t), "")


def lies_nowhere(header: Header) -> bool:
    """Whether it is a radiograph that does not say where in the patient it lies."""
    return header.sop_class in RADIOGRAPHS and header.dataset.get("ImagePositionPatient") is None


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
    """Raise UnsupportedInput for colour, lookup tables and kinds of images that are not read."""
    dataset = header.dataset
    if not modality_of(header):
        do = "save the frame you want as PNG"
        raise UnsupportedInput(header.name, sop_class_name(header), "a CT, MR, PET or plain radiograph", do)
    photometric = header.text("PhotometricInterpretation")
    if header.number("SamplesPerPixel", 1) != 1 or not photometric.startswith("MONOCHROME"):
        got = f"colour ({photometric or 'unknown'})"
        raise UnsupportedInput(header.name, got, "grey values", "save it in grey")
    if "ModalityLUTSequence" in dataset:
        do = "export it without the table, or as PNG"
        raise UnsupportedInput(header.name, "a ModalityLUTSequence", "RescaleSlope and RescaleIntercept", do)
    frames = header.number("NumberOfFrames", 1)
    if header.sop_class not in MULTI_FRAME and frames != 1:
        if frames < 1:
            raise PixelError(header.name, f"NumberOfFrames {frames}", "1 in a classic image")
        do = "save each frame that you want as a single image"
        raise UnsupportedInput(header.name, f"NumberOfFrames {frames}", "1 in a classic image", do)
    _check_polarity(header)


def _check_polarity(header: Header) -> None:
    """Raise UnsupportedInput where GE's sequence stores images upside down without a word in the header."""
    element = private_element(header.dataset, *_GE_SEQUENCE)
    names = [header.text("SequenceName"), header.text("PulseSequenceName"), str(element.value if element else "")]
    if any(_PEPOLAR in name.lower() for name in names):
        mode = private_numbers(header.dataset, *_GE_POLARITY)
        if mode != [0.0]:
            got = f"GE's {_PEPOLAR}, which stores reversed images upside down at the place of the others"
            do = "convert it with dcm2niix, which turns them, and take its NIfTI"
            raise UnsupportedInput(header.name, got, "images where their headers say", do)


def split_frames(header: Header, max_bytes: int | None = None) -> list[Header]:
    """One header a frame; `header` itself where it is no multi-frame object.

    Raises PixelError for a number of frames that does not fit the groups, GeometryError where there are no
    groups, LimitError for more voxels than `max_bytes`.
    """
    if header.sop_class not in MULTI_FRAME:
        return [header]
    dataset = header.dataset
    count = header.number("NumberOfFrames", 1)
    if count < 1:
        raise PixelError(header.name, f"NumberOfFrames {count}", "1 or more", "the file is damaged")
    shape = (header.number("Columns", 0), header.number("Rows", 0), count)
    check_size(header.name, shape, max_bytes=max_bytes)
    per_frame = dataset.get(_GROUPS[1]) or []
    if len(per_frame) == 0:
        raise GeometryError(header.name, "no functional groups of its frames", "PerFrameFunctionalGroupsSequence")
    if len(per_frame) != count:
        got = f"NumberOfFrames {count} and groups of {len(per_frame)} frames"
        raise PixelError(header.name, got, "as many groups as frames", "the file is damaged")
    shared = list(dataset.get(_GROUPS[0]) or [])[:1]
    common = {e.tag: e for e in _without(dataset, _OF_THE_WHOLE)}
    return [
        Header(header.path, _classic(dataset, common, [*shared, item]), number, header.pixels_at)
        for number, item in enumerate(per_frame, start=1)
    ]


def _without(dataset: Any, keywords: tuple[str, ...]) -> list[Any]:
    return [element for element in dataset if element.keyword not in keywords]


def _classic(whole: Any, common: dict[Any, Any], groups: list[Any]) -> Any:
    """Top-level attributes with those of the functional groups beside them; the later group counts."""
    from pydicom import Dataset

    result = Dataset()
    for element in common.values():
        result[element.tag] = element
    for group in groups:
        for macro in group:
            # private groups repeat the classic header, under UIDs and times of another object
            if macro.VR != "SQ" or macro.tag.is_private or len(macro.value) != 1:
                continue
            for element in macro.value[0]:
                if element.tag.is_private or element.keyword in ("SOPClassUID", "SOPInstanceUID"):
                    continue
                result[element.tag] = element
                keyword = _CLASSIC_NAMES.get(element.keyword)
                if keyword is not None:
                    setattr(result, keyword, element.value)
    file_meta = getattr(whole, "file_meta", None)
    if file_meta is not None:
        result.file_meta = file_meta
    return result
