"""Attributes of a derived series: what is taken from the source, what is new, what must not stay."""

from __future__ import annotations

import copy
import datetime
import secrets
import warnings
from typing import Any

from medldm.errors import OutputError
from medldm.io.dicom.classic import as_classic, complete
from medldm.io.dicom.quantise import ds_text
from medldm.io.dicom.reader import DicomSource
from medldm.io.dicom.volume import AI_CONTRIBUTION, OTHER_CONTRIBUTION
from medldm.marks import SYNTHETIC
from medldm.volume import Volume

SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
}
# About the source's pixels or its file, not about the patient or the scan
_DROPPED = (
    "IconImageSequence",
    "InstanceCreatorUID",
    "StorageMediaFileSetID",
    "StorageMediaFileSetUID",
    "ConversionSourceAttributesSequence",
    "VOILUTSequence",
    "ModalityLUTSequence",
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PixelAspectRatio",
    "RealWorldValueMappingSequence",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "EncryptedAttributesSequence",
    "OriginalAttributesSequence",
    "SourceImageSequence",
    "ReferencedSeriesSequence",
    "DerivationCodeSequence",
    "DataSetTrailingPadding",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
)
_TEXT = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")  # VRs that SpecificCharacterSet is about


def provenance(volume: Volume) -> dict[str, Any]:
    """The last step of the history that a model did, else the last one."""
    steps = [s for s in volume.history if "model" in s]
    return dict((steps or list(volume.history) or [{}])[-1])


def source_of(volume: Volume) -> DicomSource | None:
    """The series that it was made of. What was drawn has none, whatever it carries: there is no patient; what was read
    from a synthetic series and then restored is of that."""
    drawn = any(step.get(SYNTHETIC) and step.get("step") != "read" for step in volume.history)
    return volume.source if isinstance(volume.source, DicomSource) and not drawn else None


def description(volume: Volume, *remarks: str) -> str:
    """DerivationDescription: what did it, with which weights and seed; 1024 characters at most."""
    step = provenance(volume)
    parts = [f"medldm {step.get('step', 'conversion')}"]
    words = {"model": "model", "weights_sha256": "weights sha256", "seed": "seed", "index": "index"}
    words["version"] = "version"
    parts += [f"{word} {step[key]}" for key, word in words.items() if key in step]
    asked = step.get("conditions") or {}
    parts += ["asked for " + ", ".join(f"{name}={value}" for name, value in asked.items())] if asked else []
    text = ", ".join(parts) + ". " + " ".join(r for r in remarks if r)
    return (text + " Research use only.").encode("ascii", "replace").decode()[:1024]


def cleaned(dataset: Any) -> Any:
    """A copy without private groups, overlays, curves, windows, signatures and empty sequences.

    Numbers are decoded, as the source may have had another byte order; text keeps its bytes, whatever its character
    set is said to be. Raises OutputError for text whose bytes are lost.
    """
    from pydicom.filewriter import correct_ambiguous_vr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = copy.deepcopy(dataset)
        _clean(result)
        correct_ambiguous_vr(result, True)
        for tag in [tag for tag, e in result.items() if e.VR == "SQ" and not e.value]:
            del result[tag]  # inside of items an empty one may be demanded (type 2)
    return result


def _clean(dataset: Any) -> None:
    """In place, down into the sequences."""
    from pydicom.datadict import keyword_for_tag

    for tag in list(dataset.keys()):
        overlay = tag.group & 0xFF00 in (0x5000, 0x6000, 0x7F00)  # or curve, or pixels
        if tag.is_private or overlay or keyword_for_tag(tag) in _DROPPED:
            del dataset[tag]
            continue
        raw = _as_bytes(dataset.get_item(tag))
        if raw is not None:
            dataset[tag] = raw
            continue
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value:
                _clean(item)
            if element.value and not any(len(item) for item in element.value):
                del dataset[tag]
        elif element.VR == "DS":
            _shorten(element)
    dataset.set_original_encoding(False, True)  # that of what is written: else the text would be decoded for it


def _as_bytes(element: Any) -> Any:
    """Text as it stands in the file, to be written as it is; None for what is no text, or fits what it was read as.

    Raises OutputError for text that was decoded with the wrong character set, and so is another one.
    """
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    vr = element.VR or (dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else "")
    if vr not in _TEXT or not element.value:
        return None
    if element.is_raw:
        even = isinstance(element.value, bytes) and len(element.value) % 2 == 0
        return element._replace(VR=vr) if even else None
    if "\ufffd" in str(element.value):
        got = f"{element.keyword} in other characters than SpecificCharacterSet says"
        do = "correct SpecificCharacterSet in the source, or write .nii.gz"
        raise OutputError("derived series", got, "text that can be copied", do)
    return None


