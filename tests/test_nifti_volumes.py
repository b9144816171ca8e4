"""NIfTI as it is found: 4D, pairs, lengths and quaternions that were rounded or signed, gzip under any name."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

import medldm
from medldm.errors import AmbiguousInput, GeometryError, InputError, OutputError, PixelError, UnsupportedInput
from medldm.io import nifti
from medldm.io.dataset import check_dataset
from medldm.io.survey import survey
from tests.hard_inputs_nifti import nifti as raw_nifti
from tests.test_cli import call
from tests.tiny import tiny_model

AFFINE = np.array([[0, -2.0, 0, 40], [-2.0, 0, 0, 30], [0, 0, 3.0, -20], [0, 0, 0, 1]])
COUNT = 4


def four(path, count=COUNT, dtype=np.int16, seed=0):
    """A 4D file, scaled, 2.5 s a volume."""
    array = np.random.default_rng(seed).integers(0, 900, (8, 7, 9, count)).astype(dtype)
    image = nib.Nifti1Image(array, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2.5
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr"])
def test_a_volume_of_a_4d_file_is_chosen_by_its_number(tmp_path, name):
    path = four(tmp_path / name)
    if name == "a.hdr":
        nib.save(nib.Nifti1Pair.from_image(nib.load(four(tmp_path / "b.nii"))), path)
    theirs = nib.load(path)
    with pytest.raises(AmbiguousInput, match="8 x 7 x 9 x 4 voxels, 4 volumes.*volume=1 to volume=4"):
        medldm.read(path)
    for number in range(1, COUNT + 1):
        volume = medldm.read(path, select={"volume": str(number)})
        np.testing.assert_allclose(volume.array, np.asarray(theirs.dataobj)[..., number - 1], rtol=1e-6)
        np.testing.assert_allclose(volume.geometry.affine, theirs.affine, atol=1e-5)
        first = volume.history[0]
        assert (first["volume"], first["volumes"]) == (number, 4)
        assert (first["volume_step"], first["volume_unit"]) == (2.5, "sec")
        lazy = nifti.lazily(path, medldm.io.Choice(select={"volume": str(number)}))
        if lazy is not None:
            np.testing.assert_array_equal(lazy.plane(8), volume.array[..., 8])
    assert (lazy is None) == name.endswith(".gz")
    for select in ({"volume": "0"}, {"volume": "5"}, {"volume": "x"}, {"EchoTime": "3"}, {"volume": "1", "a": "b"}):
        with pytest.raises(InputError, match="volume|selection"):
            medldm.read(path, select=select)


def test_one_volume_may_be_called_the_first_and_five_dimensions_are_refused(tmp_path):
    path = raw_nifti(tmp_path / "a.nii", lambda h: None)
    assert medldm.read(path, select={"volume": "1"}).history[0].get("volumes") is None
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5, 1, 3), np.float32), AFFINE), tmp_path / "warp.nii")
    with pytest.raises(UnsupportedInput, match="3 x 4 x 5 x 1 x 3"):
        medldm.read(tmp_path / "warp.nii")


@pytest.mark.parametrize(("name", "bad"), [("a.nii", np.nan), ("a.nii.gz", np.inf), ("b.nii.gz", 1e300)])
def test_volumes_are_listed_and_a_bad_one_spoils_no_other(tmp_path, name, bad):
    array = np.random.default_rng(0).random((8, 7, 9, COUNT))
    array[2, 2, 2, 1] = bad
    nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / name)
    items = survey(tmp_path).items
    assert [item.select for item in items] == [{"volume": str(k)} for k in (1, 2, 3, 4)]
    assert [item.error for item in items] == ["", "PixelError", "", ""]
    for item in survey(tmp_path).scans:
        volume = medldm.read(tmp_path / item.file, select=item.select)
        assert [float(volume.array.min()), float(volume.array.max())] == item.facts["range"]
    found = check_dataset(tmp_path, test=0)
    assert [m.record()["select"] for m in found.members] == ["volume=1", "volume=3", "volume=4"]
    assert len({m.patient for m in found.members}) == 1
    assert "--select volume=3" in call("inspect", tmp_path / name).stdout
    assert call("inspect", tmp_path / name, "--select", "volume=3").exit_code == 0


def test_a_4d_file_that_is_cut_off_keeps_the_whole_volumes(tmp_path):
    data = four(tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").write_bytes(data[: 352 + 2 * 504 * 3 + 10])
    assert medldm.read(tmp_path / "a.nii", select={"volume": "3"}).array.size == 504
    with pytest.raises(PixelError, match="cut off"):
        medldm.read(tmp_path / "a.nii", select={"volume": "4"})
    assert {item.error for item in survey(tmp_path / "a.nii").items} == {"PixelError"}


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs")
    tiny_model(folder, 3)
    return folder / "tiny-3d"


def test_each_volume_is_restored_and_written_as_one_file(tmp_path, pack):
    path, out = four(tmp_path / "a.nii.gz", count=2), tmp_path / "out.nii.gz"
    maps = ["--residual", tmp_path / "r.nii.gz", "--uncertainty", tmp_path / "u.nii.gz"]
    options = ["--model", pack, "--noise-std", 20, "--steps", 2]
    done = call("denoise", "-i", path, "-o", out, "--each-volume", *options, *maps)
    assert done.exit_code == 0, done.output
    written, source = nib.load(out), nib.load(path)
    assert written.shape == source.shape and "2 volumes" in done.stdout
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
    assert written.header.get_zooms()[3] == 2.5 and written.header.get_xyzt_units() == ("mm", "sec")
    for k in range(2):
        scan = medldm.read(path, select={"volume": str(k + 1)})
        alone = medldm.denoise(scan, model=pack, noise_std=20.0, steps=2)
        np.testing.assert_allclose(written.get_fdata()[..., k], alone.volume.array, atol=1e-3)
        again = medldm.read(out, select={"volume": str(k + 1)})
        assert again.ai_processed
        assert medldm.read(tmp_path / "r.nii.gz", select={"volume": str(k + 1)}).quantity == "residual"
    assert len(json.loads((tmp_path / "out.json").read_text())["medldm"]["histories"]) == 2
    assert call("denoise", "-i", path, "-o", out, "--each-volume", *options).exit_code == 2  # it is there
    words = ["--scale", "1x1x2", "--each-volume", "--json"]
    finer = call("superres", "-i", path, "-o", tmp_path / "s.nii", *words, *options)
    assert len(json.loads(finer.stdout)) == 2 and nib.load(tmp_path / "s.nii").shape == (8, 7, 18, 2)


def test_each_volume_is_refused_where_it_makes_no_sense(tmp_path, pack):
    path = four(tmp_path / "a.nii")
    for words, reason in (
        (["-o", tmp_path / "out"], "suffix"),
        (["-o", tmp_path / "o.nii", "--select", "volume=1"], "--select"),
        (["-o", tmp_path / "o.nii", "--report", tmp_path / "r.html"], "--report"),
        (["-o", tmp_path / "o.nii", "--each"], "--each"),
        (["-o", path, "--overwrite"], "the same path"),
    ):
        done = call("denoise", "-i", path, "--model", pack, "--each-volume", *words)
        assert done.exit_code == 2 and reason in done.stderr, done.stderr
    done = call("denoise", "-i", tmp_path, "-o", tmp_path / "o.nii", "--model", pack, "--each-volume")
    assert done.exit_code == 2 and "NIfTI" in done.stderr
    volume = medldm.read(path, select={"volume": "1"})
    with pytest.raises(OutputError, match="several grids"):
        nifti.write_volumes([volume, volume.crop((0, 0, 0), (8, 7, 4))], tmp_path / "o.nii")


def test_a_folder_with_a_4d_file_is_restored_volume_by_volume(tmp_path, pack):
    (tmp_path / "in").mkdir()
    four(tmp_path / "in" / "a.nii.gz", count=2)
    done = call("denoise", "-i", tmp_path / "in", "-o", tmp_path / "out", "--each", "--model", pack, "--steps", 2)
    assert done.exit_code == 0, done.output
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*[12].nii.gz"))
    assert found == ["a/scan-volume-1.nii.gz", "a/scan-volume-2.nii.gz"]


def quaternion(path, b, c, d, lengths=(2, 3, 4), sform=0):
    def change(header):
        header["sform_code"], header["qform_code"] = sform, 1
        header["quatern_b"], header["quatern_c"], header["quatern_d"] = b, c, d
        header["pixdim"][1:4] = lengths

    return raw_nifti(path, change)


@pytest.mark.parametrize("length", [1.0000005, 1.00003, 1.00009])
@pytest.mark.parametrize("direction", [(0, 1, 0), (0.6, 0.8, 0), (0.6, 0, 0.8), (1, 0, 0)])
def test_a_quaternion_that_was_rounded_up_is_a_half_turn(tmp_path, length, direction):
    volume = medldm.read(quaternion(tmp_path / "a.nii", *(length * np.array(direction))))
    b, c, d = direction
    turn = 2 * np.outer([b, c, d], [b, c, d]) - np.eye(3)
    np.testing.assert_allclose(volume.geometry.affine[:3, :3], turn @ np.diag([2, 3, 4]), atol=1e-4 * 4)
    assert volume.history[0]["quaternion_length"] == pytest.approx(length, abs=1e-6)


@pytest.mark.parametrize("bcd", [(1.01, 0, 0), (0.8, 0.8, 0), (np.nan, 0, 0), (np.inf, 0, 0)])
def test_one_that_is_none_is_refused(tmp_path, bcd):
    with pytest.raises(GeometryError, match="quaternion|finite"):
        medldm.read(quaternion(tmp_path / "a.nii", *bcd))


@pytest.mark.parametrize("lengths", [(-2, 3, 4), (2, -3, -4), (-2, -3, -4)])
def test_signs_of_voxel_lengths_mean_nothing(tmp_path, lengths):
    path = quaternion(tmp_path / "a.nii", 0, 0, 0, lengths)
    volume = medldm.read(path)
    np.testing.assert_allclose(volume.geometry.affine, nib.load(path).affine)
    assert volume.geometry.spacing == (2, 3, 4) and volume.history[0]["pixdim_negative"] is True
    path = raw_nifti(tmp_path / "b.nii", lambda h: h["pixdim"].__setitem__(slice(1, 4), lengths))
    volume = medldm.read(path)  # the sform counts, and does not know of them
    np.testing.assert_allclose(volume.geometry.affine, nib.load(path).affine)


@pytest.mark.parametrize("suffixes", [(".hdr", ".img"), (".HDR", ".IMG"), (".hdr", ".img.gz"), (".hdr.gz", ".img.gz")])
@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_a_pair_is_read_by_either_name_and_counts_once(tmp_path, suffixes, kind):
    values = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    image = kind(values, AFFINE)
    image.header.set_slope_inter(2, -1)
    image.header.set_xyzt_units("mm")
    (tmp_path / "made").mkdir()
    nib.save(image, tmp_path / "made" / "a.img")
    folder = tmp_path / "set"
    folder.mkdir()
    for suffix in suffixes:
        data = (tmp_path / "made" / f"a{suffix.lower().removesuffix('.gz')}").read_bytes()
        (folder / f"a{suffix}").write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    for suffix in suffixes:
        volume = medldm.read(folder / f"a{suffix}")
        np.testing.assert_array_equal(volume.array, values * 2.0 - 1)
        np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-6)
    found = survey(folder)
    assert len(found.items) == 1 and found.other_files == 0 and found.scans[0].files == 2
    (folder / f"a{suffixes[1]}").unlink()
    with pytest.raises(PixelError, match="a.img.*beside it"):
        medldm.read(folder / f"a{suffixes[0]}")


def test_other_files_of_these_names_are_no_pairs(tmp_path):
    (tmp_path / "envi.hdr").write_text("ENVI\nsamples = 3\n")
    (tmp_path / "envi.img").write_bytes(bytes(100))
    (tmp_path / "disk.img").write_bytes(bytes(100))
    assert survey(tmp_path).items == () and survey(tmp_path).other_files == 3
    nib.save(nib.AnalyzeImage(np.zeros((3, 4, 5), np.int16), np.diag([-2.0, 2, 2, 1])), tmp_path / "ana.img")
    with pytest.raises(UnsupportedInput, match="Analyze header, which does not tell left from right"):
        medldm.read(tmp_path / "ana.hdr")
    with pytest.raises(OutputError, match="suffix"):
        medldm.write(medldm.read(raw_nifti(tmp_path / "a.nii", lambda h: None)), tmp_path / "b.hdr", "nifti")


VALUES = np.arange(24).reshape(2, 3, 4)


@pytest.mark.parametrize("rest", [b"garbage", b"\0" * 512 + b"x", b"\x1f", b"PK\3\4" + bytes(99)])
def test_bytes_after_the_end_of_gzip_are_noted(tmp_path, rest):
    path = raw_nifti(tmp_path / "a.nii.gz", lambda h: None)
    path.write_bytes(path.read_bytes() + rest)
    volume = medldm.read(path)
    np.testing.assert_array_equal(volume.array, VALUES)
    assert volume.history[0]["bytes_after_gzip"] is True
    items = survey(path).items
    assert items[0].facts["notes"]["bytes_after_gzip"] is True


def test_padding_and_several_members_are_gzip(tmp_path):
    path = raw_nifti(tmp_path / "a.nii.gz", lambda h: None)
    whole = gzip.decompress(path.read_bytes())
    members = b"".join(gzip.compress(whole[k : k + 100]) for k in range(0, len(whole), 100))
    for data in (path.read_bytes() + bytes(4096), members, members + bytes(1)):
        path.write_bytes(data)
        volume = medldm.read(path)
        np.testing.assert_array_equal(volume.array, VALUES)
        assert "bytes_after_gzip" not in volume.history[0]


def test_compression_is_told_by_the_content(tmp_path):
    packed = raw_nifti(tmp_path / "a.nii.gz", lambda h: None).rename(tmp_path / "packed.nii")
    plain = raw_nifti(tmp_path / "b.nii", lambda h: None).rename(tmp_path / "plain.nii.gz")
    for path, compressed in ((packed, True), (plain, False)):
        volume = medldm.read(path)
        np.testing.assert_array_equal(volume.array, VALUES)
        assert volume.history[0]["compressed"] is compressed
        assert (medldm.open_lazily(path) is None) == compressed


def test_damage_in_gzip_is_still_damage(tmp_path):
    noise = np.random.default_rng(0).random((9, 9, 9)).astype(np.float32)
    path = raw_nifti(tmp_path / "a.nii.gz", lambda h: None, noise)
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 255
    checksum = bytearray(whole)
    checksum[-8] ^= 255
    for data in (whole[:-5], whole[:-1], bytes(broken), bytes(checksum), whole[:400] + b"garbage" * 9, whole[:9]):
        path.write_bytes(data)
        with pytest.raises(PixelError, match="a.nii.gz"):
            medldm.read(path)
