"""The wheels of all packages: what is in them, and what they do in an environment with nothing else of medldm in it.

Nothing is downloaded: wheels are built by the setuptools that is here, and the dependencies of this environment are
seen from the new one. Project URLs are not looked for: the packages have no public home yet.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from email.parser import HeaderParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

import medldm
from tests.dicom_maker import make_series

ROOT = Path(__file__).parents[1]
PACKAGES = {"medldm": ROOT, **{path.parent.name: path.parent for path in sorted(ROOT.glob("plugins/*/pyproject.toml"))}}
SCRATCH = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "tests")
HEAD = (20, 24, 20)
# What pip calls to build, without the environment and the metadata that it makes first: folder, sdist or wheel, target.
BUILD = """
import os, sys
from setuptools import build_meta
os.chdir(sys.argv[1])
getattr(build_meta, f"build_{sys.argv[2]}")(sys.argv[3])
"""

pytestmark = pytest.mark.slow


def run(words, folder, *, errors=False):
    """Away from this checkout: neither its folder nor PYTHONPATH lead to it."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    known |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, env=known, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stderr if errors else done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Of all packages, by name; built from copies, so that nothing is left in the checkout.

    That of medldm is built from its source distribution, as it is where there is no wheel: what that lacks is missing.
    """
    pytest.importorskip("pip", reason="pip is not installed")
    try:
        builder = version("setuptools")  # to import it would upset what has imported distutils before
    except PackageNotFoundError:
        pytest.skip("setuptools is not installed (make install)")
    if int(builder.split(".")[0]) < 77:
        pytest.skip(f"setuptools {builder} is older than the 77 that builds these packages")
    folder = tmp_path_factory.mktemp("wheels")
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("medldm", "configs", "plugins"):
        shutil.copytree(ROOT / name, copy / name, ignore=SCRATCH)
    out = folder / "dist"
    out.mkdir()
    run([sys.executable, "-c", BUILD, copy, "sdist", folder], folder)
    (archive,) = folder.glob("medldm-*.tar.gz")
    shutil.unpack_archive(archive, folder, filter="data")
    own = folder / archive.name.removesuffix(".tar.gz")
    for source in [own, *(copy / place.relative_to(ROOT) for place in PACKAGES.values() if place != ROOT)]:
        run([sys.executable, "-c", BUILD, source, "wheel", out], folder)
    found = {path.name.split("-")[0].replace("_", "-"): path for path in sorted(out.glob("*.whl"))}
    for path in found.values():
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    return found


@pytest.fixture(scope="module")
def there(wheels, tmp_path_factory):
    """Folder of the programs of a new environment with the wheels in it, and a working folder with nothing in it."""
    folder = tmp_path_factory.mktemp("new")
    home = folder / "environment"
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    (programs,) = (home / name for name in ("bin", "Scripts") if (home / name).is_dir())
    python = programs / "python"
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--python", python]
    run([*pip, "install", "--no-index", "--no-deps", *wheels.values()], folder)
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    seen = [
        path for path in sys.path if Path(path).name == "site-packages"
    ]  # their .pth, the editable ones, are not read
    (site / "dependencies.pth").write_text("\n".join(seen), encoding="utf-8")
    work = folder / "work"
    work.mkdir()
    return programs, work


def test_a_wheel_holds_its_package_and_nothing_beside_it(wheels):
    assert set(wheels) == set(PACKAGES)
    for name, path in wheels.items():
        table = tomllib.loads((PACKAGES[name] / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
        tops = ["medldm"] if name == "medldm" else [*table.get("packages", ()), *table.get("py-modules", ())]
        info = f"{name.replace('-', '_')}-{medldm.__version__}.dist-info"
        inside = ZipFile(path).namelist()
        assert {file.split("/")[0].removesuffix(".py") for file in inside} == {*tops, info}, name
        ours = {
            file.relative_to(PACKAGES[name]).as_posix()
            for top in tops
            for file in [*(PACKAGES[name] / top).rglob("*.py"), PACKAGES[name] / f"{top}.py"]
            if file.is_file()
        }
        assert ours and {file for file in inside if file.endswith(".py")} == ours, name
        assert not [file for file in inside if re.search(r"(^|/)(tests?|__pycache__)/", file)]


def test_wheels_bring_recipes_licences_and_cards(wheels):
    inside = set(ZipFile(wheels["medldm"]).namelist())
    recipes = {f"medldm/recipes/{path.name}" for path in (ROOT / "configs").glob("*.toml")}
    pages = {f"medldm/report/{path.name}" for path in (ROOT / "medldm" / "report").glob("*.html")}
    assert recipes and pages and recipes | pages | {"medldm/py.typed", "medldm/cli/synthetic-radiograph.png"} <= inside
    for name, path in wheels.items():
        with ZipFile(path) as opened:
            info = f"{name.replace('-', '_')}-{medldm.__version__}.dist-info"
            said = HeaderParser().parsestr(opened.read(f"{info}/METADATA").decode())
            assert opened.read(f"{info}/licenses/LICENSE").strip()
            assert said["License-Expression"] in ("Apache-2.0", "CC-BY-4.0", "CC-BY-SA-3.0")
            (card,) = [file for file in opened.namelist() if file.endswith("/pack/card.md")] or [None]
            if card is not None:
                assert said.get_payload().strip() == opened.read(card).decode().strip()
                assert {"pack.json", "weights.safetensors"} <= {file.split("/")[-1] for file in opened.namelist()}
    assert "napari_medldm/napari.yaml" in ZipFile(wheels["napari-medldm"]).namelist()


def test_the_installed_package_is_that_of_the_wheel(there):
    programs, work = there
    code = "import medldm, medldm_mgh_reader as m, sys; print(sys.prefix, medldm.__file__, m.__file__, sep='\\n')"
    prefix, *files = run([programs / "python", "-c", code], work).splitlines()
    assert all(Path(file).is_relative_to(prefix) for file in files)
    assert run([programs / "medldm", "--version"], work).split()[-1] == medldm.__version__
    listed = run([programs / "medldm", "models"], work)
    assert "brain-t1-2mm" in listed and "chest-xray-256" in listed


def readme(language):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_lines_of_the_readme_run(there):
    """The command on a DICOM series, and the lines of Python; on a small head."""
    programs, work = there
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in HEAD), indexing="ij")
    inside = i**2 + j**2 + k**2
    head = np.where(inside < 0.8, 600 + 200 * np.cos(5 * i) * np.cos(4 * j), 0)
    noisy = np.abs(head + np.random.default_rng(0).normal(0, 40, HEAD))
    make_series(
        work / "series",
        n=HEAD[2],
        rows=HEAD[1],
        columns=HEAD[0],
        spacing=(2.0, 2.0),
        step=(0, 0, 2.0),
        pixels=lambda n: noisy[:, :, n].T.astype(np.uint16),
    )
    (command,) = [line for block in readme("") for line in block.splitlines() if "medldm denoise -i" in line]
    words = command.replace("path/to/dicom-folder", "series").split()
    run([programs / words[0], *words[1:]], work)
    assert len(list((work / "restored").glob("*.dcm"))) == HEAD[2]

    (lines,) = readme("python")
    assert "path/to/dicom-folder" in lines and "synthesize(model=" in lines
    lines = lines.replace("path/to/dicom-folder", "series")
    mask = "array = np.zeros(scan.geometry.shape); array[8:11, 9:12, 8:11] = 1\n"
    mask += "medldm.write(medldm.Volume(array, scan.geometry), 'implant.nii.gz')\n"
    lines = lines.replace("result = ", f"import numpy as np\n{mask}result = ", 1)
    ended = "print(*fine.volume.geometry.shape, float(np.abs(filled.array - scan.array)[array == 0].max()))"
    *shape, outside = run([programs / "python", "-c", f"{lines}\n{ended}"], work).splitlines()[-1].split()
    assert sorted(map(int, shape)) == sorted((*HEAD[:2], 2 * HEAD[2])) and float(outside) == 0
    assert {"restored.nii.gz", "uncertainty.nii.gz"} <= {path.name for path in work.iterdir()}


def test_recipes_of_the_wheel_are_known_by_name_and_plans_are_made(there):
    """How long a recipe will take is measured on batches of the scans: all of a training but its steps."""
    programs, work = there
    scans = work / "scans"
    scans.mkdir()
    rows, columns = np.indices((40, 40)) / 40
    for number in range(6):
        picture = 90 + 80 * np.cos((3 + number) * rows) * np.cos(4 * columns + number)
        Image.fromarray(picture.astype(np.uint8)).save(scans / f"{number}.png")
    run([programs / "medldm", "plan", "scans", "-o", "planned.toml", "--minutes", "1", "--quiet"], work)
    assert "[[stage]]" in (work / "planned.toml").read_text(encoding="utf-8")
    said = run(
        [programs / "medldm", "train", "quick-2d", "--data", "scans", "--out", "quick", "--estimate"], work, errors=True
    )
    assert all(f"{stage}: 60 steps" in said for stage in ("autoencoder", "denoiser", "head-main"))
