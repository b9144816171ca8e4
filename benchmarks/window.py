"""napari: seconds and clicks to the first restored slice, frames a second, and how long the window stands still.

    xvfb-run -a -s "-screen 0 1600x1000x24" python -m benchmarks.window

All by drops, clicks and keys, in the reading room at 1280 x 720, under software OpenGL where there is no other. Bars
are about the time of the processor, so that they hold or not whatever else the machine does; seconds are beside it.
"""

from __future__ import annotations

import itertools
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
FRAMES, SETTLE_S, TURNS = 60, 1.5, 60
PATIENCE_S = 1800.0  # of a machine that is busy otherwise


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
        if not until():
            raise TimeoutError("the window did not come so far")

    def pause(self, seconds: float) -> None:
        """Let the window go on for so long, and for some turns at least."""
        end, turns = time.monotonic() + seconds, itertools.count()
        self.wait(lambda: next(turns) > TURNS and time.monotonic() > end)

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
        self.pause(0.3)  # nobody types before the files are listed
        line.selectAll()
        QTest.keyClicks(line, str(path))
        self.click(box.dialog.findChild(QDialogButtonBox).buttons()[0])
        self.wait(lambda: path.exists() and not box.busy())

    def watched(self, what: str, action: Callable[[], object], until: Callable[[], object] = lambda: True) -> None:
        """Do it with a finger on the pulse of the window."""
        heart = Heartbeat()
        self.pause(0.1)
        action()
        self.wait(until)
        self.pause(SETTLE_S)
        self.keep(what, heart)

    def keep(self, what: str, heart: Heartbeat) -> None:
        """What a finger on the pulse felt."""
        heart.stop()
        seconds, computing, ran = float(max(heart.pauses)), float(max(heart.computing)), heart.held_by()
        self.held[what] = seconds, computing, ran
        print(f"{what}: {seconds:.3f} s, {computing:.3f} of the processor ({ran})", flush=True)


class Stopwatch:
    """Seconds, and of those the ones of the processor: of this process and those that it has started."""

    def __init__(self) -> None:
        self.started, self.computed = time.perf_counter(), self._computing()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.started, self._computing() - self.computed

    def _computing(self) -> float:
        own = psutil.Process()
        times = [each.cpu_times() for each in (own, *own.children(recursive=True))]
        return sum(each.user + each.system for each in times)


def frames_a_second(hand: Hand, volume: Any) -> tuple[float, float]:
    """Slices that are drawn one after the other, a key press each: a second, and a second of the processor."""
    from napari_medldm.layers import layer_data

    data, attributes, _ = layer_data(volume, "large")
    layer = hand.viewer.add_image(data, **attributes)
    hand.viewer.layers.selection.active = layer
    hand.pause(SETTLE_S)
    drawn: list[float] = []
    hand.canvas.frameSwapped.connect(lambda: drawn.append(time.perf_counter()))
    watch = Stopwatch()
    for _ in range(FRAMES):
        count = len(drawn)
        hand.key("Right")
        hand.wait(lambda count=count: len(drawn) > count)
    seconds, computing = watch.read()
    return FRAMES / seconds, FRAMES / computing


