"""New scans with the conditions that a model has, chosen by keys: a list, a number, a layer of labels."""

import numpy as np
import pydicom
import pytest
from napari_medldm.layers import entry_of
from napari_medldm.mark import KEY, is_marked
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox

import medldm
from medldm import Geometry, Volume
from medldm.installed import describe

pytestmark = pytest.mark.usefixtures("display")
LEFT = Qt.MouseButton.LeftButton
SHAPE = (20, 16, 12)


@pytest.fixture(scope="session")
def asked_pack(tmp_path_factory):
    """Folder of a tiny 3D model that can be asked for a finding, an age and an anatomy."""
    from tests.tiny import asked_model

    folder = tmp_path_factory.mktemp("packs")
    asked_model(folder, 3)
    return str(folder / "asked-3d")


@pytest.fixture
def choose(qtbot):
    """Go through a list with the keys until it has come to an entry."""

    def go(box, text):
        box.setFocus()
        qtbot.keyClick(box, Qt.Key.Key_Home)
        while box.currentText() != text:
            before = box.currentIndex()
            qtbot.keyClick(box, Qt.Key.Key_Down)
            assert box.currentIndex() != before, text

    return go


@pytest.fixture
def asking(viewer, panel, asked_pack, choose, click, qtbot):
    """The form set to draw from that model, in a few steps."""
    panel.form.model.addItem(asked_pack)
    choose(panel.form.task, "synthesize")
    panel.form.model.setCurrentText(asked_pack)
    click(panel.form.advanced)
    for box, text in ((panel.form.count, "2"), (panel.form.steps, "3"), (panel.form.seed, "5")):
        assert box.isVisible()
        box.selectAll()
        qtbot.keyClicks(box, text)
    return panel.form


def drawn_labels(viewer):
    """A layer of labels on the model's grid, turned and flipped as napari shows it."""
    from napari_medldm.layers import layer_data

    values = np.zeros(SHAPE, np.float32)
    values[4:16, 3:12, 2:9], values[8:11, 5:8, 4:6] = 1, 2
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    for axis, (row, sign) in enumerate(((1, -1), (2, 1), (0, 1))):  # PSR, as the model has it
        affine[row, axis] = sign
    volume = Volume(values, Geometry(affine, SHAPE))
    data, attributes, _ = layer_data(volume, "anatomy")
    keys = ("scale", "translate", "units", "axis_labels")
    viewer.add_labels(data.astype(np.uint8), name="segmentation", **{key: attributes[key] for key in keys})
    return volume


def test_each_condition_has_its_widget(viewer, panel, asking):
    boxes = asking.conditions.boxes
    assert {name: type(box) for name, box in boxes.items()} == {
        "finding": QComboBox,
        "age": QDoubleSpinBox,
        "anatomy": QComboBox,
    }
    assert all(box.isVisible() for box in boxes.values()) and asking.conditions.values() == {}
    assert boxes["age"].text() == "any" and panel.start.isEnabled()
    panel.form.task.setCurrentText("denoise")
    assert not any(box.isVisible() for box in boxes.values())


def test_the_shipped_model_of_radiographs_offers_what_it_can_be_asked_for(viewer, panel, choose):
    name = "radiographs"
    if panel.form.model.findText(name) < 0 or describe(name).problem:
        pytest.skip("medldm-radiographs is not installed")
    choose(panel.form.task, "synthesize")
    choose(panel.form.model, name)
    boxes = panel.form.conditions.boxes
    assert {key: [box.itemText(n) for n in range(box.count())] for key, box in boxes.items()} == {
        "population": ["any", "adult", "child"],
        "finding": ["any", "no_finding", "pneumonia", "bacterial_pneumonia", "viral_pneumonia"],
    }
    choose(boxes["population"], "child")
    assert panel.form.conditions.values() == {"population": "child"} and panel.start.isEnabled()
    assert panel.start.text() == "Draw"


