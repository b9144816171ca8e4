"""Importing: nothing in a file is executed, latents are white on the user's scans, packs come back whole."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.stats import kurtosis
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

from medldm.cli import app
from medldm.errors import AmbiguousInput, EmptyInput, InputError, ModelError, UnsafeInput
from medldm.evaluate.autoencoder import measure_autoencoder
from medldm.installed import describe, read_tables
from medldm.model import Model, load_autoencoder, load_model, save_autoencoder
from medldm.nets.imported.weights import open_weights
from medldm.networks import Networks
from medldm.operators.problem import problems_of
from medldm.recipe import parse_recipe
from medldm.training.importing import Wishes, adopt, recognised
from medldm.training.stages import build_stage, stage_batches
from tests.foreign_nets import GROUPS, assert_equals_diffusers, diffusers_net, monai_net, ours, rand
from tests.tiny import tiny_model, tiny_table


class Bomb:
    """A pickle that, loaded with code allowed, writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_pickle_that_needs_code_is_refused_and_not_executed(tmp_path, kind):
    content = monai_net(2).state_dict() | {"metadata": Bomb(tmp_path / "executed")}
    path = tmp_path / "model.pt"
    if kind == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UnsafeInput, match="needs code") as refused:
        open_weights(path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "executed").exists()
    (tmp_path / "again").touch()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed"))).close()
    assert (tmp_path / "executed").exists()  # the bomb does go off where it may


def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "model.pt"))
    with pytest.raises(UnsafeInput, match="TorchScript"):
        open_weights(tmp_path / "model.pt")


def test_what_is_no_autoencoder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_weights(tmp_path / "absent")
    with pytest.raises(EmptyInput):
        open_weights(tmp_path)
    save_file({"head.weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="encoder and decoder"):
        open_weights(tmp_path)
    save_file({"encoder.weight": torch.zeros(2), "decoder.weight": torch.zeros(2)}, tmp_path / "b.safetensors")
    with pytest.raises(AmbiguousInput, match=r"a\.safetensors, b\.safetensors"):
        open_weights(tmp_path)
    with pytest.raises(ModelError, match="no known family"):
        recognised(open_weights(tmp_path / "b.safetensors"))
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "b.safetensors").read_bytes()[:30])
    with pytest.raises(ModelError, match="cannot be read"):
        open_weights(tmp_path / "b.safetensors")


def test_what_the_weights_do_not_say_has_to_be_said(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(monai_net(2).state_dict(), path)
    with pytest.raises(ModelError, match="norm_num_groups"):
        ours(path)
    with pytest.raises(ModelError, match=r"num_res_blocks: got .*expected \[1, 1, 2\]"):
        ours(path, GROUPS | {"num_res_blocks": [2, 2, 2]})
    with pytest.raises(InputError, match="norm_groups"):
        ours(path, {"norm_groups": 4})
    with pytest.raises(ModelError, match="multiple of norm_num_groups"):
        ours(path, {"norm_num_groups": 5})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"act_fn": "gelu"}, "act_fn"),
        ({"_class_name": "AutoencoderTiny"}, "_class_name"),
        ({"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}, "down_block_types"),
        ({"surprise": 1}, "surprise"),
        ({"norm_num_groups": 3}, "norm_num_groups"),
    ],
)
def test_another_network_of_diffusers_is_refused(tmp_path, change, reason):
    diffusers_net(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=reason):
        ours(tmp_path)


