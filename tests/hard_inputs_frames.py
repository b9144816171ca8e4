"""Several volumes in one series, multi-frame objects: B21, B22."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom

import medldm
from medldm.errors import (
    AmbiguousInput,
    InputError,
)
from tests.dicom_maker import make_series, stored_values
from tests.hard_inputs_cases import VALUES, case, equal, refused, setting


@case
def b21_echoes_times_b_values(tmp: Path, data: Path) -> None:
    echoes = data / "dicom/mr_multiecho_siemens"
    refused(echoes, AmbiguousInput, "EchoTime=5.19 .*EchoTime=7.65")
    assert medldm.read(echoes, select={"EchoTime": "5.19"}).geometry.shape[2] == 4
    refused(echoes, InputError, "no image with EchoTime=6", select={"EchoTime": "6"})
    directions = data / "dicom/mr_4d_ge_dti"
    refused(directions, AmbiguousInput, "DiffusionBValue=0.*DiffusionBValue=1000")
    assert medldm.read(directions, select={"DiffusionBValue": "1000"}).geometry.shape[2] == 4

    def pair(keyword: str, first: Any, second: Any) -> Path:
        folder = make_series(tmp / keyword, change=setting(**{keyword: first}))
        later = setting(SOPInstanceUID=lambda k: f"1.2.3.4.5.{k}", **{keyword: second})
        return make_series(folder, prefix="b", change=later, pixels=lambda k: stored_values(12, 10, k) + 7)

    parts = (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])
    for keyword, first, second, value in (
        ("TemporalPositionIdentifier", "1", "2", "2"),
        ("TriggerTime", "10", "250.5", "250.5"),
        ("ImageType", *parts, "ORIGINAL\\PRIMARY\\P"),
    ):
        folder = pair(keyword, first, second)
        refused(folder, AmbiguousInput, f"2 volumes: {keyword}=")
        equal(folder, values=VALUES + 7, select={keyword: value})


@case
def b22_enhanced(tmp: Path, data: Path) -> None:
    pair = data / "dicom/ct_enhanced/legacy_pair"
    classic, multiframe = medldm.read(pair / "classic"), medldm.read(pair / "multiframe")
    np.testing.assert_array_equal(multiframe.array, classic.array)
    assert multiframe.geometry.isclose(classic.geometry, 1e-3) and multiframe.unit == classic.unit == "HU"
    assert medldm.read(data / "dicom/ct_enhanced/perfusion").geometry.shape == (512, 512, 2)
    file = next(f for f in (data / "dicom/mr_enhanced_philips_asl").iterdir())
    volume, ds = medldm.read(file), pydicom.dcmread(file)
    frame = 7
    group = ds.PerFrameFunctionalGroupsSequence[frame]
    place = np.array(group.PlanePositionSequence[0].ImagePositionPatient) * (-1, -1, 1)
    k = int(round(float(volume.geometry.to_voxel(place)[2])))
    np.testing.assert_allclose(volume.geometry.to_world([0, 0, k]), place, atol=1e-3)
    rescale = group.PixelValueTransformationSequence[0]
    wanted = ds.pixel_array[frame] * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept)
    np.testing.assert_allclose(volume.array[..., k], wanted.T, rtol=1e-6)
