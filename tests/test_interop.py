"""Scans come from and go to nibabel, SimpleITK, MONAI and xarray with place, values, unit and marks."""

import itertools
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, EnsureChannelFirst, Flip, LoadImage, RandSpatialCropd, Resize, Rotate90, Spacing

import medldm
from medldm import AmbiguousInput, Geometry, GeometryError, InputError, Volume
from medldm.foreign import to_sitk, to_xarray
from medldm.marks import AI_PROCESSED, QUANTITY, RESEARCH_USE, SYNTHETIC
from medldm.transforms import ReadScan, ReadScand, to_metatensor
from tests.dicom_maker import CANARY, make_series
from tests.tiny import tiny_model

sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed (extra interop)")
xarray = pytest.importorskip("xarray", reason="xarray is not installed (extra interop)")
SHAPE, SPACING = (5, 4, 3), (0.7, 1.9, 3.1)
CODES = [
    "".join(code[int(up)] for code, up in zip(order, ups, strict=True))
    for order in itertools.permutations(("LR", "PA", "IS"))
    for ups in itertools.product((False, True), repeat=3)
]
BACK = {
    "nibabel": Volume.to_nibabel,
    "SimpleITK": Volume.to_sitk,
    "MetaTensor": to_metatensor,
    "MetaTensor without channel": lambda v: to_metatensor(v, channel_first=False),
    "xarray": Volume.to_xarray,
}


def oblique(codes="RAS", tilt=0.2):
    """A scan turned about two axes, with unequal voxels; stored in one of the 48 orders and directions of axes."""
    c, s = np.cos(tilt), np.sin(tilt)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * SPACING, (-31.5, 17.25, 120.125)
    values = np.random.default_rng(0).normal(0, 500, SHAPE)
    return Volume(values, Geometry(affine, SHAPE), "HU", "CT").reorient(codes)


def same(volume, scan):
    np.testing.assert_array_equal(volume.array, scan.array)
    assert np.abs(volume.geometry.affine - scan.geometry.affine).max() < 1e-6
    assert (volume.unit, volume.modality) == (scan.unit, scan.modality)


def test_there_are_48_ways_to_store_a_scan():
    assert len({oblique(codes).geometry.axcodes for codes in CODES}) == 48


@pytest.mark.parametrize("to", BACK.values(), ids=BACK)
def test_a_round_trip_keeps_place_values_and_unit_in_all_48_orientations(to):
    for codes in CODES:
        scan = oblique(codes)
        assert "".join(scan.geometry.axcodes) == codes
        same(medldm.as_volume(to(scan)), scan)


def test_a_voxel_lies_where_the_other_library_says_it_lies():
    """Each library's own word for the place of a voxel, not our reading of it."""
    for codes in CODES:
        scan, index = oblique(codes), (2, 1, 2)
        place = scan.geometry.to_world(index)
        np.testing.assert_allclose(nib.affines.apply_affine(scan.to_nibabel().affine, index), place, atol=1e-6)
        image = scan.to_sitk()
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(lps * (-1, -1, 1), place, atol=1e-6)
        assert image[index] == scan.array[index]
        np.testing.assert_allclose(to_metatensor(scan).affine.numpy() @ [*index, 1], [*place, 1], atol=1e-6)


def test_files_of_the_others_are_read_alike(tmp_path):
    """A file is the referee: what SimpleITK and nibabel write, medldm reads at the same place, and the other way."""
    for codes in CODES[::5]:
        scan = oblique(codes)
        sitk.WriteImage(scan.to_sitk(), str(tmp_path / "sitk.nii.gz"))
        nib.save(scan.to_nibabel(), tmp_path / "nib.nii.gz")
        for name in ("sitk.nii.gz", "nib.nii.gz"):
            read = medldm.read(tmp_path / name)
            assert read.geometry.isclose(scan.geometry, 1e-3)
            np.testing.assert_array_equal(read.array, scan.array)
        medldm.write(scan, tmp_path / "ours.nii.gz", overwrite=True)
        for image in (sitk.ReadImage(str(tmp_path / "ours.nii.gz")), nib.load(tmp_path / "ours.nii.gz")):
            assert medldm.as_volume(image).geometry.isclose(scan.geometry, 1e-3)


