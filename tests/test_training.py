"""Training on tiny data: it learns, is interrupted, goes on, and ends where it would have ended."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import medldm
from medldm.errors import InputError, ModelError, RecipeError, RunError
from medldm.geometry import Geometry
from medldm.nets.patches import pad_to_multiple
from medldm.networks import Networks
from medldm.operators.problem import problems_of
from medldm.recipe import parse_recipe
from medldm.training.batches import Batches
from medldm.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint, sole_training
from medldm.training.data import load_scans
from medldm.training.loop import learning_rate
from medldm.volume import Volume
from tests.tiny import idle_but, tiny_table, with_alike_head, with_coarse_head, with_pack, with_stages


@pytest.fixture(scope="module", params=[2, 3])
def data(request, tmp_path_factory):
    """A folder of six small scans and the recipe for them."""
    folder = tmp_path_factory.mktemp(f"data{request.param}")
    rng = np.random.default_rng(0)
    for index in range(6):
        shape = (32, 28, 1) if request.param == 2 else (28, 26, 24)
        array = np.add.outer(np.add.outer(np.linspace(0, 1, shape[0]), np.linspace(1, 0, shape[1])), np.zeros(shape[2]))
        array = (array + 0.1 * rng.random(shape)).astype(np.float32) * 100
        if request.param == 2:
            medldm.write(Volume(array, Geometry.from_spacing(shape, (1, 1, 1)), "grey8"), folder / f"{index}.png")
        else:
            medldm.write(Volume(array, Geometry.from_spacing(shape, (1, 1, 1))), folder / f"{index}.nii.gz")
    return folder, tiny_table(request.param)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """What the recipe's training leaves: the model, and its folder."""
    folder, table = data
    out = tmp_path_factory.mktemp("trained") / "pack"
    return medldm.train(table, data=folder, out=out), out


# What the loop does alike in any number of dimensions: 3D has its turn where networks, crops or scans matter.
FLAT = pytest.mark.parametrize("data", [2], indirect=True)


class Stop(Exception):
    pass


def test_an_interrupted_training_ends_with_the_same_weights(data, trained, tmp_path):
    (folder, table), (whole, _) = data, trained
    table = table | {"checkpoint_seconds": 1e-6}
    for stop_at in (("autoencoder", 4), ("denoiser", 2), ("head-main", 5)):

        def stop(stage, done, total, stop_at=stop_at):
            if (stage, done) == stop_at:
                raise Stop

        with pytest.raises(Stop):
            medldm.train(table, data=folder, out=tmp_path / "parts", progress=stop)
    parts = medldm.train(table, data=folder, out=tmp_path / "parts")
    assert parts.weights_sha256 == whole.weights_sha256


def with_adversary(table, **more):
    adversary = {"weight": 1.0, "start": 0.0, "ramp": 0.0, "width": 4} | more
    return with_stages(table, autoencoder={"reconstruction": {"adversary": adversary}})


@FLAT
def test_an_interrupted_game_of_two_ends_with_the_same_weights(data, tmp_path):
    folder, table = data
    table = with_adversary(idle_but(table, "autoencoder"), start=0.4)
    whole = medldm.train(table, data=folder, out=tmp_path / "whole")
    table = table | {"checkpoint_seconds": 1e-6}
    for stop_at in (2, 4):  # before the adversary sets in, and after

        def stop(stage, done, total, stop_at=stop_at):
            if done == stop_at:
                raise Stop

        with pytest.raises(Stop):
            medldm.train(table, data=folder, out=tmp_path / "parts", progress=stop)
    parts = medldm.train(table, data=folder, out=tmp_path / "parts")
    assert parts.weights_sha256 == whole.weights_sha256
    recipe = parse_recipe(table).model_dump(mode="json")
    judges = [load_checkpoint(tmp_path / name, recipe) for name in ("whole", "parts")]
    assert parts.weights_sha256 == whole.weights_sha256
    assert all(state["done"]["losses"]["autoencoder"]["discriminator"] > 0 for state in judges)


