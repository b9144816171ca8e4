"""The example plugin is found through its entry point, is a proper operator, and restores a scan by its problem."""

import numpy as np
import pytest
import torch
from medldm_example_operator import Deblur, MotionBlur

import medldm
from medldm import registry
from medldm.errors import InputError
from medldm.operators.operator import Operator, check_operator

LENGTH = 5


def test_registry_finds_the_plugin():
    assert registry.find("problems", "motion_blur") is Deblur


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


def picture(seed):
    """(48, 48) rows x columns of sharp bars across the columns."""
    rng = np.random.default_rng(seed)
    bars = np.repeat(rng.uniform(20, 230, 12), 4)
    return (bars[None, :] + np.zeros((48, 1))).astype(np.float32)


def table():
    """A model of a few seconds that learns nothing but this."""
    stage = {"batch_size": 8, "crop": [32, 32], "lr": 2e-3, "ema": 0.9}
    learns = {"problems": {"motion_blur": 1.0}, **stage}
    return {
        "pack": {
            "name": "deblur-2d",
            "dims": 2,
            "modality": ["DX"],
            "spacing": [1.0, 1.0, 1.0],
            "spacing_range": [0.5, 2.0],
            "noise": "gaussian",
            "intensity": {"kind": "percentile", "low": 0.1, "high": 99.9},
            "autoencoder": {"factor": 4, "channels": 4, "width": 8, "encoder_depth": 1, "decoder_depth": 1},
            "unet": {"channels": [16, 32], "attention_levels": [False, True]},
            "heads": {"main": {"channels": [16, 16], "depth": 1}},
            "problems": {"motion_blur": {"head": "main", "noise_std": [0.001, 0.01], "lengths": [LENGTH]}},
        },
        "source": [{"folder": "."}],
        "stage": [
            {"train": "autoencoder", "steps": 0, **stage},
            {"train": "denoiser", "steps": 10, **learns},
            {"train": "head", "head": "main", "steps": 200, **learns},
        ],
    }


def test_the_plugin_restores_a_scan_through_its_own_problem(tmp_path):
    (tmp_path / "data").mkdir()
    for seed in range(12):
        grid = medldm.Geometry(np.diag([-1, -1, 1, 1]), (48, 48, 1))
        medldm.write(medldm.Volume(picture(seed).T[..., None], grid, "grey8"), tmp_path / "data" / f"{seed}.png")
    model = medldm.train(table(), data=tmp_path / "data", out=tmp_path / "pack", despite_gate=True)
    gains = []
    for seed in range(100, 104):
        truth = picture(seed)  # columns are the first axis of a volume
        x = torch.from_numpy(truth.T.copy())[None, None, ..., None]
        y = MotionBlur(LENGTH, 0).forward(x)[0, 0, ..., 0].numpy().T
        options = {"length": LENGTH, "axis": 0}
        result = medldm.restore(y, "motion_blur", model=model, problem=options, noise_std=0.5, value_range=(0, 255))
        inner = (slice(None), slice(4, -4))
        gains.append(10 * np.log10(np.square(y - truth)[inner].mean() / np.square(result.array - truth)[inner].mean()))
    assert np.mean(gains) > 0.5, gains
    with pytest.raises(InputError, match="axis"):
        medldm.restore(y, "motion_blur", model=model, problem={"axis": 5})
