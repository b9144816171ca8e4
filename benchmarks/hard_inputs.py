"""The forty bad and hard inputs, each in a process of its own: outcome, seconds, memory.

python -m benchmarks.hard_inputs
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.protocol import data_folder
from benchmarks.record import bar, peak_bytes, write
from tests.hard_inputs import CASES

MOST_SECONDS, MOST_BYTES = 5.0, 1e9


def _run(number: str, data: Path, answer: Any) -> None:
    before, started = peak_bytes(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            CASES[number](Path(folder) / ".", data)
            outcome = "as stated"
        except BaseException:
            outcome = traceback.format_exc(limit=1).splitlines()[-1][:90]
    answer.send((outcome, time.perf_counter() - started, peak_bytes() - before))


def main() -> None:
    ways = multiprocessing.get_all_start_methods()
    data, context = data_folder(), multiprocessing.get_context("fork" if "fork" in ways else "spawn")
    rows = []
    for number in CASES:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(number, data, theirs))
        process.start()
        theirs.close()
        try:
            outcome, seconds, grown = ours.recv()
        except EOFError:
            outcome, seconds, grown = "the process ended", float("nan"), 0
        process.join()
        rows.append({"input": number, "outcome": outcome, "seconds": round(seconds, 2), "MB": round(grown / 1e6)})
        print(f"{number}  {outcome:40s} {seconds:6.2f} s {grown / 1e6:6.0f} MB", flush=True)
    right = sum(row["outcome"] == "as stated" for row in rows)
    longest, most = max(row["seconds"] for row in rows), max(row["MB"] for row in rows)
    bars = [
        bar("inputs read or refused as stated", right, "40", right == len(CASES) == 40),
        bar("longest, s", longest, f"< {MOST_SECONDS:g}", longest < MOST_SECONDS),
        bar("most memory, MB", most, f"< {MOST_BYTES / 1e6:g}", most < MOST_BYTES / 1e6),
    ]
    for each in bars:
        print(f"{each['name']}: {each['value']:g} (bar {each['target']}) {'holds' if each['holds'] else 'MISSED'}")
    write("hard-inputs", rows, bars)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
