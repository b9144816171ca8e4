"""The report: self-contained, true to orientation and scale, escaped, without identity."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from medldm.errors import InputError
from medldm.geometry import Geometry
from medldm.report.page import Section, Table, provenance, render, write_report
from medldm.report.pictures import DIVERGING, Window, detail, montage, place_of_change, planes
from medldm.volume import Volume

SHAPE = (20, 24, 16)


def head(axcodes="RAS", spacing=(1.0, 1.0, 1.0)):
    """Bright in the patient's left, anterior, superior octant only."""
    array = np.zeros(SHAPE, dtype=np.float32)
    array[:10, 12:, 8:] = 100.0  # R- A+ S+ in RAS: left, anterior, superior
    return Volume(array, Geometry.from_spacing(SHAPE, spacing), "arbitrary", "MR").reorient(axcodes)


def restoration(scan, **report):
    """What a restoration hands over, with plain values."""
    noise = np.random.default_rng(0).standard_normal(scan.array.shape).astype(np.float32)
    facts = {
        "task": "denoise",
        "model": "tiny",
        "weights_sha256": "ab" * 32,
        "seed": 3,
        "steps": 20,
        "mode": 0.0,
        "noise_std": 5.0,
        "noise_std_estimated": True,
        "unit": scan.unit,
        "warnings": [],
        "checks": {"residual_mean": 0.1},
        "timings_s": {"estimate": 1.25},
        "versions": {"medldm": "0.1.0"},
    }
    return SimpleNamespace(
        volume=scan,
        residual=scan.with_array(noise),
        uncertainty=scan.with_array(np.abs(noise)),
        report=facts | report,
    )


