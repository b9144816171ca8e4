"""What stands around an image at a reading station: letters, slice, place, window, scale and colour bar, what it is.

Painted above the canvas, in one go with it: nothing of it is a layer, and letters never wait for OpenGL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QObject, QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QFontMetrics, QLinearGradient, QPainter, QPen
from qtpy.QtWidgets import QWidget

from napari_medldm.captions import NAMES, Pane, colours_of, drawn_in, nice_length, pane_of
from napari_medldm.compare import Comparison
from napari_medldm.keys import MODES
from napari_medldm.layers import entry_of
from napari_medldm.mark import KEY, mark_of
from napari_medldm.verdict import Verdict
from napari_medldm.writing import WHITE, Writer, font_of

MADE, LINE, DRAWN = QColor("#ffb84d"), QColor("#4dd2ff"), QColor("#ffd400")
MARGIN, LETTER_PX, BAR_SHARE = 10, 12, 0.22
SMALL = 420  # pixels: narrower views have smaller letters
LEAST_FOR_VALUES = 300  # pixels
MARK_PX, BESIDE_THE_MARK = 26, 760  # the mark of what a model made: its height, and views with room beside it


class Corners(QWidget):
    """Above a canvas of napari. It follows `viewer`, lets the mouse through, and goes with the canvas.

    comparison : of the active scan, where this is the canvas that compares
    verdict : of its residual

    The mark of what a model made is napari's own in the main canvas, and so in its pictures; elsewhere it is written
    here, since letters are textures to napari, and are made anew for each canvas.
    """

    def __init__(
        self,
        canvas: Any,
        viewer: Any,
        comparison: Callable[[], Comparison | None] = lambda: None,
        verdict: Callable[[], Verdict | None] = lambda: None,
    ) -> None:
        native = canvas.canvas.native
        super().__init__(native)
        self.viewer, self.comparison, self.verdict, self.crosshair = viewer, comparison, verdict, False
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setAttribute(Qt.WidgetAttribute.WA_NoSystemBackground)
        self._emitters = [viewer.dims.events, viewer.scene.camera.events, viewer.layers.events]
        self._emitters += [viewer.canvas.grid.events]
        for emitter in self._emitters:
            emitter.connect(self._changed)
        native.installEventFilter(self)
        self.resize(native.size())
        self.show()

    def close_corners(self) -> None:
        """Follow nothing any more; safe to call again."""
        for emitter in self._emitters:
            emitter.disconnect(self._changed)
        self._emitters.clear()
        self.hide()

    def eventFilter(self, native: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Resize:
            self.resize(event.size())
        return False

    def _changed(self, event: Any = None) -> None:
        self.update()

    # --- what is said ---

    def panes(self) -> list[Pane]:
        """From left to right; none where no scan is shown."""
        shown = [layer for layer in self.viewer.layers if layer.visible and entry_of(layer) is not None]
        whole = QRectF(self.rect())
        if not shown or self.viewer.dims.ndim != 3:
            return []
        comparison = self.comparison()
        if comparison is not None and comparison.mode == "side by side":
            half = whole.width() / 2
            pairs = zip((comparison.source, comparison.result), (0, half), strict=True)
            return [pane_of(self.viewer, layer, QRectF(left, 0, half, whole.height())) for layer, left in pairs]
        return [pane_of(self.viewer, shown[-1], whole)]

    def mode(self) -> str:
        """The mode of comparison that is on, and the key that leaves it."""
        comparison = self.comparison()
        mode = "single" if comparison is None else comparison.mode
        return f"{mode} · {MODES[mode]} leaves" if mode in MODES else ""

    def x_of(self, world: float) -> float:
        """Where a place along the horizontal axis is, in pixels of the canvas."""
        camera = self.viewer.scene.camera
        sign = 1 if str(camera.orientation[2]) == "right" else -1
        return self.width() / 2 + sign * (world - camera.center[-1]) * camera.zoom

    def y_of(self, world: float) -> float:
        camera = self.viewer.scene.camera
        sign = 1 if str(camera.orientation[1]) == "down" else -1
        return self.height() / 2 + sign * (world - camera.center[-2]) * camera.zoom

    def world_of(self, x: float) -> float:
        """Which place along the horizontal axis is at a pixel of the canvas."""
        camera = self.viewer.scene.camera
        sign = 1 if str(camera.orientation[2]) == "right" else -1
        return float(camera.center[-1] + sign * (x - self.width() / 2) / camera.zoom)

    # --- how it is painted ---

    def paintEvent(self, event: Any) -> None:
        panes, mark = self.panes(), mark_of(self.viewer)
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        border = self.border()
        for pane in panes:
            self._paint_pane(painter, pane, border)
        if len(panes) > 1:
            self._line(painter, QPointF(self.width() / 2, 0), QPointF(self.width() / 2, self.height()), "#808080", 1)
        if border is not None:
            self._paint_border(painter, border)
        if self.crosshair and self.viewer.layers and self.viewer.dims.ndisplay == 2 and len(panes) < 2:
            self._paint_crosshair(painter)
        self._paint_colours(painter)
        for text, box in self.sizes():
            Writer(painter, LETTER_PX + 1, bold=True)(box.left(), box.top(), text, colour=DRAWN)
        if mark and KEY not in self.viewer.canvas.overlays:
            self._paint_mark(painter, mark)
        painter.end()

    def border(self) -> float | None:
        """The pixel at which the line of the wipe stands, None where there is none."""
        comparison = self.comparison()
        at = None if comparison is None or self.viewer.dims.ndisplay == 3 else comparison.border()
        return None if at is None else self.x_of(at)

    def _paint_pane(self, painter: QPainter, pane: Pane, border: float | None) -> None:
        size = LETTER_PX if pane.rect.width() > SMALL else LETTER_PX - 2
        step, narrow = size + 5, pane.rect.width() < self.width() or self.width() < BESIDE_THE_MARK
        top_ = MARGIN + (MARK_PX if narrow and mark_of(self.viewer) else 0)
        box = pane.rect.adjusted(MARGIN, top_, -MARGIN, -MARGIN)
        write = Writer(painter, size)
        most = box.width() * 0.45
        write(box.left(), box.top(), pane.series, most=most)
        if border is None:
            write(box.left(), box.top() + step, pane.name, colour=MADE if pane.made else WHITE, bold=True)
        if pane is not None and pane.rect.left() == 0:
            write(box.left(), box.top() + (2 if border is None else 1) * step, self.mode(), colour=LINE)
        write(box.right(), box.top(), pane.window, right=True)
        write(box.right(), box.bottom() - step, pane.place, right=True)
        write(box.right(), box.bottom() - 2 * step + 1, pane.slice, right=True)
        top, bottom, left, right = pane.ends
        middle_x, middle_y = box.center().x(), box.center().y() - step / 2
        letters = Writer(painter, size + 2, bold=True)
        # the mark of what a model made stands at the top
        if border is not None and abs(middle_x - border) < 20:
            middle_x = border + 20
        letters(middle_x, MARGIN + max(MARK_PX, top_ - MARGIN), top, centre=True)
        letters(middle_x, box.bottom() - step, bottom, centre=True)
        letters(box.left(), middle_y, left)
        letters(box.right(), middle_y, right, right=True)
        if top:
            self._paint_scale(painter, write, box, step)

    def _paint_scale(self, painter: QPainter, write: Writer, box: QRectF, step: int) -> None:
        zoom = self.viewer.scene.camera.zoom
        length, text = nice_length(max(box.width() * BAR_SHARE / zoom, 1e-3))
        y, left = box.bottom() - 2, box.left()
        right = left + length * zoom
        for start, end in ((QPointF(left, y), QPointF(right, y)), *_ticks(left, right, y)):
            self._line(painter, start, end, "black", 4)
        for start, end in ((QPointF(left, y), QPointF(right, y)), *_ticks(left, right, y)):
            self._line(painter, start, end, "white", 2)
        write(left, y - step - 4, text)

    def _paint_border(self, painter: QPainter, x: float) -> None:
        """The line of the wipe, its handle, and what is on either side."""
        self._line(painter, QPointF(x, 0), QPointF(x, self.height()), "black", 4)
        self._line(painter, QPointF(x, 0), QPointF(x, self.height()), LINE, 2)
        middle = self.height() / 2
        painter.setPen(QPen(QColor("black"), 1))
        painter.setBrush(LINE)
        painter.drawRoundedRect(QRectF(x - 5, middle - 16, 10, 32), 4, 4)
        write = Writer(painter, LETTER_PX + 1, bold=True)
        y = MARGIN + MARK_PX + 1.5 * (LETTER_PX + 5)
        write(x - 10, y, NAMES["scan"], right=True)
        write(x + 10, y, NAMES["result"], colour=MADE)

    def _paint_crosshair(self, painter: QPainter) -> None:
        down, right = self.viewer.dims.order[-2:]
        x, y = self.x_of(self.viewer.dims.point[right]), self.y_of(self.viewer.dims.point[down])
        gap, colour = 12, QColor(0, 255, 255, 130)
        for start, end in (((0, y), (x - gap, y)), ((x + gap, y), (self.width(), y))):
            self._line(painter, QPointF(*start), QPointF(*end), colour, 1)
        for start, end in (((x, 0), (x, y - gap)), ((x, y + gap), (x, self.height()))):
            self._line(painter, QPointF(*start), QPointF(*end), colour, 1)

    def _paint_colours(self, painter: QPainter) -> None:
        found = colours_of(self.viewer)
        if found is None:
            return
        layer, texts = found
        height = min(220.0, 0.4 * self.height())
        bar = QRectF(self.width() - 3 * MARGIN - 22, self.height() / 2 - height / 2, 14, height)
        gradient = QLinearGradient(bar.bottomLeft(), bar.topLeft())
        for share in np.linspace(0, 1, 17):
            red, green, blue, alpha = (float(c) for c in layer.colormap.map(np.array([share]))[0])
            gradient.setColorAt(float(share), QColor.fromRgbF(red * alpha, green * alpha, blue * alpha))
        painter.setPen(QPen(QColor("white"), 1))
        painter.setBrush(gradient)
        painter.drawRect(bar)
        if self.width() > LEAST_FOR_VALUES:
            write = Writer(painter, LETTER_PX)
            for share, text in texts:
                write(bar.left() - 6, bar.bottom() - share * height - 8, text, right=True)
        said = self.verdict()
        if said is not None and entry_of(layer).role == "residual":
            self._paint_verdict(painter, said)

    def _paint_verdict(self, painter: QPainter, said: Verdict) -> None:
        painter.setFont(font_of(LETTER_PX + 1, True))
        metrics = painter.fontMetrics()
        text = said.text if metrics.horizontalAdvance(said.text) + 24 < self.width() else said.short
        width = metrics.horizontalAdvance(text) + 24
        box = QRectF(self.width() / 2 - width / 2, self.height() - 62, width, 24)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(said.colour))
        painter.drawRoundedRect(box, 5, 5)
        painter.setPen(QColor("black"))
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)

    def sizes(self) -> list[tuple[str, QRectF]]:
        """What stands beside each shape that is drawn, and where: beneath no other and on no other shape."""
        drawn = [(text, self._around(corners)) for text, corners in drawn_in(self.viewer)]
        taken, found = [box for _, box in drawn], []
        metrics = QFontMetrics(font_of(LETTER_PX + 1, True))
        for text, box in drawn:
            width, height = metrics.horizontalAdvance(text) + 2, metrics.height() + 2
            places = [
                QRectF(box.left(), box.top() - height, width, height),
                QRectF(box.left(), box.bottom(), width, height),
                QRectF(box.right() + 4, box.top(), width, height),
                QRectF(box.left() - width - 4, box.top(), width, height),
            ]
            free = [each for each in places if not any(each.intersects(other) for other in taken)]
            place = (free or places[1:])[0]
            while not free and any(place.intersects(other) for _, other in found):
                place = place.translated(0, height)
            taken.append(place)
            found.append((text, place))
        return found

    def _around(self, corners: Any) -> QRectF:
        """Of a shape, in pixels."""
        (top, left), (bottom, right) = corners.min(axis=0), corners.max(axis=0)
        ends = QPointF(self.x_of(left), self.y_of(top)), QPointF(self.x_of(right), self.y_of(bottom))
        return QRectF(*ends).normalized().adjusted(-2, -2, 2, 2)

    def _paint_mark(self, painter: QPainter, text: str) -> None:
        painter.setFont(font_of(LETTER_PX, False))
        metrics = painter.fontMetrics()
        text = metrics.elidedText(text, Qt.TextElideMode.ElideRight, self.width() - MARGIN)
        width = metrics.horizontalAdvance(text) + MARGIN
        box = QRectF((self.width() - width) / 2, 2, width, MARK_PX - 4)
        painter.fillRect(box, QColor(0, 0, 0, 204))
        painter.setPen(QColor("orange"))
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)

    def _line(self, painter: QPainter, start: QPointF, end: QPointF, colour: Any, width: int) -> None:
        painter.setPen(QPen(QColor(colour), width))
        painter.drawLine(start, end)


def _ticks(left: float, right: float, y: float) -> tuple[tuple[QPointF, QPointF], ...]:
    return tuple((QPointF(x, y - 3), QPointF(x, y + 1)) for x in (left, right))
