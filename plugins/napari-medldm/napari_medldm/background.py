"""Work that the window does not wait for: what a thread found, or why it failed, comes back to the window's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from napari.qt.threading import thread_worker

T = TypeVar("T")


def in_background(
    work: Callable[[], T],
    returned: Callable[[T], object],
    failed: Callable[[Exception], object] | None = None,
    finished: Callable[[], object] | None = None,
) -> None:
    """Call `work` in a thread, then one of the others in the window's.

    returned, failed : with what it gave, or what it raised; without `failed` it is raised again, and napari shows it
    finished : after either

    A failure comes back as what the thread gave: napari's own listener of its signal (0.9.2) is called with one
    argument too many by PySide6, and that error would be shown beside ours.
    """

    def attempt() -> tuple[list[T], Exception | None]:
        try:
            return [work()], None
        except Exception as failure:
            return [], failure

    def answer(outcome: tuple[list[T], Exception | None]) -> None:
        found, failure = outcome
        if failure is None:
            returned(found[0])
        elif failed is None:
            raise failure
        else:
            failed(failure)

    connect: dict[str, Callable[..., object]] = {"returned": answer}
    if finished is not None:
        connect["finished"] = finished
    thread_worker(attempt, connect=connect)()
