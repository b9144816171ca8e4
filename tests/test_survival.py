"""Trainings of several processes, and killed ones, on the real command line (all of it: benchmarks/survival.py)."""

import pytest

from benchmarks import survival

STEPS = 20  # of each stage


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return survival.make_data(tmp_path_factory.mktemp("survival") / "data")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_learns(strategy, data, tmp_path):
    assert survival.two_processes(tmp_path, data, strategy, steps=STEPS) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_have_one_adversary(strategy, data, tmp_path):
    """Its weight is measured on the gradients of both; where each takes its own, the curves are 1e-2 apart.

    A game of two makes more of rounding than a fit does, hence not 1e-5.
    """
    table = "[reconstruction.adversary]\nweight = 0.5\nstart = 0.25\nwidth = 4\n"
    assert survival.two_processes(tmp_path, data, strategy, table, STEPS) <= 1e-4


@pytest.mark.slow
def test_a_training_killed_in_mid_epoch_ends_with_the_same_weights(data, tmp_path):
    assert survival.killed_between(tmp_path, data, 1, 1)
