"""The check of readers passes ours, and finds each fault that a plugin might have."""

import os
import sys
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import medldm
from medldm import registry
from medldm.errors import InputError, PixelError
from medldm.io.check_reader import check_reader
from medldm.io.choice import Choice, check_size
from tests.dicom_maker import make_series


def picture(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)).save(path)
    return path


def nifti(path):
    image = nib.Nifti1Image(np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32), np.diag([1, 2, 3, 1]))
    nib.save(image, path)
    return path


def zipped(path):
    files = sorted(make_series(path.parent / "unzipped").iterdir())
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, file.name)
    return path


def single(path):
    return next(make_series(path.parent / "series", n=1).iterdir()).rename(path)


EXAMPLES = {
    "nifti": (("a.nii", nifti), ("a.nii.gz", nifti)),
    "dicom": (("series", make_series), ("one.dcm", single)),
    "picture": tuple((f"a.{kind}", picture) for kind in ("png", "jpg", "webp", "bmp", "tif")),
    "zip": (("a.zip", zipped),),
}


@pytest.mark.parametrize(("name", "file", "make"), [(n, f, m) for n, cases in EXAMPLES.items() for f, m in cases])
def test_every_reader_of_ours_passes(tmp_path, name, file, make, capfd):
    check_reader(registry.find("readers", name), make(tmp_path / file))
    assert capfd.readouterr() == ("", "")


def test_every_reader_of_ours_is_checked():
    ours = {entry.name for entry in registry.entries("readers") if entry.distribution == "medldm"}
    assert ours == set(EXAMPLES)


def can_read(path):
    return path.is_file() and path.name.endswith(".npy")


def read(path, choice=None):
    choice = choice or Choice()
    choice.refuse_selection(path.name)
    try:
        array = np.load(path)
    except Exception:
        raise PixelError(path.name, "a damaged file", "a whole one") from None
    check_size(path.name, array.shape, max_bytes=choice.max_bytes)
    step = {"step": "read", "format": "npy"}
    return medldm.Volume(array, medldm.Geometry.from_spacing(array.shape, (1, 1, 1)), history=(step,))


def reader(**changes):
    return SimpleNamespace(**{"SUFFIXES": (".npy",), "can_read": can_read, "read": read, "__name__": "npy"} | changes)


@pytest.fixture
def example(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(24.0).reshape(2, 3, 4))
    return tmp_path / "a.npy"


def test_a_proper_reader_passes_and_leaves_the_example_alone(example):
    before = example.read_bytes()
    check_reader(reader(), example)
    assert example.read_bytes() == before and [p.name for p in example.parent.iterdir()] == ["a.npy"]


def changed(**attributes):
    """`read` with other values in its result."""

    def wrapped(path, choice=None):
        volume = read(path, choice)
        kept = {"array": volume.array, "geometry": volume.geometry, "history": volume.history}
        return medldm.Volume(**kept | attributes)

    return wrapped


def printing(write):
    def wrapped(path, choice=None):
        write()
        return read(path, choice)

    return wrapped


def claims(path):
    if not path.exists():
        raise FileNotFoundError(path)
    return can_read(path)


def refuses_to_say(path):
    if not can_read(path):
        raise PixelError(path.name, "no such format")
    return True


def forgetful(path, choice=None):
    return read(path, Choice() if choice is None else Choice(max_bytes=choice.max_bytes))


def boundless(path, choice=None):
    return read(path, Choice(choice.series, choice.select) if choice else None)


def crashing(path, choice=None):
    return read(path, choice) if path.stat().st_size == 320 and path.read_bytes()[:6] == b"\x93NUMPY" else [][0]


def hopeful(path, choice=None):
    try:
        return read(path, choice)
    except PixelError:
        return medldm.Volume(np.zeros((2, 2, 2)), medldm.Geometry.from_spacing((2, 2, 2), (1, 1, 1)))


def littering(path, choice=None):
    path.with_suffix(".cache").write_text("index")
    return read(path, choice)


COUNTER = iter(range(10**6))
STEP = {"step": "read", "format": "npy"}
FAULTS = {
    "no suffixes": (reader(SUFFIXES=()), "SUFFIXES"),
    "suffixes as a text": (reader(SUFFIXES=".npy"), "SUFFIXES"),
    "suffixes in capitals": (reader(SUFFIXES=(".NPY",)), "SUFFIXES"),
    "claims nothing": (reader(can_read=lambda path: False), "of the example is not True"),
    "claims everything": (reader(can_read=lambda path: True), "of absent is not False"),
    "claims every file": (reader(can_read=lambda path: path.is_file()), "of other.txt is not False"),
    "can_read raises": (reader(can_read=claims), "FileNotFoundError from claims"),
    "can_read refuses": (reader(can_read=refuses_to_say), "PixelError from can_read"),
    "an array": (reader(read=lambda path, choice=None: np.load(path)), "a ndarray from read"),
    "NaN": (reader(read=changed(array=np.full((2, 3, 4), np.nan))), "not finite"),
    "no history": (reader(read=changed(history=())), "history"),
    "a history of objects": (reader(read=changed(history=({**STEP, "path": Path()},))), "plain data"),
    "ever another unit": (
        reader(read=lambda path, choice=None: changed(unit=str(next(COUNTER)))(path, choice)),
        "two different results",
    ),
    "series not heeded": (reader(read=forgetful), "in spite of an unknown series"),
    "limit not heeded": (reader(read=boundless), "in spite of a limit"),
    "crashes on damage": (reader(read=crashing), "IndexError from crashing"),
    "makes up results": (reader(read=hopeful), "a result of a copy cut"),
    "prints": (reader(read=printing(lambda: print("reading"))), "characters printed"),
    "prints to stderr": (reader(read=printing(lambda: print("!", file=sys.stderr))), "characters printed"),
    "prints from C": (reader(read=printing(lambda: os.write(1, b"reading\n"))), "characters printed"),
    "leaves files": (reader(read=littering), "files beside the example"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(example, fault):
    faulty, reason = FAULTS[fault]
    with pytest.raises(InputError, match=f"^npy: got .*{reason}"):
        check_reader(faulty, example)


def test_a_reader_that_refuses_its_example_is_named(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"junk")
    with pytest.raises(InputError, match="refusal of the example"):
        check_reader(reader(), tmp_path / "a.npy")


def test_warnings_are_welcome(example):
    check_reader(reader(read=printing(lambda: warnings.warn("mind this", UserWarning, stacklevel=1))), example)
