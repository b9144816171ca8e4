"""Layers are added beside what the user does: the selection stays, and the window is painted a turn later."""

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
from napari_medldm.adding import add_layer, remove_layers
from qtpy.QtWidgets import QWidget

pytestmark = pytest.mark.usefixtures("display")

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it fails
import napari
from napari_medldm.panel import RestorePanel
viewer = napari.Viewer(show=False)
viewer.open_sample("napari-medldm", "mr")
panel = RestorePanel(viewer)
print(panel.advice.text())
panel.run.workshop.close()
viewer.close()
"""


def test_what_is_selected_stays_and_the_window_is_painted_a_turn_later(viewer, panel, until):
    data = np.zeros((4, 4, 4), np.float32)
    first = add_layer(viewer, panel, data, {})
    assert viewer.layers.selection == {first}  # nothing was
    until(panel.window().updatesEnabled)
    second = add_layer(viewer, panel, data, {})
    assert not panel.window().updatesEnabled()
    assert viewer.layers.selection == {first} and viewer.layers.selection.active is first
    until(panel.window().updatesEnabled)
    viewer.layers.selection.active = second  # its controls are there and can be shown
    assert viewer.layers.selection == {second}


def test_updates_come_back_after_a_layer_that_cannot_be_added(viewer, panel, until):
    with pytest.raises(TypeError):
        add_layer(viewer, panel, np.zeros((4, 4, 4), np.float32), {"no_such": 1})
    until(panel.window().updatesEnabled)


def test_what_was_there_before_any_scan_is_set_apart_while_the_panel_is_open(viewer, panel):
    assert gc.get_freeze_count()
    panel.end()
    assert gc.get_freeze_count() == 0


def test_a_scan_that_was_open_before_the_panel_is_not_kept_for_good(viewer, until):
    from napari_medldm.panel import RestorePanel

    layer = viewer.add_image(np.zeros((4, 4, 4), np.float32))
    panel = RestorePanel(viewer)
    viewer.window.add_dock_widget(panel)
    assert gc.get_freeze_count() == 0
    gone = weakref.ref(layer)
    del layer
    remove_layers(viewer, list(viewer.layers))
    until(lambda: gone() is None)
    assert gc.get_freeze_count() == 0
    panel.end()


def test_layers_go_in_one_go_and_their_memory_a_moment_later(viewer, panel, until):
    first, *others = (add_layer(viewer, panel, np.zeros((4, 4, 4), np.float32), {}) for _ in range(4))
    gone, collections, batches = [weakref.ref(layer) for layer in others], [], []
    viewer.layers.events.end_batch.connect(lambda event: batches.append(event))

    def watch(phase, info):
        if phase == "start" and info["generation"] == 2:
            collections.append(info)

    gc.callbacks.append(watch)
    try:
        remove_layers(viewer, [None, *others])
    finally:
        gc.callbacks.remove(watch)
    assert list(viewer.layers) == [first] and len(batches) == 1
    assert not collections, "garbage was searched for in the turn in which the layers go"
    del others
    until(lambda: not any(layer() for layer in gone))


def test_a_widget_that_is_no_part_of_the_window_will_do(viewer, qtbot):
    alone = QWidget()
    qtbot.addWidget(alone)
    assert add_layer(viewer, alone, np.zeros((4, 4, 4), np.float32), {}) in viewer.layers


def test_the_panel_opens_without_pytorch_and_says_so():
    ran = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "PyTorch" in ran.stdout
