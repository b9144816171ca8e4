"""A diffusion stage on an autoencoder that is there already: imported, or of a whole model."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.errors import ModelError, RecipeError, RunError
from medldm.model import load_autoencoder, save_autoencoder
from medldm.networks import Networks
from medldm.operators.measurement import Measurement
from medldm.training.start import resolve, start_from
from tests.foreign_nets import diffusers_net, monai_net, rand
from tests.test_gate import toml_of
from tests.tiny import idle_but, tiny_model, tiny_table, with_pack, with_stages


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of six smooth pictures, sizes that do not divide."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(6):
        field = torch.nn.functional.interpolate(rand(1, 1, 4, 5, seed=number), (30, 37 + number), mode="bicubic")
        Image.fromarray((255 * field[0, 0].clamp(0, 1)).numpy().astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def run(*words):
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture(scope="module")
def imported(tmp_path_factory, pictures):
    """A pack that `medldm import` made of random weights."""
    folder = tmp_path_factory.mktemp("imported")
    diffusers_net(folder / "vae", block_out_channels=(8, 8))
    done = run("import", folder / "vae", "--as", "mine", "--data", pictures, "--out", folder / "mine", "--quiet")
    assert done.exit_code == 0, done.output
    return folder / "mine"


def table_of_start(**more):
    """`more` are keys of the pack."""
    idle = with_stages(tiny_table(2), autoencoder={"steps": 0})
    return with_pack(idle, **{"autoencoder": {"kind": "start"}, **more})


def test_from_another_library_to_a_denoised_picture_on_the_command_line(tmp_path, pictures, imported):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml_of(table_of_start()))
    words = ["train", recipe, "--data", pictures, "--out", tmp_path / "out", "--start", imported, "--quiet"]
    refused = run(*words)
    assert refused.exit_code == 1 and "no-go: a block PCA" in refused.output  # the weights are random
    done = run(*words, "--despite-gate")
    assert done.exit_code == 0, done.output
    noisy = next(pictures.iterdir())
    done = run("denoise", "-i", noisy, "-o", tmp_path / "clean.png", "--model", tmp_path / "out", "--quiet")
    assert done.exit_code == 0, done.output
    assert Image.open(tmp_path / "clean.png").size == Image.open(noisy).size
    before, after = load_autoencoder(imported), load_autoencoder(tmp_path / "out")
    state = after.autoencoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in before.autoencoder.state_dict().items())
    assert after.pack.autoencoder == before.pack.autoencoder
    assert f"started from the autoencoder of mine, weights sha256 {before.weights_sha256[:12]}" in after.card
    assert "--start mine --despite-gate`" in after.card


def test_a_network_of_monai_in_3d_and_an_explicit_table(tmp_path, dicom_series):
    data = dicom_series("scans/one", rows=24, columns=24, n=16).parent
    network = monai_net(3, channels=(8, 8, 8), attention_levels=(False,) * 3, num_res_blocks=1)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    words = ("--config", '{"norm_num_groups": 4}', "--as", "mine", "--data", data, "--out", tmp_path / "mine")
    assert run("import", tmp_path / "w.pt", *words, "--quiet").exit_code == 0
    pack = load_autoencoder(tmp_path / "mine")
    table = with_pack(tiny_table(3), **pack.pack.model_dump(mode="json") | {"name": "mine-3d"})
    few = {"crop": [16, 16, 16], "steps": 2}
    table = with_stages(table, autoencoder={"steps": 0}, denoiser=few, head=few)
    model = medldm.train(table, data=data, out=tmp_path / "out", start=tmp_path / "mine", despite_gate=True)
    state = model.networks.autoencoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in pack.autoencoder.state_dict().items())
    image = rand(12, 16, 20).numpy()
    clean = medldm.denoise(image, model=model, noise_std=0.1, spacing=pack.pack.spacing)
    assert clean.array.shape == image.shape and np.isfinite(clean.array).all()


def test_the_autoencoder_of_a_whole_model_can_be_taken_alone(tmp_path, pictures):
    donor = tiny_model(tmp_path, 2)
    unet = {"channels": [32, 32], "attention_levels": [False, False]}
    out, other = tmp_path / "out", table_of_start(unet=unet)
    model = medldm.train(other, data=pictures, out=out, start=tmp_path / donor.name, despite_gate=True)
    for name, value in donor.networks.autoencoder.state_dict().items():
        assert torch.equal(model.networks.autoencoder.state_dict()[name], value)
    assert model.pack.autoencoder == donor.pack.autoencoder
    assert json.loads((out / "pack.json").read_text())["autoencoder"]["kind"] == "pca"
    again = medldm.train(other, data=pictures, out=out, start=tmp_path / donor.name)
    assert again.weights_sha256 == model.weights_sha256


def test_a_good_autoencoder_goes_through_the_gate(tmp_path, pictures):
    first = idle_but(tiny_table(2), "autoencoder")
    medldm.train(first, data=pictures, out=tmp_path / "first")
    pack = load_autoencoder(tmp_path / "first")
    save_autoencoder(tmp_path / "alone", pack.pack, pack.autoencoder, "")
    model = medldm.train(table_of_start(), data=pictures, out=tmp_path / "out", start=tmp_path / "alone")
    assert "Go." in model.card


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dims": 3}, r"got 2 dimensions; expected the recipe's 3 dimensions"),
        ({"intensity": {"kind": "window", "low": 0, "high": 255}}, r"got intensity .*percentile.*expected .*window"),
        ({"spacing_range": [2.0, 3.0]}, r"got voxels of 1 to 1 mm; expected the recipe's 2 to 3"),
        ({"autoencoder": {"factor": 3, "channels": 3}}, r"got factor \(2, 2\); expected the recipe's \(3, 3\)"),
        ({"autoencoder": {"factor": 2, "channels": 4}}, r"got channels 3; expected the recipe's 4"),
        ({"autoencoder": {"factor": 2, "channels": 3}}, r'expected the recipe.s pca; write .*kind = "start"'),
    ],
)
def test_a_pack_that_does_not_match_the_recipe_is_refused(tmp_path, pictures, imported, change, says):
    with pytest.raises(ModelError, match=says) as refused:
        medldm.train(table_of_start(**change), data=pictures, out=tmp_path / "out", start=imported)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_a_recipe_that_takes_what_it_starts_from_needs_a_start(tmp_path, imported):
    with pytest.raises(RecipeError, match="give --start PACK"):
        resolve(table_of_start())
    with pytest.raises(RecipeError, match="autoencoder.channels beside"):
        resolve(table_of_start(autoencoder={"kind": "start", "channels": 4}), imported)
    with pytest.raises(ModelError, match="no such"):
        resolve(table_of_start(), tmp_path / "absent")
    recipe, alone = resolve(table_of_start(), imported)
    assert alone and recipe.pack.autoencoder == load_autoencoder(imported).pack.autoencoder
    assert resolve(tiny_table(2)) == (resolve(tiny_table(2), imported)[0], False)


def test_a_fine_tuned_autoencoder_is_gated_after_it_has_learned(tmp_path, pictures, imported):
    seen = []
    with pytest.raises(RunError, match="no-go"):
        medldm.train(
            with_stages(table_of_start(), autoencoder={"steps": 6}),
            data=pictures,
            out=tmp_path / "out",
            start=imported,
            progress=lambda stage, done, total: seen.append(stage),
        )
    assert list(dict.fromkeys(seen)) == ["autoencoder", "gate"]


def test_a_deeper_head_begins_where_the_shallower_one_ended(tmp_path, pictures):
    """Its answers are those of the head that it goes on from, to the bit; and what is new in it can learn."""
    shallow = tiny_model(tmp_path, 2)
    folder = tmp_path / shallow.name
    (name,) = shallow.networks.heads
    channels = shallow.pack.heads[name].channels
    deeper = with_pack(tiny_table(2), heads={name: {"channels": [*channels, 24]}})
    recipe, alone = resolve(deeper, folder)
    networks = Networks(recipe.pack)
    start_from(networks, recipe.pack, folder, autoencoder_alone=alone)
    y = rand(1, 1, 32, 32, seed=3)
    told = Measurement(y, torch.full((1, 1, 1, 1), 0.1), torch.ones(1, 2, 1, 1))
    with torch.no_grad():
        answers = [net.heads[name](0.5 * y, told, torch.ones(1))[0] for net in (shallow.networks, networks)]
    assert torch.equal(*answers)
    networks.heads[name](0.5 * y, told, torch.ones(1))[0].square().sum().backward()
    assert networks.heads[name].narrow[-1].weight.grad.abs().max() > 0

    other = with_pack(tiny_table(2), heads={name: {"channels": [*(2 * c for c in channels), 24]}})
    recipe, _ = resolve(other, folder)
    with pytest.raises(ModelError, match="networks of other sizes"):
        start_from(Networks(recipe.pack), recipe.pack, folder, autoencoder_alone=False)
