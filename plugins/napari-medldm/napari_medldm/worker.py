"""The process that computes: `python -m napari_medldm.worker`, spoken to in pickled messages over its pipes.

Importing PyTorch alone would hold the window for seconds; an error or too little memory here leaves napari
as it is, and what was used is given back with the process. Messages come from the parent process alone.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

import medldm
from medldm import Cancelled, MedldmError
from napari_medldm.request import Order, Request, new_scans, run, run_each

PREPARE = "prepare"  # the first step with a model that is loaded


def send(stream: BinaryIO, message: Any) -> None:
    """One message: how many pieces, the size of each, the pieces.

    Arrays are pieces of their own, written from where they lie: to copy them would hold the interpreter's lock,
    and with it the window, for longer the larger the scan.
    """
    arrays: list[pickle.PickleBuffer] = []
    content = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
    pieces = [memoryview(content), *(array.raw() for array in arrays)]
    stream.write(np.array([len(pieces), *(piece.nbytes for piece in pieces)], "<u8").tobytes())
    for piece in pieces:
        stream.write(piece)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """The next message. Raises EOFError where the other side has gone."""
    count = int.from_bytes(_read(stream, 8), "little")
    sizes = np.frombuffer(_read(stream, 8 * count), "<u8")
    content, *arrays = [_read(stream, int(size)) for size in sizes]
    return pickle.loads(content, buffers=arrays)


def _read(stream: BinaryIO, size: int) -> NDArray[np.uint8]:
    content = np.empty(size, np.uint8)
    if stream.readinto(content) < size:  # type: ignore[attr-defined]
        raise EOFError
    return content


def _model(name: str, models: dict[str, Any], progress: Any) -> Any:
    progress("load", 0, 1)
    if name not in models:
        models.clear()  # one at a time: a scan and two models may be more than the memory holds
        models[name] = medldm.load_model(name)
    return models[name]


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    if hasattr(os, "nice"):
        os.nice(5)  # the window comes first; with more a busy machine would let it starve
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the messages
    stop, waiting, ready = threading.Event(), [], threading.Semaphore(0)

    def listen() -> None:
        while True:
            try:
                message = receive(sys.stdin.buffer)
            except EOFError:
                os._exit(0)
            if message[0] == "cancel":
                stop.set()
            else:
                stop.clear()
                waiting.append(message)
                ready.release()

    threading.Thread(target=listen, daemon=True).start()
    models: dict[str, Any] = {}

    def progress(text: str, done: int, total: int) -> None:
        if stop.is_set():
            raise Cancelled("restoration", "a request to stop")
        if text:
            send(out, ("progress", text, done, total))

    def do(work: Request | Order, volume: Any, mask: Any) -> Any:
        request = work.request if isinstance(work, Order) else work
        model = _model(request.model, models, progress)
        progress(PREPARE, 0, 0)
        if isinstance(work, Order) or request.task == "synthesize":
            made = run_each(work, model, progress) if isinstance(work, Order) else new_scans(request, model, progress)
            for one in made:
                send(out, ("made", one))
            return None
        return run(volume, request, model, progress, lambda shown: send(out, ("preview", shown)), mask)

    while True:
        ready.acquire()
        _, volume, mask, work = waiting.pop(0)
        result = None
        try:
            result = do(work, volume, mask)
        except Cancelled:
            send(out, ("cancelled",))
        except MedldmError as failure:
            send(out, ("failed", str(failure)))
        except MemoryError:
            models.clear()
            send(out, ("failed", "not enough memory: restore a region, or on a machine with more"))
        except Exception as failure:  # its text may quote the scan
            models.clear()
            text = f"an unexpected {type(failure).__name__}; the command line with --debug says more"
            send(out, ("failed", text))
        else:
            send(out, ("finished", result))
        del volume, mask, result


if __name__ == "__main__":
    main()
