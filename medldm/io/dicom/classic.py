"""What a classic CT, MR or PET image holds: a frame of an enhanced object is cut down to it and completed.

A radiograph is cut down to a secondary capture in the same way.

Attributes by DICOM PS3.3, tables A.3-1, A.4-1 and A.21-1; type 1 has a value, type 2 may be empty.
"""

from __future__ import annotations

from typing import Any

from medldm.io.dicom.quantise import ds_text

# Besides everything about the patient (group 0010) and the clinical trial (group 0012)
_COMMON = """
AccessionNumber AcquisitionDate AcquisitionDateTime AcquisitionDuration AcquisitionNumber AcquisitionTime
AcquisitionUID AdmissionID AdmittingDiagnosesCodeSequence AdmittingDiagnosesDescription AnatomicRegionSequence
BodyPartExamined BurnedInAnnotation CodingSchemeIdentificationSequence CommentsOnThePerformedProcedureStep
ConsultingPhysicianIdentificationSequence ConsultingPhysicianName ContributingEquipmentSequence
DateOfLastCalibration DeviceSerialNumber DeviceUID EquipmentFrameOfReferenceUID FrameOfReferenceUID GantryID
ImageComments ImageLaterality ImageOrientationPatient ImagePositionPatient InstitutionAddress InstitutionName
InstitutionalDepartmentName IrradiationEventUID IsocenterPosition IssuerOfAccessionNumberSequence Laterality
LongitudinalTemporalInformationModified LossyImageCompression LossyImageCompressionMethod
LossyImageCompressionRatio Manufacturer ManufacturerModelName Modality NameOfPhysiciansReadingStudy
OperatorIdentificationSequence OperatorsName PatientOrientationCodeSequence PatientPosition PatientState
PerformedProcedureStepDescription PerformedProcedureStepEndDate PerformedProcedureStepEndTime
PerformedProcedureStepID PerformedProcedureStepStartDate PerformedProcedureStepStartTime
PerformedProtocolCodeSequence PerformingPhysicianIdentificationSequence PerformingPhysicianName
PhotometricInterpretation PhysiciansOfRecord PhysiciansReadingStudyIdentificationSequence PixelSpacing
PositionReferenceIndicator PresentationLUTShape PrimaryAnatomicStructureSequence ProcedureCodeSequence
ProtocolName QualityControlImage ReasonForPerformedProcedureCodeSequence ReasonForVisit ReasonForVisitCodeSequence
RecognizableVisualFeatures ReconstructionDiameter ReferencedPatientSequence
ReferencedPerformedProcedureStepSequence ReferencedStudySequence ReferringPhysicianIdentificationSequence
ReferringPhysicianName RequestAttributesSequence RequestingService RequestingServiceCodeSequence SeriesNumber
SliceLocation SliceThickness SoftwareVersions SpacingBetweenSlices SpatialResolution SpecificCharacterSet
StationName StudyDate StudyDescription StudyID StudyInstanceUID StudyTime SyntheticData TimeOfLastCalibration
TimezoneOffsetFromUTC TreatmentSessionUID UDISequence ViewCodeSequence WindowCenter WindowWidth
"""
_CONTRAST = """
ContrastBolusAgent ContrastBolusIngredient ContrastBolusIngredientConcentration ContrastBolusRoute
ContrastBolusStartTime ContrastBolusStopTime ContrastBolusTotalDose ContrastBolusVolume ContrastFlowDuration
ContrastFlowRate PatientEquipmentRelationshipCodeSequence
"""
_CT = """
CTDIPhantomTypeCodeSequence CTDIvol ConvolutionKernel DataCollectionCenterPatient DataCollectionDiameter
DistanceSourceToDetector DistanceSourceToPatient Exposure ExposureModulationType ExposureTime FilterMaterial
FilterType FocalSpots GantryDetectorTilt GeneratorPower KVP ReconstructionTargetCenterPatient RevolutionTime
RotationDirection ScanOptions SingleCollimationWidth SpiralPitchFactor TableFeedPerRotation TableHeight TableSpeed
TotalCollimationWidth VOILUTFunction WindowCenterWidthExplanation XRayTubeCurrent
"""
# The last two are no part of the classic image, but what tells the volumes of a diffusion series apart
_MR = """
AcquisitionMatrix EchoNumbers EchoTime EchoTrainLength FlipAngle HeartRate HighRRValue ImagedNucleus
ImagingFrequency InPlanePhaseEncodingDirection IntervalsAcquired IntervalsRejected InversionTime LowRRValue
MRAcquisitionType MagneticFieldStrength NominalInterval NumberOfAverages NumberOfPhaseEncodingSteps
NumberOfTemporalPositions PercentPhaseFieldOfView PercentSampling PixelBandwidth ReceiveCoilName RepetitionTime
SAR ScanOptions ScanningSequence SequenceName SequenceVariant TemporalPositionIdentifier TemporalResolution
TransmitCoilName VariableFlipAngleFlag DiffusionBValue DiffusionGradientOrientation
"""
_PT = """
ActualFrameDuration AttenuationCorrectionMethod AxialAcceptance AxialMash CollimatorType ConvolutionKernel
CorrectedImage CountsSource DeadTimeFactor DecayCorrection DecayFactor DetectorElementSize
DetectorLinesOfResponseUsed DoseCalibrationFactor FieldOfViewDimensions FieldOfViewShape FrameReferenceTime
GantryDetectorTilt InterventionDrugInformationSequence NumberOfTimeSlices
PatientGantryRelationshipCodeSequence PrimaryPromptsCountsAccumulated RadiopharmaceuticalInformationSequence
RandomsCorrectionMethod ReconstructionMethod SUVType ScatterCorrectionMethod ScatterFractionFactor
SecondaryCountsAccumulated SecondaryCountsType SeriesType SliceSensitivityFactor TransverseMash
TypeOfDetectorMotion Units
"""
_SC = """
DistanceSourceToDetector DistanceSourceToPatient EstimatedRadiographicMagnificationFactor Exposure ExposureTime
ImagerPixelSpacing KVP NominalScannedPixelSpacing PatientOrientation PixelSpacingCalibrationDescription
PixelSpacingCalibrationType ViewPosition XRayTubeCurrent
"""
_KEPT = {
    modality: frozenset((_COMMON + own).split())
    for modality, own in {"CT": _CT + _CONTRAST, "MR": _MR + _CONTRAST, "PT": _PT, "SC": _SC}.items()
}
_KEPT_GROUPS = (0x0010, 0x0012)
# What an enhanced object says in other words; numbers of another VR are written anew
_RENAMED = {
    "CT": {
        "ExposureTimeInms": "ExposureTime",
        "XRayTubeCurrentInmA": "XRayTubeCurrent",
        "ExposureInmAs": "Exposure",
        "FrameAcquisitionNumber": "AcquisitionNumber",
    },
    "MR": {
        "TransmitterFrequency": "ImagingFrequency",
        "ResonantNucleus": "ImagedNucleus",
        "PulseSequenceName": "SequenceName",
        "SpecificAbsorptionRateValue": "SAR",
        "InversionTimes": "InversionTime",
        "FrameAcquisitionNumber": "AcquisitionNumber",
    },
    "PT": {"FrameAcquisitionNumber": "AcquisitionNumber", "FrameAcquisitionDuration": "ActualFrameDuration"},
    "SC": {},
}
_IDENTITY = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber ReferringPhysicianName "
    "StudyID"
)
_ANYWHERE = f"{_IDENTITY} Manufacturer SliceThickness PositionReferenceIndicator"
_TYPE_2 = {
    "CT": f"{_ANYWHERE} KVP AcquisitionNumber".split(),
    "MR": f"{_ANYWHERE} ScanOptions MRAcquisitionType EchoTime EchoTrainLength".split(),
    "PT": f"{_ANYWHERE} CollimatorType CorrectedImage ActualFrameDuration AcquisitionDate AcquisitionTime "
    "RadiopharmaceuticalInformationSequence PatientGantryRelationshipCodeSequence".split(),
    "SC": f"{_IDENTITY} PatientOrientation".split(),
}
# PatientPosition, its first two letters and the rest: PS3.16 CID 21 and 20
_FIRST = {"HF": ("102540008", "headfirst"), "FF": ("102541007", "feet-first")}
_LYING = {
    "S": ("40199007", "supine"),
    "P": ("1240000", "prone"),
    "DR": ("102535000", "right lateral decubitus"),
    "DL": ("102536004", "left lateral decubitus"),
}
# Laterality is there for paired parts only (PS3.3 C.7.3.1.1)
_UNPAIRED = """
ABDOMEN ABDOMENPELVIS AORTA BLADDER BRAIN CHEST CHESTABDOMEN CHESTABDPELVIS COCCYX COLON CSPINE HEAD HEADNECK HEART
LIVER LSPINE LUMBOSACRAL NECK PANCREAS PELVIS PROSTATE RECTUM SKULL SPINE SPLEEN SSPINE STERNUM STOMACH TSPINE
UTERUS WHOLEBODY
"""


