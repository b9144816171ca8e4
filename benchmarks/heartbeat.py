"""How long a Qt event loop stands still, and what held it."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from typing import Any

BEAT_MS, LATE_S, LOOK_S = 5, 0.04, 0.01


class Heartbeat:
    """A timer of the event loop, and a thread that looks at the main thread's stack where a beat is late.

    pauses : seconds between beats; computing : of these, what the main thread itself computed, however busy the machine
    """

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        self.pauses: list[float] = []
        self.computing: list[float] = []
        self._longest_seen: list[str] = []
        self._seen: list[str] = []
        self._last, self._computed = time.perf_counter(), time.thread_time()
        self._timer, self._stopped = QTimer(), threading.Event()
        self._timer.timeout.connect(self._beat)
        self._timer.start(BEAT_MS)
        self._thread = threading.Thread(target=self._look, args=(threading.get_ident(),), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._timer.stop()
        self._stopped.set()
        self._thread.join()

    def held_by(self) -> str:
        """The plugin's functions, innermost of each look, that ran in the longest pause."""
        return ", ".join(dict.fromkeys(self._longest_seen)) or "nothing of the plugin's"

    def _beat(self) -> None:
        now = time.perf_counter()
        pause, self._last = now - self._last, now
        computed = time.thread_time()
        self.computing.append(computed - self._computed)
        self._computed = computed
        if pause > max(self.pauses, default=0):
            self._longest_seen = list(self._seen)
        self.pauses.append(pause)
        self._seen.clear()

    def _look(self, main: int) -> None:
        while not self._stopped.wait(LOOK_S):
            if time.perf_counter() - self._last > LATE_S:
                self._seen.append(_place(sys._current_frames()[main]))


def _place(frame: Any) -> str:
    stack = traceback.extract_stack(frame)
    ours = [each for each in stack if "napari_medldm" in each.filename]
    painting = any(each.name == "paintGL" for each in stack)
    where = f"{ours[-1].filename.rsplit('/', 1)[-1]}:{ours[-1].name}" if ours else "Qt and napari"
    return where + (" (painting)" if painting else "")
