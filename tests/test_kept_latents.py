"""Latents that are kept in the cache are those that the autoencoder gives, and it is not asked again."""

import pytest
import torch

from medldm.io.array_cache import ArrayCache
from medldm.networks import Networks
from medldm.operators.problem import problems_of
from medldm.recipe import parse_recipe
from medldm.training.data import load_scans
from medldm.training.latents import KeptLatents
from medldm.training.stages import build_stage, stage_batches
from tests.test_cache import entries, write_scan
from tests.tiny import tiny_table, with_pack


def autoencoder_of(seed=0, **changes):
    torch.manual_seed(seed)
    table = tiny_table(2)
    table = with_pack(table, autoencoder=table["pack"]["autoencoder"] | changes)
    autoencoder = Networks(parse_recipe(table).pack).autoencoder
    for parameter in autoencoder.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return autoencoder.eval()


@pytest.mark.parametrize("changes", [{}, {"learned_std": True}])
@pytest.mark.parametrize("half", [False, True])
@torch.no_grad()
def test_kept_latents_are_mean_and_deviation_bit_for_bit(changes, half, tmp_path):
    autoencoder, x = autoencoder_of(**changes), torch.rand(3, 1, 24, 16)
    x = torch.cat([x, x.flip(2)])  # mirror images are images of their own
    kept = KeptLatents(ArrayCache(tmp_path / "cache"), autoencoder)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        mean, std = KeptLatents(None, autoencoder).encode(x)
        for _ in ("cold", "warm"):
            found_mean, found_std = kept.encode(x)
            assert torch.equal(found_mean, mean)
            assert torch.equal(found_std, std)
    if not half:  # and, to round-off, those of a batch
        batch_mean, batch_std = autoencoder.encode(x)
        torch.testing.assert_close(mean, batch_mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(std, batch_std.expand_as(std), rtol=1e-6, atol=1e-6)
    assert len(entries(tmp_path / "cache")) == 12


@torch.no_grad()
def test_kept_latents_belong_to_weights_and_precision(tmp_path):
    cache, x = ArrayCache(tmp_path / "cache"), torch.rand(1, 1, 24, 16)
    for count, (seed, half) in enumerate([(0, False), (1, False), (1, True)], start=1):
        autoencoder = autoencoder_of(seed)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            assert torch.equal(KeptLatents(cache, autoencoder).encode(x)[0], autoencoder.encode(x)[0])
        assert len(entries(tmp_path / "cache")) == 2 * count


def test_a_warm_stage_two_asks_the_autoencoder_of_crops_alone(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for seed in range(3):
        write_scan(folder / f"{seed}.nii.gz", seed, (32, 28, 1))
    recipe = parse_recipe(tiny_table(2) | {"validation_fraction": 0.0})
    cache = ArrayCache(tmp_path / "cache")
    scans = load_scans(recipe, folder, cache=cache)
    problems = problems_of(recipe.pack)
    batches = stage_batches(recipe, scans, 1, problems)
    torch.manual_seed(0)
    stage = build_stage(recipe.stages[1], Networks(recipe.pack), problems, cache)
    steps = [stage.batch(batches, step) for step in range(40)]
    cold = [float(stage(batch)["loss"].detach()) for batch in steps]
    asked = []
    encode = stage.autoencoder.encode
    stage.autoencoder.encode = lambda x: asked.append(len(asked)) or encode(x)
    warm = [float(stage(batch)["loss"].detach()) for batch in steps]
    assert warm == cold
    assert len(asked) == 2 * sum(batch.measurement is not None for batch in steps)  # the crop and what was measured
    fresh = {batch.seeds for batch in steps}
    assert len(fresh) == len(steps)  # each step draws noise of its own