@pytest.fixture
def pictures(tmp_path):
    """A folder of five smooth pictures, sizes that do not divide."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(5):
        field = torch.nn.functional.interpolate(rand(1, 1, 4, 5, seed=number), (30, 37 + number), mode="bicubic")
        Image.fromarray((255 * field[0, 0].clamp(0, 1)).numpy().astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def run(*words):
    return CliRunner().invoke(app, ["import", *map(str, words)])


def test_import_writes_a_pack_with_white_latents_and_a_report(tmp_path, pictures):
    network = diffusers_net(tmp_path / "vae")
    out = tmp_path / "pack"
    done = run(tmp_path / "vae", "--as", "mine", "--data", pictures, "--out", out, "--modality", "DX", "--json")
    assert done.exit_code == 0, done.output
    assert {p.name for p in out.iterdir()} == {"weights.safetensors", "pack.json", "card.md", "report.html"}
    loaded = load_autoencoder(out)
    assert (loaded.name, loaded.pack, loaded.pack.modality) == ("mine", read_tables(str(out)), ("DX",))
    assert_equals_diffusers(network, loaded.autoencoder)

    latents, figures = [], []
    for path in sorted(pictures.iterdir()):
        x = torch.from_numpy(np.asarray(Image.open(path), dtype=np.float32) / 255).T[None, None]
        figures.append(peak_signal_noise_ratio(x.numpy(), loaded.autoencoder.reconstruct(x).numpy(), data_range=1))
        padded = np.pad(x[0, 0].numpy(), [(0, -s % 4) for s in x.shape[2:]], mode="symmetric")
        latents.append(loaded.autoencoder.encode(torch.from_numpy(padded)[None, None])[0][0].flatten(1).numpy())
    over = np.concatenate(latents, axis=1, dtype=np.float64)
    np.testing.assert_allclose(over.mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(over.std(1), 1, atol=1e-4)
    facts = json.loads(done.stdout)
    np.testing.assert_allclose([scan["psnr"] for scan in facts["scans"]], figures, atol=1e-3)
    np.testing.assert_allclose(facts["white_latents"]["kurtosis"], kurtosis(over, axis=1), atol=1e-2)
    np.testing.assert_allclose(facts["latents"]["std"], loaded.autoencoder.latent_std.numpy(), rtol=1e-5)
    worst = min(range(5), key=lambda n: figures[n])
    report = (out / "report.html").read_text()
    assert report.count("data:image/png") == 9
    assert f"Among the worst: scan {worst + 1} " in report
    assert f"{np.mean(figures):.2f}" in loaded.card
    assert facts["warnings"] and facts["warnings"][0] in loaded.card  # random weights are worse than the block PCA


@torch.no_grad()
def test_what_stands_beside_it_is_the_block_pca(tmp_path):
    diffusers_net(tmp_path, block_out_channels=(8, 8))
    autoencoder = ours(tmp_path)
    images = [rand(8, 12, seed=n) for n in range(3)]
    quality = measure_autoencoder(autoencoder, images, ["a", "b", "c"])
    blocks = [image.numpy().reshape(4, 2, 6, 2).swapaxes(1, 2).reshape(-1, 4) for image in images]
    every = np.concatenate(blocks)
    mean = every.mean(0)
    axes = np.linalg.svd(every - mean)[2][:3]
    again = [mean + (b - mean) @ axes.T @ axes for b in blocks]
    psnr = [peak_signal_noise_ratio(b, a, data_range=1) for a, b in zip(again, blocks, strict=True)]
    assert quality.linear_psnr == pytest.approx(np.mean(psnr), abs=1e-3)


@pytest.mark.parametrize(("modality", "intensity"), [("CT", ("window", -1000, False)), ("MR", ("percentile", 0, True))])
def test_scans_say_spacing_orientation_and_range_and_can_be_cropped(tmp_path, dicom_series, modality, intensity):
    network = monai_net(3, channels=(8, 8), attention_levels=(False, False), num_res_blocks=1)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    dicom_series("scans/one", modality=modality)
    adopted = adopt(
        tmp_path / "w.pt", name="mine", data=tmp_path / "scans", config=dict(GROUPS), wishes=Wishes(crop=(6, 4, 3))
    )
    assert [scan.image.shape for scan in adopted.scans] == [(6, 4, 3)]
    assert "".join(adopted.geometries[0].axcodes) == "RAS" == adopted.pack.axcodes
    assert adopted.pack.spacing == pytest.approx(adopted.geometries[0].spacing)
    table = adopted.pack.intensity
    assert (table.kind, table.low, table.zero_floor) == intensity
    assert adopted.pack.modality == (modality,)


@pytest.mark.parametrize("damage", ["pickle", "scans", "family", "config", "intensity", "modality"])
def test_a_failed_import_leaves_nothing_and_says_why_in_one_line(tmp_path, pictures, damage):
    diffusers_net(tmp_path / "vae")
    weights, data, more = tmp_path / "vae", pictures, []
    if damage == "pickle":
        weights = tmp_path / "w.pt"
        torch.save({"encoder.a": Bomb(tmp_path / "executed")}, weights)
    elif damage == "scans":
        next(pictures.iterdir()).write_bytes(b"no picture")
    else:
        more = {
            "family": ["--family", "diffuser-kl"],
            "config": ["--config", "[1"],
            "modality": ["--modality", "X-ray"],
            "intensity": ["--intensity", "window:1"],
        }[damage]
    before = sorted(tmp_path.rglob("*"))
    done = run(weights, "--as", "mine", "--data", data, "--out", tmp_path / "pack", "--quiet", *more)
    assert done.exit_code == 2
    assert done.output.strip().count("\n") == 0 and done.output.startswith("error: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_existing_pack_is_replaced_on_request_alone(tmp_path, pictures):
    diffusers_net(tmp_path / "vae")
    words = (tmp_path / "vae", "--as", "mine", "--data", pictures, "--out", tmp_path / "pack", "--quiet")
    (tmp_path / "pack").mkdir()
    assert run(*words).exit_code == 2
    assert run(*words, "--overwrite").exit_code == 0
    assert load_autoencoder(tmp_path / "pack").name == "mine"


@pytest.mark.parametrize("dims", [2, 3])
def test_the_autoencoder_of_a_whole_model_is_loaded_alone_and_saved_alone(tmp_path, dims):
    model = tiny_model(tmp_path, dims)
    loaded = load_autoencoder(tmp_path / model.name)
    save_autoencoder(tmp_path / "alone", loaded.pack, loaded.autoencoder, loaded.card)
    again = load_autoencoder(tmp_path / "alone")
    assert again.pack == loaded.pack and again.card == "# tiny\n"
    for one in (loaded, again):
        for name, value in model.networks.autoencoder.state_dict().items():
            assert torch.equal(one.autoencoder.state_dict()[name], value), name
        assert not any(p.requires_grad for p in one.autoencoder.parameters())


def test_a_pack_of_an_autoencoder_says_that_it_restores_nothing(tmp_path):
    model = tiny_model(tmp_path, 2)
    loaded = load_autoencoder(tmp_path / model.name)
    folder = save_autoencoder(tmp_path / "alone", loaded.pack, loaded.autoencoder, loaded.card)
    with pytest.raises(ModelError, match="an autoencoder alone.*train one on it"):
        load_model(folder)
    found = describe(str(folder))
    assert not found.problem
    assert "an autoencoder alone" in found.tasks


@pytest.mark.parametrize("damage", ["weights", "family", "key", "channels"])
def test_a_damaged_pack_is_refused_in_one_line(tmp_path, pictures, damage):
    diffusers_net(tmp_path / "vae")
    run(tmp_path / "vae", "--as", "mine", "--data", pictures, "--out", tmp_path / "pack", "--quiet")
    table = json.loads((tmp_path / "pack" / "pack.json").read_text())
    if damage == "weights":
        content = (tmp_path / "pack" / "weights.safetensors").read_bytes()
        (tmp_path / "pack" / "weights.safetensors").write_bytes(content[:-100])
    elif damage == "family":
        table["autoencoder"]["family"] = "no-such-family"
    elif damage == "key":
        table["autoencoder"]["config"]["surprise"] = 1
    else:
        table["autoencoder"]["channels"] = 5
    (tmp_path / "pack" / "pack.json").write_text(json.dumps(table))
    with pytest.raises(ModelError) as refused:
        load_autoencoder(tmp_path / "pack")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_diffusion_stage_learns_on_imported_latents_and_the_model_comes_back(tmp_path, pictures, dicom_series, dims):
    data = pictures if dims == 2 else dicom_series("scans3/one", rows=24, columns=24, n=16).parent
    network = monai_net(dims, channels=(8, 8, 8), attention_levels=(False,) * 3, num_res_blocks=1)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    adopted = adopt(tmp_path / "w.pt", name="mine", data=data, config=dict(GROUPS))
    table = tiny_table(dims)
    table["pack"]["autoencoder"] = adopted.pack.autoencoder.model_dump(mode="json")
    recipe = parse_recipe(table)
    networks, problems = Networks(recipe.pack), problems_of(recipe.pack)
    networks.autoencoder.load_state_dict(adopted.autoencoder.state_dict())
    stage = build_stage(recipe.stages[1], networks, problems).train()
    batches = stage_batches(recipe, adopted.scans, 1, problems)
    losses = []
    optimizer = torch.optim.Adam(networks.denoiser.parameters(), 1e-2)
    for _ in range(30):
        loss = stage(stage.batch(batches, 0))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    before = adopted.autoencoder.state_dict()
    loaded = load_model(Model("mine", networks, recipe.pack, "", "").save(tmp_path / "model"), "cpu")
    alone = load_autoencoder(tmp_path / "model").autoencoder
    x = rand(1, 1, *(16,) * dims)
    for autoencoder in (loaded.networks.autoencoder, alone):
        assert all(torch.equal(value, before[name]) for name, value in autoencoder.state_dict().items())
        torch.testing.assert_close(autoencoder.reconstruct(x), adopted.autoencoder.reconstruct(x), rtol=0, atol=1e-5)


def test_a_broken_family_harms_nobody_and_a_new_one_is_found(tmp_path, monkeypatch):
    info = tmp_path / "visitor-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: visitor\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[medldm.autoencoders]\naaa-broken = visitor_broken_family\nvisitor = visitor_family\n"
    )
    (tmp_path / "visitor_broken_family.py").write_text("raise RuntimeError('no such library')\n")
    (tmp_path / "visitor_family.py").write_text("recognise = lambda w: 'encoder.visit' in w.state\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save(monai_net(2).state_dict(), tmp_path / "w.pt")
    assert recognised(open_weights(tmp_path / "w.pt")) == "monai-kl"
    save_file({"encoder.visit": torch.zeros(1), "decoder.visit": torch.zeros(1)}, tmp_path / "v.safetensors")
    assert recognised(open_weights(tmp_path / "v.safetensors")) == "visitor"
