"""The quick way through a header against pydicom's: the same elements, or no answer."""

import warnings
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from pydicom.data import get_testdata_files

from medldm.io.dicom.elements import quick_dataset
from medldm.io.dicom.header import read_header
from tests.dicom_maker import make_series
from tests.test_mutated_headers import CUTS, EXAMPLES, MUTATIONS, mutated

ALL = 2**40


def by_pydicom(path):
    """pydicom's data set and the place where it stopped, None where it raises."""
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")
        try:
            return pydicom.dcmread(file, stop_before_pixels=True), file.tell()
        except Exception:
            return None


def elements(dataset):
    """Tag, VR and value of each element, sequences opened."""
    found = []
    for element in dataset:
        value = [elements(item) for item in element.value] if element.VR == "SQ" else element.value
        found.append((int(element.tag), element.VR, str(value)))
    return found


def assert_same(path, data):
    """Whether there was an answer; it has to be pydicom's."""
    quick = quick_dataset(data, ALL)
    if quick is None:
        return False
    (ours, at), slow = quick, by_pydicom(path)
    assert slow is not None and at == slow[1]
    theirs = slow[0]
    assert ours.original_encoding == theirs.original_encoding
    assert ours.original_character_set == theirs.original_character_set
    assert [int(e.tag) for e in ours.elements()] == [int(e.tag) for e in theirs.elements()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wanted = elements(theirs), elements(theirs.file_meta)
        except Exception as failure:  # values that cannot be decoded: in both
            with pytest.raises(type(failure)):
                elements(ours), elements(ours.file_meta)
        else:
            assert (elements(ours), elements(ours.file_meta)) == wanted
    return True


def test_files_of_pydicom_and_real_series(data_dir):
    files = [Path(name) for name in get_testdata_files("*.dcm")]
    files += [path for path in (data_dir / "dicom").rglob("*") if path.is_file()]
    answered = [path for path in files if assert_same(path, path.read_bytes())]
    assert len(answered) > len(files) // 2
    assert not {"MR_small_bigendian.dcm", "MR_small_implicit.dcm"} & {path.name for path in answered}


@pytest.mark.parametrize("cut", [100, 132, 200, 400, 800, 990])
def test_a_start_that_is_too_short_has_no_answer(tmp_path, cut):
    content = (make_series(tmp_path / "G", n=1) / "a000.dcm").read_bytes()
    assert content.index(b"\xe0\x7f\x10\x00") > cut and quick_dataset(content[:cut], ALL) is None


@settings(EXAMPLES, max_examples=500)
@given(MUTATIONS, CUTS)
def test_damaged_headers(tmp_path, changes, cut):
    path = tmp_path / "a.dcm"
    if not (tmp_path / "G").exists():
        item, inner = pydicom.Dataset(), pydicom.Dataset()
        inner.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
        item.ReferencedStudySequence, item.StudyDescription = [inner], "text"

        def change(ds, k):
            ds.RequestAttributesSequence = [item]
            ds["RequestAttributesSequence"].is_undefined_length = True

        make_series(tmp_path / "G", n=1, change=change)
    content = (tmp_path / "G" / "a000.dcm").read_bytes()
    data = mutated(content, len(content) - 240, changes, cut)
    path.write_bytes(data)
    assert_same(path, data)


def test_large_private_values_and_overlays_are_left_out(tmp_path):
    def change(ds, k):
        block = ds.private_block(0x0019, "maker", create=True)
        block.add_new(1, "OB", bytes(20_000))
        block.add_new(2, "LO", "short")
        ds.add_new(0x60003000, "OW", bytes(20_000))

    header = read_header(make_series(tmp_path / "G", n=1, change=change) / "a000.dcm")
    assert (0x0019, 0x1001) not in header.dataset and (0x6000, 0x3000) not in header.dataset
    assert header.dataset[0x0019, 0x1002].value == "short" and header.dataset.PatientPosition == "HFS"
