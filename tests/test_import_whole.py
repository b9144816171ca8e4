"""Whole latent diffusion models of MONAI and diffusers draw what their own code draws, from the same noise."""

import json
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from monai.inferers.inferer import LatentDiffusionInferer
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, RFlowScheduler
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.conditions import NumberCondition
from medldm.diffusion.noise import FieldNoise
from medldm.diffusion.timed import process_of
from medldm.errors import InputError, ModelError, RecipeError, UnsafeInput
from medldm.installed import read_tables
from medldm.net_tables import ScheduleTable
from medldm.nets.imported.whole import open_whole
from medldm.recipe import parse_recipe
from medldm.space import centred_geometry
from medldm.training.importing_whole import WholeWishes, adopt_whole
from medldm.volume import Volume
from tests.foreign_models import BETAS, SCALE, STEPS, bundle, maisi, pipeline
from tests.test_import import Bomb

BAR = 1e-4
SEED = 5
SIZE = {2: (16, 24), 3: (16, 16, 8)}
AGES = ({"age": 20.0, "volume": 0.9}, {"age": 70.0, "volume": 0.2})
RANGES = ["--condition", "age=20:70", "--condition", "volume=0:1"]


def shares(said):
    """As the network takes them: the ages run from 20 to 70."""
    return torch.tensor([[(one["age"] - 20) / 50, one["volume"]] for one in said])