def test_a_dicom_series_lies_where_simpleitk_has_it(tmp_path):
    folder = make_series(tmp_path / "series")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs, ours = medldm.as_volume(reader.Execute()).reorient("RAS"), medldm.read(folder).reorient("RAS")
    assert theirs.geometry.isclose(ours.geometry, 1e-3)
    np.testing.assert_allclose(theirs.array, ours.array, atol=1e-3)


@pytest.mark.parametrize("to", BACK.values(), ids=BACK)
def test_what_a_model_made_says_so_everywhere_and_maps_are_no_scans(to):
    made = oblique().with_step({"step": "denoise", AI_PROCESSED: RESEARCH_USE})
    assert medldm.as_volume(to(made)).ai_processed and not medldm.as_volume(to(oblique())).ai_processed
    drawn = oblique().with_step({"step": "synthesize", AI_PROCESSED: RESEARCH_USE, SYNTHETIC: True})
    assert medldm.as_volume(to(drawn)).synthetic and not medldm.as_volume(to(made)).synthetic
    if to not in (to_metatensor, BACK["MetaTensor without channel"]):
        carried = to(made.with_step({"step": "denoise residual", QUANTITY: "residual"}))
        with pytest.raises(InputError, match="the residual of a result"):
            medldm.as_volume(carried)


def test_no_name_of_a_patient_goes_along(tmp_path):
    folder = make_series(tmp_path / "series")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(sorted(folder.iterdir())[0]))
    reader.LoadPrivateTagsOn()
    image = reader.Execute()
    assert any(CANARY in image.GetMetaData(key) for key in image.GetMetaDataKeys())
    assert CANARY not in repr(medldm.as_volume(image).history)
    scan = medldm.read(folder)
    said = [str(scan.to_nibabel().header), str(scan.to_xarray()), str(to_metatensor(scan).meta)]
    said += [scan.to_sitk().GetMetaData(key) for key in scan.to_sitk().GetMetaDataKeys()]
    assert not [text for text in said if CANARY in text]


def test_the_affine_of_a_metatensor_is_used_after_its_transforms():
    """Flip, turn, crop, resample by MONAI: the voxels stay where they are in the world, by medldm's account."""
    scan = oblique("PIR")
    ramp = scan.with_array(scan.geometry.to_world(np.stack(np.indices(scan.geometry.shape), -1))[..., 0])
    for change in (Flip(0), Rotate90(1, (1, 2)), Compose([Flip(1), Rotate90(1, (0, 2))]), Spacing((1.0, 1.0, 1.0))):
        moved = medldm.as_volume(change(to_metatensor(ramp)))
        where = moved.geometry.to_world(np.stack(np.indices(moved.geometry.shape), -1))[..., 0]
        inside = tuple(slice(1, -1) if n > 2 else slice(None) for n in where.shape)
        edge = 1e-3 if not isinstance(change, Spacing) else 2.0  # of resampling: values stop at the border
        assert np.abs(moved.array - where)[inside].max() < edge


def test_a_metatensor_of_monais_own_reader(tmp_path):
    scan = oblique("LIA")
    nib.save(scan.to_nibabel(), tmp_path / "a.nii.gz")
    loaded = LoadImage()(tmp_path / "a.nii.gz")
    for tensor in (loaded, EnsureChannelFirst()(loaded), loaded.half()):
        volume = medldm.as_volume(tensor)
        assert volume.geometry.isclose(scan.geometry, 1e-3)
        np.testing.assert_allclose(volume.array, scan.array, atol=0.5)
    with pytest.raises(AmbiguousInput, match="one channel first"):
        medldm.as_volume(MetaTensor(torch.zeros(2, 3, 4, 5)))
    lps = MetaTensor(torch.zeros(3, 4, 5), affine=torch.diag(torch.tensor([1.0, 2, 3, 1])), meta={"space": "LPS"})
    assert medldm.as_volume(lps).geometry.axcodes == ("L", "P", "S")
    flat = medldm.as_volume(MetaTensor(torch.zeros(4, 5), affine=torch.diag(torch.tensor([2.0, 3, 1]))))
    assert flat.geometry.spacing == (2, 3, 1) and flat.array.shape == (4, 5, 1)