def as_classic(frame: Any, modality: str) -> Any:
    """Attributes of a classic image, from those of a frame.

    frame : pydicom.Dataset, functional groups at its top level; it is not changed
    modality : "CT", "MR", "PT" or "SC"
    """
    from pydicom.datadict import keyword_for_tag
    from pydicom.dataset import Dataset

    result = Dataset()
    implicit, little = frame.original_encoding
    result.set_original_encoding(implicit, little, frame.original_character_set)
    for tag, element in frame.items():  # as it stands in the file: text is not to be decoded
        if keyword_for_tag(tag) in _KEPT[modality] or tag.group in _KEPT_GROUPS:
            result[tag] = element
    for keyword, name in _RENAMED[modality].items():
        value = frame.get(keyword)
        if value not in (None, "") and name not in result:
            setattr(result, name, _as_text(value[0] if _is_several(value) else value, name))
    if "ContrastBolusAgentSequence" in frame and "ContrastBolusAgent" not in result:
        agents = [str(item.get("CodeMeaning", "")) for item in frame.ContrastBolusAgentSequence]
        result.ContrastBolusAgent = ", ".join(agents)[:64]
    _split_date(frame, result)
    if modality == "MR":
        _mr(frame, result)
    elif modality == "PT":
        _pt(frame, result)
    return result


