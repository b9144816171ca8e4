"""The patch adversary and its weight, against tensors computed by hand."""

import pytest
import torch

from medldm.nets.discriminator import PatchScores
from medldm.training.losses import LARGEST, STABILISER, adaptive_weight, warm_up
from tests.processes import side_by_side

SHAPES = [(2, 1, 40, 32), (2, 1, 24, 24, 32)]


def adversary(dims):
    torch.manual_seed(0)
    return PatchScores(dims, width=4)


def images(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def with_scores(dims, value):
    """An adversary that scores everything alike."""
    judge = adversary(dims)
    last = judge.discriminator.final_conv.conv
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, value)
    return judge


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("score", [-0.5, 0.3, 1.0])
def test_losses_are_the_squares_of_constant_scores(shape, score):
    """Negative scores are squared as they are: no activation bends them."""
    judge, x = with_scores(len(shape) - 2, score), images(shape)
    assert judge.generator_loss(x).item() == pytest.approx((score - 1) ** 2, abs=1e-6)
    expected = ((score - 1) ** 2 + score**2) / 2
    assert judge.discriminator_loss(x, x).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_losses_are_those_of_the_scores(shape):
    judge, real, fake = adversary(len(shape) - 2), images(shape), images(shape, 1)
    on_real, on_fake = judge.scores(real), judge.scores(fake)
    assert on_real.std() > 0
    assert judge.generator_loss(fake).item() == pytest.approx(((on_fake - 1) ** 2).mean().item())
    expected = ((on_real - 1) ** 2).mean() / 2 + (on_fake**2).mean() / 2
    assert judge.discriminator_loss(real, fake).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("shape", SHAPES)
def test_each_loss_teaches_its_own_side_only(shape):
    judge = adversary(len(shape) - 2)
    real, fake = images(shape).requires_grad_(), images(shape, 1).requires_grad_()
    judge.generator_loss(fake).backward()
    assert fake.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in judge.parameters())
    fake.grad = None
    judge.discriminator_loss(real, fake).backward()
    assert fake.grad is None
    assert real.grad is None
    assert all(parameter.grad.isfinite().all() for parameter in judge.parameters())
    assert sum(parameter.grad.abs().sum() for parameter in judge.parameters()) > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_an_example_is_scored_as_it_is_alone(shape):
    judge, x = adversary(len(shape) - 2), images(shape)
    assert torch.allclose(judge.scores(x)[:1], judge.scores(x[:1]), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 7, 50), (1, 1, 3, 40, 1), (1, 1, 1, 1)])
def test_thin_images_are_judged_and_learned_from(shape):
    fake = images(shape).requires_grad_()
    loss = adversary(len(shape) - 2).generator_loss(fake)
    loss.backward()
    assert loss.isfinite()
    assert fake.grad.isfinite().all()


def test_a_discriminator_learns_to_tell_noise_from_flat_images():
    judge = adversary(2)
    optimizer = torch.optim.Adam(judge.parameters(), lr=2e-3)
    flat = torch.full((4, 1, 32, 32), 0.5)
    for step in range(60):
        optimizer.zero_grad()
        judge.discriminator_loss(flat + 0.2 * images(flat.shape, step), flat).backward()
        optimizer.step()
    with torch.no_grad():
        real, fake = judge.scores(flat + 0.2 * images(flat.shape, 1000)), judge.scores(flat)
    assert real.mean() > fake.mean() + 0.5


def test_the_weight_is_the_ratio_of_the_gradients_norms():
    last = torch.tensor([3.0, -2.0], requires_grad=True)
    reconstruction = (torch.tensor([3.0, 4.0]) * last).sum()  # gradient (3, 4), norm 5
    adversarial = (torch.tensor([0.0, 0.25]) * last).sum() + 7  # norm 0.25
    weight = adaptive_weight(reconstruction, adversarial, last)
    assert weight.item() == pytest.approx(5 / (0.25 + STABILISER))
    assert not weight.requires_grad
    (reconstruction + weight * adversarial).backward()  # both graphs are still there
    assert torch.allclose(last.grad, torch.tensor([3.0, 4.0 + 0.25 * weight.item()]))


def test_the_weight_makes_both_gradients_alike_through_a_decoder():
    decoder = torch.nn.Conv2d(2, 1, 3, padding=1)
    fake, real = decoder(images((1, 2, 32, 32))), images((1, 1, 32, 32), 1)
    error, opposed = (fake - real).square().mean(), adversary(2).generator_loss(fake)
    weight = adaptive_weight(error, opposed, decoder.weight)
    norms = [
        torch.autograd.grad(loss, decoder.weight, retain_graph=True)[0].norm().item()
        for loss in (error, weight * opposed)
    ]
    assert norms[1] / norms[0] == pytest.approx(1, abs=0.02)
    assert decoder.weight.grad is None


def weight_of_two(rank, meeting):
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    last = torch.ones(2, requires_grad=True)
    reconstruction = (torch.tensor([[6.0, 0.0], [0.0, 8.0]])[rank] * last).sum()
    return adaptive_weight(reconstruction, 0.5 * last[0], last).item()


def test_processes_find_one_weight_that_of_the_mean_gradients(tmp_path):
    """Gradients (6, 0) and (0, 8): their mean (3, 4) is 5 long."""
    found = side_by_side(2, weight_of_two, tmp_path / "meeting")
    assert found == pytest.approx([5 / (0.5 + STABILISER)] * 2)


def test_an_adversary_without_gradient_gives_a_finite_weight():
    last = torch.ones(1, requires_grad=True)
    assert adaptive_weight(1e9 * last.sum(), 0 * last.sum(), last).item() == LARGEST
    assert adaptive_weight(0 * last.sum(), last.sum(), last).item() == 0


def test_warm_up_starts_at_its_step_and_rises_to_one():
    assert [warm_up(step, 3) for step in (0, 2, 3, 99)] == [0, 0, 1, 1]
    assert [warm_up(step, 2, 4) for step in range(8)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