def test_what_was_asked_for_is_drawn_in_layers_of_its_own(viewer, panel, asking, asked_pack, choose, qtbot, until):
    wanted_map = drawn_labels(viewer)
    boxes = asking.conditions.boxes
    choose(boxes["finding"], "lesion")
    boxes["age"].selectAll()
    qtbot.keyClicks(boxes["age"], "63")
    choose(boxes["anatomy"], "segmentation")
    qtbot.mouseClick(panel.start, LEFT)
    assert panel.job is not None and panel.stop.isEnabled()
    until(lambda: panel.job is None)
    assert "Done: 2 new." in panel.message.text(), panel.message.text()
    layers = [layer for layer in viewer.layers if entry_of(layer)]
    assert all(entry_of(layer).role == "synthetic" and "synthetic" in layer.name for layer in layers)
    assert all("finding lesion" in layer.name and "age 63" in layer.name for layer in layers)
    assert is_marked(viewer) and "Synthetic" in viewer.canvas.overlays[KEY].text
    said = {"finding": "lesion", "age": 63.0, "anatomy": wanted_map}
    wanted = list(medldm.synthesize(model=asked_pack, n=2, seed=5, steps=3, conditions=said))
    others = list(medldm.synthesize(model=asked_pack, n=2, seed=5, steps=3))
    for layer, api, other in zip(layers, wanted, others, strict=True):
        volume = entry_of(layer).volume
        np.testing.assert_allclose(volume.array, api.array, rtol=1e-4, atol=1e-2)
        assert np.abs(volume.array - other.array).max() > 0.1  # conditions count
        assert volume.history[-1]["conditions"] == {"finding": "lesion", "age": 63.0, "anatomy": "a map"}
        assert entry_of(layer).report["request"]["conditions"]["anatomy"] == "a map"


def test_guidance_is_that_of_the_api(viewer, panel, asking, asked_pack, choose, qtbot, until):
    choose(asking.conditions.boxes["finding"], "lesion")
    assert asking.guidance.isVisible() and asking.guidance.text() == "off" and asking.request(None).guidance == 1
    asking.guidance.selectAll()
    qtbot.keyClicks(asking.guidance, "3.5")
    qtbot.mouseClick(panel.start, LEFT)
    until(lambda: panel.job is None)
    assert "Done: 2 new." in panel.message.text(), panel.message.text()
    told = {"model": asked_pack, "n": 2, "seed": 5, "steps": 3, "conditions": {"finding": "lesion"}}
    guided, free = (list(medldm.synthesize(**told, guidance=scale)) for scale in (3.5, 1.0))
    layers = [layer for layer in viewer.layers if entry_of(layer)]
    for layer, api, other in zip(layers, guided, free, strict=True):
        made = entry_of(layer).volume.array
        np.testing.assert_allclose(made, api.array, rtol=1e-4, atol=1e-2)
        assert np.abs(made - other.array).max() > 0.1 and "guidance 3.5" in layer.name


def test_guidance_is_offered_where_there_is_something_to_be_guided_by(panel, asking, pack, choose):
    panel.form.model.addItem(pack)
    panel.form.model.setCurrentText(pack)
    assert panel.form.count.isVisible() and not panel.form.guidance.isVisible()


def test_fields_of_all_rows_stand_below_one_another(panel, asking, until):
    fields = [asking.task, asking.model, *asking.conditions.boxes.values()]
    fields += [asking.count, asking.guidance, asking.steps, asking.seed]
    assert all(field.isVisible() for field in fields)
    until(lambda: len({field.mapTo(asking, QPoint(0, 0)).x() for field in fields}) == 1)


def test_labels_of_another_grid_are_fitted_to_the_models(viewer, panel, asking, choose, qtbot, until):
    viewer.open_sample("napari-medldm", "mr")
    panel.form.task.setCurrentText("inpaint")
    qtbot.mouseClick(panel.form.draw, LEFT)
    region = viewer.layers.selection.active
    region.data[40:60, 40:70, 40:60] = 2
    panel.form.task.setCurrentText("synthesize")
    choose(asking.conditions.boxes["anatomy"], region.name)
    qtbot.mouseClick(panel.start, LEFT)
    until(lambda: panel.job is None)
    assert "Done: 2 new." in panel.message.text(), panel.message.text()
    assert entry_of(viewer.layers[-1]).volume.array.shape == SHAPE