def complete(dataset: Any, modality: str) -> None:
    """Add what a classic image of this modality must have, empty where it is not known."""
    from pydicom.datadict import dictionary_VR

    for keyword in _TYPE_2[modality]:
        if keyword not in dataset:
            setattr(dataset, keyword, [] if dictionary_VR(keyword) == "SQ" else "")
    if modality == "PT" and "PatientPosition" not in dataset:  # one or the other, never both
        dataset.PatientOrientationCodeSequence = dataset.get("PatientOrientationCodeSequence", [])
    elif modality == "SC":
        dataset.ConversionType = "WSD"  # of a workstation
    elif "PatientPosition" not in dataset and "PatientOrientationCodeSequence" not in dataset:
        dataset.PatientPosition = ""
    complete_laterality(dataset)


def complete_laterality(dataset: Any) -> None:
    """Laterality, empty: only where the part may be a paired one and nothing else says its side."""
    if not dataset.get("Laterality"):
        dataset.pop("Laterality", None)
        part = str(dataset.get("BodyPartExamined") or "")
        known = part in _UNPAIRED.split() or (not part and "AnatomicRegionSequence" in dataset)
        if not known and "ImageLaterality" not in dataset:
            dataset.Laterality = ""


def _is_several(value: Any) -> bool:
    return not isinstance(value, str | bytes) and hasattr(value, "__len__") and len(value) > 0