def test_a_dataset_reads_through_medldm(tmp_path):
    folders = [make_series(tmp_path / name) for name in ("one", "two")]
    items = [{"image": str(folder), "label": n} for n, folder in enumerate(folders)]
    transform = Compose([ReadScand("image"), RandSpatialCropd("image", (8, 8, 4), random_size=False)])
    (batch,) = DataLoader(Dataset(items, transform), batch_size=2)
    assert batch["image"].shape == (2, 1, 8, 8, 4) and batch["label"].tolist() == [0, 1]
    whole = medldm.read(folders[0])
    read = ReadScan()(folders[0])
    np.testing.assert_array_equal(read[0].numpy(), whole.array)
    np.testing.assert_allclose(read.affine.numpy(), whole.geometry.affine)
    assert read.meta["unit"] == whole.unit


def test_a_refusal_stays_one_in_a_dataset(tmp_path):
    """A series that lacks a slice: nothing else may read it instead."""
    folder = make_series(tmp_path / "series")
    sorted(folder.iterdir())[2].unlink()
    with pytest.raises(RuntimeError, match="applying transform") as caught:
        Dataset([{"image": folder}], ReadScand("image"))[0]
    assert isinstance(caught.value.__cause__, GeometryError)


def test_parts_and_turned_arrays_of_xarray_come_back_in_their_place():
    scan = oblique("ASL")
    whole = scan.to_xarray()
    ramp = scan.with_array(scan.geometry.to_world(np.stack(np.indices(scan.geometry.shape), -1))[..., 1]).to_xarray()
    parts = [
        ramp.isel(i=slice(1, 3)),
        ramp.isel(j=slice(None, None, 2)),
        ramp[::-1, :, ::-1],
        ramp.transpose("k", "i", "j"),
        ramp.isel(k=1),
        ramp.isel(i=2, k=slice(0, 2)).transpose("k", "j"),
    ]
    for part in parts:
        volume = medldm.as_volume(part)
        where = volume.geometry.to_world(np.stack(np.indices(volume.geometry.shape), -1))[..., 1]
        np.testing.assert_allclose(volume.array, where, atol=1e-3)
    with pytest.raises(GeometryError, match="uneven coordinates along i"):
        medldm.as_volume(whole.isel(i=[0, 1, 3]))
    with pytest.raises(InputError, match="dimensions t, i, j, k"):
        medldm.as_volume(whole.expand_dims("t"))
    bare = xarray.DataArray(np.zeros(SHAPE))
    with pytest.raises(InputError, match="neither spacing nor affine"):
        medldm.as_volume(bare)
    assert medldm.as_volume(bare, spacing=2).geometry.spacing == (2, 2, 2)


def test_arrays_and_tensors_need_a_place_and_images_refuse_a_second():
    for values in (np.zeros(SHAPE), torch.zeros(SHAPE), torch.zeros(SHAPE, dtype=torch.bfloat16, requires_grad=True)):
        with pytest.raises(InputError, match="neither spacing nor affine"):
            medldm.as_volume(values)
        assert medldm.as_volume(values, spacing=SPACING).geometry.spacing == SPACING
    flat = medldm.as_volume(torch.arange(6.0).reshape(2, 3))
    assert flat.array.shape == (3, 2, 1) and flat.history[0]["spacing_assumed"] is True
    with pytest.raises(InputError, match="real numbers"):
        medldm.as_volume(torch.zeros(SHAPE, dtype=torch.complex64))
    for image in (to(oblique()) for to in BACK.values()):
        with pytest.raises(InputError, match="affine: got one for a .* its own"):
            medldm.as_volume(image, affine=np.eye(4))


