"""Masks: their interpolation, the head that fills them, what is left alone, what is refused."""

import numpy as np
import pytest
import torch

import medldm
from medldm.errors import InputError, ModelError
from medldm.geometry import Geometry
from medldm.operators.mask import fill_harmonic, random_mask
from medldm.operators.measurement import Measurement
from medldm.restoration.restore import restore
from medldm.restoration.settings import Settings
from medldm.volume import Volume
from tests.test_restore import OBLIQUE, head_like
from tests.tiny import mask_model, tiny_model, tiny_table, with_mask_head, with_stages


def dense_membrane(known, mask):
    """The Laplace equation by a dense matrix: every mask voxel is the mean of its neighbours inside the image."""
    inside = [tuple(p) for p in np.argwhere(mask)]
    number = {p: n for n, p in enumerate(inside)}
    matrix, right = np.zeros((len(inside),) * 2), np.zeros(len(inside))
    for p, n in number.items():
        for axis in range(known.ndim):
            for step in (-1, 1):
                q = (*p[:axis], p[axis] + step, *p[axis + 1 :])
                if 0 <= q[axis] < known.shape[axis]:
                    matrix[n, n] += 1
                    if q in number:
                        matrix[n, number[q]] -= 1
                    else:
                        right[n] += known[q]
    filled = known.copy()
    filled[mask] = np.linalg.solve(matrix, right)
    return filled


@pytest.mark.parametrize("shape", [(13, 11), (9, 8, 7)])
def test_the_membrane_is_the_solution_of_the_laplace_equation(shape):
    rng = np.random.default_rng(0)
    image, mask = rng.random(shape), rng.random(shape) < 0.4
    mask[:3, :3] = True  # a mask at the border, too
    filled = fill_harmonic(image, mask)
    np.testing.assert_allclose(filled, dense_membrane(image, mask), atol=1e-4)
    np.testing.assert_array_equal(filled[~mask], image[~mask].astype(np.float32))


def test_the_membrane_does_not_look_into_the_mask_and_keeps_a_slope():
    image = np.add.outer(np.arange(20.0), 2 * np.arange(18.0))
    mask = np.zeros(image.shape, dtype=bool)
    mask[5:12, 4:13] = True
    np.testing.assert_allclose(fill_harmonic(np.where(mask, -1e6, image), mask), image, atol=1e-2)


@pytest.mark.parametrize("shape", [(32, 40), (20, 24, 18)])
def test_random_masks_leave_half_of_the_image_and_are_never_empty(shape):
    masks = [random_mask(shape, (2, 10), np.random.default_rng(seed)) for seed in range(200)]
    shares = np.array([mask.mean() for mask in masks])
    assert (shares > 0).all() and (shares <= 0.5).all()
    assert np.ptp(shares) > 0.2


@pytest.fixture(scope="module")
def model_3d(tmp_path_factory):
    return mask_model(tmp_path_factory.mktemp("packs"), 3)


@pytest.fixture(scope="module")
def model_2d(tmp_path_factory):
    return mask_model(tmp_path_factory.mktemp("packs"), 2)


@pytest.fixture
def head_and_mask():
    scan = Volume(head_like(), Geometry(OBLIQUE, (19, 22, 17)), "arbitrary", "MR")
    mask = np.zeros(scan.array.shape, dtype=bool)
    mask[6:11, 8:14, 5:9] = True
    return scan, mask


def test_outside_the_mask_nothing_changes_by_a_bit(model_3d, head_and_mask):
    scan, mask = head_and_mask
    result = medldm.inpaint(scan, mask, model=model_3d)
    np.testing.assert_array_equal(result.array[~mask], scan.array[~mask])
    assert (result.uncertainty.array[~mask] == 0).all() and (result.uncertainty.array[mask] > 0).all()
    assert (result.array[mask] != scan.array[mask]).any()
    assert result.volume.geometry.isclose(scan.geometry) and result.report["checks"]["voxels_filled"] == mask.sum()
    assert result.volume.ai_processed and result.report["task"] == "inpaint"


def test_what_lies_in_the_mask_is_not_looked_at(model_3d, head_and_mask):
    scan, mask = head_and_mask
    metal = scan.with_array(np.where(mask, 30000, scan.array))
    one, other = (medldm.inpaint(each, mask, model=model_3d).array for each in (scan, metal))
    np.testing.assert_array_equal(one, other)


def test_the_orientation_of_the_file_does_not_move_the_mask(model_3d, head_and_mask):
    scan, mask = head_and_mask
    drawn = scan.with_array(mask.astype(np.float32))
    direct = medldm.inpaint(scan, drawn, model=model_3d).volume.reorient("RAS")
    turned = medldm.inpaint(scan.reorient("ILP"), drawn.reorient("ILP"), model=model_3d).volume.reorient("RAS")
    np.testing.assert_allclose(turned.array, direct.array, atol=0.1)  # of 700: the membrane is solved to 1e-5


def test_a_picture_and_its_mask_are_rows_and_columns(model_2d):
    picture = np.random.default_rng(0).random((20, 31)).astype(np.float32)
    mask = np.zeros(picture.shape, dtype=bool)
    mask[2:9, 20:28] = True
    result = medldm.inpaint(picture, mask, model=model_2d, value_range=(0, 1))
    np.testing.assert_array_equal(result.array != picture, mask)