def test_an_adversary_learns_and_moves_the_reconstructions(data, trained, tmp_path):
    (folder, table), (alone, _) = data, trained
    table = idle_but(table, "autoencoder", "head") | {"checkpoint_seconds": 1e-6}
    judges = []

    def watch(stage, done, total):
        path = tmp_path / "on" / CHECKPOINT
        if stage == "autoencoder" and done in (2, total):
            judges.append(torch.load(path, weights_only=True)["inside"]["weights"][1])

    opposed = medldm.train(with_adversary(table), data=folder, out=tmp_path / "on", progress=watch)
    assert all(not torch.equal(judges[0][name], judges[-1][name]) for name in judges[0] if name.endswith("weight"))
    x = load_scans(parse_recipe(table), folder)[0].image[None, None]
    one, two = (model.networks.autoencoder.reconstruct(x) for model in (alone, opposed))
    assert (one - two).abs().max() > 1e-4


@FLAT
def test_an_adversary_that_is_off_changes_nothing(data, trained, tmp_path):
    (folder, table), (alone, _) = data, trained
    table, wanted = idle_but(table, "autoencoder"), alone.networks.autoencoder.state_dict()
    for name, off in (("weightless", {"weight": 0.0}), ("late", {"start": 1.0})):
        opposed = medldm.train(with_adversary(table, **off), data=folder, out=tmp_path / name)
        found = opposed.networks.autoencoder.state_dict()
        assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_finished_training_leaves_a_pack_that_restores(data, trained):
    (_, table), (model, out) = data, trained
    assert "head" in model.card
    assert {"weights.safetensors", "pack.json", "training.json", "card.md"} <= {p.name for p in out.iterdir()}
    image = np.random.default_rng(1).random((16, 16) if table["pack"]["dims"] == 2 else (16, 16, 16))
    spacing = (1,) * table["pack"]["dims"]
    assert medldm.denoise(image, model=model, noise_std=0.1, spacing=spacing).array.shape == image.shape


def test_latents_are_white_over_the_training_set(data, trained):
    (folder, table), (model, _) = data, trained
    scans = load_scans(parse_recipe(table), folder)
    autoencoder = model.networks.autoencoder
    images = [pad_to_multiple(scan.image[None, None], autoencoder.factor)[0] for scan in scans]
    with torch.no_grad():
        z = torch.cat([autoencoder.encode(image)[0].flatten(2)[0] for image in images], dim=1)
    torch.testing.assert_close(z.mean(1), torch.zeros(4), atol=0.02, rtol=0)
    torch.testing.assert_close(z.std(1), torch.ones(4), atol=0.02, rtol=0)


def test_batches_depend_on_the_step_alone(data):
    folder, table = data
    recipe = parse_recipe(table)
    scans = load_scans(recipe, folder)
    problems = problems_of(recipe.pack)
    one, two = (Batches(scans, recipe, recipe.stages[-1], problems, salt=1, all_flips=True) for _ in range(2))
    one.restoration(0)
    x, y, *_ = one.restoration(3)
    x2, y2, *_ = two.restoration(3)
    assert torch.equal(x, x2)
    assert y.missing is None and y2.missing is None
    assert all(torch.equal(a, b) for a, b in zip(y[:3], y2[:3], strict=True))
    assert not torch.equal(x, one.restoration(4)[0])


def test_validation_patients_are_not_trained_on(data):
    folder, table = data
    recipe = parse_recipe(table)
    train, held_out = load_scans(recipe, folder), load_scans(recipe, folder, part="validation")
    assert len(train) + len(held_out) == 6
    assert len(held_out) == 2
    assert not any(torch.equal(a.image, b.image) for a in train for b in held_out)
    for name in ("goes-on", "goes-on-further"):  # a training that starts from another holds out the same patients
        again = load_scans(parse_recipe(with_pack(table, name=name)), folder, part="validation")
        assert all(torch.equal(a.image, b.image) for a, b in zip(again, held_out, strict=True))


@FLAT
def test_another_recipe_does_not_resume(data, trained):
    (folder, table), (_, out) = data, trained
    with pytest.raises(RunError, match="seed"):
        medldm.train(table | {"seed": 9}, data=folder, out=out)


