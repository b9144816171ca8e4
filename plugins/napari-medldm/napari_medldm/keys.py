"""Keys of the window: each does what its button does, whatever part of the window has the focus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QComboBox, QWidget

THREE_PLANES = "F4"
MODES = {"side by side": "F5", "wipe": "F6", "blink": "F7", "residual": "F8", "uncertainty": "F9"}


class Keys(QObject):
    """The keys that a panel binds in a viewer, until `unbind`."""

    def __init__(self, viewer: Any, panel: QWidget) -> None:
        super().__init__(panel)
        self.viewer, self._bound = viewer, dict[str, Any]()
        for box in panel.findChildren(QComboBox):
            box.installEventFilter(self)

    def bind(self, key: str, action: Callable[[], object]) -> None:
        """Let `key` call `action`; another panel's binding of it is replaced."""

        # napari asks all that is bound for its __name__, at every press: a partial has none, and no key would work
        def pressed(viewer: Any) -> None:
            action()

        self.viewer.bind_key(key, pressed, overwrite=True)
        self._bound[key] = pressed

    def unbind(self) -> None:
        """Let go of the keys that are still this panel's."""
        for key, pressed in self._bound.items():
            if pressed in self.viewer.keymap.values():
                self.viewer.bind_key(key, None)
        self._bound.clear()

    def eventFilter(self, box: QObject, event: QEvent) -> bool:
        """A list opens at F4 of itself; here the key belongs to the window."""
        if event.type() == QEvent.Type.KeyPress and event.key() == Qt.Key.Key_F4:
            event.ignore()  # goes on to the window
            return True
        return super().eventFilter(box, event)
