"""Text that can be read above white and black."""

from __future__ import annotations

import math

from qtpy.QtCore import QPointF, Qt
from qtpy.QtGui import QColor, QFont, QPainter

WHITE = QColor("white")


class Writer:
    """Writes with a dark edge, so that it can be read above white and black."""

    def __init__(self, painter: QPainter, size: int, bold: bool = False) -> None:
        self.painter, self.size, self.bold = painter, size, bold

    def __call__(
        self,
        x: float,
        top: float,
        text: str,
        *,
        colour: QColor = WHITE,
        bold: bool = False,
        right: bool = False,
        centre: bool = False,
        most: float = math.inf,
    ) -> None:
        if not text:
            return
        painter = self.painter
        painter.setFont(font_of(self.size, bold or self.bold))
        metrics = painter.fontMetrics()
        if most < math.inf:
            text = metrics.elidedText(text, Qt.TextElideMode.ElideRight, int(most))
        width = metrics.horizontalAdvance(text)
        x -= width if right else width / 2 if centre else 0
        y = top + metrics.ascent()
        painter.setPen(QColor(0, 0, 0, 200))
        for shift in ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1)):
            painter.drawText(QPointF(x + shift[0], y + shift[1]), text)
        painter.setPen(colour)
        painter.drawText(QPointF(x, y), text)


def font_of(size: int, bold: bool) -> QFont:
    font = QFont()
    font.setPixelSize(size)
    font.setBold(bold)
    return font
