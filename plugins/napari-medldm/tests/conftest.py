"""A display for napari, a tiny model pack, and a scan to restore."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari")
os.environ.setdefault("LP_NUM_THREADS", "1")  # of software OpenGL: a slice is drawn sooner than threads are woken
STILL = 5  # looks, 10 ms apart, at a window that is laid out
if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
    # a hidden X server of our own: Qt's "offscreen" has no OpenGL for napari
    import shutil
    import subprocess

    if shutil.which("Xvfb"):
        read, write = os.pipe()
        command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1600x1000x24", "-nolisten", "tcp"]
        _server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
        os.close(write)
        with os.fdopen(read) as answer:
            os.environ["DISPLAY"] = f":{answer.readline().strip()}"

        def pytest_unconfigure(config):
            _server.terminate()


@pytest.fixture
def display():
    """Skip, with the reason, where no window can be opened."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        pytest.skip("no display and no Xvfb: apt-get install xvfb")


@pytest.fixture
def noisy_scan():
    """A small oblique magnitude image with noise."""
    from medldm import Geometry, Volume

    rng = np.random.default_rng(0)
    shape = (20, 24, 16)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    array = 500 * (np.square(grid).sum(0) < 0.8) + 20 * rng.standard_normal(shape)
    affine = np.array([[-2, 0, 0.1, 20], [0, 0, 2, -30], [0.1, 2, 0, -20], [0, 0, 0, 1.0]])
    return Volume(np.abs(array).astype(np.float32), Geometry(affine, shape), "arbitrary", "MR", ({"step": "made"},))


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    """Folder of a tiny 3D model with random weights: the one of medldm's own tests."""
    from tests.tiny import tiny_model

    folder = tmp_path_factory.mktemp("packs")
    tiny_model(folder, 3, scale=0.05)
    return str(folder / "tiny-3d")


@pytest.fixture(scope="session")
def gap_pack(tmp_path_factory):
    """The same with a head for gaps."""
    from tests.tiny import mask_model

    folder = tmp_path_factory.mktemp("packs")
    mask_model(folder, 3)
    return str(folder / "masks-3d")


@pytest.fixture(autouse=True)
def settings_of_tests(tmp_path_factory):
    """What the window learns of the machine stays with the test."""
    from qtpy.QtCore import QSettings

    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(tmp_path_factory.mktemp("settings")))


@pytest.fixture
def viewer(display, make_napari_viewer):
    return make_napari_viewer(show=True)


@pytest.fixture(scope="session")
def workshop():
    """One process for all panels: to import PyTorch for each of them would take minutes."""
    from napari_medldm.jobs import Workshop

    class Kept(Workshop):
        def close(self):
            """Not yet."""

    shop = Kept()
    yield shop
    Workshop.close(shop)


@pytest.fixture
def panel(viewer, workshop, monkeypatch):
    """The panel beside the canvas; what it started ends with the test."""
    monkeypatch.setattr("napari_medldm.running.Workshop", lambda: workshop)
    from napari_medldm.panel import RestorePanel
    from qtpy.QtCore import QCoreApplication, QEvent

    widget = RestorePanel(viewer)
    viewer.window.add_dock_widget(widget, name="medldm", area="right")
    yield widget
    widget.end()
    if widget.run.job is not None:
        widget.run.job.wait(60)
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


@pytest.fixture
def canvas(viewer):
    """The widget that a person clicks on, drags in, and types at."""
    return viewer.window._qt_viewer.canvas.native


@pytest.fixture
def settled(viewer, until):
    """Wait until the window is laid out: only then is what a pixel shows there to stay."""
    from napari.qt import QtViewer
    from qtpy.QtCore import QTimer

    def wait():
        window, seen = viewer.window._qt_window, []

        def still():
            camera, shown = viewer.scene.camera, window.findChildren(QtViewer)
            sizes = tuple((each.width(), each.height(), each.isVisible()) for each in shown)
            seen.append((sizes, camera.zoom, tuple(camera.center)))
            ours = [each for each in window.findChildren(QTimer) if is_ours(each)]
            soon = any(each.isActive() for each in ours)
            return not soon and len(seen) > STILL and len(set(seen[-STILL:])) == 1

        until(still)

    return wait


def is_ours(each):
    """Whether something of Qt's is part of what medldm put into the window."""
    while each is not None and not type(each).__module__.startswith("napari_medldm"):
        each = each.parent()
    return each is not None


@pytest.fixture
def drag(canvas, qtbot, settled):
    """Press a button, move, let go, on the canvas or on another widget; where it began and ended.

    The canvas is given each event at once. By way of the window, as QTest sends moves, they would wait in a queue, be
    left out where the cursor is there already, and go to whatever has come to lie there meanwhile.
    """
    from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtWidgets import QApplication

    def move(button, start, by, *, on=None, steps=5, pause=20):
        settled()
        target, none = on or canvas, Qt.MouseButton.NoButton
        start, end = QPoint(start), QPoint(start) + QPoint(*by)

        def send(kind, at, changed, held):
            at = QPointF(at)
            where = at, QPointF(target.mapToGlobal(at.toPoint()))
            QApplication.sendEvent(target, QMouseEvent(kind, *where, changed, held, Qt.KeyboardModifier.NoModifier))

        send(QEvent.Type.MouseMove, start, none, none)
        send(QEvent.Type.MouseButtonPress, start, button, button)
        for step in range(1, steps + 1):
            qtbot.wait(pause)  # vispy leaves out a move that comes within 10 ms of another
            send(QEvent.Type.MouseMove, start + (end - start) * step / steps, none, button)
        send(QEvent.Type.MouseButtonRelease, end, button, none)
        return start, end

    return move