def _shorten(element: Any) -> None:
    """Write numbers of more than 16 characters anew; the others stay the text that they are."""
    several = element.VM > 1
    values = list(element.value) if several else [element.value]
    if any(len(str(value)) > 16 for value in values):
        texts = [ds_text(float(value)) if len(str(value)) > 16 else str(value) for value in values]
        element.value = texts if several else texts[0]


def code(value: str, meaning: str) -> Any:
    """An item of a code sequence, scheme DCM (DICOM PS3.16)."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def now(dataset: Any = None) -> datetime.datetime:
    """The time, in the zone of the data set where it names one."""
    offset = str((dataset or {}).get("TimezoneOffsetFromUTC") or "")
    try:
        return datetime.datetime.now(datetime.datetime.strptime(offset, "%z").tzinfo)
    except ValueError:
        return datetime.datetime.now()


def equipment(volume: Volume, moment: datetime.datetime) -> Any:
    """An item of ContributingEquipmentSequence: medldm, and when it did its part."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code("109102", "Processing Equipment")]
    item.Manufacturer, item.ManufacturerModelName = "medldm", "medldm"
    item.SoftwareVersions = str(provenance(volume).get("version", version()))
    item.ContributionDateTime = moment.strftime("%Y%m%d%H%M%S")
    kind = AI_CONTRIBUTION if volume.ai_processed else OTHER_CONTRIBUTION
    item.ContributionDescription = "; ".join(filter(None, (kind, volume.quantity)))
    return item


def common(dataset: Any, volume: Volume, derivation: str, uids: dict[str, str], moment: datetime.datetime) -> None:
    """What every derived image says of itself, whatever it came from; `moment` is one for the whole series."""
    dataset.SeriesInstanceUID = uids["series"]
    for date in ("InstanceCreationDate", "ContentDate", "SeriesDate"):
        setattr(dataset, date, moment.strftime("%Y%m%d"))
    for time in ("InstanceCreationTime", "ContentTime", "SeriesTime"):
        setattr(dataset, time, moment.strftime("%H%M%S"))
    step = provenance(volume)
    dataset.SeriesDescription = f"medldm {step.get('step', '')} {step.get('model', '')}".strip()[:64]
    dataset.DerivationDescription = derivation
    dataset.ContentQualification = "RESEARCH"
    if dataset.get("LossyImageCompression") != "01":
        dataset.LossyImageCompression = "00"
    if not dataset.get("BurnedInAnnotation"):
        dataset.BurnedInAnnotation = "NO"
    before = dataset.get("ContributingEquipmentSequence", [])
    dataset.ContributingEquipmentSequence = [*before, equipment(volume, moment)]


