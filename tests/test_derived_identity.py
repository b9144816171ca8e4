"""Whose a derived series is: names keep their bytes, identifiers that lack are made, windows are ones that show."""

import warnings

import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian

import medldm
from medldm.errors import OutputError
from medldm.marks import QUANTITY
from tests.dicom_maker import CANARY
from tests.referees import validator_errors

STEP = {"step": "denoise", "model": "m", "version": "0"}
LATIN = {b"Name": b"N\xe4m\xff", b"-ID": b"\xfcID", b" clinic": b" cl\xefnic", b"^Doctor": b"^D\xf6ctor"}
KEYWORDS = ("PatientName", "PatientID", "InstitutionName", "ReferringPhysicianName")


def raw(path):
    """Text attributes by keyword, as bytes in the file."""
    dataset = pydicom.dcmread(path)
    return {keyword: dataset.get_item(keyword).value.rstrip(b"\0 ") for keyword in KEYWORDS}


def with_latin_bytes(folder):
    for path in folder.iterdir():
        data = path.read_bytes()
        for before, after in LATIN.items():
            data = data.replace(CANARY.encode() + before, CANARY.encode() + after)
            data = data.replace(CANARY.encode() + b"^" + before, CANARY.encode() + b"^" + after)
        path.write_bytes(data)
    return folder


CHARACTERS = ["ISO_IR 192", "ISO_IR 6", "", None, "ISO_IR 999", "ISO_IR 13", ["", "ISO 2022 IR 87"], "GB18030"]


@pytest.mark.parametrize("characters", CHARACTERS, ids=str)
def test_text_keeps_its_bytes_whatever_the_character_set_says(dicom_series, tmp_path, characters):
    def change(ds, k):
        ds.SpecificCharacterSet = "ISO_IR 192"
        item = pydicom.Dataset()
        item.RequestedProcedureID, item.ReasonForTheRequestedProcedure = "A1", f"{CANARY}-ID"
        ds.RequestAttributesSequence = [item]

    folder = with_latin_bytes(dicom_series(change=change, n=2))
    for path in folder.iterdir():
        data, wanted = path.read_bytes(), "\\".join([characters] if isinstance(characters, str) else characters or [])
        at = data.index(b"\x08\x00\x05\x00CS")
        end = at + 8 + len("ISO_IR 192")
        text = wanted.encode() + b" " * (len(wanted) % 2)
        element = b"" if characters is None else data[at : at + 6] + len(text).to_bytes(2, "little") + text
        path.write_bytes(data[:at] + element + data[end:])
    source = medldm.read(folder)
    medldm.write(source.with_array(source.array, STEP), tmp_path / "out")
    for old, new in zip(sorted(folder.iterdir()), sorted((tmp_path / "out").iterdir()), strict=True):
        assert raw(old) == raw(new)
        assert b"\xef\xbf\xbd" not in new.read_bytes()
        nested = pydicom.dcmread(new).RequestAttributesSequence[0].get_item("ReasonForTheRequestedProcedure")
        assert nested.value.rstrip() == CANARY.encode() + b"\xfcID"


@pytest.mark.parametrize("how", ["implicit", "big"])
def test_so_does_that_of_other_syntaxes(dicom_series, tmp_path, how):
    def change(ds, k):
        ds.SpecificCharacterSet = "ISO_IR 192"

    folder = dicom_series(change=change, n=2)
    for path in folder.iterdir():
        old, ds = pydicom.dcmread(path), pydicom.Dataset()
        ds.update({element.tag: element for element in old})
        ds.file_meta = old.file_meta
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if how == "implicit" else "1.2.840.10008.1.2.2"
        ds.add_new(0x00280106, "US", 0)  # its VR depends on PixelRepresentation
        if how == "big":
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        little = how == "implicit"
        pydicom.dcmwrite(path, ds, implicit_vr=little, little_endian=little, enforce_file_format=True)
    with_latin_bytes(folder)
    source = medldm.read(folder)
    medldm.write(source.with_array(source.array, STEP), tmp_path / "out")
    for old, new in zip(sorted(folder.iterdir()), sorted((tmp_path / "out").iterdir()), strict=True):
        assert raw(old) == raw(new)


def test_a_map_and_a_radiograph_keep_them_too(dicom_series, tmp_path):
    def change(ds, k):
        ds.SpecificCharacterSet = "ISO_IR 192"

    folder = with_latin_bytes(dicom_series(change=change))
    source = medldm.read(folder)
    deviation = source.with_array(source.array, STEP | {QUANTITY: "uncertainty"})
    medldm.write(deviation, tmp_path / "m.dcm", "parametric_map")
    assert raw(tmp_path / "m.dcm") == raw(folder / "a000.dcm")

    def radiograph(ds, k):
        change(ds, k)
        ds.SOPClassUID, ds.Modality, ds.ImagerPixelSpacing = "1.2.840.10008.5.1.4.1.1.1", "CR", ["0.2", "0.2"]
        del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing

    folder = with_latin_bytes(dicom_series("cr", change=radiograph, n=1))
    source = medldm.read(folder, assume_affine=True)
    medldm.write(source.with_array(source.array, STEP), tmp_path / "cr.dcm")
    assert raw(tmp_path / "cr.dcm") == raw(folder / "a000.dcm")


