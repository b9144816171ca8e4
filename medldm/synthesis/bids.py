"""A BIDS data set of synthetic scans: each a subject of its own, what was asked of it in participants.tsv.

Several processes may write into one folder, and go on in it later: the table is made anew from what lies there.
Computed tomography and radiographs are no part of BIDS (BEP024 is a draft): their folders stand in .bidsignore.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medldm.conditions import ClassCondition, LabelMapCondition, Tables
from medldm.errors import InputError, OutputError
from medldm.io import read, write
from medldm.io.atomic import write_whole
from medldm.io.nifti import sidecar_of
from medldm.pack import ModelPack
from medldm.volume import Volume

if TYPE_CHECKING:
    from medldm.model import Model

VERSION = "1.10.0"  # of BIDS
KINDS = {"MR": ("anat", ""), "PT": ("pet", "pet"), "CT": ("ct", "ct")}  # folder and suffix; others: xray
FOREIGN = ("ct", "xray")
CONTRASTS = ("T1w", "T2w", "FLAIR", "PDw", "T2starw")
_MENTIONED = {"FLAIR": r"flair", "T2starw": r"t2\s?\*|t2star", "T1w": r"\bt1", "T2w": r"\bt2", "PDw": r"\bpd\b|proton"}
_DESCRIPTION, _TABLE = "dataset_description.json", "participants.tsv"
LABELS = Path("derivatives") / "labels"


def suffix_of(pack: ModelPack, asked: str | None = None) -> tuple[str, str]:
    """Folder and suffix of a pack's scans. Raises InputError where nothing says which contrast an MR model draws."""
    folder, suffix = KINDS.get(pack.modality[0], ("xray", "xray"))
    if asked is not None:
        if not asked.isalnum():
            raise InputError("--suffix", repr(asked), "letters and digits, such as T1w")
        return folder, asked
    if suffix:
        return folder, suffix
    text = f"{pack.name.replace('-', ' ').replace('_', ' ')} {pack.description}".lower()
    found = [name for name, pattern in _MENTIONED.items() if re.search(pattern, text)]
    if not found:
        raise InputError("--format bids", "a model that does not say its contrast", "--suffix", "e.g. --suffix T1w")
    return folder, found[0]


