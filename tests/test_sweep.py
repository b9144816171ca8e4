"""The sweep of autoencoders: budgets, rows that are kept, the codes in use, the tables that are compared."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from benchmarks import latent_diffusion, sweep
from benchmarks.autoencoder_training import train_autoencoder
from benchmarks.autoencoders import BRAIN_GAINS, model_input
from benchmarks.protocol import Case
from benchmarks.sweep_rows import (
    FACTORS,
    Rows,
    Spec,
    codebook_share,
    contestants,
    difference,
    mean_over_seeds,
    of_seed,
    recipe_of,
    table_8,
)
from medldm.nets.build import build_autoencoder
from medldm.networks import Networks
from medldm.operators.problem import problems_of
from medldm.recipe import load_recipe, parse_recipe
from medldm.training.scan import Scan
from medldm.training.stages import build_stage, stage_batches
from tests.tiny import tiny_table, with_stages

LARGE = {"crop": [32, 32]}  # for every factor
BASE = parse_recipe(with_stages(tiny_table(2), autoencoder=LARGE, denoiser=LARGE, head=LARGE))
SMALL = {"factor": 4, "channels": 4, "width": 8, "encoder_depth": 1, "decoder_depth": 1}
QUANTIZERS = {
    "codebook": {"kind": "codebook", "size": 40},
    "levels": {"kind": "levels", "levels": [16, 8, 4, 4]},
}


def pictures(count: int, size: int = 48) -> list[np.ndarray]:
    """Smooth random images in [0, 1]."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        rough = torch.from_numpy(rng.random((1, 1, 7, 7)))
        found.append(torch.nn.functional.interpolate(rough, size=size, mode="bicubic")[0, 0].clamp(0, 1).numpy())
    return found


def scans() -> list[Scan]:
    return [Scan(torch.from_numpy(a).float(), None, BASE.sources[0], f"{n}") for n, a in enumerate(pictures(4))]


def cases() -> list[Case]:
    return [Case(f"patient {n}", n, image) for n, image in enumerate(pictures(3))]


