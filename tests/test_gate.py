"""The gate between autoencoder and denoiser: what it measures and says, whom it stops, and that it disturbs nothing."""

import json

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.errors import RunError
from medldm.geometry import Geometry
from medldm.nets.build import build_autoencoder
from medldm.recipe import parse_recipe
from medldm.training.checkpoint import CHECKPOINT
from medldm.training.data import load_scans
from medldm.training.gate import MOST_SCANS, examine
from medldm.training.latents import measure_latents
from medldm.training.scan import Scan
from medldm.volume import Volume
from tests.tiny import tiny_table

# learns next to nothing in six steps
MONAI = {"kind": "monai", "channels": 4, "widths": [8, 8, 8], "num_res_blocks": 1, "norm_groups": 4}


def with_autoencoder(table, autoencoder):
    return table | {"pack": table["pack"] | {"autoencoder": autoencoder}}


def idle(table):
    """The recipe with an autoencoder's stage alone that does anything."""
    first, *others = table["stage"]
    return table | {"stage": [first, *(stage | {"steps": 0} for stage in others)]}


FLAT = pytest.mark.parametrize("data", [2], indirect=True)  # what does not ask how many dimensions there are


class Stop(Exception):
    pass


@pytest.fixture(scope="module", params=[2, 3])
def data(request, tmp_path_factory):
    """A folder of six small scans and the recipe for them."""
    folder = tmp_path_factory.mktemp(f"gate{request.param}")
    rng = np.random.default_rng(0)
    for index in range(6):
        shape = (32, 28, 1) if request.param == 2 else (28, 26, 24)
        ramps = np.add.outer(np.add.outer(np.linspace(0, 1, shape[0]), np.linspace(1, 0, shape[1])), np.zeros(shape[2]))
        array = ((ramps + 0.1 * rng.random(shape)) * 100).astype(np.float32)
        unit, name = ("grey8", f"{index}.png") if request.param == 2 else ("arbitrary", f"{index}.nii.gz")
        medldm.write(Volume(array, Geometry.from_spacing(shape, (1, 1, 1)), unit), folder / name)
    return folder, tiny_table(request.param)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """What an undisturbed training leaves: model, folder, and the steps that it told of."""
    folder, table = data
    out, seen = tmp_path_factory.mktemp("whole") / "out", []
    return medldm.train(table, data=folder, out=out, progress=watched(seen)), out, seen


def watched(seen, stop_at=None):
    def progress(stage, done, total):
        seen.append((stage, done))
        if stop_at == (stage, done):
            raise Stop

    return progress


def test_the_gate_says_what_it_measured_on_held_out_scans_and_nothing_of_patients(data, whole):
    (folder, table), (model, out, seen) = data, whole
    assert [done for stage, done in seen if stage == "gate"] == [1, 2]
    figures = json.loads((out / "gate.json").read_text())
    page = (out / "gate.html").read_text()
    assert (figures["go"], figures["reasons"], figures["cases"], figures["held_out"]) == (True, [], 2, True)
    assert "Go." in page and "2 of 2 held-out scans" in page
    assert page.count("data:image/png") == 6  # scan, reconstruction and difference of both cases
    assert "case 1" in page and "case 2" in page
    held_out = load_scans(parse_recipe(table), folder, part="validation")
    hashes = [scan.name.split("patient ")[1].rstrip(")") for scan in held_out]
    assert all(len(name) > 6 and name not in page + json.dumps(figures) for name in hashes)
    for scan, row in zip(held_out, figures["scans"], strict=True):
        again = model.networks.autoencoder.reconstruct(scan.image[None, None])[0, 0]
        psnr = peak_signal_noise_ratio(scan.image.numpy(), again.numpy(), data_range=1)
        assert row["psnr"] == pytest.approx(psnr, abs=0.1)  # a pack's weights are in half precision
    assert figures["linear_psnr"] < figures["psnr"] + 1
    assert len(figures["white_latents"]["correlation"]) == 4
    assert "reconstruction gate, 2 held-out scans" in model.card and "Go." in model.card