def main() -> None:
    import napari
    from napari_medldm import keys, room
    from napari_medldm._sample import noisy_head
    from napari_medldm.doubting import LOOKING

    from medldm import Geometry, Volume

    started, watch = psutil.Process().create_time(), Stopwatch()
    watch.computed = 0.0  # from the start of the process
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*room.SIZE)
    hand, strip = Hand(viewer), None

    def enter() -> None:
        nonlocal strip
        strip = room.enter(viewer)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ((data, _, _),) = noisy_head()
        head = data.clip(0, 4000).astype(np.uint16)[:, ::-1, ::-1]  # rows of DICOM go to the back, columns to the left
        plan = {"n": len(head), "rows": head.shape[1], "columns": head.shape[2], "spacing": (2.0, 2.0)}
        scan = make_series(folder / "head", pixels=lambda k: head[k], step=(0, 0, 2.0), **plan)  # type: ignore[arg-type]
        hand.watched("opening the panel", enter)
        assert strip is not None
        heart = Heartbeat()
        hand.drop(scan)
        hand.wait(lambda: len(viewer.layers) == 1)
        hand.wait(lambda: strip.advice.text() != LOOKING)
        if not strip.banner.confirmed():
            hand.click(strip.banner.confirm)
        hand.click(strip.form.this_slice)
        hand.wait(lambda: strip.judge.last() is not None)
        first, first_computing = time.time() - started, watch.read()[1]
        hand.keep("a scan that is dropped, and its first slice", heart)
        clicks, drops = hand.clicks, hand.drops
        print(f"first slice: {first:.1f} s, {first_computing:.1f} of the processor, {clicks} clicks", flush=True)
        planes = strip.view
        for what in ("three planes, for the first time", "three planes away", "three planes again"):
            hand.watched(what, lambda: hand.key("F4"), lambda: planes.views.complete())
        hand.watched("three planes away again", lambda: hand.key("F4"))
        for mode, name in keys.MODES.items():
            hand.watched(mode, lambda name=name: hand.key(name))
            hand.key(name)
            hand.pause(SETTLE_S)
        hand.watched("measuring", lambda: hand.click(strip.measure))
        hand.click(strip.measure)
        hand.watched("report", lambda: hand.save(strip.saving, "report", folder / "report.html"))
        hand.watched("saving as DICOM", lambda: hand.save(strip.saving, "dicom", folder / "derived"))
        hand.watched("undo", lambda: hand.click(strip.undo))
        viewer.layers.clear()
        hand.pause(SETTLE_S)
        images = np.random.default_rng(0).integers(0, 4096, (4, 512, 512)).astype(np.uint16)
        ct = make_series(folder / "ct", n=300, rows=512, columns=512, modality="CT", pixels=lambda k: images[k % 4])
        watch = Stopwatch()
        hand.drop(ct)
        hand.wait(lambda: len(viewer.layers) == 1)
        viewer.screenshot(canvas_only=True, flash=False)
        opening, opening_computing = watch.read()
        viewer.layers.clear()
        hand.pause(SETTLE_S)
        hand.watched("a CT of 300 slices", lambda: hand.drop(ct), lambda: len(viewer.layers) == 1)
        viewer.layers.clear()
    array = np.tile(images, (75, 1, 1)).transpose(2, 1, 0).astype(np.float32)
    volume = Volume(array, Geometry(np.eye(4), array.shape))
    frames, frames_computing = frames_a_second(hand, volume)
    print(f"{frames:.1f} frames a second, {frames_computing:.1f} a second of the processor", flush=True)
    viewer.layers.clear()
    hand.watched("a sample", lambda: hand.click(strip.welcome.sample), lambda: len(viewer.layers) == 1)
    strip.form.place.setCurrentText("whole scan")
    hand.watched("a restoration", lambda: hand.click(strip.start), lambda: strip.judge.last() is not None)
    strip.end()
    viewer.close()
    rows: list[dict[str, Any]] = [
        _row("from the start of the process to the first restored slice, s", first, first_computing),
        {"what": "drops for that", "value": drops},
        {"what": "clicks for that", "value": clicks},
        _row("frames a second, scrolling 512 x 512 x 300", frames, frames_computing),
        _row("300 slices of 512 x 512 from folder to screen, s", opening, opening_computing),
        {"what": "processes that wanted a core meanwhile", "value": round(os.getloadavg()[1], 1)},
    ]
    for what, (seconds, computing, held_by) in hand.held.items():
        rows.append(_row(f"longest standstill: {what}, s", seconds, computing) | {"ran": held_by})
    bars = [
        bar("clicks to the first restored slice", clicks, f"<= {MOST_CLICKS}", clicks <= MOST_CLICKS),
        bar("drops to the first restored slice", drops, "1", drops == 1),
        bar(
            "frames a second when scrolling", frames_computing, f">= {LEAST_FRAMES:g}", frames_computing >= LEAST_FRAMES
        ),
        bar(
            "a CT of 300 slices shown, s", opening_computing, f"< {MOST_OPENING_S}", opening_computing < MOST_OPENING_S
        ),
        *(
            bar(f"longest standstill: {what}, s", computing, f"< {MOST_BLOCKED_S}", computing < MOST_BLOCKED_S)
            for what, (_, computing, _) in hand.held.items()
        ),
    ]
    for row in rows:
        more = [f"{row['computing']} of the processor"] if "computing" in row else []
        more += [row["ran"]] if "ran" in row else []
        print(f"{row['what']}: {row['value']}" + f" ({'; '.join(more)})" * bool(more))
    for each in bars:
        print(f"{each['name']}: {each['value']:g} (bar {each['target']}) {'holds' if each['holds'] else 'MISSED'}")
    write("window", rows, bars)


def _row(what: str, value: float, computing: float) -> dict[str, Any]:
    """Measured by the clock, and by the time of the processor alone."""
    return {"what": what, "value": round(value, 3), "computing": round(computing, 3)}


if __name__ == "__main__":
    main()