def test_text_that_was_decoded_wrongly_is_refused(dicom_series, tmp_path):
    def change(ds, k):
        ds.SpecificCharacterSet = "ISO_IR 192"

    source = medldm.read(with_latin_bytes(dicom_series(change=change)))
    for keyword in KEYWORDS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert "\ufffd" in str(source.source.datasets[2].get(keyword))  # decoded now
        with pytest.raises(OutputError, match=f"{keyword}.*SpecificCharacterSet") as caught:
            medldm.write(source.with_array(source.array, STEP), tmp_path / "out")
        assert CANARY not in str(caught.value) and not (tmp_path / "out").exists()
        del source.source.datasets[2][keyword]


def test_text_that_the_character_set_cannot_hold_is_refused(dicom_series, tmp_path):
    source = medldm.read(dicom_series())
    for dataset in source.source.datasets:
        dataset.PatientName = "山田^太郎"  # as it may come out of a header that names another set
    with pytest.raises(OutputError, match="SpecificCharacterSet cannot hold"):
        medldm.write(source.with_array(source.array, STEP), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_source_without_an_identifier_gets_a_new_one_and_a_warning(dicom_series, tmp_path, keyword, how):
    def change(ds, k):
        if how == "absent":
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, "")

    def series(change):
        folder = tmp_path / "source"
        for path in dicom_series("source").iterdir():
            ds = pydicom.dcmread(path)
            change(ds, 0)
            ds.save_as(path, enforce_file_format=False)
        return folder

    source = medldm.read(series(change))
    with pytest.warns(UserWarning, match=keyword):
        medldm.write(source.with_array(source.array, STEP), tmp_path / "out")
    found = [pydicom.dcmread(p) for p in sorted((tmp_path / "out").iterdir())]
    assert len({d.StudyInstanceUID for d in found}) == 1 and all(d[keyword].value for d in found)
    assert len({d.SOPInstanceUID for d in found}) == 6
    assert f"Source without {keyword}." in found[0].DerivationDescription
    assert ("SourceImageSequence" in found[0]) == (keyword != "SOPInstanceUID")
    assert ("ReferencedSeriesSequence" in found[0]) == (keyword == "StudyInstanceUID")
    added = validator_errors(tmp_path / "out" / "0001.dcm") - validator_errors(tmp_path / "source" / "a000.dcm")
    assert not added


@pytest.mark.parametrize("top", [6e-4, 3e-8, 0.7, 40.0])
@pytest.mark.parametrize("modality", ["MR", "PT"])
def test_the_window_shows_the_range_however_small(dicom_series, tmp_path, modality, top):
    def change(ds, k):
        ds.RescaleSlope, ds.RescaleIntercept = f"{top / 619:.8g}", "0"

    folder = dicom_series(modality=modality, change=change)
    source = medldm.read(folder)
    medldm.write(source.with_array(source.array, STEP), tmp_path / "out")
    ds = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    low, high = np.percentile(source.array, (0.5, 99.5))
    assert float(ds.WindowCenter) == pytest.approx((low + high) / 2, rel=1e-4)
    assert float(ds.WindowWidth) == pytest.approx(high - low, rel=1e-4)
    assert ds.get("VOILUTFunction") == (None if top > 1 else "LINEAR_EXACT")
    assert not validator_errors(tmp_path / "out" / "0001.dcm") - validator_errors(folder / "a000.dcm")


@pytest.mark.parametrize("value", [0, 3, 3e-7])
def test_the_window_of_a_constant_and_of_a_few_voxels(dicom_series, tmp_path, value):
    source = medldm.read(dicom_series())
    array = np.full_like(source.array, value)
    for name, top in (("flat", value), ("few", value + 4)):
        array[0, 0, 0] = top
        medldm.write(source.with_array(array, STEP), tmp_path / name)
        ds = pydicom.dcmread(tmp_path / name / "0001.dcm")
        assert float(ds.WindowWidth) == pytest.approx(top - value or 1)
        assert "VOILUTFunction" not in ds


WINDOWS = [("40", "0"), ("40", "0.5"), ("40", ""), ("40", "-10"), (["40", "50"], "10"), ("40", None)]


@pytest.mark.parametrize("window", WINDOWS)
def test_a_ct_window_that_means_nothing_is_replaced(dicom_series, tmp_path, window):
    def change(ds, k):
        ds.WindowCenter = window[0]
        if window[1] is not None:
            ds.WindowWidth = window[1]

    source = medldm.read(dicom_series(modality="CT", change=change))
    medldm.write(source.with_array(source.array, STEP), tmp_path / "out")
    ds = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert float(ds.WindowWidth) > 100 and "VOILUTFunction" not in ds
