"""Pictures of the window as they stand in docs/napari.md, taken by the events that a person sends: drops, clicks, keys.

xvfb-run -a -s "-screen 0 1600x1000x24" python plugins/napari-medldm/take_screenshots.py docs/images

With a name and a theme, one of the whole room and one of measuring: on other screens (QT_SCALE_FACTOR=2, and a display
of 2800 x 1700), bindings (QT_API=pyside6), themes.

... take_screenshots.py docs/images pyside6 light
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from imageio.v3 import imread, imwrite
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QComboBox, QWidget

import medldm
from medldm import Geometry, Volume

sys.path.insert(0, str(Path(__file__).parents[2]))  # makers of test data
PATIENCE = 600.0  # seconds: each picture waits for what it shows
LEFT = Qt.MouseButton.LeftButton


class Person:
    """Hands and eyes at the window of `viewer`; pictures of the screen go to `out`."""

    def __init__(self, viewer: Any, out: Path) -> None:
        self.viewer, self.out = viewer, out
        self.canvas = viewer.window._qt_viewer.canvas.native

    def wait(self, until: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not until():
            if time.monotonic() > end:
                raise TimeoutError("the window did not come so far")
            QTest.qWait(10)

    def press(self, key: str) -> None:
        QTest.keyClick(self.canvas, getattr(Qt.Key, f"Key_{key}"))

    def click(self, button: QWidget) -> None:
        QTest.mouseClick(button, LEFT, pos=QPoint(10, button.height() // 2))

    def choose(self, box: QComboBox, text: str) -> None:
        """Go through a list with the keys until it has come to an entry."""
        box.setFocus()
        QTest.keyClick(box, Qt.Key.Key_Home)
        while box.currentText() != text:
            before = box.currentIndex()
            QTest.keyClick(box, Qt.Key.Key_Down)
            assert box.currentIndex() != before, text

    def drop(self, path: Path, opening: Any) -> None:
        data, target = QMimeData(), self.viewer.window._qt_viewer
        data.setUrls([QUrl.fromLocalFile(str(path))])
        where = target.rect().center()
        ended: list[bool] = []
        if opening is not None:
            opening.ended.connect(lambda: ended.append(True))
        how = Qt.DropAction.CopyAction, data, LEFT, Qt.KeyboardModifier.NoModifier
        QApplication.sendEvent(target, QDragEnterEvent(where, *how))
        QApplication.sendEvent(target, QDropEvent(QPointF(where), *how))
        self.wait(lambda: ended or opening is None)

    def drag(self, start: QPoint, end: QPoint) -> None:
        QTest.mouseMove(self.canvas, start)
        QTest.qWait(200)  # until what a move sets off is done
        QTest.mousePress(self.canvas, LEFT, pos=start)
        QTest.qWait(200)
        for share in (0.3, 0.6, 0.98, 1, 1):
            QTest.mouseMove(self.canvas, start + (end - start) * share)
            QTest.qWait(100)
        QTest.mouseRelease(self.canvas, LEFT, pos=end)
        QTest.qWait(300)

    def paint(self, radius: int) -> None:
        """Move the brush to and fro around the middle of the canvas."""
        middle = self.canvas.rect().center()
        QTest.mousePress(self.canvas, LEFT, pos=middle)
        for x, y in ((-1, -1), (1, -1), (1, 0), (-1, 0), (-1, 1), (1, 1)):
            QTest.mouseMove(self.canvas, middle + QPoint(radius * x, radius * y))
            QTest.qWait(30)
        QTest.mouseRelease(self.canvas, LEFT, pos=middle)

    def point_at(self, across: float, down: float) -> None:
        """Move the cursor to a place of the canvas, in shares of its size."""
        at = QPoint(round(across * self.canvas.width()), round(down * self.canvas.height()))
        QTest.qWait(300)  # until the canvas is laid out
        for away in (3, 0):  # a move to where the cursor is already is none
            QTest.mouseMove(self.canvas, at + QPoint(away, away))
            QTest.qWait(50)

    def drag_from(self, x: int, by: int) -> None:
        """Drag what stands at a pixel of the canvas to the side."""
        y = self.canvas.height() // 2
        QTest.mousePress(self.canvas, LEFT, pos=QPoint(x, y))
        for part in range(1, 6):
            QTest.mouseMove(self.canvas, QPoint(x + by * part // 5, y))
            QTest.qWait(30)
        QTest.mouseRelease(self.canvas, LEFT, pos=QPoint(x + by, y))

    def look(self, name: str, window: QWidget | None = None) -> None:
        """What stands on the screen: a window that paints itself into a picture leaves old digits beneath the new."""
        QTest.qWait(800)
        window = window or self.viewer.window._qt_window
        shot = QApplication.primaryScreen().grabWindow(window.winId())
        with tempfile.TemporaryDirectory() as folder:
            shot.save(str(Path(folder) / "shot.png"))
            imwrite(self.out / f"napari-{name}.webp", imread(Path(folder) / "shot.png")[..., :3], quality=70)
        print(f"napari-{name}.webp", flush=True)


def main(out: Path) -> None:
    import napari
    from napari_medldm import room

    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):  # so that short paths are shown
        folder = Path(name)
        head, noisy = _scans(folder)
        viewer = napari.Viewer(show=True)
        viewer.theme = "dark"
        viewer.window.resize(*room.SIZE)
        person, strip = Person(viewer, out), room.enter(viewer)
        QTest.qWait(1000)
        person.look("empty")
        _choose(person, strip, folder)
        _measure(person, strip)
        _synthesize(person, strip)
        _restore(person, strip, folder)
        _refuse(person, strip, folder)
        _fill(person, strip, folder)
        strip.end()
        viewer.layers.clear()
        viewer.window.remove_dock_widget("all")
        _restore_folder(person, folder, noisy)
        viewer.close()


def on_another_screen(out: Path, name: str, theme: str) -> None:
    """The sample restored, its residual in three planes; and measured."""
    import napari
    from napari_medldm import room

    viewer = napari.Viewer(show=True)
    viewer.theme = theme
    viewer.window.resize(*room.SIZE)
    person, strip = Person(viewer, out.resolve()), room.enter(viewer)
    QTest.qWait(1000)
    _restore_the_sample(person, strip)
    person.press("F4")
    person.wait(strip.view.views.complete)
    person.press("F8")
    person.point_at(0.42, 0.6)
    person.look(name)
    for key in ("F8", "F4"):
        person.press(key)
        QTest.qWait(1000)
    _draw(person, strip)
    person.look(f"{name}-measure")
    strip.end()
    viewer.close()


def _choose(person: Person, strip: Any, folder: Path) -> None:
    """Three series of a made-up patient, one of them uneven."""
    from tests.dicom_maker import AXIAL, CORONAL, SAGITTAL, make_series

    head = medldm.read(folder / "clean.nii.gz").reorient("LPS").array
    ways = {"T1 sagittal": (SAGITTAL, 0), "T2 coronal": (CORONAL, 1), "PD axial, uneven": (AXIAL, 2)}
    for number, (name, (orientation, axis)) in enumerate(ways.items(), start=1):

        def pixels(k: int, axis: int = axis) -> Any:
            plane = np.take(head, 10 + 3 * k, axis).T
            return np.clip(plane[:: -1 if axis < 2 else 1], 0, 4000).astype(np.uint16)

        def change(dataset: Any, k: int, name: str = name) -> None:
            dataset.SeriesDescription, dataset.SeriesDate = name, "20260301"
            if "uneven" in name:
                x, y, z = dataset.ImagePositionPatient
                dataset.ImagePositionPatient = [x, y, str(float(z) + 0.4 * (k % 3))]

        rows, columns = pixels(0).shape
        size = {"n": 20, "rows": rows, "columns": columns, "spacing": (2.0, 2.0), "orientation": orientation}
        size["step"] = tuple(6 * np.cross(orientation[:3], orientation[3:]))
        make_series(folder / "study" / name.split()[0], series=f"1.2.3.{number}", pixels=pixels, change=change, **size)
    person.drop(folder / "study", None)
    person.wait(lambda: strip.opening.chooser is not None)
    person.look("choose", strip.opening.chooser)
    strip.opening.chooser.reject()


def _measure(person: Person, strip: Any) -> None:
    """The sample, a slice restored, and two regions and a line."""
    _restore_the_sample(person, strip)
    _draw(person, strip)
    person.look("measure")
    person.click(strip.measure)
    strip.viewer.layers.clear()


def _restore_the_sample(person: Person, strip: Any) -> None:
    person.click(strip.welcome.sample)
    person.wait(strip.form.this_slice.isEnabled)
    QTest.qWait(500)
    person.click(strip.form.this_slice)
    person.wait(strip.judge.last)


def _draw(person: Person, strip: Any) -> None:
    person.click(strip.measure)
    QTest.qWait(1000)
    tools, half = strip.measure.panel.tools, person.canvas.rect().center()
    for name, (start, end) in {
        "Rectangle": ((-60, -60), (-10, 0)),
        "Ellipse": ((60, -60), (120, 0)),
        "Length": ((-100, 70), (100, 70)),
    }.items():
        person.click(tools[name])
        person.drag(half + QPoint(*start), half + QPoint(*end))


def _synthesize(person: Person, strip: Any) -> None:
    """A model that can be asked for a finding, an age and an anatomy; nothing is drawn with its random weights."""
    from tests.tiny import asked_model

    asked_model(Path("."), 3)
    strip.form.model.addItem("asked-3d")
    person.choose(strip.form.task, "synthesize")
    strip.form.model.setCurrentText("asked-3d")
    person.click(strip.form.advanced)
    person.look("synthesize")
    person.click(strip.form.advanced)
    person.choose(strip.form.task, "denoise")
    strip.form.model.removeItem(strip.form.model.findText("asked-3d"))
    strip.form.model.setCurrentIndex(0)


def _restore(person: Person, strip: Any, folder: Path) -> None:
    person.drop(folder / "head.nii.gz", strip.opening)
    person.look("open")
    person.click(strip.form.advanced)
    strip.form.samples.setFocus()
    QTest.keyClick(strip.form.samples, Qt.Key.Key_Up)
    person.click(strip.start)
    person.wait(lambda: strip.progress.maximum() == 40 and strip.progress.value() >= 10)
    person.look("running")
    person.click(strip.stop)
    person.wait(lambda: strip.job is None)
    QTest.keyClick(strip.form.samples, Qt.Key.Key_Down)
    person.click(strip.form.advanced)
    person.click(strip.start)
    person.wait(strip.judge.last)
    for mode, key in {"side-by-side": "F5", "wipe": "F6", "residual": "F8", "uncertainty": "F9"}.items():
        person.press(key)
        if mode == "wipe":
            person.drag_from(round(strip.reading.corners.border()), 70)
        person.point_at(0.42, 0.6)
        person.look(mode)
        person.press(key)
    person.press("F4")
    person.wait(strip.view.views.complete)
    person.look("orthogonal")
    person.viewer.theme = "light"
    person.look("light")
    person.viewer.theme = "dark"
    person.press("F4")


def _refuse(person: Person, strip: Any, folder: Path) -> None:
    person.drop(folder / "oblique.nii.gz", strip.opening)
    person.click(strip.view.straighten)
    person.wait(lambda: any(layer.name.endswith("display only") for layer in person.viewer.layers))
    person.look("oblique")
    person.choose(strip.form.place, "drawn region")
    person.click(strip.start)
    person.look("error")
    person.choose(strip.form.place, "whole scan")
    person.drop(folder / "ct.nii.gz", strip.opening)
    person.look("doubts")


def _fill(person: Person, strip: Any, folder: Path) -> None:
    person.drop(folder / "clean.nii.gz", strip.opening)
    person.choose(strip.form.task, "inpaint")
    person.click(strip.form.draw)
    person.paint(14)
    person.look("region")
    person.click(strip.start)
    person.wait(strip.judge.last)
    person.press("F5")
    person.look("inpaint")
    person.press("F5")


def _restore_folder(person: Person, folder: Path, scan: Volume) -> None:
    from napari_medldm.folder import FolderPanel

    _three_scans(folder, scan)
    batch = FolderPanel(person.viewer)
    person.viewer.window.add_dock_widget(batch, name="medldm", area="right")
    QTest.keyClicks(batch.scans, "scans")
    QTest.keyClicks(batch.out, "restored")
    person.click(batch.start)
    person.wait(lambda: batch.rows and batch.job is None)
    row = next(index for index, each in enumerate(batch.rows) if each.output)
    batch.table.selectRow(row)
    person.click(batch.look_at)
    person.wait(lambda: len(person.viewer.layers) == 2)
    person.look("folder")
    batch.workshop.close()


def _three_scans(folder: Path, scan: Volume) -> None:
    """Two scans, one of them of another part of the head, and a file that is cut off."""
    (folder / "scans" / "follow-up").mkdir(parents=True)
    medldm.write(scan, folder / "scans" / "baseline.nii.gz")
    medldm.write(scan.crop([0, 0, 10], [*scan.array.shape[:2], 70]), folder / "scans" / "follow-up" / "head.nii.gz")
    whole = (folder / "scans" / "baseline.nii.gz").read_bytes()
    (folder / "scans" / "copied-in-part.nii.gz").write_bytes(whole[: len(whole) // 2])


def _scans(folder: Path) -> tuple[Volume, Volume]:
    """The MNI template at 2 mm, which comes with nilearn, as files: with Rician noise of 6 %, oblique, as if of CT."""
    whole = medldm.read(_template())
    step = max(1, round(2 / whole.geometry.spacing[0]))
    affine = whole.geometry.affine @ np.diag([step, step, step, 1.0])
    values = whole.array[::step, ::step, ::step] / np.percentile(whole.array, 99.5) * 1000
    head = Volume(values, Geometry(affine, values.shape), "arbitrary", "MR", whole.history)
    rng = np.random.default_rng(0)
    noisy = np.hypot(values + 60 * rng.standard_normal(values.shape), 60 * rng.standard_normal(values.shape))
    noisy_head = head.with_array(noisy.astype(np.float32), {"step": "noise", "noise_std": 60.0})
    turn = np.radians(15)
    turned = affine.copy()
    turned[:2, :3] = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ turned[:2, :3]
    medldm.write(head, folder / "clean.nii.gz")
    medldm.write(noisy_head, folder / "head.nii.gz")
    medldm.write(Volume(noisy_head.array, Geometry(turned, values.shape), "arbitrary", "MR"), folder / "oblique.nii.gz")
    medldm.write(Volume(values - 1000, Geometry(affine, values.shape), "HU", "CT"), folder / "ct.nii.gz")
    return head, noisy_head


def _template() -> Path:
    """The MNI template that comes with nilearn."""
    import nilearn.datasets

    folder = Path(nilearn.datasets.__file__).parent / "data"
    return next(folder.glob("mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"))


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    on_another_screen(folder, *sys.argv[2:4]) if len(sys.argv) > 2 else main(folder)
