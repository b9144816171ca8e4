"""One restoration in a process of its own: progress and previews come as signals, cancelling at the next step."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

from qtpy.QtCore import QObject, Signal

from medldm import LazyScan, MedldmError, Restoration, Volume
from napari_medldm.request import Order, Request
from napari_medldm.worker import receive, send

PIPE_BYTES = 1 << 20  # fewer turns for a scan than with the system's 64 KiB


class Workshop:
    """The process that computes, started when first needed and kept, with its model, until `close`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "napari_medldm.worker"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=PIPE_BYTES
            )
        return self._process

    def close(self) -> None:
        """End the process; it holds nothing that is worth keeping."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                assert self._process.stdin is not None
                self._process.stdin.close()
            try:
                self._process.wait(1)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def replace(self) -> None:
        """End a process that speaks no more; the next job starts another. Its pipe may end before it does."""
        if self._process is not None:
            self._process.kill()
            self.close()


class Job(QObject):
    """One restoration of `scan`, within `mask` if that is not None; or, without a scan, new scans or a folder's.

    A large scan is read whole first; `volume` is what was restored.

    Signals, delivered in the thread of the window: `progressed(text, done, total)`, `previewed(Volume)`,
    `made(object)` (a new scan, or a folder's row), then one of `finished(Restoration or None)`, `failed(text)`,
    `cancelled()`; at the very end `ended()`.
    """

    progressed = Signal(str, int, int)
    previewed = Signal(object)
    made = Signal(object)
    finished = Signal(object)
    failed = Signal(str)
    cancelled = Signal()
    ended = Signal()

    def __init__(
        self,
        workshop: Workshop,
        scan: Volume | LazyScan | None,
        mask: Any,
        work: Request | Order,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._workshop, self._scan, self._mask, self._work = workshop, scan, mask, work
        self.volume: Volume | None = None
        self._lock, self._stopped = threading.Lock(), False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="medldm-job", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        """Ask to stop; the work ends at its next step."""
        self._stopped = True
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._process is not None and self._process.stdin is not None:
                send(self._process.stdin, ("cancel",))

    def wait(self, seconds: float | None = None) -> bool:
        """Whether the thread has ended within `seconds`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def running(self) -> bool:
        return self._thread.is_alive()

    def _order(self) -> tuple[Any, ...]:
        """What the process is told. Raises MedldmError where the scan cannot be read."""
        if isinstance(self._scan, LazyScan):
            self.progressed.emit("read", 0, 0)
            self.volume = self._scan.load()
        else:
            self.volume = self._scan
        # the headers of the source stay here: whoever computes need not know who it is
        bare = None if self.volume is None else replace(self.volume, source=None)
        return "restore", bare, self._mask, self._work

    def _run(self) -> None:
        try:
            order = self._order()
            if self._stopped:
                self.cancelled.emit()
                return
            process = self._workshop.process()
            assert process.stdin is not None and process.stdout is not None
            with self._lock:
                send(process.stdin, order)
                self._process = process
            del order
            if self._stopped:
                self.cancel()
            while self._pass_on(receive(process.stdout)):
                pass
        except MedldmError as failure:
            self.failed.emit(str(failure))
        except MemoryError:
            self.failed.emit("not enough memory for the whole scan")
        except (EOFError, OSError, ValueError):
            self._workshop.replace()
            if self._stopped:
                self.cancelled.emit()
            else:
                self.failed.emit("the computing process ended, most likely for want of memory: restore a region")
        finally:
            self._scan = self._mask = None
            self.ended.emit()

    def _pass_on(self, message: tuple[Any, ...]) -> bool:
        """Emit a message as its signal; whether more will come."""
        kind, *content = message
        if kind == "progress":
            self.progressed.emit(*content)
        elif kind == "preview":
            self.previewed.emit(content[0])
        elif kind == "made":
            self.made.emit(content[0])
        elif kind == "failed":
            self.failed.emit(content[0])
        elif kind == "cancelled":
            self.cancelled.emit()
        else:
            self.finished.emit(self._with_source(content[0]))
        return kind in ("progress", "preview", "made")

    def _with_source(self, result: Restoration | None) -> Restoration | None:
        if result is None:
            return None
        names = ("volume", "residual", "uncertainty")
        source = None if self.volume is None else self.volume.source
        parts = {name: replace(getattr(result, name), source=source) for name in names}
        return replace(result, array=parts["volume"].array, **parts)
