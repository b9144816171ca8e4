import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import medldm
from medldm.geometry import Geometry
from medldm.io.dicom.quantise import ds_text, grey, quantise
from medldm.volume import Volume


@given(
    st.sampled_from(["CT", "MR", "PT"]),
    st.floats(-3000, 60000),
    st.floats(1e-3, 1e5),
    st.lists(st.floats(1e-4, 50), max_size=3),
    st.integers(0, 9),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_rounding_is_at_most_half_a_step(modality, low, width, slopes, seed):
    values = (low + width * np.random.default_rng(seed).random((4, 5, 3))).astype(np.float32)
    result = quantise(values, modality, slopes, [0.0] * len(slopes))
    back = result.stored * result.slope + float(result.intercept_text)
    assert np.abs(back - values).max() <= result.slope / 2 * (1 + 1e-6)
    assert len(result.slope_text) <= 16 and len(result.intercept_text) <= 16
    if modality == "CT":
        assert result.slope == max(1, np.ceil((values.max() - float(result.intercept_text)) / 65535))


def test_clipped_values_are_counted_and_said(tmp_path):
    values = np.array([-1.0, 0.2, 254.6, 255.4, 256, 1e9], dtype=np.float32).reshape(2, 3, 1)
    assert (grey(values, "grey8").clipped, grey(values, "grey16").clipped) == (3, 2)
    volume = Volume(values, Geometry.from_spacing((2, 3, 1), (1, 1, 1)), "grey8")
    medldm.write(volume, tmp_path / "x.dcm")
    assert "3 values outside of 0..255" in pydicom.dcmread(tmp_path / "x.dcm").DerivationDescription
    assert quantise(values, "CT").clipped == quantise(values, "MR").clipped == quantise(values, "PT").clipped == 0


def test_mr_keeps_the_source_scale_where_it_is_fine_enough():
    values = np.linspace(0, 2000, 1000, dtype=np.float32)
    assert quantise(values, "MR", [2.36166] * 3, [0.0] * 3).slope_text == "2.36166"
    assert quantise(values / 1000, "MR", [1.0], [0.0]).slope < 1e-3
    assert (quantise(np.float32([0, 3, 7]), "MR").slope_text, quantise(np.float32([0, 3]), "MR").intercept_text) == (
        "1",
        "0",
    )


@pytest.mark.parametrize("value", [1 / 3, -123.4567890123456789, 1e-17, -0.0, 65535.0, 2.36166e-7])
def test_decimal_strings_fit_16_characters(value):
    assert len(ds_text(value)) <= 16 and float(ds_text(value)) == pytest.approx(value, rel=1e-9)
