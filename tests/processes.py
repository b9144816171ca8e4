"""Work that several processes share, begun where this one stands: nothing is imported again, which takes longest."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

# A process that has used a GPU cannot be forked.
CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn")


def _answer(work: Callable[..., Any], words: tuple[Any, ...], answer: Connection) -> None:
    answer.send(work(*words))


def side_by_side(count: int, work: Callable[..., Any], *words: Any) -> list[Any]:
    """What `work(rank, *words)` returns in each of `count` processes that run at the same time."""
    ends, started = [], []
    for rank in range(count):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_answer, args=(work, (rank, *words), theirs))
        process.start()
        theirs.close()
        ends.append(ours)
        started.append(process)
    try:
        return [end.recv() for end in ends]  # EOFError where one failed, which has printed why
    finally:
        for process in started:
            process.join(60)
            process.kill()
