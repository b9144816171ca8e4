"""What the window says: lines that stay until the next start, and doubts in an orange banner to be confirmed."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QFrame, QLabel, QVBoxLayout

_ORANGE = "#f0a030"


class Messages(QLabel):
    """Lines, one below the other: none takes the place of another before `clear`."""

    def __init__(self) -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setContentsMargins(6, 0, 6, 0)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

    def say(self, text: str) -> None:
        """Add a line; one that stands there already goes to the end."""
        lines = [line for line in self.text().splitlines() if line != text]
        self.setText("\n".join([*lines, text]))

    def unsay(self, text: str) -> None:
        """Take back what is true no more."""
        self.setText("\n".join(line for line in self.text().splitlines() if line != text))


class Banner(QFrame):
    """Doubts, in orange. Those about what has not begun are to be confirmed before it can.

    `changed` is emitted when the user confirms, or takes it back.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._before: tuple[str, ...] = ()
        self.text_, self.confirm = QLabel(), QCheckBox("Restore all the same")
        self.text_.setWordWrap(True)
        self.text_.setTextFormat(Qt.TextFormat.PlainText)
        self.setObjectName("medldm-banner")
        self.setStyleSheet(
            f"#medldm-banner {{background: {_ORANGE}; border-radius: 4px}}"
            f"#medldm-banner > * {{background: {_ORANGE}; color: black; font-weight: bold}}"
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.addWidget(self.text_)
        layout.addWidget(self.confirm)
        self.confirm.toggled.connect(lambda _: self.changed.emit())
        self.show_doubts((), ())

    def text(self) -> str:
        return self.text_.text()

    def confirmed(self) -> bool:
        """Whether there is nothing to be confirmed, or it was."""
        return not self._before or self.confirm.isChecked()

    def show_doubts(self, before: Sequence[str], after: Sequence[str]) -> None:
        """Doubts about what could be started now, and those about a result; confirmed anew where the former change."""
        if tuple(before) != self._before:
            self._before = tuple(before)
            self.confirm.blockSignals(True)
            self.confirm.setChecked(False)
            self.confirm.blockSignals(False)
        later = [text for text in after if text not in before]
        parts = ["Before you restore:", *(f"• {text}" for text in before)] if before else []
        parts += ["Of the result:", *(f"• {text}" for text in later)] if later else []
        self.text_.setText("\n".join(parts))
        self.confirm.setVisible(bool(before))
        self.setVisible(bool(parts))
