"""napari: seconds and clicks to the first restored slice, frames a second, and how long the window stands still.

    xvfb-run -a -s "-screen 0 1600x1000x24" python -m benchmarks.window

All by drops, clicks and keys, in the reading room at 1280 x 720, under software OpenGL where there is no other.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.heartbeat import Heartbeat
from benchmarks.record import bar, write
from tests.dicom_maker import make_series

MOST_BLOCKED_S, MOST_OPENING_S, MOST_CLICKS, LEAST_FRAMES = 0.2, 3.0, 2, 15.0
FRAMES, SETTLE_S = 60, 1.5
PATIENCE_S = 600.0


class Hand:
    """What a person does to a window, counted; `held`: the longest standstill of each thing, and what ran in it."""

    def __init__(self, viewer: Any) -> None:
        self.viewer, self.clicks, self.drops = viewer, 0, 0
        self.canvas = viewer.window._qt_viewer.canvas.native
        self.held: dict[str, tuple[float, float, str]] = {}

    def wait(self, until: Callable[[], object], seconds: float = PATIENCE_S) -> None:
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            QApplication.instance().processEvents()
            time.sleep(0.001)

    def click(self, button: Any) -> None:
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        self.clicks += 1
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)

    def key(self, name: str) -> None:
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        QTest.keyClick(self.canvas, getattr(Qt.Key, f"Key_{name}"))

    def drop(self, path: Path) -> None:
        from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
        from qtpy.QtGui import QDragEnterEvent, QDropEvent
        from qtpy.QtWidgets import QApplication

        self.drops += 1
        data, target = QMimeData(), self.viewer.window._qt_viewer
        data.setUrls([QUrl.fromLocalFile(str(path))])
        at, how = target.rect().center(), Qt.DropAction.CopyAction
        rest = data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        QApplication.sendEvent(target, QDragEnterEvent(at, how, *rest))
        QApplication.sendEvent(target, QDropEvent(QPointF(at), how, *rest))

    def save(self, box: Any, kind: str, path: Path) -> None:
        """The button, a name typed into the dialog, its button."""
        from qtpy.QtTest import QTest
        from qtpy.QtWidgets import QDialogButtonBox, QLineEdit

        self.click(box.buttons[kind])
        line = box.dialog.findChild(QLineEdit)
        self.wait(line.isVisible)
        self.wait(lambda: False, 0.3)  # nobody types before the files are listed
        line.selectAll()
        QTest.keyClicks(line, str(path))
        self.click(box.dialog.findChild(QDialogButtonBox).buttons()[0])
        self.wait(lambda: path.exists() and not box.busy())

    def watched(self, what: str, action: Callable[[], object], until: Callable[[], object] = lambda: True) -> None:
        """Do it with a finger on the pulse of the window."""
        heart = Heartbeat()
        self.wait(lambda: False, 0.1)
        action()
        self.wait(until)
        self.wait(lambda: False, SETTLE_S)
        heart.stop()
        self.held[what] = float(max(heart.pauses)), float(max(heart.computing)), heart.held_by()


def frames_a_second(hand: Hand, volume: Any) -> float:
    """Slices that are drawn one after the other, a key press each."""
    from napari_medldm.layers import layer_data

    data, attributes, _ = layer_data(volume, "large")
    layer = hand.viewer.add_image(data, **attributes)
    hand.viewer.layers.selection.active = layer
    hand.wait(lambda: False, SETTLE_S)
    drawn: list[float] = []
    hand.canvas.frameSwapped.connect(lambda: drawn.append(time.perf_counter()))
    started = time.perf_counter()
    for _ in range(FRAMES):
        count = len(drawn)
        hand.key("Right")
        hand.wait(lambda count=count: len(drawn) > count, 5)
    return FRAMES / (time.perf_counter() - started)


def main() -> None:
    import napari
    from napari_medldm import room

    from medldm import Geometry, Volume

    started = psutil.Process().create_time()
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*room.SIZE)
    hand, strip = Hand(viewer), None

    def enter() -> None:
        nonlocal strip
        strip = room.enter(viewer)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        head = np.random.default_rng(0).integers(0, 800, (40, 48, 44)).astype(np.uint16)
        plan = {"n": 40, "rows": 48, "columns": 44, "spacing": (2.0, 2.0), "step": (0, 0, 2.0)}
        scan = make_series(folder / "head", pixels=lambda k: head[k], **plan)  # type: ignore[arg-type]
        hand.watched("opening the panel", enter)
        waited = 0.1 + SETTLE_S  # for the pulse alone
        assert strip is not None
        hand.drop(scan)
        hand.wait(lambda: len(viewer.layers) == 1)
        if not strip.banner.confirmed():
            hand.click(strip.banner.confirm)
        hand.click(strip.form.this_slice)
        hand.wait(lambda: strip.judge.last() is not None)
        first, clicks, drops = time.time() - started - waited, hand.clicks, hand.drops
        hand.watched("report", lambda: hand.save(strip.saving, "report", folder / "report.html"))
        hand.watched("saving as DICOM", lambda: hand.save(strip.saving, "dicom", folder / "derived"))
        hand.watched("undo", lambda: hand.click(strip.undo))
        viewer.layers.clear()
        viewer.open_sample("napari-medldm", "mr")
        hand.wait(lambda: False, SETTLE_S)
        strip.form.place.setCurrentText("whole scan")
        hand.watched("a restoration", lambda: hand.click(strip.start), lambda: strip.judge.last() is not None)
        viewer.layers.clear()
        images = np.random.default_rng(0).integers(0, 4096, (4, 512, 512)).astype(np.uint16)
        ct = make_series(folder / "ct", n=300, rows=512, columns=512, modality="CT", pixels=lambda k: images[k % 4])
        begun = time.perf_counter()
        hand.drop(ct)
        hand.wait(lambda: len(viewer.layers) == 1)
        viewer.screenshot(canvas_only=True, flash=False)
        opening = time.perf_counter() - begun
        viewer.layers.clear()
    array = np.tile(images, (75, 1, 1)).transpose(2, 1, 0).astype(np.float32)
    volume = Volume(array, Geometry(np.eye(4), array.shape))
    frames = frames_a_second(hand, volume)
    strip.end()
    viewer.close()
    rows: list[dict[str, Any]] = [
        {"what": "from the start of the process to the first restored slice, s", "value": round(first, 2)},
        {"what": "drops for that", "value": drops},
        {"what": "clicks for that", "value": clicks},
        {"what": "frames a second, scrolling 512 x 512 x 300", "value": round(frames, 1)},
        {"what": "300 slices of 512 x 512 from folder to screen, s", "value": round(opening, 2)},
        {"what": "processes that wanted a core meanwhile", "value": round(os.getloadavg()[1], 1)},
    ]
    for what, (seconds, computing, held_by) in hand.held.items():
        row = {"what": f"longest standstill: {what}, s", "value": round(seconds, 3), "computing": round(computing, 3)}
        rows.append(row | {"ran": held_by})
    bars = [
        bar("clicks to the first restored slice", clicks, f"<= {MOST_CLICKS}", clicks <= MOST_CLICKS),
        bar("drops to the first restored slice", drops, "1", drops == 1),
        bar("frames a second when scrolling", frames, f">= {LEAST_FRAMES:g}", frames >= LEAST_FRAMES),
        bar("a CT of 300 slices shown, s", opening, f"< {MOST_OPENING_S}", opening < MOST_OPENING_S),
        *(
            bar(f"longest standstill: {what}, s", seconds, f"< {MOST_BLOCKED_S}", seconds < MOST_BLOCKED_S)
            for what, (seconds, *_) in hand.held.items()
        ),
    ]
    for row in rows:
        more = f" ({row['computing']} computing; {row['ran']})" if "ran" in row else ""
        print(f"{row['what']}: {row['value']}{more}")
    for each in bars:
        print(f"{each['name']}: {each['value']:g} (bar {each['target']}) {'holds' if each['holds'] else 'MISSED'}")
    write("window", rows, bars)


if __name__ == "__main__":
    main()