@FLAT
def test_without_held_out_scans_the_report_says_so(data, tmp_path):
    folder, table = data
    model = medldm.train(idle(table) | {"validation_fraction": 0}, data=folder, out=tmp_path / "out")
    assert "6 training scans, as none are held out" in (tmp_path / "out" / "gate.html").read_text()
    assert not json.loads((tmp_path / "out" / "gate.json").read_text())["held_out"]
    assert "reconstruction gate, 6 training scans" in model.card


@FLAT
def test_stopped_in_or_after_the_gate_a_training_ends_with_the_same_weights_and_passes_it_once(data, whole, tmp_path):
    folder, table = data
    table = table | {"checkpoint_seconds": 1e-6}
    for stop_at in (("gate", 1), ("denoiser", 2)):
        with pytest.raises(Stop):
            medldm.train(table, data=folder, out=tmp_path / "parts", progress=watched([], stop_at))
    seen = []
    parts = medldm.train(table, data=folder, out=tmp_path / "parts", progress=watched(seen))
    assert parts.weights_sha256 == whole[0].weights_sha256
    assert {stage for stage, _ in seen} == {"denoiser", "head-main"}
    assert "reconstruction gate" in parts.card


@FLAT
def test_a_no_go_stops_before_the_denoiser_and_can_be_overruled(data, tmp_path):
    folder, table = data
    table = with_autoencoder(table, MONAI)
    seen = []
    with pytest.raises(RunError, match=r"no-go: a block PCA .*gate\.html; go on with --despite-gate") as refused:
        medldm.train(table, data=folder, out=tmp_path / "parts", progress=watched(seen))
    assert "\n" not in str(refused.value)
    assert {stage for stage, _ in seen} == {"autoencoder", "gate"}
    assert {"checkpoint.pt", "gate.html", "gate.json"} <= {p.name for p in (tmp_path / "parts").iterdir()}
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    assert "No-go" in (tmp_path / "parts" / "gate.html").read_text()
    seen = []
    parts = medldm.train(table, data=folder, out=tmp_path / "parts", despite_gate=True, progress=watched(seen))
    assert "autoencoder" not in {stage for stage, _ in seen}  # its checkpoint was kept
    assert "Warning: trained although the autoencoder did not pass the gate" in parts.card
    assert "No-go: a block PCA" in parts.card
    whole = medldm.train(table, data=folder, out=tmp_path / "whole", despite_gate=True)
    assert parts.weights_sha256 == whole.weights_sha256


@FLAT
def test_where_nothing_is_trained_on_it_a_no_go_is_only_said(data, tmp_path):
    folder, table = data
    model = medldm.train(idle(with_autoencoder(table, MONAI)), data=folder, out=tmp_path / "out")
    assert "No-go" in model.card and "although" not in model.card