def _as_text(value: Any, keyword: str) -> Any:
    """A value for an attribute whose VR may be a text of a number."""
    from pydicom.datadict import dictionary_VR

    vr = dictionary_VR(keyword)
    return ds_text(float(value)) if vr == "DS" else str(round(float(value))) if vr == "IS" else value


def _split_date(frame: Any, result: Any) -> None:
    """AcquisitionDate and AcquisitionTime, where the frame has both in one."""
    moment = str(frame.get("FrameAcquisitionDateTime") or frame.get("AcquisitionDateTime") or "")
    if len(moment) >= 14 and "AcquisitionDate" not in result and "AcquisitionTime" not in result:
        result.AcquisitionDate = moment[:8]
        result.AcquisitionTime = moment[8:].partition("+")[0].partition("-")[0]


def _mr(frame: Any, result: Any) -> None:
    """The pulse sequence in the terms of PS3.3 C.8.3.1, from those of C.8.13.4."""

    def is_on(keyword: str) -> bool:
        return str(frame.get(keyword) or "NONE") not in ("NONE", "NO")

    if not result.get("ScanningSequence"):
        echo = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}
        terms = echo.get(str(frame.get("EchoPulseSequence")), [])
        terms += ["IR"] * is_on("InversionRecovery") + ["EP"] * is_on("EchoPlanarPulseSequence")
        result.ScanningSequence = terms or ["RM"]
    if not result.get("SequenceVariant"):
        variants = {"MagnetizationTransfer": "MTC", "SteadyStatePulseSequence": "SS", "Spoiling": "SP"}
        found = [term for keyword, term in variants.items() if is_on(keyword)]
        segmented = frame.get("SegmentedKSpaceTraversal") == "PARTIAL"
        result.SequenceVariant = ["SK"] * segmented + found or ["NONE"]
    if "IR" not in result.ScanningSequence:
        result.pop("InversionTime", None)  # 2C: not beside other sequences
    if result.get("InPlanePhaseEncodingDirection"):
        direction = {"COLUMN": "COL", "COL": "COL", "ROW": "ROW"}.get(str(result.InPlanePhaseEncodingDirection))
        del result.InPlanePhaseEncodingDirection
        if direction is not None:
            result.InPlanePhaseEncodingDirection = direction
    gradient = frame.get("DiffusionGradientDirectionSequence")
    if gradient and "DiffusionGradientOrientation" in gradient[0]:
        result.DiffusionGradientOrientation = gradient[0].DiffusionGradientOrientation


def _pt(frame: Any, result: Any) -> None:
    """What a PET image must say (type 1); "NONE" and 0 where the frame does not tell."""
    corrected = str(frame.get("DecayCorrected") or "NO") == "YES"
    known = {"SeriesType": ["STATIC", "IMAGE"], "Units": "NONE", "CountsSource": "EMISSION", "FrameReferenceTime": "0"}
    known["DecayCorrection"] = "START" if corrected else "NONE"
    for keyword, value in known.items():
        if not result.get(keyword):
            setattr(result, keyword, value)
    first, lying = str(result.get("PatientPosition") or "")[:2], str(result.get("PatientPosition") or "")[2:]
    if first in _FIRST and lying in _LYING and "PatientOrientationCodeSequence" not in result:
        recumbent = _snomed("102538003", "recumbent")
        recumbent.PatientOrientationModifierCodeSequence = [_snomed(*_LYING[lying])]
        result.PatientOrientationCodeSequence = [recumbent]
        result.PatientGantryRelationshipCodeSequence = [_snomed(*_FIRST[first])]
        del result.PatientPosition  # classic PET says it in codes instead


def _snomed(value: str, meaning: str) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item
