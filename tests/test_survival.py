"""Trainings of several processes, and killed ones, on the real command line (all of it: benchmarks/survival.py)."""

import pytest

from benchmarks import survival


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return survival.make_data(tmp_path_factory.mktemp("survival") / "data")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_learns(strategy, data, tmp_path):
    assert survival.two_processes(tmp_path, data, strategy) <= 1e-5


@pytest.mark.slow
def test_a_training_killed_in_mid_epoch_ends_with_the_same_weights(data, tmp_path):
    assert survival.killed_between(tmp_path, data, 1, 1)
