"""Restore every scan below a folder: one failure ends nothing, and what is done is not done again.

Results lie below the output folder as the scans do below the input, and beside them `medldm-summary.csv`, for a
person, and `medldm-summary.jsonl`, a line a scan, from which an interrupted or extended run goes on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from medldm.errors import Cancelled, EmptyInput, MedldmError, OutputError
from medldm.io import read_choice, write
from medldm.io.atomic import write_whole
from medldm.io.choice import Choice
from medldm.io.survey import Item, survey
from medldm.restoration.result import Restoration
from medldm.volume import Volume

Restore = Callable[[Volume], Restoration]
Progress = Callable[[str, int, int], None]
SUMMARY, TABLE = "medldm-summary.jsonl", "medldm-summary.csv"
_KEPT_SUFFIXES = {"picture": ".png"}


@dataclass(frozen=True)
class Row:
    """What became of one scan.

    file, series, select : which one, as `medldm inspect` lists it
    state : "done", "kept" (done by an earlier run), "refused" (it cannot be read) or "failed"
    output : where the result lies, below the output folder, "" where there is none
    noise_std : in the scan's unit, None where the task has none
    reason : why it was refused or failed; warnings : of the restoration
    """

    file: str
    series: str
    select: str
    state: str
    output: str = ""
    noise_std: float | None = None
    unit: str = ""
    residual_has_structure: bool | None = None
    seconds: float = 0.0
    warnings: str = ""
    reason: str = ""


def restore_each(
    folder: str | Path,
    out: str | Path,
    restore: Restore,
    *,
    settings: dict[str, Any],
    format: str | None = None,
    uncertainty: bool = True,
    choice: Choice | None = None,
    progress: Progress | None = None,
) -> Iterator[Row]:
    """Yield a row a scan as each is done; results that are there from the same settings and scan are kept.

    folder : of the scans
    out : folder for the results, outside of it; a new one, or that of an earlier run
    restore : what is done to a scan, as `functools.partial(medldm.denoise, model=model)`
    settings : plain data that says what `restore` does; another run's results are not mixed with them
    format : "nifti" for all; default None: DICOM for DICOM, .png for pictures, NIfTI for the rest
    uncertainty : whether to write it too, NAME-uncertainty.nii.gz beside each result; default True
    choice : what may be assumed; default None: nothing
    progress : called as (file, scans done, scans); whatever it raises ends the run, and what is done stays; default
        None
    Raises EmptyInput where there is no scan, OutputError where `out` lies in the folder or holds other results.

    >>> import functools
    >>> denoise = functools.partial(medldm.denoise, model=model, noise_std=20.0)
    >>> [row.state for row in medldm.restore_each("dicom", "restored", denoise, settings={"noise_std": 20.0})]
    ['done']
    """
    folder, out = Path(folder), Path(out)
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise OutputError(out.name, "a folder within the scans'", "one elsewhere", "results are no scans")
    found = survey(folder, choice, progress)
    if not found.scans:
        raise EmptyInput(folder.name, "no scan that can be read", "scans", "see medldm inspect")
    journal = _Journal(folder, out, json.loads(json.dumps(settings | {"format": format, "uncertainty": uncertainty})))
    places = _places(folder, found.items, format)
    for number, item in enumerate(found.items):
        if progress is not None:
            progress(item.file, number, len(found.items))
        row = journal.kept(item, places[number])
        if row is None:
            row = _restored(folder, out, item, places[number], restore, format, uncertainty, choice)
            journal.add(item, row)
        yield row
    journal.close()
    if progress is not None:
        progress("", len(found.items), len(found.items))


def _restored(
    folder: Path,
    out: Path,
    item: Item,
    place: str,
    restore: Restore,
    format: str | None,
    uncertainty: bool,
    choice: Choice | None,
) -> Row:
    row = Row(item.file, item.series, _words(item), "refused", reason=item.refusal)
    if item.facts is None:
        return row
    started = time.monotonic()
    path = out / place
    try:
        one = replace(choice or Choice(), series=item.series or None, select=item.select)
        scan = read_choice(folder / item.file, one)
        result = restore(scan)
        path.parent.mkdir(parents=True, exist_ok=True)
        if uncertainty:
            write(result.uncertainty, _beside(path), overwrite=True)
        known = format or ("dicom" if _is_dicom(item) else None)  # a folder's name may look like one with a suffix
        write(result.volume, path, known, overwrite=True)  # last: a result says that all of it is there
    except Cancelled:
        raise
    except MedldmError as failure:
        return replace(row, state="failed", reason=_without(str(failure), folder))
    except MemoryError:
        return replace(row, state="failed", reason="not enough memory for this scan")
    report = result.report
    return replace(
        row,
        state="done",
        output=place,
        noise_std=report.get("noise_std"),
        unit=scan.unit,
        residual_has_structure=report.get("checks", {}).get("residual_has_structure"),
        seconds=round(time.monotonic() - started, 2),
        warnings="; ".join(report.get("warnings", ())),
        reason="",
    )


def _beside(path: Path) -> Path:
    name = path.name.removesuffix(".nii.gz").removesuffix(".png")
    return path.with_name(f"{name}-uncertainty.nii.gz")


def _words(item: Item) -> str:
    return " ".join(f"{key}={value}" for key, value in item.select.items())


def _without(text: str, folder: Path) -> str:
    """A message without the path to the folder."""
    return text.replace(f"{folder}/", "").replace(str(folder), folder.name)


def _places(folder: Path, items: tuple[Item, ...], format: str | None) -> list[str]:
    """Where each result goes: named as its scan, or by its series where a folder or file holds several."""
    files = Counter(item.file for item in items)
    places: list[str] = []
    for item in items:
        suffix = _suffix(item, format)
        stem = item.file if item.file != "." else "scan"
        if (suffix or item.reader != "dicom") and (folder / item.file).is_file():
            stem = _stem(stem)
        elif item.facts is not None and item.facts["shape"][2] > 1 and stem.lower().endswith(".dcm"):
            stem = stem[: -len(".dcm")]  # many frames in a file become a folder
        several = files[item.file] > 1 or (not suffix and any(f.startswith(f"{stem}/") for f in files))
        if several:
            stem += "/" + "-".join([item.series or "scan", *(_plain(f"{k}-{v}") for k, v in item.select.items())])
        place, copies = f"{stem}{suffix}", 1
        while place in places:
            copies += 1
            place = f"{stem}-{copies}{suffix}"
        places.append(place)
    return places


def _suffix(item: Item, format: str | None) -> str:
    if format == "nifti":
        return ".nii.gz"
    if _is_dicom(item):
        return ""
    return _KEPT_SUFFIXES.get(item.reader, ".nii.gz")


def _is_dicom(item: Item) -> bool:
    """Whether its result is a derived series, named without a suffix."""
    return item.facts is not None and bool(item.facts["source"] == "dicom")


def _stem(name: str) -> str:
    path = Path(name)
    return path.with_name(path.name.removesuffix(".gz")).with_suffix("").as_posix() if path.suffix else name


def _plain(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-." else "-" for c in text)


class _Journal:
    """What was done, by scan: a line is added after each, so that the cost of one does not grow with their number.

    The first line holds the settings; of two lines on the same scan the later one counts.
    """

    def __init__(self, folder: Path, out: Path, settings: dict[str, Any]) -> None:
        self.folder, self.out, self.settings = folder, out, settings
        self.rows: dict[str, dict[str, Any]] = {}
        path = out / SUMMARY
        if path.is_file():
            try:
                first, *lines = path.read_text(encoding="utf-8").split("\n")
                before = json.loads(first)["settings"]
                whole = [json.loads(line) for line in lines[:-1]]  # a last line without its end was cut off
                self.rows = {str(line["scan_key"]): line for line in whole}
            except (OSError, ValueError, KeyError, TypeError):
                raise OutputError(SUMMARY, "a file that is no summary", "a new folder", "choose another") from None
            if before != settings:
                odd = sorted(k for k in {*before, *settings} if before.get(k) != settings.get(k))
                got = f"results of other settings ({', '.join(odd)})"
                raise OutputError(out.name, got, "the same settings, or a new folder", "choose another folder")
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise OutputError(out.name, "a folder that is not empty", "a new folder", "choose another")
        if not out.absolute().parent.is_dir():
            raise OutputError(str(out), "no folder to write into", "an existing folder", "create it first")
        out.mkdir(exist_ok=True)
        self._rewrite()

    def _rewrite(self) -> None:
        """Both files whole, each scan once."""
        lines = [{"settings": self.settings}, *self.rows.values()]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        table = self._cells(None) + "".join(map(self._cells, self.rows.values()))
        write_whole(self.out / SUMMARY, lambda path: path.write_text(text, encoding="utf-8"))
        write_whole(self.out / TABLE, lambda path: path.write_text(table, encoding="utf-8"))

    @staticmethod
    def _cells(row: dict[str, Any] | None) -> str:
        """A line of the table; of None its header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [f.name for f in fields(Row)], extrasaction="ignore", lineterminator="\n")
        if row is None:
            writer.writeheader()
        else:
            writer.writerow(row)
        return text.getvalue()

    def kept(self, item: Item, place: str) -> Row | None:
        """The row of an earlier run, where the scan and the result are still what they were."""
        before = self.rows.get(_key(item))
        if before is None or before["state"] != "done" or before["scan"] != _fingerprint(self.folder, item):
            return None
        if before["output"] != place or not (self.out / place).exists():
            return None
        names = {field.name for field in fields(Row)}
        return replace(Row(**{k: v for k, v in before.items() if k in names}), state="kept")

    def add(self, item: Item, row: Row) -> None:
        key = _key(item)
        line = asdict(row) | {"scan_key": key, "scan": _fingerprint(self.folder, item)}
        self.rows[key] = line
        for name, text in ((SUMMARY, json.dumps(line) + "\n"), (TABLE, self._cells(line))):
            try:
                with (self.out / name).open("a", encoding="utf-8") as file:
                    file.write(text)
            except OSError as failure:
                raise OutputError(name, failure.strerror or "not writable", "room for a line more") from None

    def close(self) -> None:
        """Each scan once, at the end of a run."""
        self._rewrite()


def _key(item: Item) -> str:
    return " ".join(filter(None, (item.file, item.series, _words(item))))


def _fingerprint(folder: Path, item: Item) -> str:
    """Tells whether a scan is the one that it was: by grid, range, what its reader noted, and the file's age."""
    path = folder / item.file
    file = [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else []
    return hashlib.sha256(json.dumps([item.facts, file], sort_keys=True, default=str).encode()).hexdigest()[:16]
