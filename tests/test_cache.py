"""The cache of scans: what comes out of it is what was read, never stale, never half, never larger than memory."""

import os
import subprocess
import sys
import textwrap

import nibabel as nib
import numpy as np
import pytest
import torch

import medldm
from medldm.errors import OutputError, RunError
from medldm.geometry import Geometry
from medldm.io.array_cache import ArrayCache, Contents, cache_key
from medldm.recipe import parse_recipe
from medldm.training.data import load_scans
from medldm.volume import Volume
from tests.processes import side_by_side
from tests.tiny import tiny_table, with_pack

NAMES = ("Miller_Ann", "Doe_John", "Roe_Jane")


def write_scan(path, seed, shape=(28, 26, 24)):
    array = np.random.default_rng(seed).random(shape, dtype=np.float32) * 100
    medldm.write(Volume(array, Geometry.from_spacing(shape, (1, 1, 1))), path)


@pytest.fixture
def data(tmp_path):
    """Three heads with brain masks, and a table of them; files of yesterday, as most are."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["file,mask,patient"]
    for seed, name in enumerate(NAMES):
        write_scan(folder / f"{name}.nii.gz", seed)
        mask = np.zeros((28, 26, 24), dtype=np.float32)
        mask[4:20, 4:20, 4:20] = 1
        medldm.write(Volume(mask, Geometry.from_spacing(mask.shape, (1, 1, 1))), folder / f"{name}_mask.nii.gz")
        lines.append(f"{name}.nii.gz,{name}_mask.nii.gz,{name}")
    (folder / "index.csv").write_text("\n".join(lines))
    return folder


def recipe_table(**changes):
    source = {"folder": ".", "index": "index.csv", "mask": "{mask}"}
    """`changes` of the recipe, or of its pack."""
    table = tiny_table(3) | {"validation_fraction": 0.0, "source": [source]}
    own = {key: changes.pop(key) for key in list(changes) if key in table["pack"]}
    return with_pack(table, **own) | changes


def entries(folder):
    return {path.name for path in folder.glob("*.npy")}


def test_scans_of_the_cache_are_those_that_were_read(data, tmp_path):
    recipe = parse_recipe(recipe_table())
    read = load_scans(recipe, data)
    for _ in ("cold", "warm"):
        cached = load_scans(recipe, data, cache=ArrayCache(tmp_path / "cache"))
        assert len(cached) == len(read) == 3
        for one, other in zip(read, cached, strict=True):
            assert one.name == other.name
            assert one.source == other.source
            assert torch.equal(one.image, other.image)
            assert torch.equal(one.organ, other.organ)


@pytest.mark.parametrize(("dims", "precision"), [(3, "auto"), (2, "fp32")])
def test_a_training_ends_alike_with_the_cache_cold_warm_and_without(dims, precision, tmp_path):
    folder, ending = tmp_path / "data", ".nii.gz"
    folder.mkdir()
    for seed in range(4):
        write_scan(folder / f"{seed}{ending}", seed, (32, 28, 1) if dims == 2 else (28, 26, 24))
    table = tiny_table(dims) | {"precision": precision}
    without = medldm.train(table, data=folder, out=tmp_path / "without")
    cold = medldm.train(table, data=folder, out=tmp_path / "cold", cache=tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.npy")}
    warm = medldm.train(table, data=folder, out=tmp_path / "warm", cache=tmp_path / "cache", workers=1)
    assert cold.weights_sha256 == without.weights_sha256
    assert warm.weights_sha256 == without.weights_sha256
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.npy")} == before


def test_an_unchanged_scan_is_not_read_again(data, tmp_path, monkeypatch):
    recipe = parse_recipe(recipe_table())
    load_scans(recipe, data, cache=ArrayCache(tmp_path / "cache"))

    def refuse(*_, **__):
        raise AssertionError("read again")

    monkeypatch.setattr("medldm.training.scan.read", refuse)
    assert len(load_scans(recipe, data, cache=ArrayCache(tmp_path / "cache"))) == 3


def test_a_changed_file_gives_a_new_entry_even_with_its_old_size_and_date(data, tmp_path):
    recipe, cache, path = parse_recipe(recipe_table()), tmp_path / "cache", data / f"{NAMES[0]}.nii.gz"
    changed = data / f"{NAMES[1]}.nii.gz"
    before = load_scans(recipe, data, cache=ArrayCache(cache))
    known = entries(cache)
    image = nib.load(changed)
    array = np.asarray(image.dataobj).copy()
    array[0, 0, 0] += 50
    times = changed.stat().st_mtime_ns
    nib.save(nib.Nifti1Image(array, image.affine, image.header), changed)
    os.utime(changed, ns=(times, times))
    after = load_scans(recipe, data, cache=ArrayCache(cache))
    assert path.exists()
    assert len(entries(cache) - known) == 3  # the image, its organ, what it says of itself
    assert known <= entries(cache)
    assert [torch.equal(a.image, b.image) for a, b in zip(before, after, strict=True)].count(False) == 1
    assert all(torch.equal(a.image, b.image) for a, b in zip(after, load_scans(recipe, data), strict=True))


def test_a_hash_is_not_remembered_of_a_file_that_was_just_written(tmp_path):
    """Two writes within the clock's grain may leave the same times: such a file is read again."""
    path, contents = tmp_path / "scan", Contents(tmp_path / "seen.json")
    path.write_bytes(b"one")
    first = contents.of(path)
    assert contents.known(path) is None
    path.write_bytes(b"two")
    assert contents.of(path) != first


