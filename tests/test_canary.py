"""A text in every text attribute of a source: nothing that is made of the scan repeats it."""

import logging
import traceback
import warnings

import numpy as np
import pydicom
import pytest
from pydicom import datadict
from typer.testing import CliRunner

import medldm
from medldm.cli.app import app
from medldm.errors import MedldmError
from tests.dicom_maker import CANARY, make_series, stored_values
from tests.tiny import tiny_model, tiny_table

TEXTS = ("PN", "LO", "SH", "LT", "ST", "UT", "UC")
LENGTHS = {"SH": 16, "LO": 64, "PN": 64}


def everywhere(ds, k):
    """Put the canary into every text attribute that the standard knows, at the top and in a sequence."""
    item = pydicom.Dataset()
    for tag, (vr, multiplicity, _, retired, keyword) in datadict.DicomDictionary.items():
        if vr in TEXTS and not retired and keyword and multiplicity.startswith("1") and tag >> 16 > 2:
            for target in (ds, item):
                setattr(target, keyword, CANARY[: LENGTHS.get(vr, 200)])
    ds.RequestAttributesSequence = [item]
    ds.private_block(0x0019, CANARY, create=True).add_new(1, "LO", CANARY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def pixels(k):
        rng = np.random.default_rng(k)
        return (stored_values(40, 36, k) + rng.integers(0, 40, (40, 36))).astype(np.uint16)

    top = tmp_path_factory.mktemp("canary")
    size = {"n": 12, "rows": 40, "columns": 36, "spacing": (1, 1), "step": (0, 0, 1)}
    make_series(top / "scan", pixels=pixels, change=everywhere, **size)
    assert sum(CANARY.encode() in f.read_bytes() for f in (top / "scan").iterdir()) == 12
    return top / "scan"


def assert_absent(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".gz":
            import gzip

            content = gzip.decompress(content)
        assert CANARY.encode() not in content, path.name
        assert CANARY.lower().encode() not in content.lower(), path.name


def test_nothing_that_a_restoration_leaves_repeats_it(folder, tmp_path, caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    pack = tmp_path / "packs"
    tiny_model(pack, 3)
    out = tmp_path / "out"
    out.mkdir()
    words = ["denoise", "-i", folder, "-o", out / "scan.nii.gz", "--model", pack / "tiny-3d", "--report"]
    words += [out / "report.html", "--residual", out / "residual.nii.gz", "--uncertainty", out / "sd.nii", "--json"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert {p.name for p in out.iterdir()} >= {"scan.nii.gz", "scan.json", "report.html", "residual.nii.gz", "sd.nii"}
    assert_absent(out)
    said = done.output + caplog.text + "".join(str(w.message) for w in recwarn)
    assert CANARY.lower() not in said.lower()


def test_nothing_that_a_training_leaves_repeats_it(folder, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    table = tiny_table(3)
    medldm.train(table, data=folder.parent, out=tmp_path / "run")
    assert {"checkpoint.pt", "card.md", "pack.json", "training.json", "weights.safetensors"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }
    assert_absent(tmp_path / "run")
    assert CANARY.lower() not in caplog.text.lower()


def cut(file):
    file.write_bytes(file.read_bytes()[:-200])


def moved(file):
    ds = pydicom.dcmread(file)
    ds.ImagePositionPatient[2] += 0.4
    ds.save_as(file)


def coloured(file):
    ds = pydicom.dcmread(file)
    ds.PhotometricInterpretation = "RGB"
    ds.save_as(file)


def strange(file):
    ds = pydicom.dcmread(file)
    ds.SeriesInstanceUID = "1.2.99"
    ds.save_as(file)


@pytest.mark.parametrize("damage", [cut, moved, coloured, strange])
def test_no_refusal_repeats_it(folder, tmp_path, damage, caplog):
    caplog.set_level(logging.DEBUG)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path / "a003.dcm")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(MedldmError) as caught:
            medldm.read(tmp_path)
    said = "".join(traceback.format_exception(caught.value)) + "".join(str(w.message) for w in heard) + caplog.text
    done = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    assert CANARY.lower() not in (said + done.output + repr(caught.value)).lower()
