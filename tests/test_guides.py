"""A level's guide: what estimates are moved away from, how it is trained, and that a distilled model needs none."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import medldm
from medldm.cli import app
from medldm.diffusion.cascade import Guidance, levels_of, sample_level
from medldm.diffusion.samplers import ddim
from medldm.errors import RecipeError
from medldm.nets.conditioner import Conditions
from medldm.networks import Networks
from medldm.recipe import parse_recipe
from tests.tiny import tiny_pack

GUIDE = {"unet": {"channels": [16, 32], "attention_levels": [False, False]}, "scale": 2.0, "lowest_sigma": 0.5}


def _table(**guide: object) -> dict:
    pack = {key: value for key, value in tiny_pack(2).items() if key not in ("unet", "heads", "problems")}
    level = {"unet": {"channels": [32, 64], "attention_levels": [False, True]}, "guide": GUIDE | guide}
    pack["synthesis"] = pack["synthesis"] | {"cascade": [level]}
    stage = {"batch_size": 2, "lr": 1e-3, "ema": 0.5}
    stages = [
        {"train": "autoencoder", "steps": 0, "crop": [16, 16], **stage},
        {"train": "generator", "guide": True, "steps": 3, **stage},
        {"train": "generator", "steps": 4, **stage},
    ]
    return {"pack": pack, "validation_fraction": 0.3, "source": [{"folder": "."}], "stage": stages}


def _moved(networks: Networks) -> Networks:
    """Networks begin at zero: nothing would be estimated."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    return networks.eval()


@torch.inference_mode()
def test_estimates_are_moved_away_from_the_guides():
    networks = _moved(Networks(parse_recipe(_table()).pack))
    level, asked, x_T = networks.generator(0), Conditions.of({}, {}, (24, 16)), torch.randn(2, 4, 6, 4)
    assert level.guide is not None and not any("guide" in name for name, _ in level.named_parameters())

    def drawn(guidance: Guidance) -> torch.Tensor:
        return sample_level(level, asked, None, x_T, steps=4, sampler=ddim, guidance=guidance)

    def predict(x: torch.Tensor, sigma: float) -> torch.Tensor:
        at = torch.full((len(x),), sigma)
        own, weak = (part(x, at, asked, None) for part in (level, level.guide))
        return own + (GUIDE["scale"] - 1) * (own - weak) if sigma >= GUIDE["lowest_sigma"] else own

    *_, last = ddim(predict, x_T, levels_of(level, 4))
    torch.testing.assert_close(drawn(Guidance()), last.x_t)
    alone = drawn(Guidance(own=False))
    assert (alone - last.x_t).abs().max() > 1e-3
    level.table = level.table.model_copy(update={"guide": level.table.guide.model_copy(update={"scale": 1.0})})
    torch.testing.assert_close(drawn(Guidance()), alone)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guided")
    rng = np.random.default_rng(0)
    (folder / "data").mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (24, 16), dtype=np.uint8)).save(folder / "data" / f"{number}.png")
    medldm.train(_table(), data=folder / "data", out=folder / "model", despite_gate=True)
    return folder


def test_a_guide_is_trained_by_its_own_stage_in_the_levels_units(trained):
    model = medldm.load_model(trained / "model")
    level, guide = model.networks.generator(0), model.networks.generator(0).guide
    assert torch.equal(level.latent_std, guide.latent_std) and (level.latent_std != 1).all()
    table = _table()
    table["stage"][1]["steps"] = 0
    medldm.train(table, data=trained / "data", out=trained / "idle", despite_gate=True)
    idle = medldm.load_model(trained / "idle").networks
    moved = [
        not torch.equal(a, b) for a, b in zip(guide.parameters(), idle.generator(0).guide.parameters(), strict=True)
    ]
    assert sum(moved) > len(moved) / 2
    for a, b in zip(level.parameters(), idle.generator(0).parameters(), strict=True):
        torch.testing.assert_close(a, b)  # the level's own training knows nothing of it


def test_a_distilled_model_has_its_guide_in_its_weights(trained, monkeypatch):
    monkeypatch.chdir(trained)
    command = ["distill", "model", "--data", "data", "-o", "fast", "--evaluations", "2"]
    command += ["--trajectories", "4", "--steps", "3", "--batch-size", "2", "--device", "cpu"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    [level] = json.loads((trained / "fast" / "pack.json").read_text())["synthesis"]["cascade"]
    assert level["guide"] is None and level["distilled"] == {"steps": 2, "guidance": 1.0, "guide_scale": 2.0}
    sizes = [(trained / name / "weights.safetensors").stat().st_size for name in ("fast", "model")]
    assert sizes[0] < sizes[1]
    [scan] = medldm.synthesize(model=trained / "fast", n=1)
    assert scan.array.shape == (24, 16, 1)
    wrong = CliRunner().invoke(app, [*command[:4], "-o", "other", "--evaluations", "2", "--evaluations", "3"])
    assert wrong.exit_code == 2 and not (trained / "other").exists()
    assert "evaluations: got 2 3; expected one number >= 1, or 1, one a level" in wrong.stderr


@pytest.mark.parametrize(
    "change, message",
    [
        ({"guide": None}, "stage.1.guide: True; expected a level with a guide: pack.synthesis.cascade.0"),
        ({"guide": {"unet": {"channels": [16, 16, 32], "attention_levels": [False] * 3}}}, "2 widths at most"),
        ({"guide": GUIDE | {"scale": 0.5}}, "scale"),
    ],
)
def test_a_guide_that_cannot_be_is_refused(change, message):
    table = _table()
    [level] = table["pack"]["synthesis"]["cascade"]
    level |= change
    with pytest.raises(RecipeError, match=message):
        parse_recipe(table)
