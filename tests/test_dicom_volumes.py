"""Series that hold several volumes: each is listed with what chooses it, none is dropped or mixed with another."""

import re

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence

import medldm
from medldm.errors import AmbiguousInput, GeometryError, InputError
from medldm.io.dicom.reader import read_each
from tests.dicom_maker import CANARY, affine_ras, stored_values
from tests.test_dicom import setting

PLACES = 4


def stacked(make, change, *, volumes=2, outside="time", name="series", modality="MR"):
    """`volumes` images at each of four places; `change(ds, place, volume)`. Values are 1000 volume + the maker's."""

    def where(k):
        return (k % PLACES, k // PLACES) if outside == "time" else (k // volumes, k % volumes)

    def both(ds, k):
        place, volume = where(k)
        ds.ImagePositionPatient = ["-30", "20", str(5 + 3 * place)]
        change(ds, place, volume)

    def pixels(k):
        place, volume = where(k)
        return stored_values(12, 10, place) + np.uint16(1000 * volume)

    # file names in another order, which must not matter
    order = np.random.default_rng(0).permutation(PLACES * volumes).tolist()
    return make(name, n=PLACES * volumes, pixels=pixels, change=both, order=order, modality=modality)


def is_volume(volume, number, offset=0.0):
    values = np.stack([stored_values(12, 10, k).T for k in range(PLACES)], axis=-1) + 1000.0 * number + offset
    np.testing.assert_array_equal(volume.array, values)
    np.testing.assert_allclose(volume.geometry.affine, affine_ras(), atol=1e-6)


def selections(folder):
    """What the listing says chooses each volume, in its order; every one is also found by the survey."""
    with pytest.raises(AmbiguousInput) as caught:
        medldm.read(folder)
    text = str(caught.value)
    assert "remove" not in text and "resample" not in text and "\n" not in text
    listed = [dict(re.findall(r"(\w+)=([^ ]+)", part.split("(")[0])) for part in text.split("volumes: ")[1].split("; ")]
    each = list(read_each(folder))
    assert all(found.refusal is None for found in each)
    assert [found.select for found in each] == [one for one in listed if one]
    return [found.select for found in each]


BY_VALUE = {
    "phases of the heart": {"NominalPercentageOfCardiacPhase": lambda p, v: 70.0 + 5 * v},
    "trigger times": {"TriggerTime": lambda p, v: str(25.5 * v), "CardiacNumberOfImages": "2"},
    "temporal positions": {"TemporalPositionIdentifier": lambda p, v: str(v + 1)},
    "acquisitions": {"AcquisitionNumber": lambda p, v: str(v + 1)},
    "times of acquisition": {"AcquisitionTime": lambda p, v: f"10153{v}.500000"},
    "options": {"ScanOptions": lambda p, v: ["FAST", "FC"][: v + 1]},
    "kernels": {"ConvolutionKernel": lambda p, v: ("B30f", "B70f")[v]},
    "reconstructed diameters": {"ReconstructionDiameter": lambda p, v: str(250 + 50 * v)},
    "thicknesses": {"SliceThickness": lambda p, v: str(3 + 2 * v)},
    "tube voltages": {"KVP": lambda p, v: str(80 + 60 * v)},
    "echo numbers": {"EchoNumbers": lambda p, v: str(v + 1)},
    "a parameter that nobody thought of": {"SpacingBetweenSlices": lambda p, v: str(3 + v)},
    "series numbers": {"SeriesNumber": lambda p, v: str(3 + v)},
}  # fmt: skip


@pytest.mark.parametrize("outside", ["time", "place"])
@pytest.mark.parametrize("case", BY_VALUE)
def test_volumes_told_apart_by_a_value(dicom_series, case, outside):
    attributes = BY_VALUE[case]

    def change(ds, place, volume):
        for keyword, value in attributes.items():
            setattr(ds, keyword, value(place, volume) if callable(value) else value)

    folder = stacked(dicom_series, change, outside=outside)
    chosen = selections(folder)
    assert [list(select) for select in chosen] == [[next(iter(attributes))]] * 2
    for number, select in enumerate(chosen):
        is_volume(medldm.read(folder, select=select), number)


def numbered(ds, place, volume, volumes=2, outside="time"):
    ds.InstanceNumber = str(1 + (volume * PLACES + place if outside == "time" else place * volumes + volume))


BY_ORDER = {
    "numbers, times outside": ({}, "time", "InstanceNumber 1 to 4"),
    "numbers, places outside": ({"NumberOfTemporalPositions": "2"}, "place", "InstanceNumber 1 to 7"),
    "numbers of a heart": ({"CardiacNumberOfImages": "2"}, "place", "InstanceNumber 1 to 7"),
    "trigger times by heart rate": (
        {"TriggerTime": lambda p, v: str(v * (100 + p)), "InstanceNumber": "1"}, "place", "TriggerTime 0"
    ),
    "a time for every slice": (
        {"AcquisitionTime": lambda p, v: str(101500 + 30 * v + p), "InstanceNumber": "1"}, "place",
        "AcquisitionTime 101500 to 101503",
    ),
    "slices taken two at a time": (
        {"AcquisitionTime": lambda p, v: str(101500 + 30 * v + p % 2), "InstanceNumber": "1"}, "time",
        "AcquisitionTime",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BY_ORDER)
def test_volumes_told_apart_by_their_order(dicom_series, case):
    attributes, outside, note = BY_ORDER[case]

    def change(ds, place, volume):
        numbered(ds, place, volume, outside=outside)
        for keyword, value in attributes.items():
            setattr(ds, keyword, value(place, volume) if callable(value) else value)

    folder = stacked(dicom_series, change, outside=outside)
    with pytest.raises(AmbiguousInput, match=re.escape(f"Stack=1 ({note}")):
        medldm.read(folder)
    assert selections(folder) == [{"Stack": "1"}, {"Stack": "2"}]
    for number in range(2):
        is_volume(medldm.read(folder, select={"Stack": str(number + 1)}), number)


@pytest.mark.parametrize("keyword", ["ImageComments", "ReceiveCoilName", "SeriesDescription"])
def test_volumes_told_apart_by_free_text_are_numbered_and_the_text_is_not_shown(dicom_series, keyword):
    def change(ds, place, volume):
        ds.InstanceNumber = str(place + 1)
        setattr(ds, keyword, f"{CANARY} {volume}"[-16:])

    folder = stacked(dicom_series, change)
    with pytest.raises(AmbiguousInput, match=f"Stack=1 .{keyword} 1 of 2. ") as caught:
        medldm.read(folder)
    assert CANARY not in str(caught.value)
    for number, select in enumerate(selections(folder)):
        is_volume(medldm.read(folder, select=select), number)


def test_echoes_with_times_inside_are_numbered_through(dicom_series):
    def change(ds, place, volume):
        numbered(ds, place, volume, volumes=6)
        ds.EchoTime = str(5 + volume % 2)

    folder = stacked(dicom_series, change, volumes=6)
    chosen = selections(folder)
    assert [(s["Stack"], s["EchoTime"]) for s in chosen] == [(str(n + 1), str(5 + n // 3)) for n in range(6)]
    is_volume(medldm.read(folder, select=chosen[4]), 3)
    is_volume(medldm.read(folder, select={"Stack": "5"}), 3)
    with pytest.raises(AmbiguousInput, match="3 volumes: Stack=4 EchoTime=6 .*Stack=6 EchoTime=6"):
        medldm.read(folder, select={"EchoTime": "6"})
    with pytest.raises(InputError, match="no Stack=5"):
        medldm.read(folder, select={"EchoTime": "5", "Stack": "5"})


def test_numbers_by_place_without_a_count_tell_nothing(dicom_series):
    folder = stacked(dicom_series, lambda ds, p, v: numbered(ds, p, v, outside="place"), outside="place")
    with pytest.raises(AmbiguousInput, match="same place.*choose by what differs .*InstanceNumber=") as caught:
        medldm.read(folder)
    assert "remove" not in str(caught.value)


def test_a_time_that_lacks_one_slice_is_not_filled_from_another(dicom_series):
    folder = stacked(dicom_series, lambda ds, p, v: setattr(ds, "TriggerTime", str(20 * v)), volumes=3)
    for path in folder.iterdir():
        ds = dcmread(path)
        if ds.TriggerTime == 20 and ds.ImagePositionPatient[2] == 11:
            path.unlink()
    is_volume(medldm.read(folder, select={"TriggerTime": "40"}), 2)
    with pytest.raises(GeometryError, match="1 missing"):
        medldm.read(folder, select={"TriggerTime": "20"})


def passes(make, starts, attributes, n=6, step=3.0, modality="CT", name="series"):
    """Passes of `n` slices that start at these heights."""

    def change(ds, k):
        ds.ImagePositionPatient = ["-30", "20", f"{5 + starts[k // n] + step * (k % n):.6g}"]
        for keyword, value in attributes.items():
            setattr(ds, keyword, value(k // n, k % n) if callable(value) else value)

    return make(name, n=n * len(starts), pixels=lambda k: stored_values(12, 10, k), change=change, modality=modality)


@pytest.mark.parametrize("resample", [False, True])
@pytest.mark.parametrize("starts", [(0, 13.7), (0, 1.2), (0, 1.5), (0, 9), (0, 13.7, 28.1), (0, 19.2)], ids=str)
def test_passes_of_a_ct_that_overlap_are_volumes(dicom_series, starts, resample):
    folder = passes(dicom_series, starts, {"AcquisitionNumber": lambda a, k: str(a + 1)})
    listed = f"{len(starts)} volumes: AcquisitionNumber=1 .6 .*AcquisitionNumber=2 .6 "
    with pytest.raises(AmbiguousInput, match=listed):
        medldm.read(folder, resample_nonuniform=resample)
    for number, start in enumerate(starts):
        volume = medldm.read(folder, select={"AcquisitionNumber": str(number + 1)}, resample_nonuniform=resample)
        np.testing.assert_allclose(volume.geometry.affine, affine_ras(origin=(-30, 20, 5 + start)), atol=1e-5)
        np.testing.assert_array_equal(volume.array[0, 0], 600 * number + 100 * np.arange(6) - 1024)


@pytest.mark.parametrize("keyword", ["ConvolutionKernel", "AcquisitionTime", "KVP", "InstanceNumber", "ContentTime"])
def test_passes_told_apart_by_something_else(dicom_series, keyword):
    rules = {
        "ConvolutionKernel": lambda a, k: "AB"[a], "AcquisitionTime": lambda a, k: str(101500 + a),
        "KVP": lambda a, k: str(80 + 40 * a), "InstanceNumber": lambda a, k: str(6 * a + k + 1),
        "ContentTime": lambda a, k: str(101500 + 20 * a + k),
    }  # fmt: skip
    folder = passes(dicom_series, (0, 13.7), {"InstanceNumber": "1", keyword: rules[keyword]})
    chosen = selections(folder)
    assert [list(s) for s in chosen] == [["Stack" if keyword in ("InstanceNumber", "ContentTime") else keyword]] * 2
    for number, select in enumerate(chosen):
        volume = medldm.read(folder, select=select)
        np.testing.assert_array_equal(volume.array[0, 0], 600 * number + 100 * np.arange(6) - 1024)


def test_passes_that_share_places_are_told_apart_where_they_start_again(dicom_series):
    def change(ds, k):  # 0 to 15 mm, then 9 to 24 mm
        ds.ImagePositionPatient = ["-30", "20", str(5 + 3 * (k % 6) + 9 * (k // 6))]

    folder = dicom_series(n=12, change=change)
    assert selections(folder) == [{"Stack": "1"}, {"Stack": "2"}]
    np.testing.assert_array_equal(medldm.read(folder, select={"Stack": "2"}).array[0, 0], 100 * np.arange(6, 12))


def test_passes_there_and_back_are_not_cut_at_a_guess(dicom_series):
    heights = [0, 3, 6, 9, 12, 15, 18, 15, 12, 9, 6]  # the image at 18 may be the end of one or the start of the other

    def change(ds, k):
        ds.ImagePositionPatient = ["-30", "20", str(heights[k])]

    with pytest.raises(AmbiguousInput, match="same place.*InstanceNumber="):
        medldm.read(dicom_series(n=len(heights), change=change))


def test_passes_that_nothing_tells_apart_are_not_interpolated_together(dicom_series):
    folder = passes(dicom_series, (0, 13.7), {"InstanceNumber": "1"}, n=9)
    for resample in (False, True):
        with pytest.raises(GeometryError, match="two passes whose slices lie between each other") as caught:
            medldm.read(folder, resample_nonuniform=resample)
        assert "resample_nonuniform" not in str(caught.value)


def test_one_volume_in_several_steps_stays_one(dicom_series):
    folder = passes(dicom_series, (0, 18), {"AcquisitionNumber": lambda a, k: str(a + 1)})
    assert medldm.read(folder).geometry.shape == (10, 12, 12)
    interleaved = passes(
        dicom_series, (0, 1.5), {"AcquisitionNumber": lambda a, k: str(a + 1)}, modality="MR", name="interleaved"
    )
    assert medldm.read(interleaved).geometry.shape == (10, 12, 12)
    table = passes(dicom_series, (0, 18, 36), {"AcquisitionNumber": lambda a, k: str(3 * a + k // 2)}, name="table")
    (table / "a007.dcm").unlink()
    with pytest.raises(GeometryError, match="1 missing slices"):
        medldm.read(table)


@pytest.mark.parametrize("position_first", [True, False])
def test_frames_told_apart_by_their_dimensions(dicom_series, tmp_path, position_first):
    classic = stacked(dicom_series, lambda ds, p, v: None)
    base = dcmread(sorted(classic.iterdir())[0])
    frames, pixels = [], []
    for volume in range(2):
        for place in range(PLACES):
            frame, content, plane = Dataset(), Dataset(), Dataset()
            content.DimensionIndexValues = [place + 1, volume + 1] if position_first else [1, volume + 1, place + 1]
            plane.ImagePositionPatient = ["-30", "20", str(5 + 3 * place)]
            frame.FrameContentSequence, frame.PlanePositionSequence = Sequence([content]), Sequence([plane])
            frames.append(frame)
            pixels.append(stored_values(12, 10, place) + np.uint16(1000 * volume))
    shared, measures, axes = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = base.PixelSpacing, "3"
    axes.ImageOrientationPatient = base.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([axes])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(base, keyword)
    base.SOPClassUID = base.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    base.NumberOfFrames, base.PixelData = len(frames), np.stack(pixels).tobytes()
    base.SharedFunctionalGroupsSequence, base.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    file = tmp_path / "enhanced.dcm"
    base.save_as(file)
    with pytest.raises(AmbiguousInput, match=r"Stack=1 .DimensionIndexValues\[2\]=1. .*Stack=2 "):
        medldm.read(file)
    for number in range(2):
        is_volume(medldm.read(file, select={"Stack": str(number + 1)}), number)


def test_single_images_at_one_place_say_what_differs(dicom_series):
    folder = dicom_series()
    extra = dcmread(folder / "a003.dcm")
    setting(SOPInstanceUID="1.2.3.4.99", PixelData=bytes(240), WindowCenter="7", ContentTime="101500")(extra, 0)
    extra.save_as(folder / "b.dcm")
    with pytest.raises(AmbiguousInput, match=r"same place.*ContentTime=.*101500") as caught:
        medldm.read(folder)
    assert "remove" not in str(caught.value)
