"""Packs: what is saved comes back, what is damaged is refused, nothing executes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import medldm
from medldm.errors import InputError, ModelError
from medldm.installed import describe, folder_of
from medldm.model import Model
from medldm.networks import Networks
from medldm.recipe import parse_recipe
from tests.tiny import pack_of, tiny_model, tiny_table, with_alike_head, with_generator


def test_a_pack_comes_back_as_it_was_saved(tmp_path):
    pack = parse_recipe(tiny_table(3)).pack
    torch.manual_seed(0)
    networks = Networks(pack)
    loaded = medldm.load_model(Model("tiny", networks, pack, "# card\n", "").save(tmp_path / "pack"))
    assert loaded.pack == pack
    assert loaded.card == "# card\n"
    assert len(loaded.weights_sha256) == 64
    for name, value in loaded.networks.state_dict().items():
        torch.testing.assert_close(value, networks.state_dict()[name], rtol=1e-3, atol=1e-6)
    assert not any(p.requires_grad for p in loaded.networks.parameters())
    assert not loaded.networks.training


def test_weights_may_lie_in_several_files(tmp_path):
    """A head that was added later, beside a file that stays as it is; saved again they are one file."""
    whole = pack_of(tmp_path / "whole", with_alike_head(tiny_table(2)))
    folder = tmp_path / "parts"
    shutil.copytree(tmp_path / "whole", folder)
    weights = load_file(folder / "weights.safetensors")
    late = {name: weights.pop(name) for name in list(weights) if name.startswith("heads.alike.")}
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(ModelError, match="damaged"):
        medldm.load_model(folder)
    save_file(late, folder / "weights-alike.safetensors")
    parts = medldm.load_model(folder)
    for name, value in whole.networks.state_dict().items():
        assert torch.equal(value, parts.networks.state_dict()[name])
    assert parts.weights_sha256 != whole.weights_sha256
    changed = (folder / "weights-alike.safetensors").read_bytes()
    (folder / "weights-alike.safetensors").write_bytes(changed[:-1] + bytes([changed[-1] ^ 1]))
    assert medldm.load_model(folder).weights_sha256 != parts.weights_sha256
    parts.save(folder)
    assert not (folder / "weights-alike.safetensors").exists()
    again = medldm.load_model(folder).networks.heads["alike"].to_full.weight
    assert torch.equal(again, late["heads.alike.to_full.weight"].float())


def test_layers_in_8_bits_are_half_the_size_and_hardly_off(tmp_path):
    model = pack_of(tmp_path / "half", with_generator(tiny_table(3)), scale=0.3)
    model.save(tmp_path / "bytes", eight_bits=True)
    size = {name: (tmp_path / name / "weights.safetensors").stat().st_size for name in ("half", "bytes")}
    assert size["bytes"] < 0.7 * size["half"]  # names and small tensors are what they are
    before, again = (m.networks.state_dict() for m in (model, medldm.load_model(tmp_path / "bytes")))
    for name, value in before.items():
        rows = value.flatten(1) if value.ndim > 1 else value[None]
        off = (again[name] - value).abs().reshape(rows.shape).amax(1)
        assert bool((off <= rows.abs().amax(1) / 200 + 1e-6).all()), name
    left = load_file(tmp_path / "bytes" / "weights.safetensors")
    save_file({k: v for k, v in left.items() if not k.endswith(":scale")}, tmp_path / "bytes" / "weights.safetensors")
    with pytest.raises(ModelError, match="damaged"):
        medldm.load_model(tmp_path / "bytes")


def test_unknown_names_are_refused_with_what_there_is():
    with pytest.raises(ModelError, match="no such name"):
        medldm.load_model("brain-t2-9mm")


def test_a_data_set_of_the_same_name_hides_no_installed_model(tmp_path, monkeypatch):
    (tmp_path / "chest-xray-256" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert folder_of("chest-xray-256") != Path("chest-xray-256")
    (tmp_path / "chest-xray-256" / "pack.json").write_text("{}", encoding="utf-8")  # a model of one's own, damaged
    with pytest.raises(ModelError, match=r"no weights\.safetensors"):
        folder_of("chest-xray-256")


def test_a_folder_that_is_no_pack_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        medldm.load_model(tmp_path)


@pytest.mark.parametrize("damage", ["weights", "pack", "shape", "format"])
def test_damaged_packs_are_refused_in_one_line(tmp_path, damage):
    tiny_model(tmp_path, 2)
    folder = tmp_path / "tiny-2d"
    if damage == "weights":
        content = (folder / "weights.safetensors").read_bytes()
        (folder / "weights.safetensors").write_bytes(content[: len(content) // 2])
    table = json.loads((folder / "pack.json").read_text())
    if damage == "pack":
        table["surprise"] = 1
    if damage == "shape":
        table["heads"]["main"]["channels"] = [16, 16]
    if damage == "format":
        table["format"] = 4
    (folder / "pack.json").write_text(json.dumps(table))
    with pytest.raises(ModelError) as refused:
        medldm.load_model(folder)
    assert "\n" not in str(refused.value)
    assert damage != "format" or "format 3" in str(refused.value)


def test_a_pack_of_the_first_format_is_told_as_one(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="format 1; expected format 3"):
        medldm.load_model(tmp_path)


def test_a_model_that_was_not_trained_for_a_task_says_so(tmp_path):
    """Of each task: nothing is claimed that is not in the pack."""
    table = tiny_table(2)
    table["pack"] = {key: value for key, value in table["pack"].items() if key != "synthesis"}
    table["pack"]["problems"].pop("super_resolve")
    for stage in table["stage"][1:]:
        stage["problems"] = {"denoise": 1.0}
    pack = parse_recipe(table).pack
    folder = Model("alone", Networks(pack), pack, "", "").save(tmp_path / "alone")
    model, image = medldm.load_model(folder), torch.rand(16, 16).numpy()
    assert describe(str(folder)).tasks == "denoise"
    with pytest.raises(ModelError, match="no training for synthesis"):
        medldm.synthesize(model=model, n=1)
    with pytest.raises(ModelError, match=r"no training for super resolve.*this one: denoise"):
        medldm.super_resolve(image, model=model, scale=2)
    with pytest.raises(ModelError, match="no training for inpaint"):
        medldm.inpaint(image, image > 0.5, model=model)


def test_a_device_is_not_ignored_with_a_loaded_model(tmp_path):
    model = tiny_model(tmp_path, 2)
    assert model.on("cpu") is model and model.on(None) is model
    moved = model.on("meta")
    assert (moved.device.type, model.device.type) == ("meta", "cpu")
    with pytest.raises(ModelError, match="device"):
        medldm.denoise(torch.rand(16, 16).numpy(), model=model, device="abacus")


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
    assert pair[0].array.shape == tuple(model.pack.synthesis.shape)
    assert pair[0].history[-1]["synthetic"] is True


def test_a_synthetic_head_is_oriented_as_the_model(tmp_path):
    volume = next(medldm.synthesize(model=tiny_model(tmp_path, 3), n=1, steps=2))
    assert "".join(volume.geometry.axcodes) == "PSR"
    assert volume.geometry.spacing == pytest.approx((1, 1, 1))


def test_bad_requests_for_synthesis_are_refused_at_once(tmp_path):
    model = tiny_model(tmp_path, 2)
    with pytest.raises(InputError):
        medldm.synthesize(model=model, n=0)
    with pytest.raises(InputError, match="one of: none"):
        medldm.synthesize(model=model, n=1, conditions={"finding": "pneumonia"})