def test_images_that_do_not_say_where_they_lie_are_refused(tmp_path):
    unplaced = nib.Nifti1Image(np.zeros(SHAPE, np.float32), None)
    analyze = nib.Spm99AnalyzeImage(np.zeros(SHAPE, np.float32), np.eye(4))
    for image in (unplaced, analyze):
        with pytest.raises(GeometryError, match="nibabel image.*affine"):
            medldm.as_volume(image)
    with pytest.raises(AmbiguousInput, match="image.slicer"):
        medldm.as_volume(nib.Nifti1Image(np.zeros((*SHAPE, 2), np.float32), np.eye(4)))
    with pytest.raises(medldm.UnsupportedInput, match="components"):
        medldm.as_volume(sitk.Image([4, 4, 4], sitk.sitkVectorFloat32, 3))
    with pytest.raises(InputError, match="not finite"):
        medldm.as_volume(nib.Nifti1Image(np.full(SHAPE, np.nan, np.float32), np.eye(4)))
    metres = nib.Nifti1Image(np.zeros(SHAPE, np.float32), np.diag([0.001, 0.002, 0.003, 1]))
    metres.header.set_xyzt_units("meter")
    np.testing.assert_allclose(medldm.as_volume(metres).geometry.spacing, (1, 2, 3), rtol=1e-6)


def test_a_tilted_gantry_goes_to_nifti_and_not_to_itk():
    affine = np.array([[1, 0, 0, 0], [0, 1, 0.3, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    scan = Volume(np.zeros(SHAPE), Geometry(affine, SHAPE))
    same(medldm.as_volume(scan.to_nibabel()), scan)
    with pytest.raises(GeometryError, match="right angle"):
        scan.to_sitk()


@pytest.mark.parametrize(("name", "to"), [("SimpleITK", to_sitk), ("xarray", to_xarray)])
def test_a_library_that_is_not_there_is_named(name, to, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    scan = oblique()
    with pytest.raises(medldm.OutputError, match=f"no such package.*{name}.*medldm\\[interop\\]"):
        to(scan.array, scan.geometry, scan.marks)


def test_each_form_of_a_scan_is_restored_alike(tmp_path):
    model = tiny_model(tmp_path, 3)
    scan = Volume(np.random.default_rng(0).random((16, 12, 8)), Geometry.from_spacing((16, 12, 8), (2, 2, 3)))
    wanted = medldm.denoise(scan, model=model, noise_std=0.1)
    for to in BACK.values():
        result = medldm.denoise(to(scan), model=model, noise_std=0.1)
        np.testing.assert_array_equal(result.array, wanted.array)
        assert result.volume.geometry.isclose(scan.geometry)
    flat, picture = tiny_model(tmp_path, 2), np.random.default_rng(1).random((12, 20)).astype(np.float32)
    by_array = medldm.denoise(picture, model=flat, noise_std=0.1)
    for same_picture in (torch.from_numpy(picture), xarray.DataArray(picture)):  # rows x columns, and so comes back
        result = medldm.denoise(same_picture, model=flat, noise_std=0.1)
        assert result.array.shape == (12, 20) and np.array_equal(result.array, by_array.array)
    tensor = torch.from_numpy(scan.array.copy())
    np.testing.assert_array_equal(
        medldm.denoise(tensor, model=model, noise_std=0.1, spacing=(2, 2, 3)).array, wanted.array
    )


def test_what_is_given_is_not_changed():
    scan = oblique()
    for to in BACK.values():
        image = to(scan)
        volume = medldm.as_volume(image)
        if to is Volume.to_nibabel:
            image.dataobj[:] = 0
        elif to is Volume.to_sitk:
            image *= 0
        else:
            image[:] = 0
        np.testing.assert_array_equal(scan.array, oblique().array)
        if to is not Volume.to_nibabel:
            np.testing.assert_array_equal(volume.array, scan.array)


def test_resized_by_monai_the_field_of_view_is_kept():
    scan = oblique()
    small = medldm.as_volume(Resize((10, 8, 6))(to_metatensor(scan)))
    np.testing.assert_allclose(small.geometry.spacing, np.array(SPACING) / 2, rtol=1e-4)


def test_the_page_shows_what_is_so(tmp_path, monkeypatch):
    """docs/interop.md runs from top to bottom."""
    text = (Path(__file__).parents[1] / "docs" / "interop.md").read_text(encoding="utf-8")
    make_series(tmp_path / "dicom")
    head = 600.0 * (np.indices((16, 14, 12)).sum(0) > 12) + np.random.default_rng(0).rayleigh(20, (16, 14, 12))
    medldm.write(
        Volume(head, Geometry.from_spacing(head.shape, (2, 2, 3)), "arbitrary", "MR"), tmp_path / "scan.nii.gz"
    )
    tiny_model(tmp_path, 3).save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    known = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        exec(block, known)
