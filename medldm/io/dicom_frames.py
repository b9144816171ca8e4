"""Enhanced multi-frame CT, MR and PET: each frame as a classic header, so that one way leads to the volume.

DICOM PS3.3 C.7.6.16: an attribute of a frame is in its own functional groups, else in the shared ones.
"""

from __future__ import annotations

from typing import Any

from medldm.errors import GeometryError, PixelError
from medldm.io.dicom_header import MULTI_FRAME, Header
from medldm.io.limits import check_size

# What the functional groups call otherwise, or what a classic image has at its top level.
_CLASSIC_NAMES = {
    "EffectiveEchoTime": "EchoTime",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
    "FrameType": "ImageType",
}
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_OF_THE_WHOLE = (*_GROUPS, "NumberOfFrames", "DimensionIndexSequence", "DimensionOrganizationSequence")


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