def test_a_settled_file_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr("medldm.io.array_cache.GRAIN_NS", -1)
    path, record = tmp_path / "scan", tmp_path / "record" / "seen.json"
    record.parent.mkdir()
    path.write_bytes(b"one")
    contents = Contents(record)
    first = contents.of(path)
    contents.save()
    path.chmod(0)  # the time of change moves: a change of the permissions is no proof of the same content
    assert Contents(record).known(path) is None
    path.chmod(0o644)
    contents.of(path)
    contents.save()
    again = Contents(record)
    assert again.known(path) is not None
    assert again.of(path) == first
    record.write_text('{"half a rec')
    assert Contents(record).of(path) == first


def test_a_file_beside_a_scan_of_the_same_name_belongs_to_its_content(tmp_path):
    """Formats of two files (a header and its voxels), which plugins read."""
    (tmp_path / "scan.mhd").write_text("header")
    (tmp_path / "scan.raw").write_bytes(b"voxels")
    before = Contents(tmp_path / "seen.json").of(tmp_path / "scan.mhd")
    (tmp_path / "other.raw").write_bytes(b"of another scan")
    assert Contents(tmp_path / "seen.json").of(tmp_path / "scan.mhd") == before
    (tmp_path / "scan.raw").write_bytes(b"others")
    assert Contents(tmp_path / "seen.json").of(tmp_path / "scan.mhd") != before


@pytest.mark.parametrize(
    "change",
    [
        {"intensity": {"kind": "percentile", "low": 0.1, "high": 98.0, "zero_floor": True}},
        {"axcodes": "RAS"},
    ],
)
def test_another_treatment_gives_new_entries(change, data, tmp_path):
    cache = tmp_path / "cache"
    load_scans(parse_recipe(recipe_table()), data, cache=ArrayCache(cache))
    known = entries(cache)
    other = parse_recipe(recipe_table(**change))
    cached = load_scans(other, data, cache=ArrayCache(cache))
    assert len(entries(cache)) == 2 * len(known) == 18
    assert all(torch.equal(a.image, b.image) for a, b in zip(cached, load_scans(other, data), strict=True))
    same = parse_recipe(recipe_table(seed=5, augment_gain=0.3))  # nothing that the scans depend on
    load_scans(same, data, cache=ArrayCache(cache))
    assert len(entries(cache)) == 18


def _cut(path):
    path.write_bytes(path.read_bytes()[:-500])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [_cut, _flip, _empty])
def test_a_damaged_entry_is_written_again(harm, data, tmp_path):
    recipe, cache = parse_recipe(recipe_table()), tmp_path / "cache"
    load_scans(recipe, data, cache=ArrayCache(cache))
    victim = sorted(cache.glob("*.npy"))[0]
    whole = victim.read_bytes()
    harm(victim)
    load_scans(recipe, data, cache=ArrayCache(cache))
    assert victim.read_bytes() == whole