class BidsFolder:
    """The data set at `root`, of one model. Nothing is written before `write`; `begin` comes before."""

    def __init__(self, root: Path, pack: ModelPack, suffix: str | None = None) -> None:
        self.root, self.pack = root, pack
        self.folder, self.suffix = suffix_of(pack, suffix)
        assert pack.synthesis is not None
        self.tables: Tables = pack.synthesis.conditions
        self.made_by: dict[str, str] = {}

    def path(self, seed: int, index: int) -> Path:
        subject = f"sub-seed{seed}n{index:04d}"
        return self.root / subject / self.folder / f"{subject}_{self.suffix}.nii.gz"

    def begin(self, model: Model) -> None:
        """Raises OutputError for a folder with the data set of somebody else, or of another model."""
        text = f"model {self.pack.name}, weights sha256 {model.weights_sha256}"
        self.made_by = {"Name": "medldm", "Description": text}
        described = self.root / _DESCRIPTION
        if not described.exists():
            return
        try:
            made_by = json.loads(described.read_text(encoding="utf-8")).get("GeneratedBy")
        except (OSError, ValueError, AttributeError):
            made_by = None
        if made_by != [self.made_by]:
            got = "a data set that this model did not make"
            raise OutputError(str(self.root), got, "a new folder, or one of this model's", "choose another")

    def write(self, scan: Volume, asked: Mapping[str, object], *, overwrite: bool = False) -> Path:
        """A scan, before it the label maps that it follows. Raises OutputError."""
        step = scan.history[-1]
        path = self.path(step["seed"], step["index"])
        self._describe()
        for name, table in self.tables.items():
            given = asked.get(name)
            if isinstance(table, LabelMapCondition) and given is not None:
                self._write_map(scan, name, table, given, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return write(scan, path, "nifti", overwrite=overwrite)

    def finish(self) -> None:
        """participants.tsv of all scans that are there; whoever of several processes ends last sees them all."""
        while True:
            rows = self._rows()
            lines = ["\t".join(row) for row in (self._columns(), *rows)]
            write_whole(self.root / _TABLE, lambda part: part.write_text("\n".join(lines) + "\n", encoding="utf-8"))  # noqa: B023
            if self._rows() == rows:  # else another process finished meanwhile, and its table may be gone
                return

    def _columns(self) -> list[str]:
        return ["participant_id", "seed", "index", *self.tables]

    def _rows(self) -> list[list[str]]:
        rows = []
        for path in sorted(self.root.glob(f"sub-*/{self.folder}/*_{self.suffix}.nii.gz")):
            try:
                steps = json.loads(sidecar_of(path).read_text(encoding="utf-8"))["medldm"]["history"]
                step = next(step for step in steps if step.get("synthetic"))
            except (OSError, ValueError, KeyError, StopIteration):
                continue  # not ours
            said = step["conditions"]
            values = [self._cell(name, said, path) for name in self.tables]
            rows.append([path.parents[1].name, str(step["seed"]), str(step["index"]), *values])
        return rows

    def _cell(self, name: str, said: Mapping[str, object], path: Path) -> str:
        if name not in said:
            return "n/a"
        if isinstance(self.tables[name], LabelMapCondition):
            return self._map_path(name, path).relative_to(self.root).as_posix()
        return " ".join(str(said[name]).split())

    def _map_path(self, name: str, path: Path) -> Path:
        """Of the label map that a scan follows."""
        derived = self.root / LABELS / path.relative_to(self.root).parent
        return derived / f"{path.parents[1].name}_desc-{_alnum(name)}_dseg.nii.gz"

    def _describe(self) -> None:
        """What belongs to the whole; the same whoever writes it."""
        texts: dict[Path, str] = {
            self.root / _DESCRIPTION: _json(
                {
                    "Name": f"Synthetic scans of the model {self.pack.name}",
                    "BIDSVersion": VERSION,
                    "DatasetType": "raw",
                    "GeneratedBy": [self.made_by],
                }
            ),
            self.root / "README": "Synthetic scans, of nobody, drawn by medldm. Research use only.\n",
            self.root / "participants.json": _json(
                {
                    "seed": {"Description": "seed of the draw"},
                    "index": {"Description": "number of the scan; with the seed it says which scan it is"},
                    **{name: _column(table) for name, table in self.tables.items()},
                }
            ),
        }
        if self.folder in FOREIGN:
            texts[self.root / ".bidsignore"] = f"**/{self.folder}/\n"
        self.root.mkdir(exist_ok=True)
        for path, text in texts.items():
            if not path.exists():
                _write_text(path, text)

    def _write_map(self, scan: Volume, name: str, table: LabelMapCondition, given: Any, path: Path) -> None:
        from medldm.space import ModelSpace, map_condition, to_array

        volume = given if isinstance(given, Volume) else read(given)
        turned = ModelSpace.of(self.pack, volume).turned(volume)
        numbers = map_condition(table, turned, self.pack, name)
        array = to_array(numbers[None, None], self.pack.dims)
        step = {"step": "label map of a synthetic scan", "model": self.pack.name}
        derived = self.root / LABELS
        file = self._map_path(name, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        described = {
            "Name": "Label maps that the scans follow",
            "BIDSVersion": VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [self.made_by],
        }
        listed = ["index\tname", *(f"{n}\t{label}" for n, label in enumerate(table.labels, start=1))]
        for where, text in (
            (derived / _DESCRIPTION, _json(described)),
            (derived / f"desc-{_alnum(name)}_dseg.tsv", "\n".join(listed) + "\n"),
        ):
            if not where.exists():
                _write_text(where, text)
        write(Volume(array, scan.geometry, "arbitrary", "", (step,)), file, "nifti", overwrite=True)


def _column(table: Any) -> dict[str, Any]:
    described = {"Description": "what was asked for"}
    if isinstance(table, ClassCondition):
        return described | {"Levels": {value: value for value in table.values}}
    return described


def _alnum(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", name)


def _json(table: Mapping[str, Any]) -> str:
    return json.dumps(table, indent=2) + "\n"


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))