@FLAT
def test_the_command_line_ends_with_1_and_one_line(data, tmp_path):
    folder, table = data
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml_of(with_autoencoder(table, MONAI)))
    words = ["train", str(recipe), "--data", str(folder), "--out", str(tmp_path / "out"), "--quiet"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert done.output.startswith("error: autoencoder: got no-go: ") and done.output.strip().count("\n") == 0
    assert str(tmp_path / "out" / "gate.html") in done.output
    assert CliRunner().invoke(app, [*words, "--despite-gate"]).exit_code == 0
    assert "--despite-gate`" in medldm.load_model(tmp_path / "out").card


def toml_of(table):
    """Enough of TOML for a recipe: inline values, None left out."""

    def value(of):
        if isinstance(of, dict):
            return f"{{ {', '.join(f'{k} = {value(v)}' for k, v in of.items() if v is not None)} }}"
        return f"[{', '.join(map(value, of))}]" if isinstance(of, list) else json.dumps(of)

    return "\n".join(f"{k} = {value(v)}" for k, v in table.items() if v is not None)


def made(table, images):
    """An autoencoder that begins from images, its latents white on them; its pack, and the images as scans."""
    recipe = parse_recipe(table)
    torch.manual_seed(0)
    autoencoder = build_autoencoder(recipe.pack)
    scans = [Scan(image, None, recipe.sources[0], f"scan {n} (patient a1b2)") for n, image in enumerate(images)]
    edge = autoencoder.factor[0]
    blocks = torch.cat([image.unfold(0, edge, edge).unfold(1, edge, edge).reshape(-1, edge**2) for image in images])
    autoencoder.begin(blocks)
    measure_latents(autoencoder, scans)
    return recipe.pack, autoencoder, scans


def textures(count, edge=32):
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand((count, 1, edge // 4, edge // 4), generator=generator)
    return list(torch.nn.functional.interpolate(coarse, (edge, edge), mode="bicubic")[:, 0])


def test_it_draws_no_number_that_a_training_would_see(tmp_path):
    pack, autoencoder, scans = made(tiny_table(2), textures(4))
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in autoencoder.train().state_dict().items()}
    examine(pack, autoencoder, scans, scans, tmp_path, held_out=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in autoencoder.state_dict().items())
    assert autoencoder.training


def test_a_codebook_is_not_changed_by_being_measured(tmp_path):
    table = tiny_table(2)
    table["pack"]["autoencoder"] |= {"quantizer": {"kind": "codebook", "size": 8}}
    pack, autoencoder, scans = made(table, textures(4))
    with torch.no_grad():
        autoencoder.train().reconstruct(scans[0].image[None, None])  # the codebook begins with the first latents
    weights = {k: v.clone() for k, v in autoencoder.state_dict().items()}
    examine(pack, autoencoder, scans, scans, tmp_path, held_out=True)
    assert all(torch.equal(value, weights[name]) for name, value in autoencoder.state_dict().items())


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("nan", "are not finite"),
        ("dead", "channel 1 is constant"),
        ("range", "leave their scan's range"),
        ("statistics", "far from white"),
    ],
)
def test_a_fault_in_the_network_is_found_and_shown(tmp_path, fault, says):
    pack, autoencoder, scans = made(tiny_table(2), textures(4))
    with torch.no_grad():
        if fault == "nan":
            autoencoder.decoder[-1].bias[0] = float("nan")
        elif fault == "dead":
            autoencoder.analysis[1] = 0
            measure_latents(autoencoder, scans)
        elif fault == "range":
            autoencoder.synthesis *= 8
        else:
            autoencoder.latent_mean += 4.0
    found = examine(pack, autoencoder, scans, scans, tmp_path, held_out=True)
    assert not found["go"] and any(says in reason for reason in found["reasons"])
    assert (tmp_path / "gate.html").read_text().count("data:image/png") == 9
    assert json.loads((tmp_path / "gate.json").read_text())["reasons"] == found["reasons"]


def test_of_many_scans_some_are_measured_and_a_kid_of_enough_images(tmp_path, monkeypatch):
    pack, autoencoder, scans = made(tiny_table(2), textures(12, edge=16))
    monkeypatch.setitem(MOST_SCANS, 2, 8)
    examine(pack, autoencoder, scans, scans, tmp_path, held_out=True)
    figures = json.loads((tmp_path / "gate.json").read_text())
    assert [row["name"] for row in figures["scans"]] == [f"case {n}" for n in (1, 2, 4, 5, 7, 8, 10, 11)]
    assert figures["kid"] is None and "8 images; below 50" in figures["without_kid"]
    monkeypatch.setattr("medldm.evaluate.autoencoder.FEWEST", 8)
    examine(pack, autoencoder, scans, scans, tmp_path, held_out=True)
    figures = json.loads((tmp_path / "gate.json").read_text())
    assert figures["kid"]["n"] == 8 and figures["kid"]["low"] <= figures["kid"]["high"]
    assert "KID of the reconstructions, times 1000" in (tmp_path / "gate.html").read_text()


def test_a_finished_checkpoint_keeps_the_verdict(whole):
    state = torch.load(whole[1] / CHECKPOINT, weights_only=True)
    assert state["done"]["gate"]["go"] is True
