"""What the package promises from outside: import rules, light imports, entry points, installable packs."""

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import medldm

ROOT = Path(__file__).parents[1]
VOLUME_HALF = ("errors", "geometry", "marks", "foreign", "thumbnail", "volume", "registry", "intensity", "recipe", "io",
               "io.manifest")  # fmt: skip
HEAVY = ("torch", "monai", "lightning_fabric")


def loaded_after(code):
    """Names of the heavy modules that `code` loads, in a fresh interpreter."""
    report = f"import sys; {code}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def project(path="pyproject.toml"):
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


def test_rooms_import_only_from_the_rooms_below():
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(command), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_import_rules_name_every_room():
    layers = project()["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {room.strip() for layer in layers for room in layer.split(":")}
    rooms = {
        path.stem for path in (ROOT / "medldm").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert named == rooms - {"__init__", "__main__"}


def test_the_volume_half_does_without_torch():
    code = "; ".join(f"import medldm.{room}" for room in VOLUME_HALF)
    assert loaded_after(code) == "[]"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["denoise", "--help"],
        ["models"],
        ["denoise", "-i", "absent", "-o", "y.nii.gz", "--model", "absent"],
    ],
)
def test_the_command_line_does_without_torch_until_there_is_work(words):
    lines = [
        "import contextlib, sys",
        "from medldm.cli import app",
        "with contextlib.redirect_stderr(sys.stdout), contextlib.suppress(SystemExit):",
        f"    app({words!r})",
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_importing_medldm_loads_nothing_heavy():
    light = "dir(medldm); medldm.Volume; medldm.read; medldm.as_volume; medldm.Choice; medldm.InputError"
    assert loaded_after(f"import medldm; {light}") == "[]"


def test_every_entry_point_of_ours_loads_or_names_a_pack():
    for kind, points in project()["project"]["entry-points"].items():
        installed = {point.name: point for point in entry_points(group=kind)}
        for name, value in points.items():
            assert installed[name].value == value
            installed[name].load()


@pytest.mark.parametrize("pack", ["brain-t1-2mm", "chest-xray-256"])
def test_packs_say_where_their_folder_is(pack):
    (point,) = entry_points(group="medldm.models", name=pack)
    folder = point.load().folder()
    assert folder.name == "pack"
    if not folder.is_dir():
        pytest.skip(f"the weights of {pack} are not here yet")
    assert {"weights.safetensors", "pack.json", "training.json", "card.md"} <= {path.name for path in folder.iterdir()}


def test_constraints_pin_every_dependency_exactly():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert all(line.count("==") == 1 and "+" not in line and "@" not in line for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    meta = project()["project"]
    wanted = [
        *meta["dependencies"],
        *(item for extra in meta["optional-dependencies"].values() for item in extra),
    ]
    names = {item.split(">")[0].split("<")[0].split("=")[0].strip().lower() for item in wanted}
    assert names <= pinned


def test_all_packages_move_together():
    major, minor, _ = map(int, medldm.__version__.split("."))
    allowed = f"medldm>={major}.{minor},<{major}.{minor + 1}"
    for path in sorted((ROOT / "plugins").glob("*/pyproject.toml")):
        meta = project(path.relative_to(ROOT))["project"]
        assert meta["version"] == medldm.__version__ and allowed in meta["dependencies"], path.parent.name
    for page in ("extending/index.md", "guides/plugin-author.md"):
        assert allowed in (ROOT / "docs" / page).read_text(encoding="utf-8")


def test_non_commercial_packages_are_no_runtime_dependency():
    assert not [item for item in project()["project"]["dependencies"] if item.startswith(("bm3d", "bm4d"))]


def test_files_name_no_machine():
    """No path of a particular machine and no package host in what is committed."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    words = ("/wor" + "k/", "/ro" + "ot/", "/tm" + "p/", "pypi." + "org", "index" + "-url")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix not in (".py", ".toml", ".txt", ".md", ".yaml", ".html", "") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        assert not [word for word in words if word in text], name


@pytest.mark.parametrize("path", sorted(path.parent.name for path in (ROOT / "plugins").glob("*/pyproject.toml")))
def test_each_package_brings_its_licence_and_a_pack_its_card(path):
    folder = ROOT / "plugins" / path
    meta = project(f"plugins/{path}/pyproject.toml")["project"]
    named = {
        "Apache-2.0": "Apache License",
        "CC-BY-4.0": "Creative Commons Attribution 4.0",
        "CC-BY-SA-3.0": "Attribution-ShareAlike 3.0",
    }[meta["license"]]
    first, *others = (folder / name for name in meta["license-files"])  # others: of data that came from elsewhere
    assert named in first.read_text(encoding="utf-8") and all(path.stat().st_size > 100 for path in others)
    if meta["license"] == "Apache-2.0":  # a copy: a link is no file where there are no links
        assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    if "medldm.models" in meta.get("entry-points", {}):
        assert (folder / meta["readme"]).name == "card.md" and (folder / meta["readme"]).is_file()
