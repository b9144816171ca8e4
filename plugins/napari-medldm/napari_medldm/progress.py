"""The bar that says how far a restoration is."""

from __future__ import annotations

from qtpy.QtWidgets import QProgressBar


class Progress(QProgressBar):
    """A bar that is painted in its turn.

    `QProgressBar.setValue` paints at once, and with it, under OpenGL, the canvas and the whole window.
    """

    def show_step(self, text: str, done: int, total: int, left: str = "") -> None:
        """`done` of `total` steps of what `text` names; busy, with no end in sight, for a total of 0.

        left : how long it still takes
        """
        self.setUpdatesEnabled(False)
        self.setRange(0, total)
        self.setValue(done)
        self.setFormat(f"{text} %v of %m{left}")
        self.setUpdatesEnabled(True)

    def clear(self) -> None:
        """Nothing is under way."""
        self.show_step("", 0, 1)
        self.setFormat("")