def picture(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PSR", "IAL"])
def test_planes_are_radiological_whatever_the_axis_order_of_the_file(axcodes):
    """Left is on the right of axial and coronal planes, anterior on top or on the left, superior on top."""
    by_name = {name: plane for name, plane, _, _ in planes(head(axcodes), at=(0.75, 0.25, 0.75))}
    axial, coronal, sagittal = by_name["axial"], by_name["coronal"], by_name["sagittal"]
    assert axial[0, -1] == 100 and axial[0, 0] == axial[-1, -1] == 0
    assert coronal[0, -1] == 100 and coronal[0, 0] == coronal[-1, -1] == 0
    assert sagittal[0, 0] == 100 and sagittal[0, -1] == sagittal[-1, 0] == 0


def test_pictures_keep_the_aspect_of_the_patient():
    scan = head(spacing=(1.0, 1.0, 3.0))  # 20 x 24 x 48 mm: the axial plane is 20 wide, 24 high
    shown = picture(montage(scan, Window.of(scan), size=240))
    axial, coronal, sagittal = 20 * 5, 20 * 5, 24 * 5
    assert shown.shape == (48 * 5, axial + coronal + sagittal + 2 * 8, 3)


def test_a_radiograph_is_one_plane_as_displayed():
    array = np.zeros((30, 20, 1), dtype=np.float32)
    array[25:, :5] = 255  # right columns, top rows
    scan = Volume(array, Geometry(np.diag([-1.0, -1.0, 1.0, 1.0]), array.shape), "grey8")
    (only,) = planes(scan)
    assert only[1].shape == (20, 30) and only[1][0, -1] == 255 and only[1][-1, 0] == 0


def test_a_line_of_voxels_is_no_picture():
    scan = Volume(np.zeros((9, 1, 1), dtype=np.float32), Geometry.from_spacing((9, 1, 1), (1.0, 1.0, 1.0)))
    with pytest.raises(InputError):
        montage(scan, Window(0, 1))


def test_a_residual_of_zero_is_the_middle_colour():
    window = Window(-2.0, 2.0, DIVERGING)
    shown = window.colour(np.array([[-9.0, 0.0, 9.0]], dtype=np.float32))
    assert [tuple(colour) for colour in shown[0]] == [DIVERGING[0], DIVERGING[2], DIVERGING[-1]]


def test_a_detail_is_a_square_around_the_point():
    array = np.zeros((40, 40, 1), dtype=np.float32)
    array[28:32, 8:12] = 1
    scan = Volume(array, Geometry(np.diag([-1.0, -1.0, 1.0, 1.0]), array.shape))
    shown = picture(detail(scan, Window(0, 1), at=(0.75, 0.25, 0.5), share=0.1, size=50, smooth=False))
    assert shown.shape == (50, 50, 3) and (shown == 255).all()


def test_the_report_needs_nothing_but_itself(tmp_path):
    scan = head()
    section = Section.of_restoration("Denoised", scan, restoration(scan), truth=scan)
    write_report(tmp_path / "report.html", [section])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!data:image/png;base64,)""", text) == []
    assert not re.search(r"https?://|<script|@import|url\(", text)
    assert text.count("data:image/png;base64,") == 5 + 3
    assert "not a medical device" in text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_texts_are_escaped():
    section = Section("<b>x</b>", text="a & b", warnings=("<i>",), facts={"k<": "v>"})
    text = render([section], title="<script>")
    assert "<b>x" not in text and "&lt;b&gt;x" in text and "a &amp; b" in text
    assert "<script" not in text and "k&lt;" in text and 'warning">&lt;i&gt;' in text


def test_warnings_figures_and_provenance_are_shown():
    scan = head()
    table = Table("Against the truth", ("method", "PSNR (dB)"), (("cubic", "20.00"), ("medldm", "25.00")), best=1)
    result = restoration(scan, warnings=["voxels of 9 mm"])
    text = render([Section.of_restoration("Denoised", scan, result, tables=[table])])
    assert 'class="warning">voxels of 9 mm' in text
    assert '<tr class="best"><td>medldm</td><td>25.00</td></tr>' in text
    for fact in ("tiny", "abababababababab", "5 (estimated)", "estimate 1.2 s", "medldm 0.1.0"):
        assert fact in text, fact


def test_only_known_facts_are_shown():
    facts = provenance({"model": "m", "patient_name": "Canary^Name", "history": [{"path": "canary.dcm"}]})
    assert facts == {"model": "m"}


def test_an_undefined_check_is_left_out_and_no_noise_is_said_so():
    facts = provenance({"checks": {"ratio": float("nan"), "flag": False}, "noise_std": 0.0})
    assert facts == {"noise level": "taken as free of noise", "flag": "no"}


def test_the_same_scan_gives_the_same_report():
    scan = head()
    first, second = (render([Section.of_restoration("x", scan, restoration(scan))]) for _ in range(2))
    assert first == second


def test_colours_and_planes_are_those_of_what_was_restored():
    """One slice of many: its residual is not one solid red, and the planes go through it."""
    scan = Volume(np.ones((20, 24, 400), np.float32), Geometry.from_spacing((20, 24, 400), (1, 1, 1)))
    noise = np.random.default_rng(0).standard_normal((20, 24))
    array = np.zeros_like(scan.array)
    array[:, :, 7] = 50 * noise
    signed, positive = Window.signed(scan.with_array(array)), Window.positive(scan.with_array(np.abs(array)))
    assert signed.high == -signed.low == pytest.approx(positive.high) == pytest.approx(50 * 2.8, rel=0.2)
    colours = signed.colour(array[:, :, 7])
    solid = (colours == colours.max(axis=(0, 1))).all(-1).mean()
    assert solid < 0.05
    assert place_of_change(scan.with_array(array)) == pytest.approx((0.5, 0.5, 7.5 / 400))
    result = SimpleNamespace(**{**vars(restoration(scan)), "residual": scan.with_array(array), "uncertainty": None})
    section = Section.of_restoration("Denoised", scan, result)
    shown = next(each for each in section.pictures if each.caption.startswith("Residual"))
    assert (picture(shown.png) != picture(montage(scan.with_array(0 * array), signed))).any()


def test_a_map_of_nothing_has_colours_and_a_place():
    nothing = head().with_array(np.zeros(SHAPE, np.float32))
    assert Window.signed(nothing).high > 0 and Window.positive(nothing).high > 0
    assert place_of_change(nothing) == (0.5, 0.5, 0.5)
