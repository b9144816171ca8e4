"""Result, residual and uncertainty are saved as NIfTI and as DICOM, and known for what they are when opened again."""

import zipfile

import numpy as np
import pydicom
import pytest
from napari_medldm.layers import entry_of
from napari_medldm.mark import is_marked
from napari_medldm.request import Request, run_region
from napari_medldm.saving import write_dicom

import medldm
from medldm import MedldmError
from tests.dicom_maker import CANARY, OBLIQUE, make_series

pytestmark = pytest.mark.usefixtures("display")
PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"


@pytest.fixture
def judged(viewer, panel, pack, restored, tmp_path):
    """A series that was opened and restored."""
    folder = make_series(tmp_path / "series", n=12, rows=16, columns=14, orientation=OBLIQUE)
    viewer.open(str(folder), plugin="napari-medldm")
    panel.form.model.addItem(pack)
    panel.form.model.setCurrentText(pack)
    return restored()


def test_each_is_saved_in_both_formats_and_known_again(viewer, panel, judged, save, tmp_path):
    parts = {"result": judged.result.volume, "residual": judged.result.residual}
    parts["uncertainty"] = judged.result.uncertainty
    box = panel.saving.what
    assert [box.itemText(n) for n in range(box.count())] == list(parts)
    for what, volume in parts.items():
        panel.active.choose(judged.comparison.source)
        box.setCurrentText(what)
        path = tmp_path / f"{what}.nii.gz"
        assert save("nifti", path) == f"Saved {path}"
        viewer.open(str(path), plugin="napari-medldm")
        layer = viewer.layers[-1]
        again = entry_of(layer)
        np.testing.assert_array_equal(again.volume.array, volume.array)
        np.testing.assert_allclose(again.volume.geometry.affine, volume.geometry.affine, atol=1e-4)
        assert again.role == {"result": "scan"}.get(what, what) and again.made
        for each in viewer.layers:
            each.visible = each is layer
        assert is_marked(viewer)
        offered = [panel.form.scan.itemText(n) for n in range(panel.form.scan.count())]
        assert (layer.name in offered) == (what == "result")  # a map is not restored
        if what == "residual":
            assert layer.contrast_limits[0] == -layer.contrast_limits[1]
        panel.active.choose(judged.comparison.source)
        assert "Saved" in save("dicom", tmp_path / f"{what}-dicom")
        if what != "result":  # the dialog would go into the folder
            assert "existing" in save("dicom", tmp_path / f"{what}-dicom")  # never over what is there
        assert CANARY not in panel.message.text()
    assert len(list((tmp_path / "result-dicom").iterdir())) == 12
    with pytest.raises(MedldmError, match="existing"):
        write_dicom(parts["result"], tmp_path / "result-dicom")
    for what in ("residual", "uncertainty"):
        ds = pydicom.dcmread(tmp_path / f"{what}-dicom.dcm")
        assert (ds.SOPClassUID, ds.ContentLabel) == (PARAMETRIC_MAP, what.upper())
        assert ds.PatientID == f"{CANARY}-ID" and ds.StudyInstanceUID == "1.2.3"
        whole = ds.pixel_array
        np.testing.assert_allclose([whole.min(), whole.max()], [parts[what].array.min(), parts[what].array.max()])


def test_the_save_dialog_writes_the_same(viewer, panel, judged, tmp_path):
    for layer, what in ((judged.comparison.residual, "residual"), (judged.comparison.uncertainty, "uncertainty")):
        viewer.layers.selection = {layer}
        for name in (f"{what}.nii", f"{what}.zip"):
            viewer.layers.save(str(tmp_path / name), selected=True, plugin="napari-medldm")
        assert medldm.read(tmp_path / f"{what}.nii").quantity == what
        with zipfile.ZipFile(tmp_path / f"{what}.zip") as packed:
            (member,) = [each for each in packed.namelist() if not each.endswith("/")]
            with packed.open(member) as file:
                assert pydicom.dcmread(file).ContentLabel == what.upper()


def test_maps_of_what_has_no_dicom_source_are_refused_in_one_line(panel, compared, save, tmp_path):
    for what in ("residual", "uncertainty"):
        panel.saving.what.setCurrentText(what)
        said = save("dicom", tmp_path / what)
        assert "not from DICOM" in said and "\n" not in said and said in panel.message.text()
    assert not list(tmp_path.iterdir())


def test_a_name_is_suggested_its_ending_added_and_where_it_went_said(panel, compared, save, tmp_path):
    panel.saving._folder = tmp_path
    assert save("nifti") == "MR-phantom-restored.nii.gz"
    assert (tmp_path / "MR-phantom-restored.nii.gz").is_file()
    assert f"Saved {tmp_path / 'MR-phantom-restored.nii.gz'}" in panel.message.text()
    assert save("report") == "MR-phantom-restored-report.html"
    panel.saving.what.setCurrentText("residual")
    assert save("nifti", tmp_path / "left.over") == f"Saved {tmp_path / 'left.over.nii.gz'}"
    assert save("report", tmp_path / "page") == f"Saved {tmp_path / 'page.html'}"
    assert "existing" in save("report", tmp_path / "page")
    assert len(panel.message.text().splitlines()) >= 5  # nothing that was said is gone


def test_the_window_goes_on_while_it_is_saved(panel, compared, save, tmp_path, monkeypatch):
    """Writing waits for something that only the event loop of the window does."""
    import threading

    from qtpy.QtCore import QTimer

    turned, original = threading.Event(), medldm.write

    def write(*args, **options):
        assert turned.wait(60), "the window stood still"
        return original(*args, **options)

    monkeypatch.setattr(medldm, "write", write)
    QTimer.singleShot(300, turned.set)
    assert "Saved" in save("nifti", tmp_path / "slow.nii.gz")


def test_a_reopened_map_cannot_be_restored(noisy_scan, pack, tmp_path):
    mask = np.zeros(noisy_scan.array.shape, bool)
    mask[5:15, 6:18, 4:12] = True
    made = run_region(noisy_scan, mask, Request("denoise", pack, noise_std=20.0), pack, lambda *_: None)
    assert (made.residual.quantity, made.uncertainty.quantity) == ("residual", "uncertainty")
    path = medldm.write(made.uncertainty, tmp_path / "u.nii.gz")
    with pytest.raises(MedldmError, match="the uncertainty of a result"):
        medldm.denoise(path, model=pack)
