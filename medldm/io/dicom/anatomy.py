"""What a DICOM header says of what was imaged, and how: body part, view, weighting.

Only words of the standard come through: headers are filled in by hand, and may say who it is.
"""

from __future__ import annotations

from medldm.io.dicom.header import Header

BODY_PARTS = (
    "ABDOMEN ABDOMENPELVIS ANKLE AORTA ARM BLADDER BRAIN BREAST CALCANEUS CALF CHEST CHESTABDOMEN CHESTABDPELVIS "
    "CLAVICLE COCCYX COLON CSPINE ELBOW EXTREMITY EYE FEMUR FINGER FOOT FOREARM HAND HEAD HEADNECK HEART HIP HUMERUS "
    "JAW KIDNEY KNEE LEG LIVER LSPINE LSSPINE LUNG MANDIBLE MAXILLA NECK ORBIT PANCREAS PELVIS PROSTATE RIB SACRUM "
    "SCAPULA SHOULDER SINUS SKULL SPINE STERNUM STOMACH THIGH THORAX THUMB TLSPINE TOE TOOTH TSPINE UTERUS "
    "WHOLEBODY WRIST"
)  # PS3.16, Annex L, and PS3.3, C.7.3.1.1.2
VIEWS = "AP PA LL RL LLD RLD LLO RLO LAO RAO LPO RPO CC MLO ML LM LATERAL OBLIQUE"
_VIEW_WORDS = {"LAT": "LATERAL", "OBL": "OBLIQUE"}
_CONTRASTS = {
    "T1": "T1",
    "T2": "T2",
    "T2_STAR": "T2*",
    "FLUID_ATTENUATED": "FLAIR",
    "PROTON_DENSITY": "PD",
    "STIR": "STIR",
    "DIFFUSION": "diffusion",
    "PERFUSION": "perfusion",
}  # AcquisitionContrast, PS3.3, C.8.13.3.1.4


def anatomy(header: Header) -> dict[str, str]:
    """body_part, view and weighting, as far as they are said."""
    part = header.text("BodyPartExamined").strip().upper().replace(" ", "").replace("_", "")
    view = header.text("ViewPosition").strip().upper()
    found = {
        "body_part": part if part in BODY_PARTS.split() else "",
        "view": _VIEW_WORDS.get(view, view) if _VIEW_WORDS.get(view, view) in VIEWS.split() else "",
        "weighting": _weighting(header) if header.text("Modality") == "MR" else "",
    }
    return {key: word for key, word in found.items() if word}


def _weighting(header: Header) -> str:
    """By its name, else by the usual times (ms) of the sequences; "" where they say nothing sure."""
    named = _CONTRASTS.get(header.text("AcquisitionContrast").strip().upper())
    if named:
        return named
    echo, repetition, inversion = (_number(header, f"{kind}Time") for kind in ("Echo", "Repetition", "Inversion"))
    kinds = header.text("ScanningSequence").upper().split("\\")
    if echo is None or "EP" in kinds:
        return ""
    if inversion and 80 <= inversion <= 250:
        return "STIR"
    if inversion and inversion >= 1500 and echo >= 60:
        return "FLAIR"
    if echo >= 60:
        return "T2"
    if "GR" in kinds and "IR" not in kinds and echo >= 12:
        return "T2*"
    if echo > 30 or repetition is None:
        return ""
    if repetition <= 900 or (inversion and 300 <= inversion < 1500):
        return "T1"
    return "PD" if repetition >= 1500 and not inversion and "GR" not in kinds else ""


def _number(header: Header, keyword: str) -> float | None:
    try:
        return float(header.text(keyword))
    except ValueError:
        return None
