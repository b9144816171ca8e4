import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medldm.errors import GeometryError
from medldm.geometry import Geometry


@st.composite
def geometries(draw):
    """Oblique, flipped, permuted and slightly sheared grids."""
    angles = [draw(st.floats(-3.1, 3.1)) for _ in range(3)]
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        turn = np.eye(3)
        a, b = [i for i in range(3) if i != axis]
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        matrix = turn @ matrix
    matrix[:, 2] += draw(st.floats(-0.3, 0.3)) * matrix[:, 1]
    spacing = [draw(st.floats(0.2, 8)) for _ in range(3)]
    sign = [draw(st.sampled_from((-1, 1))) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = matrix * spacing * sign
    affine[:3, 3] = [draw(st.floats(-300, 300)) for _ in range(3)]
    return Geometry(affine, tuple(draw(st.integers(1, 9)) for _ in range(3)))


def positions(geometry):
    """World position of every voxel, as an array (I, J, K, 3)."""
    return geometry.to_world(np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1))


@given(geometries(), st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_crop_pad_flip_permute_keep_world_positions(g, data):
    here = positions(g)
    axes = data.draw(st.lists(st.sampled_from((0, 1, 2)), unique=True))
    np.testing.assert_allclose(positions(g.flip(axes)), np.flip(here, axes), atol=1e-9)
    order = data.draw(st.permutations((0, 1, 2)))
    np.testing.assert_allclose(positions(g.permute(order)), here.transpose(*order, 3), atol=1e-9)
    start = [data.draw(st.integers(0, n - 1)) for n in g.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, g.shape, strict=True)]
    window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    np.testing.assert_allclose(positions(g.crop(start, stop)), here[window], atol=1e-9)
    before, after = ([data.draw(st.integers(0, 3)) for _ in range(3)] for _ in range(2))
    padded = g.pad(before, after)
    inside = tuple(slice(b, b + n) for b, n in zip(before, g.shape, strict=True))
    np.testing.assert_allclose(positions(padded)[inside], here, atol=1e-9)


@given(geometries(), st.tuples(*[st.integers(1, 4)] * 3))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_zoom_pins_both_outer_edges(g, factor):
    fine = g.zoom(factor)
    assert fine.shape == tuple(n * f for n, f in zip(g.shape, factor, strict=True))
    np.testing.assert_allclose(fine.to_world([-0.5] * 3), g.to_world([-0.5] * 3), atol=1e-9)
    ends = [np.array(x.shape) - 0.5 for x in (fine, g)]
    np.testing.assert_allclose(fine.to_world(ends[0]), g.to_world(ends[1]), atol=1e-9)


@given(geometries(), st.tuples(*[st.integers(1, 3)] * 3))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_coarse_centres_are_means_of_their_blocks(g, n):
    fine = g.zoom(n)
    blocks = positions(fine).reshape(g.shape[0], n[0], g.shape[1], n[1], g.shape[2], n[2], 3)
    np.testing.assert_allclose(positions(fine.zoom([1 / f for f in n])), blocks.mean((1, 3, 5)), atol=1e-8)
    assert fine.zoom([1 / f for f in n]).isclose(g)


@given(geometries())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_voxel_and_world_are_inverse(g):
    ijk = np.random.default_rng(0).uniform(-5, 20, (4, 2, 3))
    np.testing.assert_allclose(g.to_voxel(g.to_world(ijk)), ijk, atol=1e-6)


@given(geometries(), st.sampled_from(["RAS", "LPS", "PSR", "IAL", "SRP"]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_orientation_to_reaches_the_codes(g, codes):
    order, flips = g.orientation_to(codes)
    turned = g.permute(order).flip(flips)
    assert "".join(turned.axcodes) == codes
    assert turned.permute(np.argsort(order)).shape == g.shape


@given(geometries())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_axcodes_name_each_world_axis_once(g):
    pairs = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}
    assert sorted(pairs[c] for c in g.axcodes) == [0, 1, 2]


def test_axcodes_agree_with_nibabel_on_axis_aligned_grids():
    nib = pytest.importorskip("nibabel")
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((-1, 1), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[:, order] * signs
        assert Geometry(affine, (2, 3, 4)).axcodes == nib.aff2axcodes(affine)


def test_corners_are_the_centres_of_the_corner_voxels():
    corners = Geometry.from_spacing((3, 4, 5), (1, 2, 3), (10, 0, 0)).corners()
    assert corners.shape == (8, 3)
    assert corners.min(0).tolist() == [10, 0, 0] and corners.max(0).tolist() == [12, 6, 12]


def test_shear_is_noticed():
    affine = np.eye(4)
    assert not Geometry(affine, (2, 2, 2)).is_sheared
    affine[1, 2] = 0.01
    assert Geometry(affine, (2, 2, 2)).is_sheared


def test_isclose_measures_at_the_corners():
    g = Geometry.from_spacing((100, 100, 100), (1, 1, 1))
    stretched = Geometry.from_spacing((100, 100, 100), (1.0001, 1, 1))
    assert g.isclose(g) and not g.isclose(stretched) and g.isclose(stretched, atol=0.01)
    assert not g.isclose(Geometry.from_spacing((100, 100, 99), (1, 1, 1)))


def test_dict_round_trip_is_exact():
    g = Geometry.from_spacing((3, 4, 5), (0.1, 1 / 3, 2), (1e-7, 5, -3))
    again = Geometry.from_dict(g.to_dict())
    assert np.array_equal(again.affine, g.affine) and again.shape == g.shape


def test_affine_cannot_be_changed():
    g = Geometry(np.eye(4), (1, 1, 1))
    with pytest.raises(ValueError):
        g.affine[0, 0] = 2


@pytest.mark.parametrize(
    "bad",
    [
        np.full((4, 4), np.nan),
        np.diag([1.0, 1, 0, 1]),
        np.diag([1.0, 1e12, 1, 1]),
        np.diag([1.0, np.inf, 1, 1]),
        np.eye(3),
        np.diag([1.0, 1, 1, 2]),
        np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
)
def test_impossible_affines_are_refused(bad):
    with pytest.raises(GeometryError):
        Geometry(bad, (2, 2, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda g: Geometry(g.affine, (2, 0, 2)),
        lambda g: g.crop((0, 0, 0), (9, 1, 1)),
        lambda g: g.crop((1, 1, 1), (1, 2, 2)),
        lambda g: g.pad((-1, 0, 0), (0, 0, 0)),
        lambda g: g.flip((-1,)),
        lambda g: g.permute((0, 0, 1)),
        lambda g: g.zoom((0, 1, 1)),
        lambda g: g.orientation_to("RAR"),
        lambda g: g.orientation_to("XYZ"),
        lambda g: Geometry.from_spacing((2, 2, 2), (1, -1, 1)),
    ],
)
def test_impossible_calls_are_refused(call):
    with pytest.raises(GeometryError):
        call(Geometry.from_spacing((2, 3, 4), (1, 1, 1)))