@pytest.fixture
def click(qtbot, until):
    """Click a button, or a box where its tick is, once it lies open to a hand: laid out, and beneath nothing."""
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtWidgets import QScrollArea

    def press(button):
        def place():
            return QPoint(min(8, button.width() // 2), button.height() // 2)

        def lies_open():
            window, area = button.window(), button.parent()
            while area is not None and not isinstance(area, QScrollArea):
                area = area.parent()
            if area is not None:  # a hand scrolls
                area.ensureWidgetVisible(button)
            return button.isVisible() and window.childAt(button.mapTo(window, place())) is button

        until(lies_open)
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton, pos=place())

    return press


@pytest.fixture
def press(qtbot, canvas):
    """Press a key by its name, at the canvas or at another widget."""
    from qtpy.QtCore import Qt

    return lambda key, widget=None: qtbot.keyClick(widget or canvas, getattr(Qt.Key, f"Key_{key}"))


@pytest.fixture
def click_layer(viewer, qtbot):
    """Click a layer's row in napari's list."""
    from qtpy.QtCore import Qt

    def click(name):
        rows = viewer.window._qt_viewer.layers
        model = rows.model()
        places = [model.index(row, 0) for row in range(model.rowCount())]
        (place,) = [each for each in places if model.data(each) == name]
        rows.scrollTo(place)
        at = rows.visualRect(place)
        qtbot.mouseClick(rows.viewport(), Qt.MouseButton.LeftButton, pos=at.center())
        assert viewer.layers.selection.active.name == name

    return click


@pytest.fixture
def drop(viewer, until):
    """Drag files over the window and drop them, on the canvas or on another widget; wait until they are read."""
    from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
    from qtpy.QtGui import QDragEnterEvent, QDropEvent
    from qtpy.QtWidgets import QApplication

    def let_go(*paths, on=None, opening=None):
        target, data = on or viewer.window._qt_viewer, QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
        middle, copy = target.rect().center(), Qt.DropAction.CopyAction
        rest = data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        entering = QDragEnterEvent(middle, copy, *rest)
        QApplication.sendEvent(target, entering)
        assert entering.isAccepted()
        ended = []
        if opening is not None:
            opening.ended.connect(lambda: ended.append(True))
        QApplication.sendEvent(target, QDropEvent(QPointF(middle), copy, *rest))
        if opening is not None:
            until(lambda: bool(ended))

    return let_go


@pytest.fixture
def type_path(qtbot, until):
    """Type a path into the line of a dialog of files, anew where the list that comes later has changed it."""

    def write(line, path):
        written = []

        def stands():
            written.append(line.text() == str(path))
            if not written[-1]:
                line.selectAll()
                qtbot.keyClicks(line, str(path))
            return len(written) > 2 * STILL and all(written[-2 * STILL :])

        until(stands)

    return write


@pytest.fixture
def save(panel, qtbot, until, type_path):
    """Save as a person does: the button, a name typed into the dialog, its button; what is said then."""
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QDialogButtonBox, QLineEdit

    def save_as(kind, path=None):
        box, said = panel.saving, []
        box.said.connect(said.append)
        qtbot.mouseClick(box.buttons[kind], Qt.MouseButton.LeftButton)
        line = box.dialog.findChild(QLineEdit)
        until(lambda: line.isVisible() and line.text())
        offered = line.text()
        type_path(line, path or offered)
        (button,) = box.dialog.findChild(QDialogButtonBox).buttons()[:1]
        closed = []
        box.dialog.finished.connect(closed.append)

        def chosen():
            if not closed:  # a list of completions takes the click that closes it
                qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
            return bool(closed)

        until(chosen)
        until(lambda: len(said) > 1 and not box.busy())
        box.said.disconnect(said.append)
        return said[-1] if path is not None else offered

    return save_as


@pytest.fixture
def until(qtbot):
    """Run the event loop until a condition holds, however busy the machine is."""
    return lambda condition, seconds=300: qtbot.waitUntil(lambda: bool(condition()), timeout=seconds * 1000)


@pytest.fixture
def begin(panel):
    """Press the button, after what there is to be confirmed was."""

    def press():
        if not panel.banner.confirmed():
            panel.banner.confirm.click()
        panel.start.click()

    return press


@pytest.fixture
def restored(panel, begin, until):
    """Press the button and wait for the layers."""

    def press():
        count = len(panel.judge.done)
        begin()
        until(lambda: len(panel.judge.done) > count or bool(panel.job is None and panel.message.text()))
        assert "Done" in panel.message.text(), panel.message.text()
        return panel.judge.done[-1]

    return press


@pytest.fixture
def phantom(viewer, panel, pack):
    """The layer of a phantom, and a tiny pack to restore it with."""
    viewer.open_sample("napari-medldm", "mr")
    panel.form.model.addItem(pack)
    panel.form.model.setCurrentText(pack)
    return viewer.layers[-1]


@pytest.fixture
def compared(phantom, restored):
    """The phantom, restored."""
    return restored().comparison


@pytest.fixture(scope="session")
def data_dir():
    folder = Path(os.environ.get("MEDLDM_DATA") or Path(__file__).parents[4] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real data: MEDLDM_DATA is not set to a folder")
    return folder
