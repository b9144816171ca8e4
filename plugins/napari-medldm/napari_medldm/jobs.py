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

PATIENCE_S = 0.8  # after a request to stop, until the process is ended in the middle of its step
PIPE_BYTES = 1 << 20  # fewer turns for a scan than with the system's 64 KiB


class Workshop:
    """The process that computes, started when first needed and kept, with its model, until `close`.

    Several threads may use it: whoever ends the process takes it out first, and nobody else meets it half ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def process(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                command = [sys.executable, "-m", "napari_medldm.worker"]
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=PIPE_BYTES
                )
            return self._process

    def close(self) -> None:
        """End the process; it holds nothing that is worth keeping."""
        process = self._taken(None)
        if process is None:
            return
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def replace(self, which: subprocess.Popen[bytes] | None) -> None:
        """End `which`, if it is still the one that computes; the next job starts another."""
        process = self._taken(which)
        if process is not None:
            process.kill()
            process.wait()  # whoever reads its pipe meets the end of it, and closes

    def _taken(self, which: subprocess.Popen[bytes] | None) -> subprocess.Popen[bytes] | None:
        with self._lock:
            process = self._process
            if which is not None and which is not process:
                return None
            self._process = None
            return process


class Job(QObject):
    """One restoration of `scan`, within `mask` if that is not None; or, without a scan, new scans or a folder's.

    A large scan is read whole first; `volume` is what was restored. Whatever it is in the middle of, it ends within
    two seconds of `cancel`.

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
        self._sending, self._ending = threading.Lock(), threading.Lock()
        self._stopped, self._over = False, False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="medldm-job", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        """Ask to stop at the next step; a step that takes too long is not waited for."""
        if not self._stopped:
            self._stopped = True
            threading.Thread(target=self._stop, name="medldm-cancel", daemon=True).start()

    def _stop(self) -> None:
        if self._sending.acquire(timeout=PATIENCE_S):  # of a large scan, to a process that does not listen yet
            with contextlib.suppress(OSError, ValueError):
                if self._process is not None and self._process.stdin is not None:
                    send(self._process.stdin, ("cancel",))
            self._sending.release()
        if self.wait(PATIENCE_S):
            return
        if self._process is not None:
            self._workshop.replace(self._process)
        else:  # the scan is being read, which cannot be broken off; what comes of it is not waited for
            self._end(self.cancelled)

    def _end(self, signal: Any, *content: Any) -> None:
        """Say how it ended, once."""
        with self._ending:
            over, self._over = self._over, True
        if not over:
            signal.emit(*content)
            self.ended.emit()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether the thread has ended within `seconds`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def running(self) -> bool:
        return self._thread.is_alive() and not self._over

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
            self._end(*self._outcome())
        except MedldmError as failure:
            self._end(self.failed, str(failure))
        except MemoryError:
            self._end(self.failed, "not enough memory for the whole scan")
        except (EOFError, OSError, ValueError):
            if self._process is not None:
                self._workshop.replace(self._process)
                with contextlib.suppress(OSError):
                    self._process.stdout.close()  # type: ignore[union-attr]
            ended = "the computing process ended, most likely for want of memory: restore a region"
            self._end(*((self.cancelled,) if self._stopped else (self.failed, ended)))
        except Exception as failure:  # nothing may end without a word; its text may quote the scan
            self._end(self.failed, f"an unexpected {type(failure).__name__} beside the computing process")
        finally:
            self._scan = self._mask = None

    def _outcome(self) -> tuple[Any, ...]:
        """Have it computed; the signal to end with, and its content."""
        order = self._order()
        if self._stopped:
            return (self.cancelled,)
        process = self._workshop.process()
        assert process.stdin is not None and process.stdout is not None
        with self._sending:
            self._process = process
            send(process.stdin, order)
        del order
        ways = {"progress": self.progressed, "preview": self.previewed, "made": self.made}
        while True:
            kind, *content = receive(process.stdout)
            if kind in ways:
                ways[kind].emit(*content)
            elif kind == "finished":
                return self.finished, self._with_source(content[0])
            else:
                return self.failed if kind == "failed" else self.cancelled, *content

    def _with_source(self, result: Restoration | None) -> Restoration | None:
        if result is None:
            return None
        names = ("volume", "residual", "uncertainty")
        source = None if self.volume is None else self.volume.source
        parts = {name: replace(getattr(result, name), source=source) for name in names}
        return replace(result, array=parts["volume"].array, **parts)
