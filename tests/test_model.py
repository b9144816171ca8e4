"""Packs: what is saved comes back, what is damaged is refused, nothing executes."""

import json

import pytest
import torch

import medldm
from medldm.errors import InputError, ModelError
from medldm.model import Model, Networks
from medldm.recipe import parse_recipe
from tests.tiny import tiny_model, tiny_table


def test_a_pack_comes_back_as_it_was_saved(tmp_path):
    recipe = parse_recipe(tiny_table(3))
    torch.manual_seed(0)
    networks = Networks(recipe)
    loaded = medldm.load_model(Model("tiny", networks, recipe, "# card\n", "").save(tmp_path / "pack"))
    assert loaded.recipe == recipe
    assert loaded.card == "# card\n"
    assert len(loaded.weights_sha256) == 64
    for name, value in loaded.networks.state_dict().items():
        torch.testing.assert_close(value, networks.state_dict()[name], rtol=1e-3, atol=1e-6)
    assert not any(p.requires_grad for p in loaded.networks.parameters())
    assert not loaded.networks.training


def test_unknown_names_are_refused_with_what_there_is():
    with pytest.raises(ModelError, match="no such name"):
        medldm.load_model("brain-t2-9mm")


def test_a_folder_that_is_no_pack_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        medldm.load_model(tmp_path)


@pytest.mark.parametrize("damage", ["weights", "recipe", "shape"])
def test_damaged_packs_are_refused_in_one_line(tmp_path, damage):
    tiny_model(tmp_path, 2)
    folder = tmp_path / "tiny-2d"
    if damage == "weights":
        content = (folder / "weights.safetensors").read_bytes()
        (folder / "weights.safetensors").write_bytes(content[: len(content) // 2])
    table = json.loads((folder / "recipe.json").read_text())
    if damage == "recipe":
        table["surprise"] = 1
    if damage == "shape":
        table["head"]["channels"] = [16, 16]
    (folder / "recipe.json").write_text(json.dumps(table))
    with pytest.raises(ModelError) as refused:
        medldm.load_model(folder)
    assert "\n" not in str(refused.value)


def test_a_bad_device_is_refused(tmp_path):
    tiny_model(tmp_path, 2)
    with pytest.raises(ModelError, match="device"):
        medldm.load_model(tmp_path / "tiny-2d", device="abacus")


@pytest.mark.parametrize("dims", [2, 3])
def test_synthetic_scans_depend_on_their_own_seed(tmp_path, dims):
    model = tiny_model(tmp_path, dims)
    pair = list(medldm.synthesize(model=model, n=2, seed=5, steps=3))
    alone = next(medldm.synthesize(model=model, n=1, seed=5, steps=3))
    assert (pair[0].array == alone.array).all()
    assert (pair[1].array != pair[0].array).any()
    assert pair[0].array.shape == tuple(model.recipe.synthesis_shape)
    assert pair[0].history[-1]["synthetic"] is True


def test_a_synthetic_head_is_oriented_as_the_model(tmp_path):
    volume = next(medldm.synthesize(model=tiny_model(tmp_path, 3), n=1, steps=2))
    assert "".join(volume.geometry.axcodes) == "PSR"
    assert volume.geometry.spacing == pytest.approx((1, 1, 1))


def test_bad_requests_for_synthesis_are_refused_at_once(tmp_path):
    model = tiny_model(tmp_path, 2)
    with pytest.raises(InputError):
        medldm.synthesize(model=model, n=0)
    with pytest.raises(InputError, match="knows no conditions"):
        medldm.synthesize(model=model, n=1, conditions={"finding": "pneumonia"})