def test_an_entry_cut_short_during_a_training_is_no_crash(data, tmp_path):
    cached = load_scans(parse_recipe(recipe_table()), data, cache=ArrayCache(tmp_path / "cache"))
    for path in (tmp_path / "cache").glob("*.npy"):
        _cut(path)
    with pytest.raises(RunError, match="damaged"):
        cached[0]


def test_nothing_in_the_cache_names_a_patient(data, tmp_path):
    load_scans(parse_recipe(recipe_table()), data, cache=ArrayCache(tmp_path / "cache"))
    for path in (tmp_path / "cache").iterdir():
        held = path.read_bytes()
        for word in (word for name in NAMES for word in name.split("_")):
            assert word not in path.name
            assert word.encode() not in held


def test_a_cache_that_cannot_be_written_is_a_typed_error(data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        ArrayCache(tmp_path / "file" / "cache")
    with pytest.raises(OutputError):
        medldm.train(recipe_table(), data=data, out=tmp_path / "out", cache=tmp_path / "file")


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of a file there")
def test_a_disk_that_fills_up_leaves_no_half_entry(tmp_path):
    """The limit of a file's size stands for the disk's: the write fails in its midst."""
    code = """
        import resource, signal, sys
        from pathlib import Path
        import numpy as np
        from medldm.errors import OutputError
        from medldm.io.array_cache import ArrayCache, cache_key

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        cache = ArrayCache(Path(sys.argv[1]))
        cache.put(cache_key("fits"), np.zeros(100))
        try:
            cache.put(cache_key("does not"), np.zeros(100_000))
        except OutputError as failure:
            print(failure)
    """
    folder = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(folder)], capture_output=True, text=True, check=True
    )
    assert "File too large" in done.stdout
    assert [path.name for path in folder.iterdir()] == [f"{cache_key('fits')}.npy"]


def sum_of_scans(rank, folder, cache):
    scans = load_scans(parse_recipe(recipe_table()), folder, cache=ArrayCache(cache))
    return sum(float(scan.image.double().sum()) for scan in scans)


def test_processes_that_write_the_same_entries_at_once_do_no_harm(data, tmp_path):
    sums = side_by_side(2, sum_of_scans, data, tmp_path / "cache")
    expected = sum(float(scan.image.double().sum()) for scan in load_scans(parse_recipe(recipe_table()), data))
    assert sums == [expected, expected]
    assert len(list((tmp_path / "cache").iterdir())) <= 10  # nine arrays and the record: nothing half is left behind


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on memory is Linux's")
def test_crops_come_from_scans_that_the_memory_could_not_hold(tmp_path):
    """160 MB of scans, and 96 MB to spare: in memory they would not fit, which is shown as well."""
    cache = ArrayCache(tmp_path / "cache")
    for number in range(20):
        voxels = np.random.default_rng(number).random((128, 128, 128), dtype=np.float32)
        cache.put(cache_key(number), voxels)
    code = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from medldm.io.array_cache import ArrayCache, cache_key
        from medldm.recipe import parse_recipe
        from medldm.training.batches import Batches
        from medldm.training.data import CachedScans, Entry
        from medldm.training.scan import Facts
        from tests.tiny import tiny_table, with_pack

        recipe = parse_recipe(tiny_table(3))
        entries = [Entry(cache_key(n), None, recipe.sources[0], str(n), "", Facts(), {}, {}) for n in range(20)]
        scans = CachedScans(ArrayCache(Path(sys.argv[1])), entries)
        batches = Batches(scans, recipe, recipe.stages[-1], {}, salt=1, all_flips=True)
        batches.images(0)
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + 96 * 2**20,) * 2)
        drawn = set()
        for step in range(60):
            drawn |= set(batches.images(step).scans)
        print(len(drawn))
        try:
            kept = [scan.image.clone() for scan in scans]
        except Exception as failure:
            print("no room" if "memory" in str(failure) else failure)
    """  # a process of its own: one that was forked has free memory of what ran before
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "cache")], capture_output=True, text=True
    )
    assert done.stdout.split("\n")[:2] == ["20", "no room"], done.stderr[-2000:]