class Ticks:
    """A clock that each look at moves on by a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def weights(trained) -> dict[str, torch.Tensor]:
    return trained.model.networks.autoencoder.state_dict()


def test_a_budget_is_spent_and_no_more_than_a_step_beyond():
    few, many = (train_autoencoder(recipe_of(BASE, Spec("x", "x", SMALL, s)), scans(), s, Ticks()) for s in (9, 17))
    for trained, budget in ((few, 9), (many, 17)):
        assert trained.seconds >= budget
        assert trained.seconds <= budget + 2  # the look that ends it, and the one that measures
    assert many.steps == few.steps + 8  # a look, and so a second, each step


def test_a_training_depends_on_its_recipe_alone_and_moves_the_weights():
    recipe = recipe_of(BASE, Spec("x", "x", SMALL, 9))
    one, two, begun = (train_autoencoder(recipe, scans(), seconds, Ticks()) for seconds in (9, 9, 0))
    assert begun.steps == 0
    for name, value in weights(one).items():
        assert torch.equal(value, weights(two)[name])
    assert any(not torch.equal(value, weights(begun)[name]) for name, value in weights(one).items())


def test_no_budget_leaves_the_block_pca(tmp_path):
    """At full rank it is exact."""
    full = Spec("full", "PCA", {**SMALL, "channels": 16}, 0)
    row = Rows(tmp_path, BASE, scans(), cases()).of(full)
    assert row["parameters"] == row["steps"] == 0
    assert row["psnr"]["low"] > 80
    assert row["compression"] == 1


def test_a_finished_row_is_kept_and_another_training_is_not_taken_for_it(tmp_path):
    spec = Spec("row", "PCA", SMALL, 0)
    rows = Rows(tmp_path, BASE, scans(), cases())
    first = rows.of(spec)
    path = tmp_path / "row.json"
    path.write_text(json.dumps(first | {"steps": 12345}))
    assert rows.of(spec)["steps"] == 12345
    assert rows.of(Spec("row", "PCA", {**SMALL, "channels": 2}, 0))["channels"] == 2
    assert rows.of(spec)["steps"] == 0  # the file now is of the other one
    assert Rows(tmp_path, BASE, scans(), cases()[:2]).of(spec)["psnr"]["n"] == 2
    assert "patient" not in path.read_text()


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_the_share_of_codes_in_use_is_that_of_a_naive_count(kind):
    trained = train_autoencoder(
        recipe_of(BASE, Spec("q", "VQ", {**SMALL, "quantizer": QUANTIZERS[kind]}, 4)), scans(), 4, Ticks()
    )
    small = [dataclasses.replace(case, truth=case.truth[:24, :24]) for case in cases()[:1]]
    autoencoder, used = trained.model.networks.autoencoder, set()
    with torch.no_grad():
        for case in small:
            z, _ = autoencoder.raw_encode(model_input(trained.model, case)[0])
            for cell in z[0].flatten(1).T:
                if kind == "codebook":
                    used.add(min(range(40), key=lambda n: float((autoencoder.quantizer.entries[n] - cell).norm())))
                else:
                    places = (torch.special.ndtr(cell) * torch.tensor([16, 8, 4, 4])).floor().tolist()
                    used.add(tuple(int(min(p, top)) for p, top in zip(places, (15, 7, 3, 3), strict=True)))
    size = math.prod((16, 8, 4, 4)) if kind == "levels" else 40  # more than there are cells
    assert codebook_share(trained.model, small) == pytest.approx(len(used) / size)
    assert 0 < len(used) < size


def test_latents_that_are_not_rounded_have_no_share():
    trained = train_autoencoder(recipe_of(BASE, Spec("x", "x", SMALL, 0)), scans(), 0)
    assert codebook_share(trained.model, cases()) is None


def test_table_8_holds_each_kind_at_each_factor():
    specs = table_8(FACTORS, 1)
    assert sorted({spec.kind for spec in specs}) == ["FSQ", "KL", "PCA", "VQ"]
    for spec in specs:
        autoencoder = build_autoencoder(recipe_of(BASE, spec).pack)
        assert spec.name.endswith(f"-f{autoencoder.factor[0]}")
        if spec.kind in ("PCA", "KL"):
            assert autoencoder.compression == 4
            assert autoencoder.quantizer is None
        else:
            assert 500 < autoencoder.quantizer.size <= 1024
    assert len({spec.name for spec in specs}) == len(specs) == 16
    small = {
        autoencoder.factor[0]: autoencoder.channels
        for autoencoder in (build_autoencoder(recipe_of(BASE, s).pack) for s in specs[1::4])
    }
    assert (small[4], small[8]) == (4, 16)


def test_contestants_have_the_same_latents_and_the_recipe_of_their_base():
    built = {}
    for kind in contestants():
        recipe = recipe_of(BASE, of_seed(kind, 3e-4, 1, seed=7))
        autoencoder = built[kind] = build_autoencoder(recipe.pack)
        assert recipe.seed == 7
        assert recipe.stages[0].model_dump(exclude={"lr", "reconstruction"}) == BASE.stages[0].model_dump(
            exclude={"lr", "reconstruction"}
        )
        assert recipe.stages[0].lr == 3e-4
        assert recipe.stages[1:] == BASE.stages[1:]
        assert autoencoder.encode(torch.zeros(1, 1, 32, 32))[0].shape == (1, 4, 8, 8)
    assert type(built["MONAI"].network).__module__.startswith("medldm.nets.monai_files.")


def test_both_contestants_train(tmp_path):
    for kind in contestants():
        spec = of_seed(kind, 1e-3, 5, seed=1)
        trained = train_autoencoder(recipe_of(BASE, spec), scans(), spec.seconds, Ticks())
        assert trained.steps > 0
        assert trained.model.networks.autoencoder.factor == (4, 4)


def test_differences_and_means_over_seeds_are_those_of_each_case():
    def row(*values: float) -> dict:
        return {"each": {f"{n}": {"psnr": v} for n, v in enumerate(values)}}

    mean = mean_over_seeds([row(1, 2, 3), row(3, 4, 8)])
    assert [s["psnr"] for s in mean["each"].values()] == [2, 3, 5.5]
    found = difference(mean, row(1, 1, 1))
    assert found.mean == pytest.approx(2.5)
    assert 1 <= found.low <= found.mean <= found.high <= 4.5


@pytest.mark.parametrize("name", sweep.BRAIN_RECIPES)
def test_the_recipes_of_heads_are_those_that_have_bars(name):
    recipe = load_recipe(sweep.RECIPES / f"{name}.toml")
    autoencoder = build_autoencoder(recipe.pack)
    assert recipe.pack.name == name
    assert (autoencoder.factor[0], autoencoder.channels) in BRAIN_GAINS
    assert [stage.steps for stage in recipe.stages[1:]] == [0, 0]


def test_a_trained_pack_is_taken_again_and_not_trained_again(tmp_path, monkeypatch):
    from PIL import Image

    for number, image in enumerate(pictures(4)):
        Image.fromarray((image * 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
    monkeypatch.setenv("MEDLDM_DATA", str(tmp_path))
    first = sweep.trained_pack(BASE, tmp_path / "out")
    stamp = (tmp_path / "out" / "weights.safetensors").stat().st_mtime_ns
    again = sweep.trained_pack(BASE, tmp_path / "out")
    assert again.weights_sha256 == first.weights_sha256
    assert (tmp_path / "out" / "weights.safetensors").stat().st_mtime_ns == stamp


def test_the_denoiser_of_each_autoencoder_learns_to_denoise_alone():
    for name in latent_diffusion.AUTOENCODERS:
        recipe = latent_diffusion.denoising_recipe(name, seconds=1, steps=5, seed=1)
        source, problems = recipe.sources[0], problems_of(recipe.pack)
        images = [Scan(torch.from_numpy(a).float(), None, source, "") for a in pictures(2, 160)]
        stage = build_stage(recipe.stages[1], Networks(recipe.pack), problems)
        batches = stage_batches(recipe, images, 1, problems)
        for step in range(6):
            batch = stage.batch(batches, step)
            assert batch.problem == "denoise"  # no whole images
            assert (batch.measurement.blur == 1).all()
            assert (batch.measurement.noise_std > 0).all()
        assert recipe.pack.latent_factor == (4, 4)
        assert recipe.pack.autoencoder.channels == 4
