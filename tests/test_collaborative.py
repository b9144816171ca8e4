"""The collaborative filter: its formula by loops, what it takes off, no seams; heads that are told of it."""

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import rice

import medldm
from medldm.nets import collaborative
from medldm.nets.collaborative import Search, collaborative_estimates, count_blocks
from medldm.operators.measurement import Gaussian, Measurement, Rician
from medldm.pack import ModelPack
from tests.tiny import pack_of, tiny_pack, tiny_table, with_alike_head


def measured(image, noise_std, dims):
    level = torch.full((len(image), 1, *(1,) * dims), noise_std)
    return Measurement(image, level, torch.ones(len(image), dims, *(1,) * dims))


def repeated(shape, noise_std, seed=0):
    """A pattern that repeats within the search, (1, 1, *S), and with noise."""
    generator, period = torch.Generator().manual_seed(seed), 8 if len(shape) == 2 else 3
    cell = torch.rand((period,) * len(shape), generator=generator)
    x = cell[torch.meshgrid(*(torch.arange(n) % period for n in shape), indexing="ij")][None, None]
    return x, x + noise_std * torch.randn(x.shape, generator=generator)


def by_loops(y, pilot, noise_std, search):
    """The filter in double precision, patch by patch; sizes fit the stride."""
    edge, radius = search.edge, search.radius
    places = list(itertools.product(*(range(n - edge + 1) for n in y.shape)))

    def patch(field, at):
        return field[tuple(slice(a, a + edge) for a in at)].ravel()

    total, weight = np.zeros_like(y), np.zeros_like(y)
    for reference in itertools.product(*(range(0, n - edge + 1, search.stride) for n in y.shape)):
        near = [at for at in places if all(abs(a - b) <= radius for a, b in zip(at, reference, strict=True))]
        near.sort(key=lambda at: np.square(patch(pilot, at) - patch(pilot, reference)).sum())
        group = near[: search.group]
        x, noisy = (np.array([patch(field, at) for at in group]) for field in (pilot, y))
        mean = x.mean(1, keepdims=True)
        q = (x - mean) @ (x - mean).T
        combination = q @ np.linalg.inv(q + x.shape[1] * noise_std**2 * np.eye(len(group)))
        for at, row, level in zip(group, combination, mean, strict=True):
            at = tuple(slice(a, a + edge) for a in at)
            share = 1 / np.clip(np.square(row).sum(), 1 / len(group), 1)
            total[at] += share * (row @ (noisy - mean) + level).reshape((edge,) * y.ndim)
            weight[at] += share
    return total / weight


@pytest.mark.parametrize(
    ("shape", "search"),
    [((20, 17), Search(5, 3, 4, 12, block=9)), ((11, 9, 13), Search(3, 2, 2, 8, block=6))],
)
def test_the_filter_is_ridge_regression_among_patches_that_look_alike(shape, search, monkeypatch):
    monkeypatch.setitem(collaborative.SEARCH, len(shape), search)
    x, y = repeated(shape, 0.1)
    pilot = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    found = collaborative_estimates(measured(y, 0.1, len(shape)), pilot, Gaussian())
    first = by_loops(y[0, 0].double().numpy(), pilot[0, 0].double().numpy(), 0.1, search)
    np.testing.assert_allclose(found[0, 0], first, atol=2e-4)
    second = by_loops(y[0, 0].double().numpy(), first, 0.1, search)
    np.testing.assert_allclose(found[0, 1], second, atol=1e-3)


@pytest.mark.parametrize("shape", [(96, 88), (32, 30, 28)])
def test_what_repeats_is_found_below_the_noise(shape):
    x, y = repeated(shape, 0.1)
    pilot = 0.5 * x + 0.5 * y  # half of the noise is in it
    found = collaborative_estimates(measured(y, 0.1, len(shape)), pilot, Gaussian())
    error = (found - x).square().flatten(2).mean(2).sqrt()[0]
    assert error[1] < error[0] < 0.05 < 0.1


def test_a_pilot_without_detail_costs_detail_but_never_a_level():
    """A flat pilot: what is nothing but mean stays where it is."""
    y = 0.3 + 0.1 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    found = collaborative_estimates(measured(y, 0.1, 2), torch.full_like(y, 0.3), Gaussian())
    assert (found - 0.3).abs().max() < 0.005


@pytest.mark.parametrize("size", [(7, 7), (3, 40), (31, 8)])
def test_small_images_are_filtered_too(size):
    y = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(3))
    found = collaborative_estimates(measured(y, 0.05, 2), y, Gaussian())
    assert found.shape == (1, 2, *size) and torch.isfinite(found).all()