def run(*words):
    done = CliRunner().invoke(app, ["import", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done


def noise(channels, size, turned=False):
    """The numbers that both programs begin with, and a function for those of the steps."""
    field, cells = FieldNoise([(SEED, 0), (SEED, 1)], torch.device("cpu")), [n // 4 for n in size]

    def draw(*_, **__):
        drawn = field.next(torch.zeros(2, channels, *cells))
        return drawn.mT if turned else drawn

    return draw


def drawn(pack, **options):
    options = {"n": 2, "batch": 2, "seed": SEED, "steps": STEPS, "sampler": "ddim"} | options
    return np.stack([scan.array for scan in medldm.synthesize(model=pack, **options)])


def assert_equal(ours, theirs, scale, low, high=np.inf):
    """theirs : (B, 1, *S) in the units of the scan."""
    expected = np.clip(theirs.numpy()[:, 0].reshape(ours.shape), low, high)
    assert expected.std() > 0.02 * scale
    assert np.abs(ours - expected).max() <= BAR * scale


def import_bundle(folder, dims, *words):
    shape = "x".join(map(str, SIZE[dims]))
    about = ["--modality", "MR", "--shape", shape, "--spacing", "2"]
    run(folder, "--as", "theirs", "--out", folder / "pack", *about, *words)
    return folder / "pack"


def monai_draws(scheduler, autoencoder, unet, dims, **options):
    """What their inferer draws, MR: 2D as grey of 255, 3D as 1000."""
    draw = noise(3, SIZE[dims])
    start = draw()
    scheduler.set_timesteps(STEPS)
    inferer = LatentDiffusionInferer(scheduler, scale_factor=SCALE)
    with torch.no_grad(), mock.patch("torch.randn", draw):
        return inferer.sample(start, autoencoder, unet, scheduler, verbose=False, **options)


SCHEDULERS = {
    "DDIMScheduler": (lambda: DDIMScheduler(**BETAS, clip_sample=False), "ddim"),
    "DDPMScheduler": (lambda: DDPMScheduler(**BETAS, clip_sample=False), "ddpm"),
    "RFlowScheduler": (lambda: RFlowScheduler(num_train_timesteps=STEPS), "ddim"),
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_bundle_draws_what_monai_draws(tmp_path, dims, scheduler):
    autoencoder, unet = bundle(tmp_path, dims, scheduler)
    pack = import_bundle(tmp_path, dims)
    made, sampler = SCHEDULERS[scheduler]
    theirs = monai_draws(made(), autoencoder, unet, dims)
    scale = 255 if dims == 2 else 1000
    assert_equal(drawn(pack, sampler=sampler), theirs * scale, scale, 0, 255 if dims == 2 else np.inf)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_what_the_network_says_is_taken_for_what_it_is(tmp_path, dims, kind):
    autoencoder, unet = bundle(tmp_path, dims, "DDIMScheduler")
    config = {"schedule": {"prediction_type": kind, "schedule": "scaled_linear_beta"}}
    pack = import_bundle(tmp_path, dims, "--config", json.dumps(config))
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, prediction_type=kind, schedule="scaled_linear_beta")
    theirs, scale = monai_draws(scheduler, autoencoder, unet, dims), 255 if dims == 2 else 1000
    assert_equal(drawn(pack), theirs * scale, scale, 0, 255 if dims == 2 else np.inf)


CONTEXT = {"with_conditioning": True, "cross_attention_dim": 2}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("kind", "old"), [("crossattn", False), ("crossattn", True), ("concat", False)])
def test_conditions_of_a_bundle_are_told_as_monai_tells_them(tmp_path, dims, kind, old):
    """As context, also with the names of the older package, or as channels beside."""
    arguments = CONTEXT if kind == "crossattn" else {"in_channels": 5}
    autoencoder, unet = bundle(tmp_path, dims, "DDIMScheduler", old=old, **arguments)
    pack = import_bundle(tmp_path, dims, *RANGES)
    told = shares(AGES)
    told = told[:, None] if kind == "crossattn" else told.view(2, 2, *(1,) * dims).expand(-1, -1, *cells(dims))
    scheduler = DDIMScheduler(**BETAS, clip_sample=False)
    theirs = monai_draws(scheduler, autoencoder, unet, dims, conditioning=told, mode=kind)
    scale, high = (255, 255) if dims == 2 else (1000, np.inf)
    ours = drawn(pack, conditions=list(AGES))
    assert_equal(ours, theirs * scale, scale, 0, high)
    swapped = drawn(pack, conditions=[AGES[1], AGES[0]])
    assert np.abs(swapped - ours).max() > 100 * BAR * scale  # they are told


def cells(dims):
    return [n // 4 for n in SIZE[dims]]


def test_both_ways_at_once_as_the_brain_model_is_told(tmp_path):
    """Context and channels beside, of the same numbers, and its kinds of blocks; the referee is its own loop."""
    blocks = {"resblock_updown": True, "num_head_channels": [0, 16], "upcast_attention": True}
    autoencoder, unet = bundle(tmp_path, 3, "DDIMScheduler", old=True, in_channels=5, **blocks, **CONTEXT)
    pack = import_bundle(tmp_path, 3, *RANGES)
    scheduler, told = DDIMScheduler(**BETAS, clip_sample=False), shares(AGES)
    scheduler.set_timesteps(STEPS)
    image, beside = noise(3, SIZE[3])(), told.view(2, 2, 1, 1, 1).expand(-1, -1, *cells(3))
    with torch.no_grad():
        for t in scheduler.timesteps:
            seen = torch.cat([image, beside], dim=1)
            image, _ = scheduler.step(unet(seen, timesteps=torch.Tensor((t,)), context=told[:, None]), t, image)
        theirs = autoencoder.decode_stage_2_outputs(image / SCALE)
    assert_equal(drawn(pack, conditions=list(AGES)), theirs * 1000, 1000, 0)


def test_guidance_is_monais_where_the_model_has_a_null(tmp_path):
    autoencoder, unet = bundle(tmp_path, 2, "DDIMScheduler", **CONTEXT)
    pack = import_bundle(tmp_path, 2, *RANGES, "--null", "-1")
    scheduler = DDIMScheduler(**BETAS, clip_sample=False)
    theirs = monai_draws(scheduler, autoencoder, unet, 2, conditioning=shares(AGES)[:, None], cfg=2.5)
    assert_equal(drawn(pack, conditions=list(AGES), guidance=2.5), theirs * 255, 255, 0, 255)


@torch.no_grad()
def test_maisi_draws_under_a_label_map_as_its_own_loop_does(tmp_path):
    autoencoder, unet, control = maisi(tmp_path)
    shape, spacing = (16, 16, 8), (1.5, 1.5, 2.0)
    words = ["--modality", "CT", "--shape", "16x16x8", "--spacing", "1.5x1.5x2", "--condition", "organs=map:1-200"]
    parts = "head,chest,abdomen,pelvis"
    words += ["--condition", "kind=unknown,ct,mr", "--condition", f"top_region={parts}"]
    run(tmp_path, "--as", "maisi", "--out", tmp_path / "pack", *words, "--condition", f"bottom_region={parts}")
    labels = np.random.default_rng(0).integers(0, 201, shape)
    model = medldm.load_model(tmp_path / "pack")
    organs = Volume(labels.astype(np.float32), centred_geometry(model.pack, shape))
    said = {"organs": organs, "kind": "ct", "top_region": "head", "bottom_region": "abdomen"}
    ours = drawn(model, conditions=[said, {**said, "kind": "mr", "organs": None}])

    scheduler, image = RFlowScheduler(num_train_timesteps=STEPS), noise(4, shape)()
    scheduler.set_timesteps(STEPS)
    planes = ((torch.from_numpy(labels)[None] >> torch.arange(8).view(8, 1, 1, 1)) & 1)[None].float()
    told = {
        "top_region_index_tensor": 100 * torch.eye(4)[[0, 0]],
        "bottom_region_index_tensor": 100 * torch.eye(4)[[2, 2]],
        "spacing_tensor": 100 * torch.tensor([spacing] * 2),
        "class_labels": torch.tensor([1, 2]),
    }
    ends = [*scheduler.timesteps[1:].tolist(), 0]
    for t, after in zip(scheduler.timesteps, ends, strict=True):
        time, both = torch.Tensor((t,)).expand(2), []
        down, middle = control(image[:1], time[:1], planes, class_labels=told["class_labels"][:1])
        for one in range(2):  # the second without the ControlNet
            own = {key: value[one : one + 1] for key, value in told.items()}
            residuals = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": middle}
            both.append(unet(image[one : one + 1], time[:1], **own, **({} if one else residuals)))
        image, _ = scheduler.step(torch.cat(both), t, image, after)
    theirs = autoencoder.decode_stage_2_outputs(image / SCALE) * 2000 - 1000
    assert_equal(ours, theirs, 2000, -1000)


def test_the_times_of_a_flow_may_hang_on_the_size(tmp_path):
    """As RFlowScheduler moves them, but for its rounding in half precision."""
    table = ScheduleTable(betas="flow", shift=(4096 / 32**3) ** (1 / 3))
    scheduler = RFlowScheduler(use_discrete_timesteps=False, use_timestep_transform=True)
    scheduler.set_timesteps(10, input_img_size_numel=4096)
    sigmas = process_of(table).sigmas(10)[:-1]
    np.testing.assert_allclose((1000 * sigmas / (1 + sigmas)).numpy(), scheduler.timesteps.double().numpy(), atol=0.3)
    maisi(tmp_path)
    path = tmp_path / "configs" / "config_network.json"
    said = json.loads(path.read_text())
    said["noise_scheduler"] |= {"use_timestep_transform": True, "base_img_size_numel": 27, "scale": 1.4}
    path.write_text(json.dumps(said))
    whole = open_whole(tmp_path, {})
    assert (whole.flow_base, whole.family, whole.schedule["betas"]) == (27, "maisi", "flow")


def test_an_imported_model_is_a_model(tmp_path):
    """Any sampler, one scan as in a batch, and the conditions are checked."""
    bundle(tmp_path, 2, "DDIMScheduler", **CONTEXT)
    pack = import_bundle(tmp_path, 2, *RANGES)
    assert "synthesize" in medldm.installed.describe(str(pack)).tasks
    whole = drawn(pack, conditions=list(AGES), sampler="dpmpp_2m", steps=5)
    alone = drawn(pack, conditions=[AGES[1]], sampler="dpmpp_2m", steps=5, n=1, first=1)
    assert np.abs(alone[0] - whole[1]).max() <= 1e-5 * 255
    for sampler in ("heun", "edm_stochastic"):
        assert np.isfinite(drawn(pack, conditions=list(AGES), sampler=sampler, steps=3)).all()
    with pytest.raises(InputError, match="no volume; expected volume: a number from 0 to 1"):
        drawn(pack, conditions={"age": 30})
    with pytest.raises(InputError, match="a number from 20 to 70"):
        drawn(pack, conditions={"age": 80, "volume": 1})
    with pytest.raises(InputError, match="was not trained without its conditions"):
        drawn(pack, conditions=list(AGES), guidance=2.0)
    stages = [
        {"train": "autoencoder", "steps": 0, "batch_size": 1, "crop": [16, 16], "lr": 1e-3},
        {"train": "generator", "steps": 1, "batch_size": 1, "lr": 1e-3},
    ]
    table = read_tables(str(pack)).model_dump(mode="json")
    with pytest.raises(RecipeError, match="a level of medldm's, not an imported network"):
        parse_recipe({"pack": table, "source": [{"folder": "."}], "stage": stages})


def adopted(folder, config=None, **wishes):
    return adopt_whole(folder, name="m", config=config, wishes=WholeWishes(shape=(16, 24), **wishes))


def test_nothing_in_a_bundle_is_executed(tmp_path):
    bundle(tmp_path, 2, "DDIMScheduler")
    config = tmp_path / "configs" / "inference.json"
    table = json.loads(config.read_text())
    touch = f"$__import__('pathlib').Path({str(tmp_path / 'executed')!r}).touch()"
    config.write_text(json.dumps(table | {"initialize": touch, "x": {"_target_": "os.system", "command": "false"}}))
    assert adopted(tmp_path).pack.synthesis is not None
    assert not (tmp_path / "executed").exists()
    torch.save({"a": Bomb(tmp_path / "executed")}, tmp_path / "models" / "more.pt")
    with pytest.raises(UnsafeInput, match="needs code"):
        adopted(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_what_does_not_fit_is_said_in_one_line(tmp_path):
    bundle(tmp_path / "b", 2, "DDIMScheduler", **CONTEXT)
    two = {name: NumberCondition(kind="number", low=0, high=1) for name in ("age", "volume")}
    with pytest.raises(InputError, match=r"got 0 numbers .*expected 2, in the network's order"):
        adopted(tmp_path / "b")
    with pytest.raises(ModelError, match="tensors that do not fit, first"):
        adopted(tmp_path / "b", {"unet": {"num_res_blocks": 2}}, conditions=two)
    with pytest.raises(ModelError, match="betas of"):
        adopted(tmp_path / "b", {"schedule": {"schedule": "mine"}}, conditions=two)
    with pytest.raises(InputError, match="--config: got network"):
        adopted(tmp_path / "b", {"network": {}}, conditions=two)
    path = tmp_path / "b" / "models" / "model.pt"
    torch.save(torch.load(path, weights_only=True)["unet_state_dict"], path)
    with pytest.raises(InputError, match="nothing that says scale_factor"):
        adopted(tmp_path / "b", conditions=two)
    pipeline(tmp_path / "p", UNet2DModel)
    for key, value in (("act_fn", "gelu"), ("flip_sin_to_cos", False), ("freq_shift", 1), ("new_argument", 2)):
        with pytest.raises(ModelError, match=key):
            adopted(tmp_path / "p", {"unet": {key: value}})
    with pytest.raises(ModelError, match="DownBlock2D and AttnDownBlock2D, mirrored"):
        adopted(tmp_path / "p", {"unet": {"down_block_types": ["DownBlock2D", "ResnetDownsampleBlock2D"]}})
    done = CliRunner().invoke(
        app, ["import", str(tmp_path / "p"), "--as", "m", "--out", str(tmp_path / "o"), "--crop", "8x8"]
    )
    assert done.exit_code == 2 and not (tmp_path / "o").exists()
