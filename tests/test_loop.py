"""The loop: batches that do not depend on how they are divided, and failures that name their scan."""

import dataclasses

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

import medldm
from medldm.diffusion.noise import PerSample
from medldm.errors import RunError
from medldm.geometry import Geometry
from medldm.nets.blocks import rows_last
from medldm.networks import Networks
from medldm.operators.measurement import Measurement
from medldm.operators.problem import problems_of
from medldm.recipe import parse_recipe
from medldm.stage_tables import GeneratorStage
from medldm.training.batches import Batch, Batches, prefetch
from medldm.training.data import load_scans
from medldm.training.loop import Hooks, Means, PartwiseGradients, run_stage
from medldm.training.parallel import fastest_precision, start_fabric
from medldm.training.scan import Scan
from medldm.training.stages import Stage, build_stage
from medldm.training.whole_images import whole_batch
from medldm.volume import Volume
from tests.tiny import tiny_table, with_pack, with_stages


def scans_of(recipe, count=5):
    rng = np.random.default_rng(0)
    size = (40, 36, 32)[: recipe.pack.dims]
    return [
        Scan(torch.from_numpy(rng.random(size, dtype=np.float32)), None, recipe.sources[0], f"scan {n}")
        for n in range(count)
    ]


def batches_of(recipe, scans, *, rank=0, world=1, batch_size=4):
    table = recipe.stages[-1].model_copy(update={"batch_size": batch_size})
    return Batches(scans, recipe, table, problems_of(recipe.pack), salt=7, all_flips=True, rank=rank, world=world)


def stage_of(recipe, name, networks=None):
    table = next(stage for stage in recipe.stages if stage.train == name)
    return build_stage(table, networks or Networks(recipe.pack), problems_of(recipe.pack))


def hooks(notes):
    return Hooks(None, lambda *_: None, lambda _: None, 1e9, notes.append)


@pytest.mark.parametrize("dims", [2, 3])
def test_processes_draw_together_what_one_would_have_drawn(dims):
    recipe = parse_recipe(tiny_table(dims))
    scans = scans_of(recipe)
    alone = batches_of(recipe, scans)
    together = [batches_of(recipe, scans, rank=rank, world=2) for rank in range(2)]
    generator = GeneratorStage(train="generator", steps=1, batch_size=4, lr=1e-3, shift=0.1)
    for step in range(6):
        for draw in (Batches.images, Batches.restoration, lambda b, n: whole_batch(b, n, generator)):
            whole = draw(alone, step)
            parts = [draw(one, step) for one in together]
            for rank, part in enumerate(parts):
                assert torch.equal(part.x, whole.x[rank::2])
                assert part.seeds == whole.seeds[rank::2]
                assert part.problem == whole.problem
                if whole.measurement is not None:
                    assert part.measurement.missing is None
                    for a, b in zip(part.measurement[:3], whole.measurement[:3], strict=True):
                        assert torch.equal(a, b[rank::2])


def test_an_example_draws_the_same_alone_and_among_others():
    seeds, device = (3, 1, 4), torch.device("cpu")
    together, alone = PerSample(seeds, device), PerSample(seeds[1:2], device)
    for _ in range(2):
        assert torch.equal(together.normal((2, 3))[1:2], alone.normal((2, 3)))
        assert torch.equal(together.uniform()[1:2], alone.uniform())


@pytest.mark.parametrize("name", ["autoencoder", "every term", "denoiser", "head"])
def test_gradients_in_parts_are_those_of_the_whole(name):
    """A stage that runs out of memory above one example has the gradients that it would have with memory enough."""
    table = tiny_table(2)
    if name == "every term":
        name = "autoencoder"
        terms = {"l1": 1.0, "perceptual": 1.0, "gradient": 1.0, "spectral": 0.1, "kl": 1e-3}
        table = with_stages(table, autoencoder={"reconstruction": terms})
        table = with_pack(table, autoencoder=table["pack"]["autoencoder"] | {"learned_std": True})
    recipe = parse_recipe(table)
    scans = scans_of(recipe)

    def gradients(most):
        torch.manual_seed(0)
        networks = Networks(recipe.pack)
        for parameter in networks.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape)
        stage = stage_of(recipe, name, networks)
        inner, notes = stage.forward, []

        def forward(batch):
            if len(batch.x) > most:
                raise torch.OutOfMemoryError("too much")
            return inner(batch)

        stage.forward = forward
        fabric = Fabric(accelerator="cpu")
        partwise = PartwiseGradients(name, fabric, fabric.setup_module(stage), notes.append)
        losses = partwise.of(stage.batch(batches_of(recipe, scans), 0), lambda: stage.zero_grad(set_to_none=True))
        return torch.cat([p.grad.flatten() for p in stage.trained.parameters()]), float(losses["loss"]), notes

    whole, loss, quiet = gradients(99)
    parts, loss_of_parts, notes = gradients(1)
    assert not quiet
    assert [note.split(" with ")[1] for note in notes] == ["2 examples at a time", "1 examples at a time"]
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))


