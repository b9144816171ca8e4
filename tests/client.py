"""A user's program that calls all of the API, for type checkers: tests/test_types.py. It is not run."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import medldm
from medldm.transforms import ReadScan, ReadScand, to_metatensor


def progress(task: str, done: int, total: int) -> None:
    print(task, done, total)


def restored(folder: Path, mask: NDArray[np.bool_]) -> medldm.Restoration:
    scan: medldm.Volume = medldm.read(folder, series="a", select={"EchoTime": "5.19"}, nan="fill")
    model: medldm.Model = medldm.load_model("brain-t1-2mm", device="cpu")
    doubts: list[str] = model.fits(scan)
    noise_std: float = medldm.estimate_noise(scan, model=model)
    options: medldm.RestoreOptions = {"noise_std": noise_std, "mode": "perceptual", "progress": progress}
    result = medldm.denoise(scan, model=model, **options)
    by_array = medldm.denoise(scan.array, model="brain-t1-2mm", spacing=(1, 1, 3), samples=4, seed=1)
    by_tensor = medldm.denoise(torch.zeros(8, 8, 8), model=folder, affine=np.eye(4))
    by_image = medldm.denoise(scan.to_nibabel(), model=model)
    fine = medldm.super_resolve(scan.to_sitk(), model=model, scale=2)
    finer = medldm.super_resolve(scan.to_xarray(), model=model, target_spacing=(1.0, 1.0, 1.0))
    filled = medldm.inpaint(to_metatensor(scan), mask, model=model)
    other = medldm.restore("scan.nii.gz", "denoise", model=model, problem={}, preview=lambda volume: print(volume.unit))
    for each in (result, by_array, by_tensor, by_image, fine, finer, filled, other):
        shape: tuple[int, int, int] = each.volume.geometry.shape
        print(doubts, shape, each.report["noise_std"], each.uncertainty.array.mean(), each.array.dtype)
    medldm.write_report("report.html", scan, result)
    written: Path = medldm.write(result.volume, "restored.nii.gz", overwrite=True)
    print(written, medldm.can_read(written), [pack.name for pack in medldm.installed_models()])
    return result


def synthesized(folder: Path) -> Iterator[medldm.Volume]:
    for kind in medldm.find_kinds(folder, modality="MR"):
        plan = medldm.plan(kind, data=folder, purpose="synthesize", minutes=10, conditions=["age"])
        print(plan.name, [cost.seconds for cost in medldm.estimate_training("recipe.toml", data=folder)])
    model = medldm.train("recipe.toml", data=folder, out="runs/mine", strategy="ddp", workers=2, progress=progress)
    fast = medldm.distill("runs/mine", data=folder, out="runs/fast", evaluations=4)
    yield from medldm.synthesize(model=fast, n=2, conditions={"age": 60}, guidance={"age": 2.0})
    maps = [{"tissue": medldm.deform_labels("labels.nii.gz", most_mm=4.0, seed=(0, k))} for k in range(2)]
    yield from medldm.synthesize(model=model, n=2, conditions=maps)
    yield from medldm.synthesize(model=model, n=1, like="scan.nii.gz", strength=0.4, batch=1)
    print(medldm.evaluate_synthetic("new", folder, window=(0, 255), model=model).findings[0].text)


def listed(folder: Path) -> medldm.Volume:
    for row in medldm.restore_each(folder, "out", lambda scan: medldm.denoise(scan, model="m"), settings={}):
        print(row.state, row.noise_std)
    for found in medldm.read_each(folder, medldm.Choice(assume_affine=True)):
        print(found.refusal if found.volume is None else found.volume.geometry.axcodes)
    lazy: medldm.LazyScan | None = medldm.open_lazily(folder)
    volume = medldm.as_volume(np.zeros((8, 8, 8)), spacing=2.0).reorient("LPS").resample((1, 1, 1))
    values: NDArray[np.float32] = np.asarray(volume)
    print(
        lazy, values.max(), ReadScan(medldm.Choice(nan="fill"))(folder).shape, ReadScand(["image"])({"image": folder})
    )
    try:
        grid = medldm.Geometry.from_spacing((8, 8, 8), (1, 1, 1)).zoom((2, 2, 2)).crop((0, 0, 0), (8, 8, 8))
        return medldm.Volume(volume.array, grid, "HU", "CT")
    except (medldm.AmbiguousInput, medldm.GeometryError) as failure:
        raise medldm.InputError(failure.where, failure.got, "something else", medldm.__version__) from failure
    except (medldm.ModelError, medldm.OutputError, medldm.RunError, medldm.Cancelled, medldm.MedldmError):
        raise
