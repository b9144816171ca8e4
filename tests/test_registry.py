import sys

import pytest

from medldm import registry
from medldm.errors import InputError, ModelError


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A throw-away distribution with a good and a broken reader."""
    info = tmp_path / "visitor-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: visitor\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[medldm.readers]\nvisitor = visitor_reader\nvisitor_broken = visitor_broken\n"
    )
    (tmp_path / "visitor_reader.py").write_text("SUFFIXES = ('.visit',)\n")
    (tmp_path / "visitor_broken.py").write_text("raise RuntimeError('no such library')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("visitor_reader", None)


def test_own_readers_come_through_the_door():
    assert {"nifti", "dicom", "picture"} <= set(registry.names("readers"))
    assert registry.find("readers", "nifti").SUFFIXES[:2] == (".nii.gz", ".nii")


def test_a_plugin_is_found_and_a_broken_one_named(plugins):
    assert registry.find("readers", "visitor").SUFFIXES == (".visit",)
    entries = {e.name: e for e in registry.entries("readers")}
    assert entries["visitor"].error is None and entries["visitor"].distribution == "visitor"
    assert "no such library" in entries["visitor_broken"].error
    assert entries["nifti"].error is None
    with pytest.raises(InputError, match="visitor_broken.*no such library"):
        registry.find("readers", "visitor_broken")


def test_a_broken_reader_or_writer_harms_nobody(plugins, tmp_path):
    import numpy as np

    import medldm

    (tmp_path / "visitor-1.0.dist-info" / "entry_points.txt").write_text(
        "[medldm.readers]\naaa = visitor_broken\n[medldm.writers]\naaa = visitor_broken\n"
    )
    volume = medldm.Volume(np.zeros((2, 2, 2)), medldm.Geometry.from_spacing((2, 2, 2), (1, 1, 1)))
    medldm.write(volume, tmp_path / "a.nii")
    assert medldm.read(tmp_path / "a.nii").geometry.shape == (2, 2, 2)


def test_unknown_names_get_the_nearest_one():
    with pytest.raises(InputError, match="did you mean 'nifti'"):
        registry.find("readers", "nifty")
    with pytest.raises(ModelError):
        registry.find("models", "no-such-model")
    with pytest.raises(InputError):
        registry.names("widgets")