def test_a_label_that_the_model_does_not_know_is_said(viewer, panel, asking, choose, qtbot, until):
    drawn_labels(viewer)
    viewer.layers["segmentation"].data[10, 8, 6] = 7
    choose(asking.conditions.boxes["anatomy"], "segmentation")
    qtbot.mouseClick(panel.start, LEFT)
    until(lambda: panel.job is None)
    assert "anatomy" in panel.message.text() and "the value 7" in panel.message.text()
    assert [layer.name for layer in viewer.layers] == ["segmentation"]


def test_drawing_can_be_cancelled(viewer, panel, asking, qtbot, until):
    for box, text in ((panel.form.count, "50"), (panel.form.steps, "100")):
        box.selectAll()
        qtbot.keyClicks(box, text)
    qtbot.mouseClick(panel.start, LEFT)
    until(lambda: panel.progress.maximum() == 5000 and panel.progress.value() >= 2)
    qtbot.mouseClick(panel.stop, LEFT)
    until(lambda: panel.job is None)
    assert "Cancelled" in panel.message.text() and len(viewer.layers) < 50


def test_a_layer_that_goes_is_offered_no_more(viewer, panel, asking, choose):
    drawn_labels(viewer)
    box = asking.conditions.boxes["anatomy"]
    choose(box, "segmentation")
    viewer.layers.remove("segmentation")
    assert [box.itemText(index) for index in range(box.count())] == ["none"]
    assert asking.conditions.values() == {} and panel.start.isEnabled()


def test_a_map_that_is_dropped_is_what_is_drawn(
    viewer, panel, asking, asked_pack, drop, choose, qtbot, until, tmp_path
):
    wanted_map = drawn_labels(viewer)
    viewer.layers.clear()
    drop(medldm.write(wanted_map, tmp_path / "anatomy.nii.gz"), opening=panel.opening)
    choose(asking.conditions.boxes["anatomy"], "anatomy")
    qtbot.mouseClick(panel.start, LEFT)
    until(lambda: panel.job is None)
    assert "Done: 2 new." in panel.message.text(), panel.message.text()
    api = next(iter(medldm.synthesize(model=asked_pack, n=2, seed=5, steps=3, conditions={"anatomy": wanted_map})))
    layer = next(layer for layer in viewer.layers if entry_of(layer))
    np.testing.assert_allclose(entry_of(layer).volume.array, api.array, rtol=1e-4, atol=1e-2)


def test_a_drawn_scan_is_saved_by_the_buttons(viewer, panel, asking, choose, save, qtbot, until, tmp_path):
    assert not any(button.isEnabled() for button in panel.saving.buttons.values())
    qtbot.mouseClick(panel.start, LEFT)
    until(lambda: panel.job is None)
    box = panel.saving
    assert {kind: button.isEnabled() for kind, button in box.buttons.items()} == {
        "nifti": True,
        "dicom": True,
        "report": False,  # there is nothing that it was made of
    }
    assert [box.what.itemText(n) for n in range(box.what.count())] == ["scan"]
    panel.saving._folder = tmp_path
    offered = save("nifti")
    assert offered.startswith("synthetic-1-of-asked-3d") and offered.endswith("seed-5.nii.gz")
    again = medldm.read(tmp_path / offered)
    made = entry_of(panel.active.layer).volume
    np.testing.assert_array_equal(again.array, made.array)
    assert again.geometry.isclose(made.geometry, 1e-4) and again.synthetic
    assert "Saved" in save("dicom", tmp_path / "series")
    headers = [pydicom.dcmread(file) for file in sorted((tmp_path / "series").iterdir())]
    assert len({h.StudyInstanceUID for h in headers}) == 1 and all(h.SyntheticData == "YES" for h in headers)
    panel.form.task.setCurrentText("denoise")
    viewer.open_sample("napari-medldm", "mr")
    assert [box.what.itemText(n) for n in range(box.what.count())] == ["result", "residual", "uncertainty"]
    assert not any(button.isEnabled() for button in box.buttons.values())