def test_a_spike_at_the_edge_is_compared_with_what_is_inside():
    """However far from all else its value is, nothing beyond the edge is nearer to it."""
    y = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(7))
    y[..., :3, :3] = 600.0
    found = collaborative_estimates(measured(y, 0.05, 2), y, Gaussian())
    assert torch.isfinite(found).all() and (found[..., :3, :3] > 500).all() and found[..., 20:, 20:].max() < 2


def test_blocks_do_not_show(monkeypatch):
    x, y = repeated((90, 75), 0.1)
    whole = collaborative_estimates(measured(y, 0.1, 2), x, Gaussian())
    monkeypatch.setitem(collaborative.SEARCH, 2, Search(7, 4, 12, 48, block=24))
    np.testing.assert_allclose(collaborative_estimates(measured(y, 0.1, 2), x, Gaussian()), whole, atol=1e-5)


def test_each_image_is_filtered_by_itself():
    x, y = repeated((40, 48), 0.1)
    other = torch.rand(x.shape, generator=torch.Generator().manual_seed(4))
    both = Measurement(torch.cat([y, other]), torch.tensor([0.1, 0.02]).view(2, 1, 1, 1), torch.ones(2, 2, 1, 1))
    together = collaborative_estimates(both, torch.cat([x, other]), Gaussian())
    torch.testing.assert_close(together[:1], collaborative_estimates(measured(y, 0.1, 2), x, Gaussian()))
    torch.testing.assert_close(together[1:], collaborative_estimates(measured(other, 0.02, 2), other, Gaussian()))


def test_without_noise_nothing_is_taken_off():
    y = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(5))
    found = collaborative_estimates(measured(y, 0.0, 2), y, Gaussian())
    assert (found - y).abs().max() < 2e-3


@pytest.mark.parametrize("x", [0.0, 0.03, 0.2, 1.0])
def test_rician_noise_raises_by_what_is_known(x):
    mean = Rician().mean(torch.tensor(x), torch.tensor(0.05))
    assert mean.item() == pytest.approx(rice(x / 0.05, scale=0.05).mean(), rel=1e-4)


def test_what_rician_noise_adds_is_taken_off():
    x = torch.full((1, 1, 20, 20, 20), 0.1)
    y = Rician().sample(x, torch.tensor(0.1), torch.Generator().manual_seed(6))
    found = collaborative_estimates(measured(y, 0.1, 3), x, Rician())
    assert y.mean() > 0.15 and abs(found.mean().item() - 0.1) < 0.005


def test_the_filter_can_be_cancelled_between_blocks():
    def stop():
        raise KeyboardInterrupt

    y = torch.rand(1, 1, 40, 40)
    with pytest.raises(KeyboardInterrupt):
        collaborative_estimates(measured(y, 0.1, 2), y, Gaussian(), stop)


@pytest.mark.parametrize("size", [(5, 9), (40, 300), (131, 133), (3, 60, 50)])
def test_the_parts_of_the_work_are_known_before(size):
    y, calls = torch.rand(1, 1, *size), []
    collaborative_estimates(measured(y, 0.1, len(size)), y, Gaussian(), lambda: calls.append(1))
    assert len(calls) == count_blocks(size)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_second_head_restores_and_says_how_far_it_is(tmp_path, dims):
    model = pack_of(tmp_path / "alike", with_alike_head(tiny_table(dims)), scale=0.02)
    scan = 100 * np.random.default_rng(0).random((40, 36) if dims == 2 else (28, 24, 20)).astype("f4")
    calls = []
    options = {"noise_std": 5.0, "spacing": (1, 1, 1)} if dims == 3 else {"noise_std": 5.0}
    told = medldm.denoise(scan, model=model, progress=lambda task, done, total: calls.append((done, total)), **options)
    assert calls == [(done, 8) for done in range(1, 9)]  # latents; two ways and their mean; two passes; two ways
    assert told.array.shape == scan.shape and (told.uncertainty.array >= 0).all()
    fine = medldm.super_resolve(scan, model=model, scale=2, **({"spacing": (1, 1, 1)} if dims == 3 else {}))
    assert fine.report["task"] == "super_resolve"  # by the first head


def test_a_second_head_begins_among_what_it_is_given(tmp_path):
    """Before any training: a mean of the first head's answer and the filter's, not the noise."""
    model = pack_of(tmp_path / "alike", with_alike_head(tiny_table(2)), scale=0.0)
    x, y = repeated((64, 64), 0.1)
    result = medldm.denoise(y[0, 0].numpy(), model=model, noise_std=0.1, value_range=(0, 1)).array
    assert np.square(result - x[0, 0].numpy()).mean() < 0.7 * np.square((y - x).numpy()).mean()


@pytest.mark.parametrize("after", ["nobody", "alike"])
def test_a_head_comes_after_another_first_one(after):
    table = tiny_pack(2)
    table["heads"] = table["heads"] | {"alike": {"channels": [8], "after": after}}
    with pytest.raises(ValidationError, match="after"):
        ModelPack.model_validate(table)