@FLAT
def test_how_often_a_checkpoint_is_written_may_change(data, tmp_path):
    folder, table = data
    table = idle_but(table, "autoencoder") | {"checkpoint_seconds": 1e-6}

    def stop(stage, done, total):
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        medldm.train(table, data=folder, out=tmp_path / "pack", progress=stop)
    seen = []
    goes_on = table | {"checkpoint_seconds": 60.0}
    medldm.train(goes_on, data=folder, out=tmp_path / "pack", progress=lambda *told: seen.append(told[:2]))
    assert ("autoencoder", 2) not in seen and ("autoencoder", 6) in seen


def test_a_checkpoint_that_would_execute_code_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    (tmp_path / CHECKPOINT).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RunError, match="unreadable"):
        load_checkpoint(tmp_path, {})
    assert not (tmp_path / "harm").exists()


def test_a_failed_checkpoint_leaves_the_old_one(tmp_path):
    save_checkpoint(tmp_path, {"recipe": {}, "step": 1})
    with pytest.raises(Exception):  # noqa: B017
        save_checkpoint(tmp_path, {"recipe": {}, "step": lambda: 0})
    state = load_checkpoint(tmp_path, {})
    assert state is not None
    assert state["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]


@FLAT
def test_a_loss_that_is_not_finite_stops_before_the_step(data, tmp_path, monkeypatch):
    folder, table = data
    monkeypatch.setattr("medldm.diffusion.process.NoiseProcess.draw", lambda self, normal: normal * float("nan"))
    with pytest.raises(RunError, match=r"stage denoiser, step \d+, scan \d of"):
        medldm.train(table, data=folder, out=tmp_path / "pack")


def test_unknown_keys_are_named_with_the_nearest():
    table = tiny_table(2)
    table["pack"]["heads"]["main"] = {"chanels": [8]}
    with pytest.raises(RecipeError, match="did you mean 'channels'"):
        parse_recipe(table)


def test_a_folder_without_scans_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        medldm.train(tiny_table(2), data=tmp_path / "empty", out=tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        medldm.train(tiny_table(2), data=tmp_path / "missing", out=tmp_path / "out")


@FLAT
def test_losses_are_logged(data, tmp_path, monkeypatch):
    folder, table = data
    monkeypatch.setattr("medldm.training.loop.REPORT_STEPS", 2)
    medldm.train(table, data=folder, out=tmp_path / "pack")
    lines = [json.loads(line) for line in (tmp_path / "pack" / "losses.jsonl").read_text().splitlines()]
    stages = {"autoencoder", "denoiser", "head-main"}
    assert {line["stage"] for line in lines} == stages
    events = EventAccumulator(str(tmp_path / "pack" / "tensorboard")).Reload()
    shown = {f"{stage}/{what}" for stage in stages for what in ("loss", "learning rate", "examples a second")}
    assert shown <= set(events.Tags()["scalars"])
    rates = [event.value for event in events.Scalars("autoencoder/learning rate")]
    steps = [event.step for event in events.Scalars("autoencoder/learning rate")]
    stage = parse_recipe(table).stages[0]
    assert rates == pytest.approx([learning_rate(step - 1, stage) for step in steps])
    assert all(event.value > 0 for event in events.Scalars("autoencoder/examples a second"))
    for name in stages:  # measured, restored, truth
        assert Image.open(tmp_path / "pack" / "pictures" / f"{name}.png").size == (3 * 144, 144)  # enlarged 6 times


def test_fine_tuning_goes_on_from_a_model(data, trained, tmp_path):
    (folder, table), (first, start) = data, trained
    idle = idle_but(table, "head")
    tuned = medldm.train(idle, data=folder, out=tmp_path / "tuned", start=start)
    before, after = (m.networks.state_dict() for m in (first, tuned))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"heads"}
    assert f"started from tiny-{table['pack']['dims']}d, weights sha256 {first.weights_sha256[:12]}" in tuned.card
    other = with_pack(table, heads={"main": {"channels": [8, 16], "depth": 1}})
    with pytest.raises(ModelError, match="networks of other sizes"):
        medldm.train(other, data=folder, out=tmp_path / "other", start=start)


def test_a_stage_of_no_steps_leaves_the_linear_start(data, tmp_path):
    folder, table = data
    idle = with_stages(table, autoencoder={"steps": 0})
    model = medldm.train(idle, data=folder, out=tmp_path / "linear")
    images = [scan.image for scan in load_scans(parse_recipe(table), folder)]
    autoencoder = model.networks.autoencoder
    padded = [pad_to_multiple(image[None, None], autoencoder.factor)[0] for image in images]
    z = torch.cat([autoencoder.encode(image)[0].movedim(1, 0).flatten(1) for image in padded], 1)
    torch.testing.assert_close(z.std(1), torch.ones(len(z)), atol=0.05, rtol=0)


def test_a_head_for_super_resolution_learns_beside_the_denoising(data, trained, tmp_path):
    (folder, table), (first, start) = data, trained
    more = idle_but(with_coarse_head(table))
    more["stage"][-1] |= {"steps": 6}
    both = medldm.train(more, data=folder, out=tmp_path / "both", start=start)
    image = np.random.default_rng(1).random((16, 12) if table["pack"]["dims"] == 2 else (16, 12, 8)) * 100
    spacing = (1,) * table["pack"]["dims"]
    one, two = (medldm.denoise(image, model=m, noise_std=5.0, spacing=spacing).array for m in (first, both))
    np.testing.assert_array_equal(one, two)
    one, two = (medldm.super_resolve(image, model=m, scale=2, spacing=spacing).array for m in (first, both))
    assert not np.array_equal(one, two)


def test_each_of_two_heads_learns_its_own_task(data):
    folder, table = data
    recipe = parse_recipe(with_coarse_head(table))
    scans, problems = load_scans(recipe, folder), problems_of(recipe.pack)
    for stage, coarse in ((recipe.stages[-2], False), (recipe.stages[-1], True)):
        batches = Batches(scans, recipe, stage, problems, salt=1, all_flips=True)
        assert all((batches.restoration(step).measurement.blur > 1).any() == coarse for step in range(20))
    wrong = with_coarse_head(table)
    wrong["stage"][-1] |= {"problems": {"denoise": 1.0}}
    with pytest.raises(RecipeError, match="stage.3.problems: denoise; expected .* not of another head"):
        parse_recipe(wrong)


def test_a_second_head_learns_from_the_first_and_changes_nothing_else(data, trained, tmp_path):
    (folder, table), (first, start) = data, trained
    more = idle_but(with_alike_head(table))
    more["stage"][-1] |= {"steps": 6}
    both = medldm.train(more, data=folder, out=tmp_path / "both", start=start)
    was, now = first.networks.state_dict(), both.networks.state_dict()
    assert all(torch.equal(was[name], now[name]) for name in was)
    fresh = parse_recipe(more).pack
    torch.manual_seed(more.get("seed", 0))
    begun = Networks(fresh).heads["alike"].state_dict()
    assert any(not torch.allclose(begun[k], now[f"heads.alike.{k}"], atol=1e-3) for k in begun)
    alone = idle_but(table)  # of a model with more heads, those that are asked for
    fewer = medldm.train(alone, data=folder, out=tmp_path / "fewer", start=tmp_path / "both")
    assert set(fewer.networks.heads) == {"main"}
    assert all(torch.equal(value, was[name]) for name, value in fewer.networks.state_dict().items())


def test_a_first_head_learns_what_the_second_is_asked(data):
    _, table = data
    more = with_alike_head(table)
    more["pack"]["problems"] = {"denoise": more["pack"]["problems"]["denoise"]}
    for stage in more["stage"][1:]:
        stage["problems"] = {"denoise": 1.0}
    assert [stage.name for stage in parse_recipe(more).stages][-2:] == ["head-main", "head-alike"]


@FLAT
def test_two_trainings_do_not_share_a_folder(data, tmp_path):
    folder, table = data
    (tmp_path / "pack").mkdir()
    with sole_training(tmp_path / "pack"), pytest.raises(RunError, match="another training"):
        medldm.train(table, data=folder, out=tmp_path / "pack")
    medldm.train(table, data=folder, out=tmp_path / "pack")


def test_an_autoencoder_without_a_linear_start_trains_to_a_pack(data, tmp_path):
    folder, table = data
    plain = {"kind": "monai", "channels": 4, "widths": [16, 16, 16], "num_res_blocks": 1}
    model = medldm.train(with_pack(table, autoencoder=plain), data=folder, out=tmp_path / "plain", despite_gate=True)
    assert "block PCA:" not in model.card
