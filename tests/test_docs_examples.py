"""What the pages show is what runs: the examples of extensions, found by their entry points, and the ten lines."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import save_file

import medldm
from medldm import registry
from medldm.cli import app
from medldm.nets.imported.weights import open_weights
from tests.tiny import tiny_model

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def load(page, name, folder):
    """The page's example as a module in a file of its own."""
    (example,) = [block for block in blocks(page, "python") if "def " in block]
    path = folder / f"{name}.py"
    path.write_text(example, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Writer, sampler and family on the path, with the entry points that their pages show."""
    info = tmp_path / "site" / "shown-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shown\nVersion: 1.0\n")
    points = []
    for page in ("writers", "samplers", "autoencoders"):
        (toml,) = blocks(f"extending/{page}.md", "toml")
        group, name, module = re.fullmatch(
            r'\[project\.entry-points\."(.+)"\]\n([\w-]+) = "(.+)"', toml.strip()
        ).groups()
        load(f"extending/{page}.md", module.split(":")[0], info.parent)
        points.append(f"[{group}]\n{name} = {module}\n")
    (info / "entry_points.txt").write_text("".join(points))
    monkeypatch.syspath_prepend(str(info.parent))
    return tmp_path


def test_the_writer_writes_what_it_was_given(installed):
    rng = np.random.default_rng(0)
    grid = medldm.Geometry.from_spacing((4, 5, 6), (1, 2, 3), (7, 8, 9))
    volume = medldm.Volume(rng.normal(size=(4, 5, 6)), grid, "HU", "CT")
    medldm.write(volume, installed / "a.npz")
    with np.load(installed / "a.npz", allow_pickle=False) as read:
        np.testing.assert_array_equal(read["array"], volume.array)
        np.testing.assert_array_equal(read["affine"], grid.affine)
        assert str(read["unit"]) == "HU" and not read["ai_processed"]
    with pytest.raises(medldm.OutputError):
        medldm.write(volume, installed / "a.npz")
    assert sorted(path.name for path in installed.iterdir()) == ["a.npz", "site"]


def test_the_sampler_is_of_second_order(installed):
    """As the page says, on normal data of deviation 0.5, where the end of the ODE is known."""
    midpoint, deviation, highest = registry.find("samplers", "midpoint"), 0.5, 10.0

    def error(steps):
        sigmas = torch.cat([torch.logspace(1, -6, steps, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
        start = torch.tensor([highest], dtype=torch.float64)
        *_, last = midpoint(lambda x, sigma: x * deviation**2 / (deviation**2 + sigma**2), start, sigmas)
        assert (last.index, last.total) == (steps - 1, steps)
        return abs(float(last.x_t) - highest * deviation / (deviation**2 + highest**2) ** 0.5)

    assert 3.5 < error(80) / error(160) < 4.5


@pytest.mark.parametrize("dims", [2, 3])
def test_the_family_gives_what_its_network_gives(installed, dims):
    family = registry.find("autoencoders", "one-convolution")
    torch.manual_seed(0)
    network = family.Network(dims, 3, 4)
    save_file(network.state_dict(), installed / "w.safetensors")
    weights = open_weights(installed / "w.safetensors")
    known = [name for name in registry.names("autoencoders") if registry.find("autoencoders", name).recognise(weights)]
    assert known == ["one-convolution"]
    reading = family.read(weights)
    built = family.build(reading.dims, reading.config)
    assert built.load_state_dict(reading.state, strict=False).unexpected_keys == []
    x = torch.rand((1, 1, *(8,) * dims))
    with torch.no_grad():
        mean, _ = built.raw_encode(x)
        torch.testing.assert_close(mean, network.encode(x)[0])
        torch.testing.assert_close(built.raw_decode(mean), network.decode(mean))
        assert built.last_weight is built.network.decoder[2].weight


def test_the_metrics_compare_two_methods(tmp_path):
    metrics = load("extending/metrics.md", "metrics", tmp_path)
    rng = np.random.default_rng(0)
    truths = {f"patient {n}": rng.uniform(size=(16, 16)) for n in range(4)}
    ours = {name: truth + 0.1 for name, truth in truths.items()}
    theirs = {name: truth + 0.2 for name, truth in truths.items()}
    found = metrics.compare(truths, ours, theirs, data_range=1.0)
    assert found["psnr"].mean == pytest.approx(20)
    assert found["mean absolute error"].mean == pytest.approx(0.1)
    assert found["ahead in psnr"].mean == pytest.approx(20 * np.log10(2))


def test_files_that_pages_include_are_whole_plugins():
    """mkdocs puts them in; here only that they are there, so that a move is noticed without it."""
    included = re.findall(r'--8<-- "(.+)"', "".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")))
    assert included and all((DOCS.parent / path).is_file() for path in included)


def test_the_ten_lines_run(tmp_path, monkeypatch):
    if "chest-xray-256" not in registry.names("models"):
        pytest.skip("the model pack chest-xray-256 is not installed")
    (lines,) = blocks("index.md", "python")
    assert len([line for line in lines.splitlines() if line.strip()]) <= 11
    monkeypatch.chdir(tmp_path)
    known = {}
    exec(lines, known)
    clean, scan, result = (known[name].array for name in ("clean", "scan", "result"))
    assert np.std(result - clean) < np.std(scan - clean) / 2
    assert {path.name for path in tmp_path.iterdir()} == {"restored.png", "report.html"}


def test_the_lines_for_developers_run(tmp_path, monkeypatch, capsys):
    """From top to bottom, with a tiny model, a NIfTI file and a CPU."""
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path, 3)
    grid = medldm.Geometry.from_spacing((16, 16, 8), (1, 1, 2))
    array = np.random.default_rng(0).uniform(0, 1000, grid.shape)
    (tmp_path / "scans").mkdir()
    for place in ("a.nii.gz", "scans/b.nii.gz"):
        medldm.write(medldm.Volume(array, grid, modality="MR"), place)
    lines = "".join(blocks("guides/developer.md", "python"))
    for shown, here in (("path/to/dicom-folder", "a.nii.gz"), ("brain-t1-2mm", "tiny-3d"), ("cuda", "cpu")):
        assert shown in lines
        lines = lines.replace(shown, here)
    known = {}
    exec(lines, known)
    assert known["result"].volume.geometry.shape == (16, 16, 16)
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["b.nii.gz", "done"]
    assert {"restored.nii.gz", "uncertainty.nii.gz"} <= {path.name for path in tmp_path.iterdir()}


def test_the_loop_of_ones_own_learns_what_images_are_like():
    """Discs anywhere: reconstructions are far nearer than the mean is, what is drawn is as bright and as varied."""
    (lines,) = blocks("guides/own-loop.md", "python")
    own = [line for line in lines.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(own) <= 36  # "about 30"
    rows, columns = torch.meshgrid(*2 * [torch.linspace(-1, 1, 16)], indexing="ij")
    generator = torch.Generator().manual_seed(1)
    middle = 0.8 * torch.rand((64, 2, 1, 1), generator=generator) - 0.4
    disc = ((rows - middle[:, :1]) ** 2 + (columns - middle[:, 1:]) ** 2 < 0.3).float()
    known = {"images": 0.2 + 0.6 * disc}
    with torch.random.fork_rng(devices=[]):
        exec(lines, known)
    images, drawn = known["images"], known["drawn"]
    with torch.no_grad():
        again = known["autoencoder"].reconstruct(images)
    assert (again - images).square().mean() < 0.1 * images.var()
    assert drawn.shape == (16, 1, 16, 16)
    assert float(drawn.mean()) == pytest.approx(float(images.mean()), abs=0.1)
    assert float(drawn.std()) == pytest.approx(float(images.std()), rel=0.3)


def test_commands_of_the_pages_are_commands_and_have_their_options():
    program = typer.main.get_command(app)
    options = {
        name: {o for p in made.params for o in (*p.opts, *p.secondary_opts)} for name, made in program.commands.items()
    }
    shown = set()
    for page in sorted(DOCS.rglob("*.md")):
        for block in re.findall(r"^```(?:sh)?\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                call = re.match(r"(?:srun |torchrun .*--no-python )?medldm ([a-z]+)\b([^#]*)", line)
                if call:
                    said = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", call[2]))
                    assert said - {"--help"} <= options[call[1]], f"{page.name}: {line}"
                    shown.add(call[1])
    assert {"denoise", "train", "plan", "synthesize", "evaluate", "import"} <= shown