def test_an_adversary_learns_from_parts_what_it_learns_from_the_whole():
    """Of the autoencoder only the weight of its term is a part's own."""
    terms = {"adversary": {"weight": 0.5, "start": 0.0, "width": 4}}
    recipe = parse_recipe(with_stages(tiny_table(2), autoencoder={"reconstruction": terms}))
    batch = batches_of(recipe, scans_of(recipe)).images(0)
    found = []
    for size in (4, 1):
        torch.manual_seed(0)
        stage = stage_of(recipe, "autoencoder")
        for part in batch.split(size):
            (stage(part)["loss"] * len(part.x) / len(batch.x)).backward()
        found.append(torch.cat([p.grad.flatten() for p in stage.learners()[1].module.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4 * float(found[0].abs().max()))


def test_one_example_that_does_not_fit_is_the_end():
    recipe = parse_recipe(tiny_table(2))
    stage = stage_of(recipe, "autoencoder")

    def forward(batch):
        raise torch.OutOfMemoryError("too much")

    stage.forward = forward
    batches = batches_of(recipe, scans_of(recipe))
    drawn = ((step, stage.batch(batches, step)) for step in range(3))
    with pytest.raises(RunError, match="smaller crop"):
        run_stage(
            "autoencoder",
            Fabric(accelerator="cpu"),
            stage,
            lambda _: drawn,
            str,
            batches.stage,
            hooks([]),
            "32-true",
            None,
        )


@pytest.mark.parametrize("terms", [{}, {"adversary": {"weight": 0.5, "start": 0.0, "width": 4}}])
def test_the_scan_that_spoils_a_loss_is_named_before_the_step(terms):
    recipe = parse_recipe(with_stages(tiny_table(2), autoencoder={"reconstruction": terms}))
    scans = scans_of(recipe)
    scans[3].image[:] = float("nan")
    stage = stage_of(recipe, "autoencoder")
    batches = batches_of(recipe, scans)
    before = [p.detach().clone() for p in stage.trained.parameters()]
    bad = next(step for step in range(20) if 3 in batches.images(step).scans)
    drawn = ((step, stage.batch(batches, step)) for step in [bad])
    with pytest.raises(RunError, match=f"step {bad}, scan 3: got a loss that is not finite"):
        run_stage(
            "autoencoder",
            Fabric(accelerator="cpu"),
            stage,
            lambda _: drawn,
            lambda number: scans[number].name,
            batches.stage,
            hooks([]),
            "32-true",
            None,
        )
    assert all(torch.equal(a, b) for a, b in zip(before, stage.trained.parameters(), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_that_cannot_be_drawn_names_step_and_scans(workers):
    def make(step):
        if step == 2:
            raise ValueError("a broken scan")
        return batches.restoration(step)

    recipe = parse_recipe(tiny_table(2))
    batches = batches_of(recipe, scans_of(recipe))
    drawn = prefetch(make, range(4), workers, batches.scans_of, "stage head")
    assert [next(drawn)[0], next(drawn)[0]] == [0, 1]
    with pytest.raises(RunError, match="stage head, step 2, scan .*a broken scan"):
        next(drawn)


def test_a_dead_worker_names_step_and_scans():
    import os
    import signal

    def make(step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return batches.restoration(step)

    recipe = parse_recipe(tiny_table(2))
    batches = batches_of(recipe, scans_of(recipe))
    drawn = prefetch(make, range(4), 1, batches.scans_of, "stage head")
    with pytest.raises(RunError, match="stage head, step [01], scan .*worker"):
        list(drawn)


def test_workers_draw_what_the_process_draws():
    recipe = parse_recipe(tiny_table(3))
    batches = batches_of(recipe, scans_of(recipe))
    for (step, one), (other_step, other) in zip(
        prefetch(batches.restoration, range(5), 0, batches.scans_of, ""),
        prefetch(batches.restoration, range(5), 2, batches.scans_of, ""),
        strict=True,
    ):
        assert step == other_step
        assert isinstance(other.measurement, Measurement)
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.measurement.image, other.measurement.image)


def test_scans_are_named_without_a_word_about_the_patient(tmp_path):
    table = tiny_table(3)
    for name in ("Miller_Ann", "Doe_John"):
        array = np.random.default_rng(0).random((20, 16, 12), dtype=np.float32)
        volume = Volume(array, Geometry.from_spacing(array.shape, (1, 1, 1)))
        medldm.write(volume, tmp_path / f"{name}.nii.gz")
    for scan in load_scans(parse_recipe(table | {"validation_fraction": 0.0}), tmp_path):
        assert "Miller" not in scan.name
        assert "Doe" not in scan.name


def test_a_batch_reaches_the_stage_as_it_was_drawn():
    """Half precision is for what the networks compute, not for the images that they are to reproduce."""
    fabric, precision = start_fabric("cpu", "bf16", 2)
    assert precision == "bf16-mixed"
    recipe = parse_recipe(tiny_table(2))
    stage = stage_of(recipe, "head")
    seen = []
    inner = stage.forward
    stage.forward = lambda batch: seen.append((batch, torch.get_autocast_dtype("cpu"))) or inner(batch)
    batches = batches_of(recipe, scans_of(recipe))
    drawn = [(step, stage.batch(batches, step)) for step in range(2)]
    table = batches.stage.model_copy(update={"steps": 2})
    run_stage("head", fabric, stage, lambda _: drawn, str, table, hooks([]), precision, None)
    for (batch, half), (_, wanted) in zip(seen, drawn, strict=True):
        assert half == torch.bfloat16
        assert torch.equal(batch.x, wanted.x)
        assert torch.equal(batch.measurement.image, wanted.measurement.image)
        assert torch.equal(batch.measurement.noise_std, wanted.measurement.noise_std)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["autoencoder", "head"])
def test_weights_with_channels_last_learn_the_same(name, dims):
    recipe = parse_recipe(tiny_table(dims))
    scans = scans_of(recipe)

    def gradients(last):
        torch.manual_seed(0)
        networks = Networks(recipe.pack)
        for parameter in networks.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape)
        stage = stage_of(recipe, name, networks)
        form = torch.channels_last if dims == 2 else torch.channels_last_3d
        wide = [p for p in stage.trained.parameters() if p.ndim == 2 + dims and min(p.shape[:3]) > 1]
        assert all(p.is_contiguous(memory_format=form) and not p.is_contiguous() for p in wide)
        if not last:
            rows_last(stage)
        stage(stage.batch(batches_of(recipe, scans), 0))["loss"].backward()
        return torch.cat([p.grad.flatten() for p in stage.trained.parameters()])

    plain = gradients(False)
    torch.testing.assert_close(gradients(True), plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


def test_half_precision_is_not_chosen_where_its_gradients_cannot_be_believed():
    """Of 3D convolutions on a CPU; a GPU's choice stays its own."""
    assert fastest_precision(torch.device("cpu"), 3) == "32-true"
    half = torch.cpu._is_avx512_bf16_supported()
    assert fastest_precision(torch.device("cpu"), 2) == ("bf16-mixed" if half else "32-true")


def test_means_hold_a_sum_and_a_count_however_many_steps():
    fabric, values = Fabric(accelerator="cpu"), torch.rand(500, generator=torch.Generator().manual_seed(0))
    means = Means()
    for number, value in enumerate(values):
        means.add({"loss": value, **({"synthesis": 2 * value} if number % 2 else {})})
        if number == 250:
            means = Means(means.state(fabric))  # as a checkpoint keeps it
    assert all(kept.numel() == 2 for kept in means.sums.values())
    found = means.over(fabric)
    assert found["loss"] == pytest.approx(float(values.double().mean()), rel=1e-9)
    assert found["synthesis"] == pytest.approx(2 * float(values[1::2].double().mean()), rel=1e-9)


class Line(Stage):
    """One weight learns a number from 0 up; what is held out wants about half of it."""

    def __init__(self):
        super().__init__(torch.nn.Linear(1, 1, bias=False))
        torch.nn.init.zeros_(self.trained.weight)

    def batch(self, batches, step):
        raise NotImplementedError

    def forward(self, batch):
        return {"loss": (self.trained.weight - batch.x.mean()).square().mean()}


def of_value(value):
    return Batch(torch.full((1, 1, 1, 1), value), None, "", (0,), (0,), None, None)


def test_a_stage_ends_when_held_out_scans_do_no_better_and_keeps_what_was_best():
    table = GeneratorStage(train="generator", steps=5000, batch_size=1, lr=1e-3, ema=0.5)
    draw = lambda first: ((step, of_value(1.0)) for step in range(first, table.steps))  # noqa: E731
    ends, looks = {}, []
    for patience in (0, 3):
        notes, line = [], Line()
        told = dataclasses.replace(
            hooks(notes),
            scalars=lambda name, values, step: looks.append(step) if "validation" in values else None,
            held_out=(of_value(0.55),),
            patience=patience,
        )
        run_stage("line", Fabric(accelerator="cpu"), line, draw, str, table, told, "fp32", None)
        ends[patience] = looks[-1]
        assert line.trained.weight.item() == pytest.approx(0.55, abs=0.05)  # at a look, every 100 steps
        assert len(notes) == bool(patience)
    assert ends == {0: 5000, 3: 1000}  # after three more than the look at 700 is the best
    assert notes == ["stage line: ended after step 1000, since held-out scans did best at step 700"]
