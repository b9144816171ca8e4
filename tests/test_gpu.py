"""On a true GPU: what fake tensors cannot see (docs/gpu.md). `python -m benchmarks.gpu` runs these and measures."""

import numpy as np
import pytest
import torch

import medldm
from medldm.volume import Volume
from tests.tiny import tiny_model, tiny_table

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def _scan(dims):
    shape = (24, 20, 1) if dims == 2 else (24, 20, 16)
    array = np.random.default_rng(0).random(shape, dtype=np.float32) * 200
    return Volume(array, medldm.Geometry.from_spacing(shape, (1, 1, 1)), "arbitrary", "DX" if dims == 2 else "MR")


@pytest.mark.parametrize("dims", [2, 3])
def test_a_scan_is_restored_and_drawn_as_on_the_cpu(tmp_path, dims):
    model, scan = tiny_model(tmp_path, dims), _scan(dims)
    for mode in ("fidelity", "perceptual"):
        found = [
            medldm.denoise(scan, model=model, noise_std=10, mode=mode, device=device).array
            for device in ("cpu", "cuda")
        ]
        np.testing.assert_allclose(found[1], found[0], atol=1e-3 * 200)
    drawn = [next(medldm.synthesize(model=model, n=1, seed=1, device=device)).array for device in ("cpu", "cuda")]
    np.testing.assert_allclose(drawn[1], drawn[0], atol=1e-3 * np.ptp(drawn[0]))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_training_runs_and_leaves_a_finite_model(tmp_path, dims, precision):
    (tmp_path / "data").mkdir()
    for number in range(4):
        scan = _scan(dims)
        path = tmp_path / "data" / (f"{number}.png" if dims == 2 else f"{number}.nii.gz")
        medldm.write(Volume(scan.array, scan.geometry, "grey8" if dims == 2 else "arbitrary"), path)
    table = tiny_table(dims) | {"precision": precision}
    model = medldm.train(table, data=tmp_path / "data", out=tmp_path / "out", device="cuda", despite_gate=True)
    assert all(value.isfinite().all() for value in model.networks.state_dict().values())
    assert np.isfinite(medldm.denoise(_scan(dims), model=model).array).all()