def version() -> str:
    """Of medldm, as installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version("medldm")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def from_source(source: DicomSource, index: int, modality: str, uids: dict[str, str]) -> Any:
    """Attributes of slice `index` of the source, made those of a classic image derived from it."""
    original = source.datasets[index]
    is_frame = source.frames[index] is not None
    dataset = cleaned(as_classic(original, modality) if is_frame or modality == "SC" else original)
    dataset.Modality = (original.get("Modality") or "OT") if modality == "SC" else modality
    second = "PRIMARY" if modality == "PT" else "SECONDARY"
    dataset.ImageType = ["DERIVED", second, *_third_value(original, modality, is_frame)]
    if modality != "SC" or "ImagePositionPatient" in original:
        dataset.FrameOfReferenceUID = original.get("FrameOfReferenceUID") or uids["frame"]
    if float(dataset.get("SpacingBetweenSlices") or 0) < 0:
        dataset.SpacingBetweenSlices = ds_text(abs(float(dataset.SpacingBetweenSlices)))
    dataset.SeriesNumber = str((int(original.get("SeriesNumber") or 0) + 5000) % 2**31)
    if not dataset.get("StudyInstanceUID"):
        dataset.StudyInstanceUID = uids["study"]
    complete(dataset, modality)
    return dataset


def without_uids(source: DicomSource) -> list[str]:
    """UIDs that every image must have and some of the source have not."""
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    return [keyword for keyword in keywords if not all(d.get(keyword) for d in source.datasets)]


def _third_value(original: Any, modality: str, is_frame: bool) -> list[str]:
    """Value 3 of ImageType: that of a classic source, else one that the modality demands."""
    if modality in ("PT", "SC"):
        return []
    values = [] if is_frame else list(original.get("ImageType") or [])
    return [str(values[2])] if len(values) > 2 and values[2] else ["AXIAL" if modality == "CT" else "OTHER"]


def source_images(source: DicomSource, indices: list[int]) -> list[Any]:
    """Items of SourceImageSequence: slices of the source; frames of one object share an item."""
    from pydicom.dataset import Dataset

    images: dict[str, Any] = {}
    frames: dict[str, list[int]] = {}
    for index in indices:
        original, frame = source.datasets[index], source.frames[index]
        uid = str(original.get("SOPInstanceUID") or "")
        if not uid:
            continue
        if uid not in images:
            item = images[uid] = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = original.SOPClassUID, uid
            item.PurposeOfReferenceCodeSequence = [code("121322", "Source of Image Processing Operation")]
        if frame is not None:
            frames.setdefault(uid, []).append(frame)
    for uid, numbers in frames.items():
        images[uid].ReferencedFrameNumber = numbers
    return list(images.values())


def link_to_source(dataset: Any, source: DicomSource, indices: list[int]) -> None:
    """SourceImageSequence and ReferencedSeriesSequence: which slices of which series it was made of."""
    from pydicom.dataset import Dataset

    images, series_uid = source_images(source, indices), source.datasets[indices[0]].get("SeriesInstanceUID")
    if not images:
        return
    dataset.SourceImageSequence = images
    if not series_uid:
        return
    series, instances = Dataset(), []
    for image in dataset.SourceImageSequence:
        item = Dataset()
        item.ReferencedSOPClassUID = image.ReferencedSOPClassUID
        item.ReferencedSOPInstanceUID = image.ReferencedSOPInstanceUID
        instances.append(item)
    series.SeriesInstanceUID = series_uid
    series.ReferencedInstanceSequence = instances
    dataset.ReferencedSeriesSequence = [series]


def from_nothing(volume: Volume, modality: str, uids: dict[str, str], moment: datetime.datetime) -> Any:
    """Attributes of an image without a patient: invented (synthetic) or unknown (read from NIfTI)."""
    from pydicom.dataset import Dataset

    synthetic, dataset = volume.synthetic, Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = f"{'SYNTH' if synthetic else 'ANON'}^{uids['patient']}"
    dataset.PatientID = f"{'SYNTH' if synthetic else 'ANON'}-{uids['patient']}"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    if synthetic:
        dataset.SyntheticData = "YES"
    else:
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = "read from a file without identity"
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = uids["study"], uids["frame"]
    dataset.StudyDate, dataset.StudyTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    dataset.ReferringPhysicianName = dataset.StudyID = dataset.AccessionNumber = ""
    dataset.SeriesNumber, dataset.Manufacturer = "1", "medldm"
    dataset.PositionReferenceIndicator = dataset.PatientPosition = dataset.Laterality = ""
    third = {"CT": ["AXIAL"], "MR": ["OTHER"], "SC": []}[modality]
    dataset.ImageType = ["DERIVED", "SECONDARY", *third]
    dataset.AcquisitionNumber = ""
    if modality == "MR":
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
        dataset.MRAcquisitionType = "3D"
        dataset.EchoTime = dataset.EchoTrainLength = dataset.RepetitionTime = ""
    elif modality == "CT":
        dataset.KVP = ""
    else:
        dataset.ConversionType, dataset.PatientOrientation = ("SYN" if synthetic else "WSD"), ""
        for keyword in (
            "FrameOfReferenceUID",
            "PositionReferenceIndicator",
            "PatientPosition",
            "AcquisitionNumber",
        ):
            delattr(dataset, keyword)
    dataset.Modality = "OT" if modality == "SC" else modality
    dataset.PhotometricInterpretation = "MONOCHROME2"
    return dataset


def new_uids() -> dict[str, str]:
    """Fresh identifiers, derived from nothing."""
    from pydicom.uid import generate_uid

    uids = {name: str(generate_uid(prefix=None)) for name in ("study", "series", "frame")}
    return uids | {"patient": secrets.token_hex(6)}
