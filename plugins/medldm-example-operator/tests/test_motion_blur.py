"""The example plugin is found through its entry point and is a proper operator."""

import torch
from medldm_example_operator import MotionBlur

from medldm import registry
from medldm.operators.operator import Operator, check_operator


def test_registry_finds_the_plugin():
    assert registry.find("operators", "motion_blur") is MotionBlur


def test_adjoint_and_geometry_hold():
    assert isinstance(MotionBlur.example(), Operator)
    check_operator(MotionBlur.example(), (6, 7, 5))
    check_operator(MotionBlur(length=9, axis=2), (6, 7, 5))


def test_a_point_becomes_a_streak_along_the_axis():
    x = torch.zeros(1, 1, 7, 5, 1)
    x[0, 0, 3, 2, 0] = 5.0
    y = MotionBlur(length=5, axis=0).forward(x)
    assert torch.allclose(y[0, 0, :, 2, 0], torch.tensor([0.0, 1, 1, 1, 1, 1, 0]))
    assert float(y.sum()) == 5.0
