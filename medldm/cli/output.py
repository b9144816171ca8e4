"""What commands show: tables, and progress with the time left on stderr (a bar on a terminal, now and then a line)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

WIDE = 240  # columns where there is no terminal: lines stay unbroken
QUIET_SECONDS = 2.0
LINE_SECONDS = 15.0
LONG_SECONDS = 10.0


def time_left(seconds: float) -> str:
    """12 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _new_bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


class Progress:
    """What the API calls as ``progress(stage, done, total)``; shows nothing in the first two seconds.

    more : what else there is to say of a stage, asked for now and then; without a terminal at its end, too
    """

    def __init__(self, *, quiet: bool = False, more: Callable[[str], str] | None = None) -> None:
        self._quiet, self._more = quiet, more
        self._bars = None if quiet or not sys.stderr.isatty() else _new_bars()
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}
        self._shown = self._start = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None and self._bars.live.is_started:
            self._bars.stop()

    def forecast(self, seconds: float, memory: int) -> None:
        """Said before the work, where it is worth waiting for elsewhere."""
        if not self._quiet and seconds > LONG_SECONDS:
            print(f"it will take about {time_left(seconds)} and {memory / 1e9:.1f} GB", file=sys.stderr)

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done < self._last.get(stage, 0):
            self._began.pop(stage, None)  # the same stage again, of another scan
        self._last[stage] = done
        began, first = self._began.setdefault(stage, (now, done))
        if self._quiet:
            return
        if self._bars is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total)
            self._bars.update(self._tasks[stage], completed=done, total=total)
            if self._more is not None and (now - self._shown > QUIET_SECONDS or done == total):
                self._shown = now
                self._bars.update(self._tasks[stage], description=_with(stage, self._more(stage)))
            if now - self._start > QUIET_SECONDS:
                self._bars.start()
        elif now - self._shown > LINE_SECONDS and first < done < total:
            self._shown = now
            left = (now - began) / (done - first) * (total - done)
            text = "" if self._more is None else self._more(stage)
            print(_with(f"{stage}: {done}/{total}, {time_left(left)} left", text), file=sys.stderr)
        elif self._more is not None and done == total:
            print(_with(f"{stage}: done", self._more(stage)), file=sys.stderr)


def _with(text: str, more: str) -> str:
    return f"{text}, {more}" if more else text


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print rows of plain text; columns that are empty throughout are left out. Nothing in them is markup."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    kept = [n for n in range(len(columns)) if any(row[n] for row in rows)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for n in kept:
        table.add_column(columns[n], overflow="fold")
    for row in rows:
        table.add_row(*(row[n] for n in kept))
    width = None if sys.stdout.isatty() else WIDE
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    if title:  # the table's own is broken to its width
        console.print(title, style="bold")
    console.print(table)


def numbers(values: Sequence[float], mark: str = " x ") -> str:
    return mark.join(f"{value:.6g}" for value in values)