def test_the_head_changes_nothing_but_the_mask(model_2d):
    """Where the head is not asked, its answer is the measurement, whatever its weights say."""
    generator = torch.Generator().manual_seed(0)
    image, decoded = (torch.rand(2, 1, 16, 16, generator=generator) for _ in range(2))
    mask = (torch.rand(2, 1, 16, 16, generator=generator) < 0.3).float()
    measured = Measurement(image, torch.zeros(2, 1, 1, 1), torch.ones(2, 2, 1, 1), mask)
    filled, std = model_2d.networks.head("mask")(decoded, measured, torch.ones(2))
    assert torch.equal(filled[mask == 0], image[mask == 0]) and bool((std[mask == 0] == 0).all())
    assert bool((filled != image)[mask == 1].any())


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((19, 22, 17)), "empty"),
        (np.ones((19, 22, 17)), "whole"),
        (np.ones((19, 22, 16)), "shape"),
    ],
)
def test_masks_without_sense_are_refused(model_3d, head_and_mask, mask, said):
    with pytest.raises(InputError, match=said):
        medldm.inpaint(head_and_mask[0], mask, model=model_3d)


@pytest.mark.parametrize("asked", [{"mode": "perceptual"}, {"mode": 0.2}, {"samples": 2}])
def test_no_samples_of_a_mask_are_drawn(model_3d, head_and_mask, asked):
    with pytest.raises(medldm.MedldmError, match="to fill a region"):
        medldm.inpaint(*head_and_mask, model=model_3d, **asked)


def test_a_flipped_view_is_filled_as_its_copy(model_3d, head_and_mask):
    """Whatever strides the voxels have."""
    scan, mask = head_and_mask
    turned = scan.with_array(scan.array[::-1, :, ::-1])
    copied = scan.with_array(np.ascontiguousarray(turned.array))
    one, other = (medldm.inpaint(each, mask, model=model_3d).array for each in (turned, copied))
    np.testing.assert_array_equal(one, other)


def test_a_mask_of_another_place_is_refused(model_3d, head_and_mask):
    scan, mask = head_and_mask
    affine = OBLIQUE.copy()
    affine[0, 3] += 0.5  # mm
    moved = Volume(mask.astype(np.float32), Geometry(affine, mask.shape))
    with pytest.raises(InputError, match="affine"):
        medldm.inpaint(scan, moved, model=model_3d)


def test_a_model_that_was_not_trained_on_masks_says_so(tmp_path, head_and_mask):
    model = tiny_model(tmp_path, 3)
    with pytest.raises(ModelError, match="no training for inpaint"):
        medldm.inpaint(*head_and_mask, model=model)


def stripes(rng):
    """(48, 48) of period 8 and any phase: across a mask of 5 the membrane draws a line, the stripes go on."""
    return (120 + 80 * np.sin(2 * np.pi * (np.arange(48)[:, None] / 8 + rng.random())) + np.zeros((1, 48))).astype("f4")


def test_a_head_for_masks_learns_to_fill_them_better_than_the_membrane(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(12):
        grid = Geometry(np.diag([-1, -1, 1, 1]), (48, 48, 1))
        medldm.write(Volume(stripes(rng).T[..., None], grid, "grey8"), tmp_path / f"{number:02}.png")
    stage = {"steps": 0, "batch_size": 4, "crop": [32, 32], "lr": 1e-2, "ema": 0.9}
    table = with_mask_head(with_stages(tiny_table(2), autoencoder=stage, denoiser=stage, head=stage))
    table["pack"]["heads"]["mask"] |= {"channels": [16, 16]}
    table["pack"]["problems"]["inpaint"] |= {"radius": [3, 4]}
    table["stage"][-1] |= {"steps": 200}
    # of stripes a block PCA keeps everything, and an autoencoder that begins from zoomed ones, too, does not
    medldm.train(table, data=tmp_path, out=tmp_path / "out", despite_gate=True)
    mask = np.zeros((48, 48), dtype=bool)
    mask[20:25, 12:36] = True
    ratios = []
    for _ in range(5):
        truth = stripes(rng)
        filled = medldm.inpaint(truth, mask, model=tmp_path / "out").array
        mine, membrane = (np.square(each - truth)[mask].mean() for each in (filled, fill_harmonic(truth, mask)))
        ratios.append(mine / membrane)
    assert np.mean(ratios) < 0.6, ratios


def test_a_small_mask_in_a_large_scan_is_filled_as_in_its_surroundings(model_3d):
    """What lies beyond the surroundings is not computed: it comes back as it was, at its place."""
    array = head_like((120, 20, 16), seed=3)
    scan = Volume(array, Geometry(OBLIQUE, array.shape), "arbitrary", "MR")
    mask = np.zeros(array.shape, dtype=bool)
    mask[100:106, 8:12, 6:10] = True
    result = medldm.inpaint(scan, mask, model=model_3d, value_range=(0, 700))
    part = medldm.inpaint(scan.crop((52, 0, 0), (120, 20, 16)), mask[52:], model=model_3d, value_range=(0, 700))
    np.testing.assert_array_equal(result.array[52:], part.array)
    np.testing.assert_array_equal(result.array[~mask], array[~mask])
    assert result.volume.geometry.isclose(scan.geometry) and result.uncertainty.geometry.isclose(scan.geometry)


def test_samples_leave_what_was_measured_certain_and_finite(model_2d):
    """Where nothing is missing the mean's deviation is 0, with samples and grain as well."""
    picture, mask = np.random.default_rng(0).random((16, 16, 1)).astype(np.float32), np.zeros((16, 16, 1), dtype=bool)
    mask[4:9, 5:11] = True
    scan = Volume(picture, Geometry.from_spacing((16, 16, 1), (1, 1, 1)), "arbitrary", "DX")
    settings = Settings(noise_std=0.0, samples=2, steps=3, mode="perceptual", value_range=(0, 1))
    found = restore(scan, model_2d, "inpaint", {"mask": mask}, settings)
    assert np.isfinite(found.uncertainty.array).all() and np.isfinite(found.array).all()
    assert (found.uncertainty.array[mask] > 0).all()
    np.testing.assert_allclose(found.array[~mask], picture[~mask], atol=1e-5)
